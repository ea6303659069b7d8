"""An interrupt at any point of a guarded call leaves each policy as good as new."""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from datetime import UTC, datetime, timedelta
from typing import Any

import pybreaker
import pytest
from interrupts import KINDS, every_interrupt, in_another_thread
from legs import sampled

from resilience import (
    Bulkhead,
    BulkheadFullError,
    Cache,
    CircuitBreaker,
    CircuitOpenError,
    Deadline,
    DeadlineExceededError,
    Fallback,
    Hedge,
    Keyed,
    Pipeline,
    RateLimit,
    RateLimitedError,
    Retry,
    RetryBudget,
    SingleFlight,
    ThreadPoolBulkhead,
    Timeout,
    idempotent,
)
from resilience.events import Emitter
from resilience.testing import ManualClock

Subject = tuple[Callable[[], object], Callable[[], object]]
Scenario = Callable[[], Subject]
SCENARIOS: dict[str, Scenario] = {}


def scenario(make: Scenario) -> Scenario:
    SCENARIOS[make.__name__] = make
    return make


def answers() -> str:
    return "answer"


def fails() -> str:
    raise ConnectionError("down")


def heard(events: Emitter) -> None:
    """Check that another thread's event is delivered at once, and everything before it was or is."""
    kinds: list[str] = []
    end = events.subscribe(lambda event: kinds.append(event.kind))
    in_another_thread(lambda: events.emit("test.heard", "test", 0.0))
    end()
    assert "test.heard" in kinds, "events are not delivered any more"


def free(policy: Any, limit: int) -> None:
    """Check that all places are free: as many calls as there are places are let in, and not one more."""
    assert policy.concurrent_calls == 0
    assert policy.waiting == 0

    admission: Any = policy._admission

    def fill() -> None:
        permits = [admission.enter_blocking() if admission.waits else admission.enter() for _ in range(limit)]
        assert policy.concurrent_calls == limit
        for permit in permits:
            admission.leave(permit)
        assert policy.concurrent_calls == 0

    in_another_thread(fill)


def eventually(is_so: Callable[[], bool], what: str) -> None:
    """Check a thing that a thread of ours brings about."""
    end = time.monotonic() + 5
    while not is_so():
        assert time.monotonic() < end, what
        time.sleep(0.0002)


@scenario
def bulkhead() -> Subject:
    policy = Bulkhead(2)
    call = Pipeline("p", policy)(answers)

    def check() -> None:
        free(policy, 2)
        assert in_another_thread(call) == "answer"

    return call, check


@scenario
def bulkhead_fails() -> Subject:
    policy = Bulkhead(2)
    call = Pipeline("p", policy)(fails)
    return call, lambda: free(policy, 2)


@scenario
def bulkhead_refuses() -> Subject:
    policy = Bulkhead(1)
    policy.events.subscribe(lambda _event: None)
    held = policy.admit()
    call = Pipeline("p", policy)(answers)

    def check() -> None:
        heard(policy.events)
        with pytest.raises(BulkheadFullError):
            in_another_thread(call)
        policy.on_success(held, None)
        free(policy, 1)

    return call, check


@scenario
def bulkhead_in_generator() -> Subject:
    policy = Bulkhead(1)

    @Pipeline("p", policy)
    def items() -> Iterator[int]:
        yield 1
        yield 2

    return lambda: list(items()), lambda: free(policy, 1)


@scenario
def bulkhead_in_block() -> Subject:
    policy = Bulkhead(1)
    pipeline = Pipeline("p", policy)

    def call() -> None:
        with pipeline.guard():
            answers()

    return call, lambda: free(policy, 1)


@scenario
def bulkhead_resized() -> Subject:
    policy = Bulkhead(3)
    policy.resize(2)
    call = Pipeline("p", policy)(answers)
    return call, lambda: free(policy, 2)


