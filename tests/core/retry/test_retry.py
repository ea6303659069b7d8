import asyncio
import dataclasses
import os
import threading
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
import tenacity
from hypothesis import given
from hypothesis import strategies as st

from resilience import (
    AppError,
    CircuitBreaker,
    CircuitOpenError,
    ConfigurationError,
    Deadline,
    Pipeline,
    RejectedError,
    Retry,
    RetryBudget,
)
from resilience.options import LONGEST
from resilience.retry import RetryOptions
from resilience.retry._machine import Attempts, stop_reason
from resilience.testing import ManualClock, RecordingListener


class Flaky:
    """Fails `failures` times, then answers how often it was called."""

    def __init__(self, failures: int, error: Callable[[], Exception] = ConnectionError) -> None:
        self.failures, self.error, self.calls = failures, error, 0

    def __call__(self) -> int:
        self.calls += 1
        if self.calls <= self.failures:
            raise self.error()
        return self.calls


def guarded(clock: ManualClock | None = None, **options: Any) -> Pipeline:
    clock = clock or ManualClock()
    return Pipeline("p", Retry(clock=clock, randomness=lambda: 0.5, **options), sleeper=clock)


def test_retries_until_it_succeeds() -> None:
    """A call is made again, with growing waits, until it succeeds."""
    clock, flaky = ManualClock(), Flaky(3)
    assert guarded(clock, attempts=5, wait_initial=1, wait_max=60, wait_jitter=1).call(flaky) == 4
    assert clock.slept == [1.5, 2.5, 4.5]


async def test_retries_awaiting() -> None:
    """The same when awaited."""
    clock, flaky = ManualClock(), Flaky(2)

    async def call() -> int:
        return flaky()

    assert await guarded(clock, wait_jitter=0).acall(call) == 3
    assert clock.slept == [0.1, 0.2]


def test_last_error_is_raised_with_a_note() -> None:
    """When attempts run out, the last error is raised with a note that lists the attempts."""
    listener, clock = RecordingListener(), ManualClock()
    pipeline = guarded(clock, attempts=3, wait_jitter=0)
    pipeline.subscribe(listener)
    with pytest.raises(ConnectionError) as caught:
        pipeline.call(Flaky(9))
    (note,) = caught.value.__notes__
    assert note.splitlines() == [
        "p.retry: gave up after 3 attempts in 0.300 s (attempts)",
        "  1 ConnectionError, then waited 0.100 s",
        "  2 ConnectionError, then waited 0.200 s",
        "  3 ConnectionError",
    ]
    assert listener.kinds == ["retry.scheduled", "retry.scheduled", "retry.exhausted"]
    assert listener.events[-1].facts["attempts"] == 3


def test_first_success_touches_nothing() -> None:
    """A call that succeeds at once reads no clock and leaves no record."""
    retry = Retry(clock=pytest.fail)  # would fail the test when read
    assert Pipeline("p", retry).call(int) == 0
    assert repr(retry) == "<Retry 'p.retry' attempts=3>"


@pytest.mark.parametrize(
    ("on", "error", "calls"),
    [
        (ConnectionError, ConnectionError, 2),
        (ConnectionError, KeyError, 1),
        ((KeyError, ConnectionError), KeyError, 2),
        (lambda error: isinstance(error, KeyError), KeyError, 2),
        (lambda error: isinstance(error, KeyError), ValueError, 1),
        ((OSError, lambda error: "x" in str(error)), lambda: ValueError("x"), 2),
        (Exception, lambda: RejectedError("no"), 1),
        (lambda _: True, lambda: RejectedError("no"), 1),
        ((OSError, RejectedError), lambda: RejectedError("no"), 2),
        (Exception, lambda: AppError("FINAL", "no"), 1),
        (Exception, lambda: AppError("AGAIN", "yes", retryable=True), 2),
    ],
)
def test_what_is_retried(on: Any, error: Callable[[], Exception], calls: int) -> None:
    """Classes and predicates choose the retried errors; refusals and final errors must be named by class (L4)."""
    flaky = Flaky(1, error)
    try:
        guarded(on=on).call(flaky)
    except Exception:  # noqa: BLE001 - whatever was not retried
        assert calls == 1
    assert flaky.calls == calls


@pytest.mark.parametrize("answer", [7, 7.0, timedelta(seconds=7)])
def test_predicate_may_name_the_wait(answer: Any) -> None:
    """A predicate may answer with the wait it wants."""
    clock = ManualClock()
    guarded(clock, on=lambda _: answer).call(Flaky(1))
    assert clock.slept == [7]


@pytest.mark.parametrize(("asked", "waited"), [(30, 30), (0.01, 0.1), (None, 0.1), (float("nan"), 0.1), (True, 0.1)])
def test_retry_after_is_a_floor(asked: Any, waited: float) -> None:
    """What a server asked for is never undercut (L8)."""

    class Busy(Exception):  # noqa: N818 - a user's name
        retry_after = asked

    clock = ManualClock()
    guarded(clock, wait_jitter=0).call(Flaky(1, Busy))
    assert clock.slept == [waited]


