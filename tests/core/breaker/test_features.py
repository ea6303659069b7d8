import asyncio
import threading
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from typing import Any

import pytest

from resilience import (
    AppError,
    BulkheadFullError,
    CircuitBreaker,
    CircuitOpenError,
    ConfigurationError,
    Deadline,
    Pipeline,
    Timeout,
)
from resilience.testing import ManualClock, RecordingListener


class NotFoundError(Exception):
    pass


class DownError(Exception):
    pass


def raising(error: BaseException) -> Callable[[], None]:
    def act() -> None:
        raise error

    return act


def told(breaker: CircuitBreaker, outcome: Any) -> None:
    """Make one call that ends so."""
    permit = breaker.admit()
    if isinstance(outcome, Exception):
        breaker.on_failure(permit, outcome)
    else:
        breaker.on_success(permit, outcome)


def counts(breaker: CircuitBreaker) -> tuple[int, int]:
    shown = breaker.snapshot()
    return shown["failures"], shown["calls"]


def by_rate(**options: Any) -> CircuitBreaker:
    return CircuitBreaker(failure_rate_threshold=1.0, minimum_calls=100, **options)


def test_recorded_errors_fail_ignored_ones_are_neutral_others_succeed() -> None:
    """With `record`, only the named errors are failures; ignored errors do not count; other errors are successes."""
    breaker = by_rate(record=[DownError, lambda error: "5" in str(error)], ignore=NotFoundError)
    for error in (DownError(), ValueError("code 503"), NotFoundError("5"), ValueError("other")):
        told(breaker, error)
    assert counts(breaker) == (2, 3)


def test_ignored_wins_over_recorded() -> None:
    """An error that is both recorded and excluded is excluded, by whichever name the exclusion was given."""
    for option in ("exclude", "ignore"):
        breaker = by_rate(record=Exception, **{option: [DownError]})
        told(breaker, DownError())
        assert counts(breaker) == (0, 0)


def test_results_can_be_failures() -> None:
    """A result that `record_result` calls a failure counts as one, and the caller still gets it."""
    breaker = CircuitBreaker(2, record_result=lambda response: response >= 500)
    assert [breaker.call(lambda: 503), breaker.call(lambda: 200), breaker.call(lambda: 500)] == [503, 200, 500]
    assert breaker.current_state == "closed"
    assert breaker.call(lambda: 502) == 502
    assert breaker.current_state == "open"


async def test_results_can_be_failures_when_awaited() -> None:
    """The result of a coroutine function is checked in the same way."""
    breaker = CircuitBreaker(1, record_result=lambda response: response is None)

    async def act() -> None:
        return None

    await breaker.call_async(act)
    with pytest.raises(CircuitOpenError):
        await breaker.call_async(act)


@pytest.mark.parametrize("option", ["record_result", "retry_after", "record", "ignore"])
def test_function_of_the_user_that_raises_leaks_no_trial(option: str) -> None:
    """A predicate that raises reaches the caller, and the trial's permit is given back (L2)."""

    def broken(_: object) -> Any:
        raise RuntimeError("predicate")

    options: dict[str, Any] = {option: broken, "record_result": broken if option == "retry_after" else None}
    if option == "retry_after":
        options["record_result"] = lambda _result: True
    if option == "record_result":
        options["record_result"] = broken
    breaker = CircuitBreaker(**{key: value for key, value in options.items() if value is not None})
    breaker.half_open()
    error = DownError() if option in ("record", "ignore") else None

    def act() -> None:
        if error is not None:
            raise error

    with pytest.raises(RuntimeError, match="predicate"):
        breaker.call(act)
    assert breaker.snapshot()["trials_running"] == 0


@pytest.mark.parametrize("wrong", [{"record": "x"}, {"record": [1]}, {"record_result": int}, {"retry_after": 5}])
def test_condition_that_cannot_be_asked_is_refused(wrong: dict[str, Any]) -> None:
    """A condition that is neither an exception class nor a plain function is refused when the breaker is made."""
    with pytest.raises(ConfigurationError, match=next(iter(wrong))):
        CircuitBreaker(**wrong)