@scenario
def waiting_bulkhead() -> Subject:
    policy = Bulkhead(2, max_wait=5)
    call = Pipeline("p", policy)(answers)
    return call, lambda: free(policy, 2)


@contextmanager
def helper(run: Callable[[threading.Event], object]) -> Iterator[None]:
    """Run a second thread beside the call; it is told when the call is over."""
    is_over = threading.Event()
    thread = threading.Thread(target=run, args=(is_over,), daemon=True)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join(5)
        assert not thread.is_alive(), "the other thread hangs"


@scenario
def bulkhead_line() -> Subject:
    policy = Bulkhead(1, max_wait=5)
    held = policy.admit_blocking()
    guarded = Pipeline("p", policy)(answers)

    def give_back(is_over: threading.Event) -> None:
        while not policy.waiting and not is_over.is_set():
            time.sleep(0.0001)
        policy.on_success(held, None)

    def call() -> None:
        with helper(give_back):
            guarded()

    return call, lambda: free(policy, 1)


@scenario
def bulkhead_hands_over() -> Subject:
    policy, seconds = Bulkhead(1, max_wait=5), []
    is_inside = threading.Event()

    def wait_in_line(_is_over: threading.Event) -> None:
        is_inside.wait(5)
        since = time.monotonic()
        policy.on_success(policy.admit_blocking(), None)
        seconds.append(time.monotonic() - since)

    @Pipeline("p", policy)
    def guarded() -> None:
        is_inside.set()
        while not policy.waiting:
            time.sleep(0.0001)

    def call() -> None:
        with helper(wait_in_line):
            try:
                guarded()
            finally:
                is_inside.set()

    def check() -> None:
        free(policy, 1)
        assert max(seconds) < 3, "the next in line was not told of its place"

    return call, check


@scenario
def bulkhead_line_is_too_slow() -> Subject:
    policy = Bulkhead(1, max_wait=0.001)
    held = policy.admit_blocking()
    call = Pipeline("p", policy)(answers)

    def check() -> None:
        assert policy.waiting == 0
        policy.on_success(held, None)
        free(policy, 1)

    return call, check


@scenario
def thread_pool() -> Subject:
    policy = ThreadPoolBulkhead(2, max_wait=0)
    call = Pipeline("p", policy)(answers)

    def check() -> None:
        eventually(lambda: policy.concurrent_calls == 0, "a place is lost")
        free(policy, 2)
        assert in_another_thread(call) == "answer"
        eventually(lambda: policy._executor.busy == 0, "a thread is lost")

    return call, check


@scenario
def waiting_thread_pool() -> Subject:
    policy = ThreadPoolBulkhead(2, max_wait=5)
    call = Pipeline("p", policy)(answers)

    def check() -> None:
        eventually(lambda: policy.concurrent_calls == 0, "a place is lost")
        free(policy, 2)
        assert in_another_thread(call) == "answer"
        eventually(lambda: policy._executor.busy == 0, "a thread is lost")

    return call, check


@scenario
def bulkhead_around_timeout() -> Subject:
    policy, timeout = Bulkhead(1), Timeout(5, max_threads=1)
    call = Pipeline("p", policy, timeout)(answers)

    def check() -> None:
        eventually(lambda: policy.concurrent_calls == 0, "a place is lost")
        eventually(lambda: timeout.busy_threads == 0, "a thread is lost")
        free(policy, 1)
        assert in_another_thread(call) == "answer"
        eventually(lambda: timeout.busy_threads == 0, "a thread is lost")
        assert timeout.late_threads == 0

    return call, check


@scenario
def timeout_elapses() -> Subject:
    timeout = Timeout(0.001, max_threads=1)
    is_over = threading.Event()
    guarded = Pipeline("p", timeout)(lambda: is_over.wait(5))

    def check() -> None:
        is_over.set()
        eventually(lambda: timeout.busy_threads == 0, "a thread is lost")
        eventually(lambda: timeout.late_threads == 0, "a thread is late for ever")
        assert Deadline.current() is None, "the deadline of the call is still in force"
        heard(timeout.events)
        with suppress(Exception):
            in_another_thread(guarded)
        eventually(lambda: timeout.busy_threads == 0, "a thread is lost")

    return guarded, check


