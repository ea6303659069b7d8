"""Callers that wait for their turn at a bucket: for a bounded time, and never past the deadline in force."""

from __future__ import annotations

from collections.abc import Coroutine
from datetime import timedelta
from typing import Any

from resilience.clock import SYSTEM_SLEEPER
from resilience.options import seconds
from resilience.ratelimit._decision import Decision
from resilience.ratelimit._store import Buckets
from resilience.running import warn_if_loop_waits
from resilience.timeout import Deadline

__all__ = ("AcquiringByTaking", "aacquire_in_turn", "acquire_in_turn", "patience", "within_deadline")


def patience(wait: float | str | timedelta | None, option: str = "wait") -> float:
    """Return how many seconds a caller may wait: `wait`, or the time to the deadline in force if that is shorter.

    Raises:
        ConfigurationError: `wait` is not a duration from 0 on; the error names `option`.
    """
    return 0.0 if wait is None else within_deadline(seconds(wait, option))


def within_deadline(longest: float) -> float:
    """Return `longest`, or the time to the deadline in force if that is shorter."""
    deadline = Deadline.current()
    return longest if deadline is None else min(longest, deadline.remaining())


def acquire_in_turn(buckets: Buckets, key: str, cost: int, wait: float | str | timedelta | None) -> Decision:
    """Pay `cost` tokens, blocking this thread until its turn, or none if the turn would not come in time.

    An interrupt of the wait gives the payment back.

    Args:
        buckets: The buckets to take from.
        key: Which bucket.
        cost: Tokens to pay.
        wait: The longest wait: seconds, a `timedelta` or text such as `"250ms"`. None to refuse at once.

    Raises:
        ConfigurationError: An argument is wrong.
    """
    decision = buckets.take(key, cost, patience(wait))
    if decision.wait:
        try:
            warn_if_loop_waits("a wait for a rate limit", decision.wait)
            SYSTEM_SLEEPER.sleep(decision.wait)
        except BaseException:
            buckets.give_back(key, decision)
            raise
    return decision


async def aacquire_in_turn(buckets: Buckets, key: str, cost: int, wait: float | str | timedelta | None) -> Decision:
    """Pay `cost` tokens, suspending this task until its turn. Otherwise like `acquire_in_turn`."""
    decision = await buckets.atake(key, cost, patience(wait))
    if decision.wait:
        try:
            await SYSTEM_SLEEPER.asleep(decision.wait)
        except BaseException:
            buckets.give_back(key, decision)
            raise
    return decision


class AcquiringByTaking:
    """Adds `acquire` and `aacquire` to buckets that have `take` and `atake` alone."""

    __slots__ = ("_buckets",)

    def __init__(self, buckets: Buckets) -> None:
        self._buckets = buckets

    def acquire(self, key: str = "", cost: int = 1, wait: float | str | timedelta | None = None) -> Decision:
        """Pay `cost` tokens, or none if they do not fit in time."""
        return self._buckets.take(key, cost) if wait is None else acquire_in_turn(self._buckets, key, cost, wait)

    def aacquire(
        self, key: str = "", cost: int = 1, wait: float | str | timedelta | None = None
    ) -> Coroutine[Any, Any, Decision]:
        """Pay `cost` tokens, or none, without blocking the event loop."""
        return self._buckets.atake(key, cost) if wait is None else aacquire_in_turn(self._buckets, key, cost, wait)