@pytest.mark.parametrize(
    ("error", "options", "expected"),
    [
        (AppError("DOWN", retry_after=45.0), {}, 45.0),
        (AppError("DOWN", retry_after=3.0), {}, 10.0),
        (DownError(), {"retry_after": lambda _error: timedelta(seconds=70)}, 70.0),
        (AppError("DOWN", retry_after=45.0), {"retry_after": lambda _error: None}, 45.0),
        (AppError("DOWN", retry_after=45.0), {"retry_after": lambda _error: 20}, 20.0),
        (DownError(), {"retry_after": lambda _error: float("nan")}, 10.0),
        (DownError(), {"retry_after": lambda _error: "70"}, 70.0),
        (DownError(), {"retry_after": lambda _error: "Wed, 21 Oct 2015 07:28:00 GMT"}, 10.0),
        (DownError(), {"retry_after": lambda _error: "soon"}, 10.0),
        (DownError(), {"retry_after": lambda _error: True}, 10.0),
        (DownError(), {"retry_after": lambda _error: -5}, 10.0),
        (DownError(), {"retry_after": lambda _error: 1e300}, 300.0),
    ],
)
def test_retry_after_of_the_dependency_is_a_floor(error: Exception, options: Any, expected: float) -> None:
    """The circuit stays open at least as long as the error, or the function given, says the dependency asked for."""
    breaker = CircuitBreaker(1, 10, reset_timeout_jitter=0, clock=ManualClock(), **options)
    told(breaker, error)
    assert breaker.retry_after == expected


def test_retry_after_of_a_result_is_a_floor() -> None:
    """A bad result's own delay keeps the circuit open as long."""
    breaker = CircuitBreaker(
        1, 10, record_result=lambda response: response["status"] == 429, retry_after=lambda response: response["wait"],
        reset_timeout_jitter=0, clock=ManualClock(),
    )  # fmt: skip
    told(breaker, {"status": 429, "wait": 33})
    assert breaker.retry_after == 33.0


def test_jitter_is_on_by_default() -> None:
    """By default up to a tenth of the open time is left out at random, so that a fleet does not return in step."""
    times = []
    for chance in (0.0, 0.5, 0.999):
        breaker = CircuitBreaker(1, 100, clock=ManualClock(), randomness=partial(float, chance))
        told(breaker, DownError())
        times.append(breaker.retry_after)
    assert times == [100.0, 95.0, pytest.approx(90.01)]


def test_trip_names_its_rule_and_the_old_counts() -> None:
    """The event of an opening contains the rule that matched and the counts of the epoch that ended."""
    heard, clock = RecordingListener(), ManualClock()
    breaker = CircuitBreaker(
        failure_rate_threshold=0.5, slow_call_rate_threshold=0.9, failure_count_threshold=8, sliding_window=10,
        minimum_calls=4, listeners=[heard], clock=clock, reset_timeout_jitter=0,
    )  # fmt: skip
    for outcome in (1, DownError(), 2, DownError()):
        told(breaker, outcome)
    facts = heard.events[0].facts
    assert (facts["reason"], facts["failures"], facts["calls"], facts["slow_calls"]) == ("failure rate", 2, 4, 0)
    assert (facts["openings"], facts["retry_after"]) == (1, 60.0)


def test_window_of_time_forgets() -> None:
    """With a window in seconds, failures older than it no longer count."""
    clock = ManualClock()
    breaker = CircuitBreaker(failure_rate_threshold=0.5, sliding_window="10s", minimum_calls=2, clock=clock)
    told(breaker, DownError())
    clock.advance(11)
    for outcome in (1, 1, DownError()):
        told(breaker, outcome)
    assert counts(breaker) == (1, 3)
    told(breaker, DownError())
    assert breaker.current_state == "open"


def test_window_of_time_counts_each_call_once_among_threads() -> None:
    """Successes counted without a lock at the edge of a bucket are each counted exactly once."""
    clock = ManualClock()
    breaker = CircuitBreaker(failure_rate_threshold=1.0, sliding_window="100s", minimum_calls=10, clock=clock)

    def work() -> None:
        for number in range(500):
            told(breaker, 1)
            if number % 50 == 0:
                clock.advance(1.0)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert counts(breaker) == (0, 4000)