@scenario
def bulkhead_around_late_work() -> Subject:
    policy, timeout = Bulkhead(1), Timeout(0.0005, max_threads=1)
    is_over = threading.Event()
    guarded = Pipeline("p", policy, timeout)(lambda: is_over.wait(5))

    def check() -> None:
        is_over.set()
        eventually(lambda: timeout.busy_threads == 0, "a thread is lost")
        eventually(lambda: timeout.late_threads == 0, "a thread is late for ever")
        eventually(lambda: policy.concurrent_calls == 0, "a place is lost, or given back twice")
        free(policy, 1)
        assert Deadline.current() is None, "the deadline of the call is still in force"

    return guarded, check


@scenario
def keyed_timeout() -> Subject:
    keyed = Keyed(lambda _key: Timeout(5, max_threads=1), key=str, max_keys=2)

    def answer(_key: str) -> str:
        return "answer"

    call = Pipeline("p", keyed)(answer)

    def check() -> None:
        timeout: Any = keyed.get("a")
        if timeout is not None:
            eventually(lambda: timeout.busy_threads == 0, "a thread is lost")
        for key in ("a", "b"):
            assert in_another_thread(functools.partial(call, key)) == "answer"

    return lambda: call("a"), check


def _answers() -> str:  # marked as idempotent, unlike `answers`
    return "answer"


def _fails() -> str:
    raise ConnectionError("down")


def _hedge(delay: float, call: Callable[[], object], budget: RetryBudget | None = None) -> Subject:
    hedge = Hedge(delay, max_threads=2, budget=budget)
    hedge.events.subscribe(lambda _event: None)
    guarded = Pipeline("p", hedge)(idempotent(call))

    def check() -> None:
        eventually(lambda: hedge.busy_threads == 0, "a thread is lost")
        if budget is not None:
            spent = budget
            eventually(lambda: spent.calls == spent.extras == 0, "the budget counts a call that is over")
        heard(hedge.events)
        with suppress(ConnectionError):
            assert in_another_thread(guarded) == "answer"
        eventually(lambda: hedge.busy_threads == 0, "a thread is lost")
        assert hedge.snapshot()["calls"] >= 1

    return guarded, check


@scenario
def hedge_sends_two() -> Subject:
    return _hedge(0, _answers, RetryBudget(minimum=5))


@scenario
def hedge_after_a_failure() -> Subject:
    return _hedge(5, _fails)


@scenario
def hedge_still_learns() -> Subject:
    hedge = Hedge(minimum_samples=10)
    guarded = Pipeline("p", hedge)(idempotent(_answers))

    def check() -> None:
        assert in_another_thread(guarded) == "answer"
        before = hedge.snapshot()["samples"]
        for _ in range(3):
            in_another_thread(guarded)
        assert hedge.snapshot()["samples"] == before + 3, "the hedge has stopped learning"

    return guarded, check


def _retry(retry: Retry, call: Callable[[], object], budget: RetryBudget | None = None) -> Subject:
    retry.events.subscribe(lambda _event: None)
    guarded = Pipeline("p", retry)(call)

    def check() -> None:
        if budget is not None:
            assert (budget.calls, budget.retries) == (0, 0), "the budget counts a call that is over"
        heard(retry.events)
        with suppress(ConnectionError):
            assert in_another_thread(guarded) == "answer"
        figures = retry.snapshot()
        assert figures["succeeded_with_retry"] >= 0, figures

    return guarded, check


def _once() -> Callable[[], str]:
    calls: list[None] = []

    def call() -> str:
        calls.append(None)
        if len(calls) == 1:
            raise ConnectionError("down")
        return "answer"

    return call


