import abc
import asyncio
import contextlib
import gc
import os
import sys
import threading
import time
from collections.abc import AsyncGenerator, Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pybreaker
import pytest

from resilience import (
    CircuitBreaker,
    CircuitOpenError,
    ConfigurationError,
    Deadline,
    DeadlineExceededError,
    Pipeline,
    RateLimitedError,
    RejectedError,
    Timeout,
)
from resilience.testing import ManualClock, RecordingListener


def fail() -> None:
    raise ValueError("down")


def trip(breaker: CircuitBreaker) -> None:
    while breaker.current_state == "closed":
        with pytest.raises(ValueError, match="down"):
            breaker.call(fail)


def half_opened(permits: int, clock: ManualClock | None = None) -> CircuitBreaker:
    breaker = CircuitBreaker(1, 10, permits, clock=clock or ManualClock())
    breaker.half_open()
    return breaker


def test_no_lock_is_held_during_the_call() -> None:
    """Ten threads sleeping 0.5 s through one breaker take about 0.5 s, not five (L1)."""
    slow: Callable[[], None] = CircuitBreaker()(lambda: time.sleep(0.5))
    start = time.monotonic()
    with ThreadPoolExecutor(10) as pool:
        list(pool.map(lambda _: slow(), range(10)))
    assert time.monotonic() - start < 4


@pytest.mark.parametrize("permits", [1, 3])
def test_half_open_admits_exactly_its_permits_to_threads(permits: int) -> None:
    """Of 50 concurrent threads, half-open lets exactly the configured number through (L5)."""
    breaker = half_opened(permits)
    release, inside = threading.Event(), []

    def trial() -> None:
        inside.append(1)
        release.wait(5)

    def call(_: int) -> bool:
        try:
            breaker.call(trial)
        except CircuitOpenError:
            refused.release()
            return False
        return True

    refused = threading.Semaphore(0)
    with ThreadPoolExecutor(50) as pool:
        results = [pool.submit(call, number) for number in range(50)]
        for _ in range(50 - permits):
            assert refused.acquire(timeout=5)
        release.set()
        assert sum(result.result() for result in results) == permits
    assert len(inside) == permits
    assert breaker.current_state == "closed"


@pytest.mark.parametrize("permits", [1, 3])
async def test_half_open_admits_exactly_its_permits_to_tasks(permits: int) -> None:
    """Of 50 concurrent tasks, half-open lets exactly the configured number through (L5)."""
    breaker, release = half_opened(permits), asyncio.Event()
    tasks = [asyncio.ensure_future(breaker.call_async(release.wait)) for _ in range(50)]
    await asyncio.sleep(0.01)
    release.set()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert sum(result is True for result in results) == permits
    assert all(result is True or isinstance(result, CircuitOpenError) for result in results)


async def test_cancelled_trial_frees_its_permit() -> None:
    """A cancelled trial neither closes nor opens the circuit, and the next call may try (L5)."""
    breaker = half_opened(1)
    trial = asyncio.ensure_future(breaker.call_async(asyncio.Event().wait))
    await asyncio.sleep(0)
    trial.cancel()
    with pytest.raises(asyncio.CancelledError):
        await trial
    assert breaker.current_state == "half-open"
    assert await breaker.call_async(asyncio.sleep, 0, "back") == "back"
    assert breaker.current_state == "closed"


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, GeneratorExit, asyncio.CancelledError])
def test_interrupts_count_as_nothing(error: type[BaseException]) -> None:
    """A BaseException that is no Exception says nothing about the dependency."""
    breaker = CircuitBreaker(1)

    def interrupted() -> None:
        raise error

    with pytest.raises(error):
        breaker.call(interrupted)
    assert (breaker.current_state, breaker.fail_counter) == ("closed", 0)


def test_refusals_of_inner_policies_are_neutral() -> None:
    """Our own refusals are not failures of the dependency (L4), nor do they use up a trial."""
    breaker = half_opened(1)

    def refused() -> None:
        raise RateLimitedError("no", policy="inner", retry_after=1)

    for _ in range(3):
        with pytest.raises(RateLimitedError):
            breaker.call(refused)
    assert (breaker.current_state, breaker.fail_counter) == ("half-open", 0)