async def test_hanging_dependency_opens_the_circuit_before_any_call_returns() -> None:
    """Calls that hang open the circuit at the next call, although none of them has returned and no timer runs."""
    clock = ManualClock()
    breaker = CircuitBreaker(
        slow_call_rate_threshold=0.5, slow_call_duration_threshold="2s", minimum_calls=5, clock=clock,
        reset_timeout_jitter=0,
    )  # fmt: skip
    guarded = Pipeline("p", breaker)
    never = asyncio.Event()

    @guarded
    async def hang() -> None:
        await never.wait()

    hanging = [asyncio.ensure_future(hang()) for _ in range(5)]
    await asyncio.sleep(0)
    clock.advance(2.1)
    with pytest.raises(CircuitOpenError):
        await hang()
    assert breaker.snapshot()["slow_calls"] == 0
    assert (breaker.current_state, breaker.fail_counter) == ("open", 0)
    never.set()
    await asyncio.gather(*hanging)
    assert breaker.current_state == "open"


def test_looking_sees_the_calls_that_hang() -> None:
    """A snapshot shows calls under way; those that are slow by now are counted at the next call."""
    clock = ManualClock()
    breaker = CircuitBreaker(slow_call_rate_threshold=1.0, slow_call_duration_threshold=1, clock=clock)
    permits = [breaker.admit() for _ in range(3)]
    assert breaker.snapshot()["running"] == 3
    clock.advance(2)
    told(breaker, 1)
    assert (breaker.snapshot()["slow_calls"], breaker.snapshot()["running"]) == (3, 0)
    for permit in permits:
        breaker.on_abandon(permit)
    assert breaker.snapshot()["running"] == 0


def test_refusals_of_inner_policies_return_the_trial() -> None:
    """A trial refused by a policy inside is not scored, and its permit is there for the next call (L4)."""
    breaker = CircuitBreaker()
    pipeline = Pipeline("p", breaker, Timeout("1s"))
    breaker.half_open()
    with pytest.raises(BulkheadFullError):
        breaker.call(raising(BulkheadFullError("full")))
    with Deadline(0.0), pytest.raises(Exception, match="deadline"):
        pipeline.call(int)
    assert breaker.snapshot()["trials_running"] == 0
    assert pipeline.call(int) == 0
    assert breaker.current_state == "closed"


def test_ramp_lets_a_share_through_and_reopens_at_once() -> None:
    """After re-closing, a tenth of the calls passes at first; one failure opens again.

    The others are refused and not told when to come: they would all come at once when the ramp ends.
    """
    clock = ManualClock()
    breaker = CircuitBreaker(1, 10, ramp="20s", clock=clock, reset_timeout_jitter=0)
    told(breaker, DownError())
    clock.advance(10)
    told(breaker, 1)
    assert breaker.current_state == "closed"
    refusals: list[CircuitOpenError] = []
    for _ in range(100):
        try:
            breaker.call(int)
        except CircuitOpenError as refusal:
            refusals.append(refusal)
    assert len(refusals) == pytest.approx(90, abs=1)
    assert {refusal.retry_after for refusal in refusals} == {None}
    assert {str(refusal) for refusal in refusals} == {"circuit 'breaker' lets only a share of the calls pass yet"}
    clock.advance(10)
    while True:
        try:
            breaker.call(raising(DownError()))
        except CircuitOpenError:
            continue
        except DownError:
            break
    assert (breaker.current_state, breaker.retry_after) == ("open", 10.0)
    clock.advance(10)
    told(breaker, 1)
    clock.advance(20)
    assert [breaker.call(int) for _ in range(100)] == [0] * 100


def test_ramp_end_is_evented_once() -> None:
    """The end of a ramp is the event `breaker.ramped`, not another closing."""
    clock, heard = ManualClock(), RecordingListener()
    breaker = CircuitBreaker(1, 10, ramp="20s", clock=clock, listeners=[heard])
    breaker.half_open()
    told(breaker, 1)
    clock.advance(20)
    told(breaker, 1)
    told(breaker, 1)
    assert heard.kinds == ["breaker.half_opened", "breaker.closed", "breaker.ramped"]


