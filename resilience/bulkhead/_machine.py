"""Who gets a place: places taken, and callers in the order they came. Pure; not thread-safe.

Hand-off, not notification: a place given back goes straight to the longest waiting caller, so that nobody can overtake
and no wake-up can be lost.
"""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from collections import OrderedDict
from enum import Enum
from typing import Generic, TypeVar

__all__ = ("Arrival", "Places", "ShortestHold")

W = TypeVar("W")


class Arrival(Enum):
    """What happened to a caller that came."""

    ADMITTED = "admitted"
    QUEUED = "queued"
    REFUSED = "refused"
    HOPELESS = "hopeless"


class ShortestHold:
    """The shortest time a place was held of late: at least over the last `RECENT` seconds, at most over twice that."""

    RECENT = 30.0

    __slots__ = ("_before", "_current", "_since")

    def __init__(self) -> None:
        self._before = self._current = math.inf
        self._since = -math.inf

    def note(self, now: float, held: float) -> None:
        """Take a hold that ended at `now` into account."""
        self._turn(now)
        self._current = min(self._current, held)

    def seconds(self, now: float) -> float:
        """Return the shortest hold, 0.0 where none is known: a place might then be free again at any moment."""
        self._turn(now)
        shortest = min(self._before, self._current)
        return 0.0 if shortest == math.inf else shortest

    def _turn(self, now: float) -> None:
        age = now - self._since
        if age >= self.RECENT:
            self._before = self._current if age < 2 * self.RECENT else math.inf
            self._current, self._since = math.inf, now


class Places(Generic[W]):
    """`total` places and at most `max_waiting` waiters of type W (hashable, each waiting once)."""

    def __init__(self, total: int, max_waiting: int) -> None:
        self.total = total
        self.inside = 0
        self._max_waiting = max_waiting
        self._line: OrderedDict[W, float] = OrderedDict()  # each with the moment it gives up
        self._ends: list[float] = []  # those moments, in order of time
        self._holds = ShortestHold()

    @property
    def waiting(self) -> int:
        """Callers in the line."""
        return len(self._line)

    def take(self) -> bool:
        """Take a free place. There is none while anybody waits."""
        if self.inside >= self.total:
            return False
        self.inside += 1
        return True

    def arrive(self, waiter: W, now: float, until: float) -> Arrival:
        """Take a place, else join the line for as long as `until`, else be refused."""
        if self.take():
            return Arrival.ADMITTED
        if until <= now or self.least_wait(now, until) > until - now:
            return Arrival.HOPELESS
        if len(self._line) >= self._max_waiting:
            return Arrival.REFUSED
        self._line[waiter] = until
        insort(self._ends, until)
        return Arrival.QUEUED

    def least_wait(self, now: float, until: float = -math.inf) -> float:
        """Return how long somebody new in the line, who stays until `until`, waits even if all goes well.

        Only those count who wait at least as long: others may have given up by then. They all come first, `total` at a
        time, and each holds its place for no less than the shortest hold; those inside may all be done at once.
        """
        before = len(self._ends) - bisect_left(self._ends, until)
        return before // self.total * self._holds.seconds(now)

    def withdraw(self, waiter: W) -> bool:
        """Leave the line; False means a place has been handed over already and is the caller's to give back."""
        if waiter not in self._line:
            return False
        self._forget(self._line.pop(waiter))
        return True

    def give_back(self, now: float, held: float | None = None) -> W | None:
        """Return a place that was in use for `held` seconds; the waiter named now has it and must be woken."""
        if held is not None:
            self._holds.note(now, held)
        self.inside -= 1
        return self._admit_next()

    def resize(self, total: int) -> list[W]:
        """Change the number of places; the waiters named now have one. Fewer places come about as calls end."""
        self.total = total
        woken = []
        while (waiter := self._admit_next()) is not None:
            woken.append(waiter)
        return woken

    def _admit_next(self) -> W | None:
        if not self._line or not self.take():
            return None
        waiter, until = self._line.popitem(last=False)
        self._forget(until)
        return waiter

    def _forget(self, until: float) -> None:
        del self._ends[bisect_left(self._ends, until)]