def test_refusal_says_who_and_until_when() -> None:
    """A refusal carries the policy's name, the time left and the facts of the error model."""
    clock = ManualClock()
    breaker = CircuitBreaker(1, "10s", name="ledger", clock=clock, reset_timeout_jitter=0)
    trip(breaker)
    clock.advance(4)
    with pytest.raises(CircuitOpenError) as caught:
        breaker.call(fail)
    error = caught.value
    assert isinstance(error, RejectedError)
    assert isinstance(error, pybreaker.CircuitBreakerError)
    assert (error.policy, error.retry_after) == ("ledger", 6)
    assert (error.code, error.http_status, error.grpc_status, error.retryable) == (
        "CIRCUIT_OPEN",
        503,
        "UNAVAILABLE",
        True,
    )


def test_own_error_reaches_the_caller_on_a_trip() -> None:
    """The call that opens the circuit gets its own error; by option it gets ours, with its own as the cause."""
    plain, asked = CircuitBreaker(1), CircuitBreaker(1, throw_new_error_on_trip=True)
    with pytest.raises(ValueError, match="down"):
        plain.call(fail)
    with pytest.raises(CircuitOpenError) as caught:
        asked.call(fail)
    assert isinstance(caught.value.__cause__, ValueError)


def test_failure_rate_with_minimum_calls() -> None:
    """A failure rate is judged from the minimum of calls on, over the window."""
    breaker = CircuitBreaker(failure_rate_threshold=0.5, sliding_window=10, minimum_calls=4)
    for _ in range(2):
        breaker.call(int)
    with pytest.raises(ValueError, match="down"):
        breaker.call(fail)
    assert breaker.current_state == "closed"
    with pytest.raises(ValueError, match="down"):
        breaker.call(fail)
    assert breaker.current_state == "open"


WINDOWS = pytest.mark.parametrize("window", [10, "10s"], ids=["calls", "time"])
TIMED = pytest.mark.parametrize("slow", [None, 0.9], ids=["plain", "timed"])


@WINDOWS
@TIMED
def test_a_success_that_completes_the_minimum_is_judged(window: int | str, slow: float | None) -> None:
    """The circuit opens when the minimum of calls is complete, as in resilience4j, also if the last one succeeds."""
    heard = RecordingListener()
    breaker = CircuitBreaker(
        failure_rate_threshold=0.5,
        sliding_window=window,
        minimum_calls=6,
        clock=ManualClock(),
        slow_call_rate_threshold=slow,
    )
    breaker.add_listener(heard)
    breaker.call(int)
    for _ in range(3):
        with pytest.raises(ValueError, match="down"):
            breaker.call(fail)
    breaker.call(int)
    assert breaker.current_state == "closed"
    assert breaker.call(int) == 0  # its own result, although the circuit opens
    assert breaker.current_state == "open"
    opened = heard.events[-1]
    assert (opened.kind, opened.facts["reason"]) == ("breaker.opened", "failure rate")


@WINDOWS
@TIMED
def test_successes_are_judged_until_the_minimum_is_complete(window: int | str, slow: float | None) -> None:
    """Only successes between a failure and the minimum take the lock; a healthy circuit takes none."""
    breaker = CircuitBreaker(
        failure_rate_threshold=0.5,
        sliding_window=window,
        minimum_calls=4,
        clock=ManualClock(),
        slow_call_rate_threshold=slow,
    )
    plain = breaker._circuit.machine.epoch.record_success  # type: ignore[union-attr]  # the circuit is closed
    taken: list[object] = []

    def successes() -> object:
        epoch = breaker._circuit.machine.epoch
        return epoch.record_success  # type: ignore[union-attr]  # the circuit is closed

    for is_success in (True, False, True, True):
        taken.append(successes() is plain)
        with contextlib.suppress(ValueError), breaker.calling():
            if not is_success:
                fail()
    assert taken == [True, True, False, False]
    assert successes() is plain
    assert (breaker.snapshot()["calls"], breaker.current_state) == (4, "closed")


@TIMED
def test_a_rate_that_rises_when_old_successes_leave_is_judged_by_a_success(slow: float | None) -> None:
    """In a window of time the first success after old ones left is judged; looking at the figures changes nothing."""
    clock = ManualClock()
    breaker = CircuitBreaker(
        failure_rate_threshold=0.5, sliding_window="10s", minimum_calls=4, clock=clock, slow_call_rate_threshold=slow
    )
    for _ in range(6):
        breaker.call(int)
    clock.advance(5)
    for _ in range(4):
        with pytest.raises(ValueError, match="down"):
            breaker.call(fail)
    clock.advance(5.5)
    breaker.snapshot()
    assert breaker.current_state == "closed"
    breaker.call(int)
    assert breaker.current_state == "open"