@scenario
def retry_once() -> Subject:
    return _retry(Retry(3, wait_initial=0, wait_jitter=0), _once())


@scenario
def retry_in_vain() -> Subject:
    return _retry(Retry(2, wait_initial=0, wait_jitter=0), fails)


@scenario
def retry_with_budget() -> Subject:
    budget = RetryBudget(minimum=5)
    return _retry(Retry(3, wait_initial=0.0001, wait_jitter=0, budget=budget), _once(), budget)


@scenario
def retry_with_budget_that_is_not_needed() -> Subject:
    budget = RetryBudget(minimum=5)
    return _retry(Retry(3, budget=budget), answers, budget)


@scenario
def retry_in_vain_with_budget() -> Subject:
    budget = RetryBudget(minimum=5)
    return _retry(Retry(2, wait_initial=0, wait_jitter=0, budget=budget), fails, budget)


@scenario
def retry_on_result() -> Subject:
    budget, results = RetryBudget(minimum=5), ["bad", "answer"]
    retry = Retry(3, on_result=lambda result: result == "bad", wait_initial=0, wait_jitter=0, budget=budget)
    return _retry(retry, lambda: results.pop(0) if len(results) > 1 else results[0], budget)


def _breaker(breaker: CircuitBreaker, call: Callable[[], object], clock: ManualClock) -> Subject:
    breaker.events.subscribe(lambda _event: None)
    guarded = Pipeline("p", breaker)(call)
    working = Pipeline("p", breaker)(answers)

    def check() -> None:
        heard(breaker.events)
        figures = breaker.snapshot()
        if figures["state"] == "half-open":
            assert figures["trials_running"] == 0, "the place of a trial is lost"
            in_another_thread(working)  # the next trial has its place at once
        assert figures.get("running", 0) == 0, "a call is under way that is over"
        assert 0 <= figures["failures"] <= figures["calls"] or figures["state"] == "open"
        clock.advance(1_000)

        def works() -> None:
            for _ in range(30):  # through a phase of trials, or a ramp, to a closed circuit
                with suppress(CircuitOpenError):
                    working()
                clock.advance(20)
            assert breaker.current_state == "closed", breaker.current_state
            for _ in range(20):  # and it opens again
                with suppress(ConnectionError, CircuitOpenError):
                    Pipeline("p", breaker)(fails)()
            assert breaker.current_state == "open", breaker.current_state

        in_another_thread(works)

    return guarded, check


def _clocked(**options: Any) -> tuple[CircuitBreaker, ManualClock]:
    clock = ManualClock()
    return CircuitBreaker(clock=clock, reset_timeout=10, **options), clock


@scenario
def breaker_closed() -> Subject:
    breaker, clock = _clocked(fail_max=2)
    return _breaker(breaker, answers, clock)


@scenario
def breaker_counts_a_failure() -> Subject:
    breaker, clock = _clocked(failure_rate_threshold=0.5, sliding_window=10, minimum_calls=5)
    return _breaker(breaker, fails, clock)


@scenario
def breaker_opens() -> Subject:
    breaker, clock = _clocked(fail_max=1)
    return _breaker(breaker, fails, clock)


@scenario
def breaker_opens_with_its_own_error() -> Subject:
    breaker, clock = _clocked(fail_max=1, throw_new_error_on_trip=True)
    return _breaker(breaker, fails, clock)


@scenario
def breaker_open() -> Subject:
    breaker, clock = _clocked(fail_max=1)
    breaker.open()
    return _breaker(breaker, answers, clock)


def _half_open(call: Callable[[], object], **options: Any) -> Subject:
    breaker, clock = _clocked(**{"fail_max": 1, "success_threshold": 2, **options})
    breaker.open()
    clock.advance(11)
    return _breaker(breaker, call, clock)


@scenario
def breaker_in_time() -> Subject:
    breaker, clock = _clocked(failure_rate_threshold=0.5, sliding_window="60s", minimum_calls=5)
    clock.advance(30)
    return _breaker(breaker, fails, clock)


