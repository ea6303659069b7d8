"""What the garbage collector or a signal handler runs in the midst of a call, in the very thread that makes it."""

import functools
import sys
import threading
from collections.abc import Callable, Generator
from types import FrameType
from typing import Any

import pytest

from resilience import (
    Bulkhead,
    Cache,
    CircuitBreaker,
    Fallback,
    Hedge,
    Keyed,
    Pipeline,
    RateLimit,
    Retry,
    RetryBudget,
    SingleFlight,
    ThreadPoolBulkhead,
    Timeout,
    idempotent,
)
from resilience.policy import AroundPolicy
from resilience.testing import RecordingListener

MAKERS: dict[str, Callable[[], Any]] = {
    "runs": lambda: CircuitBreaker(1000),
    "window": lambda: CircuitBreaker(
        failure_count_threshold=90, slow_call_rate_threshold=0.9, sliding_window=100, mode="metrics_only"
    ),
    "retry": lambda: Retry(2, wait_initial=0, budget=RetryBudget(minimum=1000)),
    "places": lambda: Bulkhead(50),
    "line": lambda: Bulkhead(50, max_wait=1),
    "pool": lambda: ThreadPoolBulkhead(50, max_wait=1),
    "timeout": lambda: Timeout(5),
    "hedge": lambda: Hedge(5, budget=RetryBudget(minimum=1000)),
    "fallback": lambda: Fallback(0, on=KeyError),
    "cache": lambda: Cache(60, max_size=3),
    "single": SingleFlight,
    "rate": lambda: RateLimit("1000000/second"),
    "keyed": lambda: Keyed(lambda _key: Bulkhead(50), lambda number: number % 4, max_keys=2),
}


class DownError(Exception):
    pass


@idempotent
def call(number: int) -> int:
    if number % 3 == 0:
        raise DownError
    return number


class Intruder:
    """Does something at the n-th step of a call: between any two of its calls, Python's or C's."""

    def __init__(self, act: Callable[[], object]) -> None:
        self._act = act
        self.left = 0

    def __call__(self, _frame: FrameType, _event: str, _argument: object) -> None:
        self.left -= 1
        if self.left == 0:
            self._act()

    def during(self, step: int, run: Callable[[], object]) -> bool:
        """Return whether `run` had so many steps."""
        self.left = step
        sys.setprofile(self)
        try:
            run()
        finally:
            sys.setprofile(None)
        return self.left <= 0


def outcome(guarded: Callable[[int], int], number: int) -> None:
    try:
        assert guarded(number) == number
    except DownError:
        assert number % 3 == 0


def at_every_step(
    run: Callable[[int], None], act: Callable[[], object], ready: Callable[[], object] = lambda: None
) -> None:
    """Make two calls at each step of which, in turn, `act` comes in between; raise where they never end."""
    errors: list[BaseException] = []

    def twice(number: int) -> None:
        run(number)
        run(3 * number)

    def walk() -> None:
        try:
            intruder, step, goes_on = Intruder(act), 0, True
            while goes_on:
                step += 1
                ready()
                goes_on = intruder.during(step, functools.partial(twice, step))
        except BaseException as error:  # noqa: BLE001 - reported by the test's own thread
            errors.append(error)

    thread = threading.Thread(target=walk, daemon=True)
    thread.start()
    thread.join(60)
    assert not thread.is_alive(), "it waits for itself"
    for error in errors:
        raise error


@pytest.mark.filterwarnings("ignore:the retry .* runs inside")
@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_call_in_the_midst_of_a_call(make: Callable[[], Any]) -> None:
    """A finalizer or signal handler that makes a guarded call in the midst of another waits for nothing held by it."""
    guarded = Pipeline("p", make(), listeners=[RecordingListener()])(call)
    numbers = iter(range(10**9))
    at_every_step(lambda number: outcome(guarded, number), lambda: outcome(guarded, next(numbers)))


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_abandoned_generator_closed_in_the_midst_of_a_call(make: Callable[[], Any]) -> None:
    """A generator that the collector closes in the midst of a call of the same policy gives its permit back (L2)."""
    policy = make()
    if isinstance(policy, AroundPolicy):
        pytest.skip("it guards no generators")

    def endless(number: int) -> Generator[int, None, None]:
        while True:
            yield number

    pipeline = Pipeline("p", policy)
    guarded, items = pipeline(call), pipeline(endless)
    left: list[Generator[int, None, None]] = []

    def begin() -> None:
        if not left:
            left.append(items(1))
            next(left[-1])

    at_every_step(lambda number: outcome(guarded, number), lambda: left.pop().close(), begin)
    while left:
        left.pop().close()
    if isinstance(policy, Bulkhead):
        assert policy.concurrent_calls == 0
    if isinstance(policy, Retry) and policy.budget is not None:
        assert (policy.budget.calls, policy.budget.retries) == (0, 0)