def test_a_mode_that_does_not_count_judges_no_success() -> None:
    """A success that ends while the circuit is disabled neither counts nor opens it."""
    breaker = CircuitBreaker(failure_rate_threshold=0.5, sliding_window=10, minimum_calls=2)
    with pytest.raises(ValueError, match="down"):
        breaker.call(fail)
    with breaker.calling():
        breaker.set_mode("disabled")
    breaker.call(int)
    breaker.set_mode("automatic")
    assert breaker.current_state == "closed"
    breaker.call(int)
    assert breaker.current_state == "open"


def test_one_of_many_threads_completes_the_minimum() -> None:
    """Of successes that end at once, each counts once, and the circuit opens exactly at the minimum."""
    for _ in range(20):
        breaker = CircuitBreaker(failure_rate_threshold=0.1, sliding_window=100, minimum_calls=10)
        heard = RecordingListener()
        breaker.add_listener(heard)
        with pytest.raises(ValueError, match="down"):
            breaker.call(fail)
        gate = threading.Barrier(9)

        def succeed(gate: threading.Barrier = gate) -> None:
            gate.wait()

        with ThreadPoolExecutor(9) as pool:
            list(pool.map(lambda _, breaker=breaker, succeed=succeed: breaker.call(succeed), range(9)))
        assert [(event.kind, event.facts["calls"]) for event in heard.events] == [("breaker.opened", 10)]