@scenario
def breaker_in_time_answers() -> Subject:
    breaker, clock = _clocked(failure_rate_threshold=0.5, sliding_window="60s", minimum_calls=5)
    clock.advance(30)
    return _breaker(breaker, answers, clock)


def _slow(call: Callable[[], object], seconds: float) -> Subject:
    breaker, clock = _clocked(
        failure_rate_threshold=0.5,
        slow_call_rate_threshold=0.9,
        slow_call_duration_threshold=1,
        sliding_window=10,
        minimum_calls=5,
    )

    def timed() -> object:
        clock.advance(seconds)
        return call()

    return _breaker(breaker, timed, clock)


@scenario
def breaker_tries() -> Subject:
    return _half_open(answers)


@scenario
def breaker_tries_in_vain() -> Subject:
    return _half_open(fails)


@scenario
def breaker_closes() -> Subject:
    return _half_open(answers, success_threshold=1)


@scenario
def breaker_closes_by_ramp() -> Subject:
    return _half_open(answers, success_threshold=1, ramp="50s")


@scenario
def breaker_quick() -> Subject:
    return _slow(answers, 0)


@scenario
def breaker_slow() -> Subject:
    return _slow(answers, 2)


@scenario
def breaker_slow_and_failed() -> Subject:
    return _slow(fails, 2)


@scenario
def breaker_cut_off() -> Subject:
    breaker, clock = _clocked(failure_rate_threshold=0.5, sliding_window=10, minimum_calls=2)

    def cut_off() -> None:
        raise DeadlineExceededError("cut off", seconds=0.02, allowed=1.0)

    guarded, check = _breaker(breaker, cut_off, clock)
    for _ in range(30):
        with suppress(DeadlineExceededError):
            guarded()
    clock.advance(100)  # the next one opens the circuit
    return guarded, check


@scenario
def breaker_listener() -> Subject:
    breaker, clock = _clocked(fail_max=1)
    breaker.add_listener(pybreaker.CircuitBreakerListener())
    return _breaker(breaker, fails, clock)


@scenario
def breaker_opened_by_hand() -> Subject:
    breaker, clock = _clocked(fail_max=2)
    _, check = _breaker(breaker, answers, clock)
    return breaker.open, check


@scenario
def breaker_closed_by_hand() -> Subject:
    breaker, clock = _clocked(fail_max=2)
    breaker.open()
    _, check = _breaker(breaker, answers, clock)
    return breaker.close, check


def _mode(before: str, after: str) -> Subject:
    """Change the mode; or, if `after` is empty, let a call find that the mode has ended."""
    breaker, clock = _clocked(failure_rate_threshold=0.5, sliding_window=10, minimum_calls=5)
    breaker.events.subscribe(lambda _event: None)
    guarded = Pipeline("p", breaker)(answers)
    breaker.set_mode(before, expires=None if after or before == "automatic" else 5)
    clock.advance(6)

    def check() -> None:
        heard(breaker.events)
        is_refused = breaker.mode == "forced_open"

        def works() -> None:
            with pytest.raises(CircuitOpenError) if is_refused else nullcontext():
                guarded()
            breaker.set_mode("automatic")
            calls = breaker.snapshot()["calls"]
            for _ in range(5):
                guarded()
            assert breaker.snapshot()["calls"] == calls + 5, "successes are not counted any more"
            for _ in range(10):
                with suppress(ConnectionError, CircuitOpenError):
                    Pipeline("p", breaker)(fails)()
            assert breaker.current_state == "open"

        in_another_thread(works)

    return (lambda: breaker.set_mode(after)) if after else guarded, check


@scenario
def breaker_held_open() -> Subject:
    return _mode("automatic", "forced_open")


@scenario
def breaker_disabled() -> Subject:
    return _mode("automatic", "disabled")