def test_never_sleeps_past_its_timeout() -> None:
    """No wait is begun that would end after the total time (L8)."""
    clock = ManualClock()
    with pytest.raises(ConnectionError) as caught:
        guarded(clock, attempts=None, timeout=1, wait_initial=0.3, wait_jitter=0).call(Flaky(99))
    assert clock.slept == pytest.approx([0.3, 0.6])
    assert "(timeout)" in caught.value.__notes__[0]


def test_never_sleeps_past_the_deadline() -> None:
    """No wait is begun that would reach the deadline in force (L8)."""
    clock = ManualClock()
    with Deadline.after(0.25, clock=clock), pytest.raises(ConnectionError) as caught:
        guarded(clock, wait_jitter=0).call(Flaky(9))
    assert clock.slept == [0.1]
    assert "(deadline)" in caught.value.__notes__[0]


def test_tenacity_decides_about_results() -> None:
    """A result the strategy rejects is retried; when attempts run out the caller gets the last one."""
    values, listener = iter([None, None, 5]), RecordingListener()
    pipeline = guarded(retry=tenacity.retry_if_result(lambda value: value is None))
    pipeline.subscribe(listener)
    assert pipeline.call(lambda: next(values)) == 5
    assert listener.kinds == ["retry.scheduled", "retry.scheduled"]
    assert guarded(attempts=2, retry=tenacity.retry_if_result(lambda value: value is None)).call(lambda: None) is None


@given(
    st.integers(1, 5), st.floats(0, 10), st.none() | st.floats(-5, 10), st.none() | st.integers(1, 5), st.floats(0, 9)
)
def test_machine_never_waits_too_long(
    number: int, wait: float, remaining: float | None, most: int | None, now: float
) -> None:
    """The machine allows a wait only if it ends before timeout and deadline, and attempts are left."""
    attempts = Attempts(0.0)
    attempts.number = number
    reason = stop_reason(RetryOptions(attempts=4, timeout=8), attempts, now, wait, remaining, most)
    fits = now + wait < 8 and (remaining is None or wait < remaining)
    is_allowed = number < min(4, most or 4)
    assert (reason is None) is (fits and is_allowed)


def test_edges_of_the_machine() -> None:
    """A wait that would end with the timeout or deadline is not begun; one of exactly a year still is."""
    options = RetryOptions(timeout=8)
    assert stop_reason(options, Attempts(2.0), 4.0, 6.0, None) == "timeout"
    assert stop_reason(options, Attempts(2.0), 4.0, 5.5, None) is None
    assert stop_reason(options, Attempts(2.0), 4.0, 5.5, 5.5) == "deadline"
    assert stop_reason(RetryOptions(), Attempts(0.0), 0.0, LONGEST, None) is None


def test_without_stop_our_attempts_hold() -> None:
    """A tenacity wait alone leaves the number of attempts to us."""
    flaky = Flaky(99)
    with pytest.raises(ConnectionError):
        guarded(wait=tenacity.wait_none()).call(flaky)
    assert flaky.calls == 3


def test_budget_caps_the_share_of_retries() -> None:
    """With the budget spent an error stands instead of being retried, and no slot of the budget leaks."""
    budget = RetryBudget(ratio=0.0, minimum=1)
    clock = ManualClock()
    inner = guarded(clock, budget=budget, wait_jitter=0)
    flaky, notes = Flaky(1), []

    def outer() -> int:
        if flaky.calls == 0:
            flaky()
        try:
            inner.call(Flaky(1))
        except ConnectionError as error:
            notes.append(error)
        return flaky()

    assert guarded(clock, budget=budget, wait_jitter=0).call(outer) == 2
    assert len(notes) == 1
    assert (budget.calls, budget.retries) == (0, 0)
    assert repr(budget) == "<RetryBudget 'budget' 0 of 0 in flight are retries, 0 hedged>"


async def test_budget_is_given_back_on_cancellation() -> None:
    """A call cancelled while it waits for its next attempt leaves the budget."""
    budget = RetryBudget()

    async def fail() -> None:
        raise ConnectionError

    task = asyncio.ensure_future(Pipeline("p", Retry(wait_initial=9, wait_max=9, budget=budget)).acall(fail))
    await asyncio.sleep(0.01)
    assert (budget.calls, budget.retries) == (1, 1)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert (budget.calls, budget.retries) == (0, 0)


def test_budget_survives_a_predicate_that_raises() -> None:
    """A predicate's own error reaches the caller and leaks nothing."""
    budget = RetryBudget()

    def broken(_: Exception) -> bool:
        raise RuntimeError("predicate bug")

    with pytest.raises(RuntimeError, match="predicate bug") as caught:
        guarded(on=broken, budget=budget).call(Flaky(1))
    assert isinstance(caught.value.__context__, ConnectionError)
    assert (budget.calls, budget.retries) == (0, 0)


def test_budget_counts_are_exact_under_threads() -> None:
    """Concurrent calls leave the counts at zero."""
    budget = RetryBudget(minimum=1000)
    pipeline = Pipeline("p", Retry(wait_initial=0, wait_jitter=0, budget=budget))

    def work() -> None:
        for _ in range(200):
            pipeline.call(Flaky(1))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (budget.calls, budget.retries) == (0, 0)