def test_wall_clock_jumps_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A step of the wall clock neither opens nor closes anything (L7)."""
    breaker = CircuitBreaker(1, 60)
    trip(breaker)
    monkeypatch.setattr(time, "time", lambda: 4e9)
    with pytest.raises(CircuitOpenError):
        breaker.call(int)


def test_excluded_errors_are_neutral_even_with_a_metaclass() -> None:
    """`exclude` takes classes (with any metaclass) and predicates; an excluded error is no failure."""

    class Business(Exception, metaclass=abc.ABCMeta):  # noqa: N818 - a user's name
        pass

    breaker = CircuitBreaker(2, exclude=[Business, lambda error: "fine" in str(error)])
    for error in (Business(), ValueError("fine")):
        with pytest.raises(type(error)):
            breaker.call(_raising(error))
    assert breaker.fail_counter == 0
    trip(breaker)
    assert breaker.fail_counter == 2


def _raising(error: Exception) -> Callable[[], None]:
    def call() -> None:
        raise error

    return call


def test_events_are_ordered_and_say_why() -> None:
    """Each transition is one event with the reason and the counts that led to it (L6)."""
    clock, listener = ManualClock(), RecordingListener()
    breaker = CircuitBreaker(2, 10, clock=clock, listeners=[listener], name="b")
    trip(breaker)
    with pytest.raises(CircuitOpenError):
        breaker.call(int)
    clock.advance(10)
    breaker.call(int)
    assert listener.kinds == ["breaker.opened", "breaker.rejected", "breaker.half_opened", "breaker.closed"]
    opened = listener.events[0]
    assert (opened.policy, opened.facts["reason"], opened.facts["failures"]) == ("b", "consecutive failures", 2)
    assert [event.sequence for event in listener.events] == [1, 2, 3, 4]
    assert "breaker.opened" in repr(opened)


def test_listener_that_raises_or_reenters_changes_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """A listener that raises or calls back into the breaker cannot disturb the caller (L6)."""

    def reenter(_: object) -> None:
        assert breaker.fail_counter >= 0
        breaker.call(int) if breaker.current_state == "closed" else None
        raise RuntimeError("listener bug")

    breaker = CircuitBreaker(1, listeners=[reenter])
    trip(breaker)
    assert breaker.current_state == "open"
    assert "listener bug" in caplog.text


def test_removed_listener_hears_nothing() -> None:
    """A listener that was removed gets no events."""
    listener = RecordingListener()
    breaker = CircuitBreaker(1, listeners=[listener])
    breaker.remove_listener(listener)
    trip(breaker)
    assert listener.events == []
    assert breaker.listeners == ()


def test_generator_is_judged_at_its_end() -> None:
    """A guarded generator holds its permit from the first item to the end, and its late error counts."""
    breaker = CircuitBreaker(1)

    @breaker
    def items() -> Generator[int, None, None]:
        yield 1
        raise ValueError("down")

    generator = items()
    assert next(generator) == 1
    assert breaker.fail_counter == 0
    with pytest.raises(ValueError, match="down"):
        next(generator)
    assert breaker.current_state == "open"


async def test_async_generator_is_judged_at_its_end() -> None:
    """The same for an async generator, also when it is abandoned half-way."""
    breaker = half_opened(1)

    @breaker
    async def items() -> AsyncGenerator[int, None]:
        yield 1
        yield 2

    generator = items()
    assert await anext(generator) == 1
    await generator.aclose()
    assert breaker.current_state == "half-open"
    assert [item async for item in items()] == [1, 2]
    assert breaker.current_state == "closed"


def test_parameters_can_change_at_run_time() -> None:
    """fail_max, reset_timeout and success_threshold can be set, are validated, and hold from the next decision on."""
    clock = ManualClock()
    breaker = CircuitBreaker(5, clock=clock, reset_timeout_jitter=0)
    breaker.fail_max, breaker.reset_timeout, breaker.success_threshold = 1, "5s", 2
    assert (breaker.fail_max, breaker.reset_timeout, breaker.success_threshold) == (1, 5.0, 2)
    trip(breaker)
    assert breaker.fail_counter == 1
    assert breaker.retry_after == 5
    clock.advance(5)
    breaker.call(int)
    assert (breaker.current_state, breaker.success_counter) == ("half-open", 1)
    breaker.call(int)
    assert breaker.current_state == "closed"
    with pytest.raises(ConfigurationError, match="fail_max=0"):
        breaker.fail_max = 0


def test_rate_breaker_keeps_its_counts_when_reconfigured() -> None:
    """A change of a timeout keeps the counts of the window."""
    breaker = CircuitBreaker(failure_rate_threshold=0.9)
    with pytest.raises(ValueError, match="down"):
        breaker.call(fail)
    breaker.reset_timeout = 3
    assert breaker.fail_counter == 1


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"fail_max": 0}, "fail_max=0"),
        ({"fail_max": True}, "fail_max=True"),
        ({"fail_max": 1.5}, "fail_max=1.5"),
        ({"fail_max": 10**12}, "fail_max="),
        ({"reset_timeout": -1}, "reset_timeout=-1"),
        ({"reset_timeout": 0}, "reset_timeout=0"),
        ({"reset_timeout": float("nan")}, "reset_timeout=nan"),
        ({"reset_timeout": float("inf")}, "reset_timeout=inf"),
        ({"reset_timeout": "30 parsecs"}, "reset_timeout='30 parsecs'"),
        ({"failure_rate_threshold": 1.1}, "failure_rate_threshold=1.1"),
        ({"failure_rate_threshold": 0}, "failure_rate_threshold=0"),
        ({"minimum_calls": 50, "sliding_window": 10}, "minimum_calls=50"),
        ({"half_open_max_calls": 1, "success_threshold": 2}, "half_open_max_calls=1"),
        ({"exclude": [int]}, "exclude="),
        ({"exclude": ["ValueError"]}, "exclude='ValueError'"),
        ({"listeners": [3]}, "listeners=3"),
        ({"state_storage": "redis"}, "state_storage='redis'"),
    ],
)
def test_bad_options_are_named(options: dict[str, object], named: str) -> None:
    """A bad option is refused at construction, with its name, its value and the rule."""
    with pytest.raises(ConfigurationError, match="expected") as caught:
        CircuitBreaker(**options)  # type: ignore[arg-type]  # wrong on purpose
    assert named in str(caught.value)


def test_every_bad_option_is_reported_at_once() -> None:
    """Several mistakes make one error that lists them all (L23)."""
    with pytest.raises(ConfigurationError) as caught:
        CircuitBreaker(0, "soon", 0)
    assert [problem.option for problem in caught.value.problems] == ["fail_max", "reset_timeout", "success_threshold"]
    assert str(caught.value).startswith("3 configuration problems:\n  - fail_max=0: expected a whole number")


def test_state_can_be_assigned_by_name() -> None:
    """Assigning a state name changes the state; an unknown one is refused."""
    breaker = CircuitBreaker()
    for state in ("open", "half-open", "closed"):
        breaker.state = state
        named: Any = breaker.state
        assert (named.name, breaker.current_state) == (state, state)
    with pytest.raises(ConfigurationError, match="state='ajar'"):
        breaker.state = "ajar"


def test_named_after_its_pipeline() -> None:
    """An unnamed breaker takes its pipeline's name once; a named one keeps its own."""
    breaker = CircuitBreaker()
    assert breaker.name == "breaker"
    Pipeline("payments", breaker)
    Pipeline("other", breaker)
    assert breaker.name == "payments.breaker"
    assert repr(breaker) == "<CircuitBreaker 'payments.breaker' closed>"
    assert breaker.fail_max == 5


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_lock_held_at_a_fork_does_not_block_the_child() -> None:
    """A child forked while another thread holds the lock can still use the breaker."""
    breaker = half_opened(1)
    held, release = threading.Event(), threading.Event()

    def hold() -> None:
        with breaker._circuit.lock:
            held.set()
            release.wait(5)

    holder = threading.Thread(target=hold)
    holder.start()
    held.wait(5)
    pid = os.fork()
    if pid == 0:
        gc.disable()
        os._exit(0 if breaker.call(lambda: 7) == 7 else 1)
    _, status = os.waitpid(pid, 0)
    release.set()
    holder.join()
    assert os.waitstatus_to_exitcode(status) == 0