def test_nothing_is_timed_without_a_slow_rule() -> None:
    """Without a slow-call rule a closed circuit asks no clock: only the window of time does."""

    def clock() -> float:
        asked.append(1)
        return 0.0

    asked: list[int] = []
    breaker = CircuitBreaker(failure_rate_threshold=0.5, clock=clock)
    asked.clear()
    for _ in range(10):
        told(breaker, 1)
    assert asked == []


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"sliding_window": 0}, "sliding_window"),
        ({"sliding_window": "0s"}, "sliding_window"),
        ({"sliding_window": "many"}, "sliding_window"),
        ({"sliding_window": True}, "sliding_window"),
        ({"sliding_window": 10, "minimum_calls": 11}, "minimum_calls"),
        ({"sliding_window": 10, "failure_count_threshold": 11}, "failure_count_threshold"),
        ({"success_threshold": 3, "half_open_max_calls": 2}, "half_open_max_calls"),
        ({"success_threshold": 3, "half_open_failure_rate_threshold": 0.5}, "half_open_failure_rate_threshold"),
        ({"reset_timeout": 60, "reset_timeout_max": 30}, "reset_timeout_max"),
        ({"reset_timeout_growth": 0.5}, "reset_timeout_growth"),
        ({"slow_call_rate_threshold": 0}, "slow_call_rate_threshold"),
        ({"ramp_initial": 0}, "ramp_initial"),
        ({"mode": "off"}, "mode"),
        ({"shadow": True, "mode": "disabled"}, "shadow"),
        ({"randomness": 0.5}, "randomness"),
    ],
)
def test_bad_options_are_refused(wrong: dict[str, Any], named: str) -> None:
    """Options that can never work are refused when the breaker is made, with the option's name."""
    with pytest.raises(ConfigurationError, match=named):
        CircuitBreaker(**wrong)


@pytest.mark.parametrize(
    ("given", "kept"), [(50, 50), ("60s", 60.0), (timedelta(minutes=2), 120.0), (1.5, 1.5), ("250ms", 0.25)]
)
def test_window_is_calls_or_time(given: Any, kept: float) -> None:
    """A whole number is a number of calls, everything with a unit is a time."""
    options = CircuitBreaker(failure_rate_threshold=0.5, sliding_window=given).options
    assert (options.sliding_window, type(options.sliding_window)) == (kept, type(kept))


def test_rules_that_are_named_replace_the_default_one() -> None:
    """Five consecutive failures are the rule only if no other rule is set; `fail_max` can be combined with others."""
    rate_only = CircuitBreaker(failure_rate_threshold=1.0, minimum_calls=50)
    both = CircuitBreaker(5, failure_rate_threshold=1.0, minimum_calls=50)
    for _ in range(10):
        told(rate_only, DownError())
    for _ in range(5):
        told(both, DownError())
    assert (rate_only.current_state, both.current_state) == ("closed", "open")
    assert (rate_only.fail_max, both.fail_max) == (0, 5)


def test_failures_in_a_row_open_beside_slow_calls_that_overlap() -> None:
    """`fail_max` counts calls as they end: others that are under way, slow by now or not, interrupt no run."""
    clock = ManualClock()
    breaker = CircuitBreaker(
        3, slow_call_rate_threshold=1.0, slow_call_duration_threshold=1, minimum_calls=100, clock=clock
    )
    under_way = breaker.admit()
    for _ in range(3):
        assert breaker.current_state == "closed"
        clock.advance(1.1)
        following = breaker.admit()
        clock.advance(1.1)
        breaker.on_failure(under_way, DownError())
        under_way = following
    assert breaker.current_state == "open"


def test_slow_calls_are_counted_once_among_threads() -> None:
    """Timed calls that begin and end without the lock, while others are swept as slow, are each counted once."""
    clock, calls, workers = ManualClock(), 400, 6
    breaker = CircuitBreaker(
        slow_call_rate_threshold=1.0, slow_call_duration_threshold=1, minimum_calls=10**6, sliding_window=10**6,
        clock=clock,
    )  # fmt: skip
    barrier = threading.Barrier(workers)

    def work() -> None:
        barrier.wait()
        for number in range(calls):
            permit = breaker.admit()
            if number % 7 == 0:
                clock.advance(0.3)
            if number % 5 == 0:
                breaker.on_failure(permit, DownError())
            else:
                breaker.on_success(permit, None)

    threads = [threading.Thread(target=work) for _ in range(workers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    shown = breaker.snapshot()
    assert (shown["calls"], shown["failures"], shown["running"]) == (workers * calls, workers * calls // 5, 0)
