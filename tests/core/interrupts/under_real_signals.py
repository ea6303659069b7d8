"""Run by `test_real_signals.py`: guarded calls for some seconds, under a timer whose signal handler raises."""

from __future__ import annotations

import random
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress

from resilience import Bulkhead, CircuitBreaker, Pipeline, RateLimit, Retry, RetryBudget, SingleFlight

SECONDS_EACH = 0.6
_interval = random.Random(7)  # so that a run can be repeated
struck: list[None] = []
is_armed = False


class TimeLimitError(Exception):
    """Like `celery.exceptions.SoftTimeLimitExceeded`."""


def handle(_number: int, _frame: object) -> None:
    global is_armed  # noqa: PLW0603 - a handler has no other place
    if is_armed:
        is_armed = False
        struck.append(None)
        raise TimeLimitError


def _repeat(call: Callable[[], object]) -> None:
    """Make calls until one is interrupted.

    A function of its own: Python 3.13 leaves the jump back of a loop, at which it looks for signals, out of the `try`.
    """
    while is_armed:
        with suppress(ConnectionError):
            call()


def under_signals(call: Callable[[], object]) -> None:
    """Make calls, and have one interrupted again and again after a time of some microseconds."""
    global is_armed  # noqa: PLW0603 - see above
    end = time.monotonic() + SECONDS_EACH
    try:
        while time.monotonic() < end:
            try:
                is_armed = True
                signal.setitimer(signal.ITIMER_REAL, _interval.uniform(1e-5, 4e-4))
                _repeat(call)
            except TimeLimitError:
                pass
    finally:
        is_armed = False
        signal.setitimer(signal.ITIMER_REAL, 0)


def in_another_thread(call: Callable[[], object]) -> None:
    outcome: list[object] = []
    thread = threading.Thread(target=lambda: outcome.append(call()), daemon=True)
    thread.start()
    thread.join(10)
    assert outcome, "another thread hangs, or its call failed"


def answers() -> str:
    return "answer"


def twice() -> Callable[[], str]:
    """Return a function that fails every other time."""
    calls = [0]

    def call() -> str:
        calls[0] += 1
        if calls[0] % 2:
            raise ConnectionError("down")
        return "answer"

    return call


def free(policy: Bulkhead, limit: int) -> None:
    assert (policy.concurrent_calls, policy.waiting) == (0, 0)

    def fill() -> bool:
        permits = [policy.admit_blocking() if policy.waits else policy.admit() for _ in range(limit)]
        for permit in permits:
            policy.on_success(permit, None)
        return policy.concurrent_calls == 0

    in_another_thread(fill)


def bulkhead() -> None:
    policy = Bulkhead(2)
    under_signals(Pipeline("p", policy)(answers))
    free(policy, 2)


def waiting_bulkhead() -> None:
    policy, is_over = Bulkhead(1, max_wait=5), threading.Event()
    call = Pipeline("p", policy)(answers)

    def others() -> None:
        while not is_over.is_set():
            call()

    neighbours = [threading.Thread(target=others, daemon=True) for _ in range(2)]
    for thread in neighbours:
        thread.start()
    under_signals(call)
    is_over.set()
    for thread in neighbours:
        thread.join(10)
        assert not thread.is_alive(), "a neighbour hangs"
    free(policy, 1)


def closed_breaker() -> None:
    breaker = CircuitBreaker(failure_rate_threshold=0.9, sliding_window=100, minimum_calls=50)
    breaker.events.subscribe(lambda _event: None)
    under_signals(Pipeline("p", breaker)(twice()))
    figures = breaker.snapshot()
    assert figures["state"] == "closed", figures
    assert 0 < figures["failures"] <= figures["calls"] == 100


def half_open_breaker() -> None:
    # A time limit that strikes in the function itself would count as its failure.
    breaker = CircuitBreaker(10_000, success_threshold=10_000, exclude=[TimeLimitError], half_open_lease="1h")
    breaker.half_open()
    call = Pipeline("p", breaker)(answers)

    def again() -> None:
        if breaker.current_state == "closed":
            breaker.half_open()
        call()

    under_signals(again)
    breaker.half_open()
    in_another_thread(call)
    assert breaker.snapshot()["trials_running"] == 0


def single_flight() -> None:
    is_over = threading.Event()
    call = Pipeline("p", SingleFlight())(answers)

    def others() -> None:
        while not is_over.is_set():
            with suppress(TimeLimitError):  # that of the leader, which counts as the call's own error
                call()

    neighbour = threading.Thread(target=others, daemon=True)
    neighbour.start()
    under_signals(call)
    is_over.set()
    neighbour.join(10)
    assert not neighbour.is_alive(), "a follower hangs"
    in_another_thread(call)


def retry() -> None:
    budget = RetryBudget(minimum=1_000_000)
    policy = Retry(3, on=ConnectionError, wait_initial=0, wait_jitter=0, budget=budget)
    under_signals(Pipeline("p", policy)(twice()))
    assert (budget.calls, budget.retries) == (0, 0)


def rate_limit() -> None:
    limit = RateLimit("1000000/second", 1_000_000)
    call = Pipeline("p", limit)(answers)
    under_signals(call)
    in_another_thread(call)


def main() -> None:
    signal.signal(signal.SIGALRM, handle)
    for run in (bulkhead, waiting_bulkhead, closed_breaker, half_open_breaker, single_flight, retry, rate_limit):
        before = len(struck)
        run()
        sys.stdout.write(f"{run.__name__}: struck {len(struck) - before} times\n")
    assert len(struck) > 100


if __name__ == "__main__":
    main()
