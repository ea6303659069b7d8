"""Who waits for a call under way, and who makes it next where it was given up. Pure.

Safe for threads without a lock, each step that matters being one atomic operation: a lock could be met again by a
finalizer that makes calls, in the very thread that holds it.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from resilience.timeout import LatestDeadline

__all__ = ("Flight",)

W = TypeVar("W")


class Flight(Generic[W]):
    """One call under way and its waiters of type W (hashable, each waiting once), first come first served."""

    __slots__ = ("__weakref__", "_waiters", "deadline", "epoch", "is_over", "maker", "ran_short")

    def __init__(self, epoch: int = 0, maker: object = None, deadline: LatestDeadline | None = None) -> None:
        self.epoch = epoch
        """Callers of a later epoch must not join."""
        self.maker = maker
        """Whoever makes the call, where that is one who must not wait for it."""
        self.deadline = deadline
        """The latest deadline of the callers, None if one of the first had none."""
        self.ran_short = False
        """Whether the call may have ended because it began under a deadline that was too soon for later callers."""
        self.is_over = False
        self._waiters: OrderedDict[W, None] = OrderedDict()

    @property
    def waiting(self) -> int:
        """Callers in line."""
        return len(self._waiters)

    def join(self, waiter: W) -> bool:
        """Wait for the outcome; False where there is nothing to wait for any more."""
        self._waiters[waiter] = None
        return not (self.is_over and self.leave(waiter))  # over just now: told already, unless still in line

    def leave(self, waiter: W) -> bool:
        """Wait no longer; False where the waiter is being told at this moment."""
        try:
            del self._waiters[waiter]  # an operator: no interrupt comes between it and the answer
        except KeyError:
            return False
        return True

    def first(self) -> W | None:
        """Return the caller who has waited longest, or None."""
        return next(iter(self._waiters), None)

    def land(self) -> list[W]:
        """End the flight and return those to be told how."""
        self.is_over, waiters = True, []
        while (waiter := self._next()) is not None:
            waiters.append(waiter)
        return waiters

    def heir(self) -> W | None:
        """Return who is to make the call now that its caller is gone; without one the flight is over."""
        waiter = self.first()
        if waiter is None:
            self.is_over = True
            waiter = self.first()  # one that came in between
            self.is_over = waiter is None
        return waiter

    def _next(self) -> W | None:
        try:
            return self._waiters.popitem(last=False)[0]
        except KeyError:
            return None