@scenario
def breaker_automatic_again() -> Subject:
    return _mode("disabled", "automatic")


@scenario
def breaker_mode_ends() -> Subject:
    return _mode("disabled", "")


@scenario
def breaker_held_open_no_more() -> Subject:
    return _mode("forced_open", "")


class Elsewhere(pybreaker.CircuitBreakerStorage):
    """A storage that is not known to be in memory, so that each access has a bound and runs in a thread."""

    def __init__(self) -> None:
        super().__init__("elsewhere")
        self._kept = pybreaker.CircuitMemoryStorage("closed")

    @property
    def state(self) -> Any:
        return self._kept.state

    @state.setter
    def state(self, state: str) -> None:
        self._kept.state = state

    def increment_counter(self) -> None:
        self._kept.increment_counter()

    def reset_counter(self) -> None:
        self._kept.reset_counter()

    def increment_success_counter(self) -> None:
        self._kept.increment_success_counter()

    def reset_success_counter(self) -> None:
        self._kept.reset_success_counter()

    @property
    def counter(self) -> Any:
        return self._kept.counter

    @property
    def success_counter(self) -> Any:
        return self._kept.success_counter

    @property
    def opened_at(self) -> Any:
        return self._kept.opened_at

    @opened_at.setter
    def opened_at(self, datetime: Any) -> None:  # the name of the base class
        self._kept.opened_at = datetime


def _stored(
    storage: pybreaker.CircuitBreakerStorage, call: Callable[[], object], *, is_open: bool = False, **options: Any
) -> Subject:
    breaker, clock = _clocked(state_storage=storage, **options)
    if is_open:
        breaker.open()
        clock.advance(11)
        storage.opened_at = datetime.now(UTC) - timedelta(seconds=60)
    breaker.events.subscribe(lambda _event: None)
    guarded = Pipeline("p", breaker)(call)
    working = Pipeline("p", breaker)(answers)

    def check() -> None:
        heard(breaker.events)
        figures = breaker.snapshot()
        assert figures.get("trials_running", 0) == 0, "the place of a trial is lost"

        def works() -> None:
            breaker.half_open()
            for _ in range(3):
                working()
            assert breaker.current_state == "closed"
            for _ in range(5):
                with suppress(ConnectionError, CircuitOpenError):
                    Pipeline("p", breaker)(fails)()
            assert breaker.current_state == "open"

        in_another_thread(works)

    return guarded, check


@scenario
def breaker_stored_answers() -> Subject:
    return _stored(pybreaker.CircuitMemoryStorage("closed"), answers, fail_max=2)


@scenario
def breaker_stored_opens() -> Subject:
    return _stored(pybreaker.CircuitMemoryStorage("closed"), fails, fail_max=1)


@scenario
def breaker_stored_tries() -> Subject:
    return _stored(pybreaker.CircuitMemoryStorage("closed"), answers, is_open=True, fail_max=2, success_threshold=2)


@scenario
def breaker_stored_tries_in_vain() -> Subject:
    return _stored(pybreaker.CircuitMemoryStorage("closed"), fails, is_open=True, fail_max=2, success_threshold=2)


@scenario
def breaker_stored_elsewhere_opens() -> Subject:
    return _stored(Elsewhere(), fails, fail_max=1)


@scenario
def breaker_stored_elsewhere_tries() -> Subject:
    return _stored(Elsewhere(), answers, is_open=True, fail_max=2, success_threshold=2)


@scenario
def breaker_leaves_its_storage() -> Subject:
    storage = Elsewhere()
    breaker, _clock = _clocked(fail_max=2, state_storage=storage, storage_timeout=1)
    guarded = Pipeline("p", breaker)(answers)
    kept, storage._kept = storage._kept, None  # type: ignore[assignment]  # each access raises, until it is back

    def check() -> None:
        storage._kept = kept
        guarded()  # whatever has been interrupted: a call has the storage watched
        eventually(lambda: not breaker._circuit._storage.is_away, "the storage is left alone for good")  # type: ignore[union-attr]

    return guarded, check


