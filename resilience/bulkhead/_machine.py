"""Who gets a place: free places, and callers in the order they came. Pure; not thread-safe.

Hand-off, not notification: a place given back goes straight to the longest waiting caller, so that nobody can overtake
and no wake-up can be lost.
"""

from __future__ import annotations

from collections import OrderedDict
from enum import Enum
from typing import Generic, TypeVar

__all__ = ("Arrival", "Places")

W = TypeVar("W")


class Arrival(Enum):
    """What happened to a caller that came."""

    ADMITTED = "admitted"
    QUEUED = "queued"
    REFUSED = "refused"


class Places(Generic[W]):
    """`total` places and at most `max_waiting` waiters of type W (hashable, each waiting once)."""

    def __init__(self, total: int, max_waiting: int) -> None:
        self.free = self._total = total
        self._max_waiting = max_waiting
        self._waiters: OrderedDict[W, None] = OrderedDict()

    @property
    def waiting(self) -> int:
        """Callers in the queue."""
        return len(self._waiters)

    def arrive(self, waiter: W) -> Arrival:
        """Take a place, else join the queue, else be refused."""
        if self.free:
            self.free -= 1
            return Arrival.ADMITTED
        if len(self._waiters) >= self._max_waiting:
            return Arrival.REFUSED
        self._waiters[waiter] = None
        return Arrival.QUEUED

    def withdraw(self, waiter: W) -> bool:
        """Leave the queue; False means a place has been handed over already and is the caller's to give back."""
        if waiter not in self._waiters:
            return False
        del self._waiters[waiter]
        return True

    def give_back(self) -> W | None:
        """Return a place; the waiter named now has it and must be woken."""
        if self._waiters:
            return self._waiters.popitem(last=False)[0]
        self.free = min(self.free + 1, self._total)  # a call that crossed a fork gives back what the child never lent
        return None