def test_more_successes_asked_for_while_trying() -> None:
    """Raising `success_threshold` during the trials admits the trials now missing; it never refuses for good."""
    breaker = CircuitBreaker()
    breaker.half_open()
    trial = breaker.admit()
    breaker.success_threshold = 3
    breaker.on_success(trial, None)
    assert [breaker.call(int), breaker.call(int)] == [0, 0]
    assert breaker.current_state == "closed"


def test_reset_timeout_reaches_an_open_circuit() -> None:
    """A new `reset_timeout` holds for a circuit that is open already, counted from when it opened (as in pybreaker)."""
    clock = ManualClock()
    breaker = CircuitBreaker(reset_timeout=60, clock=clock)
    breaker.open()
    clock.advance(5)
    breaker.reset_timeout = "8s"
    assert breaker.retry_after == 3
    clock.advance(3)
    assert breaker.call(int) == 0


def test_exclusion_that_raises_gives_the_trial_back() -> None:
    """An error in a predicate of `exclude` reaches the caller and costs no trial (L2)."""
    breaker = half_opened(1)

    def broken(_: Exception) -> bool:
        raise KeyError("predicate bug")

    breaker.add_excluded_exception(broken)
    with pytest.raises(KeyError, match="predicate bug"):
        breaker.call(fail)
    assert breaker.call(int) == 0


def test_interrupt_in_a_listener_gives_the_trial_back() -> None:
    """An interrupt that arrives while listeners hear of the half-open state costs no trial (L2)."""
    clock = ManualClock()

    def interrupted(event: Any) -> None:
        if event.kind == "breaker.half_opened":
            raise KeyboardInterrupt

    breaker = CircuitBreaker(1, 10, listeners=[interrupted], clock=clock)
    breaker.open()
    clock.advance(10)
    with pytest.raises(KeyboardInterrupt):
        breaker.call(int)
    assert breaker.call(int) == 0


async def test_time_used_up_before_the_call_says_nothing_about_the_dependency() -> None:
    """A deadline that passed before the call is no failure of the dependency, which was not called (L4)."""
    breaker = CircuitBreaker(1)
    pipeline = Pipeline("p", breaker, Timeout(1))
    with Deadline.after(0):
        with pytest.raises(DeadlineExceededError):
            pipeline.call(int)
        with pytest.raises(DeadlineExceededError):
            await pipeline.acall(asyncio.sleep, 0)
    assert breaker.current_state == "closed"


def test_coroutine_functions_cannot_exclude() -> None:
    """A coroutine function in `exclude` would exclude every error and never open the circuit; it is refused."""

    async def never(_: Exception) -> bool:
        return False

    with pytest.raises(ConfigurationError, match="not a coroutine function"):
        CircuitBreaker(exclude=[never])  # type: ignore[list-item]  # wrong on purpose


def test_settled_trials_leave_no_cycle() -> None:
    """A trial is freed when it is settled, without waiting for the garbage collector."""
    breaker = half_opened(2)
    gc.disable()
    try:
        trial, circuit = breaker.admit(), breaker._circuit
        before = sys.getrefcount(circuit)
        breaker.on_success(trial, None)
        del trial
        assert sys.getrefcount(circuit) < before
    finally:
        gc.enable()