def _limit(limit: RateLimit, spent: int = 0) -> Subject:
    limit.events.subscribe(lambda _event: None)
    for _ in range(spent):
        limit.admit()
    call = Pipeline("p", limit)(answers)

    def check() -> None:
        heard(limit.events)
        with suppress(RateLimitedError):
            in_another_thread(call)

    return call, check


@scenario
def limit() -> Subject:
    return _limit(RateLimit("1000/second", 1000))


@scenario
def limit_of_a_known_key() -> Subject:
    return _limit(RateLimit("1000/second", 1000), spent=2)


@scenario
def limit_refuses() -> Subject:
    return _limit(RateLimit("1/day", 1), spent=1)


@scenario
def limit_waits() -> Subject:
    return _limit(RateLimit("1000/second", 1, max_wait=1), spent=1)


def _cache(call: Callable[[], object], *, hits: int = 0, **options: Any) -> Subject:
    clock = ManualClock()
    cache = Cache(10, max_size=2, clock=clock, **options)

    def called(_key: int) -> object:
        return call()

    cached = Pipeline("p", cache)(called)
    for number in range(hits):
        cached(number)

    def check() -> None:
        heard(cache.events)
        made: list[int] = []

        def note(key: int) -> int:
            made.append(key)
            return key

        other = Pipeline("p", cache)(note)

        def works() -> None:
            for key in (1, 2, 3, 3, 3):
                assert other(key) == key
            assert made == [1, 2, 3], "the cache keeps nothing any more"
            assert cache.snapshot()["size"] <= 2
            clock.advance(100)
            assert cache.snapshot()["size"] == 0

        in_another_thread(works)

    return lambda: cached(0), check


@scenario
def cache_misses() -> Subject:
    return _cache(answers)


@scenario
def cache_hits() -> Subject:
    return _cache(answers, hits=1)


@scenario
def cache_evicts() -> Subject:
    return _cache(answers, hits=3)


@scenario
def flight_alone() -> Subject:
    single = SingleFlight()
    call = Pipeline("p", single)(answers)
    return call, lambda: _flies(call)


def _flies(call: Callable[[], object]) -> None:
    """Check that the key is free: a caller makes the call, and one that comes meanwhile is told."""
    assert in_another_thread(call) == "answer"


@scenario
def flight_fails() -> Subject:
    call = Pipeline("p", SingleFlight())(_once())

    def check() -> None:
        with suppress(ConnectionError):
            call()
        _flies(call)

    return call, check


@scenario
def flight_leads() -> Subject:
    single, is_joined = SingleFlight(), threading.Event()

    @Pipeline("p", single)
    def guarded() -> str:
        is_joined.wait(0.002)
        return "answer"

    told: list[object] = []

    def call() -> None:
        with helper(lambda _is_over: told.append(guarded())):
            guarded()

    def check() -> None:
        _flies(guarded)

    return call, check


@scenario
def flight_follows() -> Subject:
    single = SingleFlight()
    is_made, may_end = threading.Event(), threading.Event()

    @Pipeline("p", single)
    def guarded() -> str:
        is_made.set()
        may_end.wait(0.006)
        return "answer"

    def call() -> None:
        with helper(lambda _is_over: guarded()):
            is_made.wait(5)
            guarded()

    return call, lambda: _flies(guarded)


@scenario
def fallback() -> Subject:
    policy = Fallback(function=lambda _error: "answer")
    policy.events.subscribe(lambda _event: None)
    call = Pipeline("p", policy)(fails)

    def check() -> None:
        heard(policy.events)
        assert in_another_thread(call) == "answer"

    return call, check


@scenario
def fallback_inside() -> Subject:
    bulkhead, policy = Bulkhead(1), Fallback(function=lambda _error: "answer")
    call = Pipeline("p", bulkhead, policy)(fails)

    def check() -> None:
        free(bulkhead, 1)
        assert in_another_thread(call) == "answer"

    return call, check


