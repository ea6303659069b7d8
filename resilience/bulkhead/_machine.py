"""Who gets a place: places taken, and callers in the order they came. Pure; not thread-safe.

Hand-off, not notification: a place given back goes straight to the longest waiting caller, so that nobody can overtake
and no wake-up can be lost.

An interrupt (a signal handler that raises) may end any of these methods. Each therefore looks and computes first, and
then changes everything by operators, between which CPython looks for no signal. Places are held by name: to give one
back again changes nothing, so the caller that an interrupt has left in doubt simply does.
"""

from __future__ import annotations

import math
from bisect import bisect_left
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
    """`total` places and at most `max_waiting` waiters of type W (hashable by identity, each coming once)."""

    def __init__(self, total: int, max_waiting: int) -> None:
        self.total = total
        self._holders: dict[W, float] = {}  # each with the moment it got its place
        self._max_waiting = max_waiting
        self._line: OrderedDict[W, float] = OrderedDict()  # each with the moment it gives up
        self._ends: list[float] = []  # those moments, in order of time
        self._holds = ShortestHold()

    @property
    def inside(self) -> int:
        """Places in use."""
        return len(self._holders)

    @property
    def waiting(self) -> int:
        """Callers in the line."""
        return len(self._line)

    def take(self, holder: W, now: float) -> bool:
        """Take a free place. There is none while anybody waits."""
        if len(self._holders) >= self.total:
            return False
        self._holders[holder] = now
        return True

    def holds(self, holder: W) -> bool:
        """Whether it has a place."""
        return holder in self._holders

    def arrive(self, waiter: W, now: float, until: float) -> Arrival:
        """Take a place, else join the line for as long as `until`, else be refused."""
        if self.take(waiter, now):
            return Arrival.ADMITTED
        if until <= now or self.least_wait(now, until) > until - now:
            return Arrival.HOPELESS
        if len(self._line) >= self._max_waiting:
            return Arrival.REFUSED
        at, ends, line = bisect_left(self._ends, until), self._ends, self._line
        ends[at:at] = (until,)
        line[waiter] = until
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
        at = bisect_left(self._ends, self._line[waiter])
        del self._ends[at]
        del self._line[waiter]
        return True

    def give_back(self, holder: W, now: float, *, is_used: bool = True) -> W | None:
        """Return the place of `holder`; the waiter named now has it and must be woken."""
        if holder not in self._holders:
            return None
        if is_used:
            self._holds.note(now, max(0.0, now - self._holders[holder]))
        if len(self._holders) > self.total or not self._line:
            del self._holders[holder]
            return None
        return self._admit_next(now, holder)

    def resize(self, total: int, now: float) -> list[W]:
        """Change the number of places; the waiters named now have one. Fewer places come about as calls end."""
        self.total = total
        woken = []
        while self._line and len(self._holders) < self.total:
            woken.append(self._admit_next(now))
        return woken

    def _admit_next(self, now: float, instead_of: W | None = None) -> W:
        holders, line, ends = self._holders, self._line, self._ends
        waiter = next(iter(line))
        at = bisect_left(ends, line[waiter])
        if instead_of is not None:
            del holders[instead_of]
        del ends[at]
        del line[waiter]
        holders[waiter] = now
        return waiter