def test_open_circuit_inside_a_retry_is_not_hammered() -> None:
    """Once the breaker inside opens, the retry stops: the refusal reaches the caller."""
    clock, flaky = ManualClock(), Flaky(99)
    pipeline = Pipeline("p", Retry(5, wait_jitter=0, clock=clock), CircuitBreaker(2, clock=clock), sleeper=clock)
    listener = RecordingListener()
    pipeline.subscribe(listener)
    with pytest.raises(CircuitOpenError) as caught:
        pipeline.call(flaky)
    assert flaky.calls == 2
    assert listener.kinds[-1] == "retry.exhausted"
    assert "(not retryable)" in caught.value.__notes__[0]


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"attempts": 0}, "attempts=0"),
        ({"attempts": "three"}, "attempts='three'"),
        ({"timeout": -1}, "timeout=-1"),
        ({"wait_initial": float("nan")}, "wait_initial=nan"),
        ({"wait_max": 10**10}, "wait_max="),
        ({"wait_exp_base": 0.5}, "wait_exp_base=0.5"),
        ({"on": int}, "on="),
        ({"on": ()}, "on="),
        ({"budget": 0.2}, "budget=0.2"),
        ({"wait": 3}, "wait=3"),
    ],
)
def test_bad_options_are_named(options: dict[str, Any], named: str) -> None:
    """A bad option is refused at construction."""
    with pytest.raises(ConfigurationError, match=named):
        Retry(**options)


@pytest.mark.parametrize("answer", [None, False, "", [], ()])
def test_falsy_answers_of_a_predicate_let_the_error_stand(answer: Any) -> None:
    """A predicate that answers nothing (a forgotten `return`, an empty match) says no, as an `if` would take it."""
    flaky = Flaky(1)
    with pytest.raises(ConnectionError):
        guarded(on=lambda _: answer).call(flaky)
    assert flaky.calls == 1


@pytest.mark.parametrize("answer", [[1], "yes", object()])
def test_truthy_answers_of_a_predicate_are_a_yes(answer: Any) -> None:
    """A predicate may answer with any object that is true; only numbers and timedeltas are waits."""
    clock = ManualClock()
    assert guarded(clock, on=lambda _: answer, wait_initial=2, wait_jitter=0).call(Flaky(1)) == 2
    assert clock.slept == [2]


@pytest.mark.parametrize("answer", [None, [], [1], 1, "yes"])
def test_tenacity_predicates_may_answer_with_any_object(answer: Any) -> None:
    """As in tenacity, only the truth of the predicate's answer counts; a number is not a wait."""
    clock = ManualClock()
    pipeline = guarded(
        clock, attempts=2, wait_initial=2, wait_jitter=0, retry=tenacity.retry_if_result(lambda _: answer)
    )
    assert pipeline.call(str) == ""
    assert len(clock.slept) == bool(answer)
    assert 1 not in clock.slept


@pytest.mark.parametrize("asked", [1e9, 1e30, 10**400])
def test_wait_no_clock_can_count_is_not_begun(asked: float) -> None:
    """A server that asks for longer than a year is not waited for: the caller gets its error, not an OverflowError."""
    error = ConnectionError("down")
    error.retry_after = asked  # type: ignore[attr-defined]  # what HTTP clients do
    flaky = Flaky(1, lambda: error)
    with pytest.raises(ConnectionError, match="down"):
        Pipeline("p", Retry(wait_initial=0, wait_jitter=0)).call(flaky)
    with pytest.raises(ConnectionError, match="down"):
        Pipeline("p", Retry(on=lambda _: float("inf"))).call(Flaky(1, lambda: ConnectionError("down")))


def test_budget_survives_callbacks_that_raise() -> None:
    """A `before_sleep` that raises does not leave its retry counted for ever."""
    budget = RetryBudget()

    def broken(_: Any) -> None:
        raise KeyError("callback bug")

    for _ in range(3):
        with pytest.raises(KeyError, match="callback bug"):
            guarded(budget=budget, before_sleep=broken).call(Flaky(1))
    assert (budget.calls, budget.retries) == (0, 0)


def test_error_that_takes_no_note_is_still_the_callers() -> None:
    """An error that cannot be changed (a frozen dataclass) is raised as it is."""

    @dataclasses.dataclass(frozen=True)
    class FrozenError(Exception):
        reason: str

    with pytest.raises(FrozenError, match="down"):
        guarded().call(Flaky(9, lambda: FrozenError("down")))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_child_counts_its_own_calls() -> None:
    """A forked child starts with empty counts, and its retries work."""
    retry = Retry(2, wait_initial=0)
    pipeline = Pipeline("p", retry)
    assert pipeline.call(Flaky(1)) == 2
    pid = os.fork()
    if pid == 0:
        is_fresh = retry.snapshot()["retries"] == 0
        os._exit(0 if is_fresh and pipeline.call(Flaky(1)) == 2 and retry.snapshot()["retries"] == 1 else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert retry.snapshot()["retries"] == 1