@scenario
def budget() -> Subject:
    budget = RetryBudget(ratio=0.0, minimum=1)
    budget.events.subscribe(lambda _event: None)

    def call() -> None:
        budget.spend_extra()
        budget.spend_extra()

    def check() -> None:
        heard(budget.events)
        in_another_thread(budget.release_extra)
        in_another_thread(budget.release_extra)
        assert budget.extras == 0

    return call, check


def _keyed(*keys: str) -> Subject:
    clock = ManualClock()
    keyed = Keyed(lambda _key: CircuitBreaker(fail_max=100, clock=clock), key=str, max_keys=2, idle="1m", clock=clock)
    keyed.events.subscribe(lambda _event: None)

    def answer(_key: str) -> str:
        return "answer"

    call = Pipeline("p", keyed)(answer)
    for key in keys:
        call(key)
    clock.advance(100)

    def check() -> None:
        heard(keyed.events)

        def works() -> None:
            for key in ("a", "b", "c"):
                assert call(key) == "answer"
            assert len(keyed) == 2
            assert keyed.snapshot()["keys"] == 2
            assert keyed.get("c") is keyed.get("c") is not None

        in_another_thread(works)

    return lambda: call("a"), check


@scenario
def new_key() -> Subject:
    return _keyed()


@scenario
def known_key() -> Subject:
    return _keyed("a")


@scenario
def surplus_key() -> Subject:
    return _keyed("b", "c")


@scenario
def events() -> Subject:
    emitter, seen = Emitter(), []
    emitter.subscribe(lambda event: seen.append(event.sequence))
    emitter.record("test.first", "test", 0.0)

    def check() -> None:
        heard(emitter)
        assert seen == sorted(set(seen)), "out of order"

    return lambda: emitter.emit("test.second", "test", 0.0), check


@scenario
def subscription() -> Subject:
    emitter = Emitter()

    def call() -> None:
        emitter.subscribe(lambda _event: None)()

    return call, lambda: heard(emitter)


@scenario
def chain() -> Subject:
    limit, bulkhead = RateLimit("1000/second", 1000), Bulkhead(2)
    budget = RetryBudget(minimum=5)
    retry = Retry(2, wait_initial=0, wait_jitter=0, budget=budget)
    breaker = CircuitBreaker(fail_max=100)
    call = Pipeline("p", Fallback("answer"), retry, breaker, limit, bulkhead)(_once())

    def check() -> None:
        free(bulkhead, 2)
        assert (budget.calls, budget.retries) == (0, 0)
        assert in_another_thread(call) == "answer"

    return call, check


# The places of the points differ between Pythons, the kinds of instruction do not (see `interrupts`). So one leg runs
# all cases, and the others each third, which is two of three scenarios, with the two kinds in turn.
# A storage elsewhere has 50 ms of real time for each access, which a busy machine may use up: such a case tries again.
REAL = (pytest.mark.realtime, pytest.mark.everywhere)
CASES = sampled(
    [
        pytest.param(name, kind, id=f"{name}-{kind.__name__}", marks=REAL if "elsewhere" in name else ())
        for name in SCENARIOS
        for kind in KINDS
    ],
    every=3,
)


# `threading` prints the KeyError of a thread whose start was interrupted; see `executor._Worker.start`.
@pytest.mark.filterwarnings("ignore:Exception ignored in thread started by:pytest.PytestUnraisableExceptionWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize(("name", "kind"), CASES)
def test_an_interrupt_at_any_point_leaves_the_policy_as_good_as_new(name: str, kind: type[BaseException]) -> None:
    """Wherever an interrupt strikes in a guarded call: no place, lock or thread is lost, and the next calls work."""
    struck = list(every_interrupt(SCENARIOS[name], kind))

    assert struck
