"""The places of a bulkhead, and the queue of the callers that wait for one. Pure; not thread-safe.

A *place* is the right to be in flight. There are `total` of them, and a *holder* has one from `take` or from its
admission out of the queue until `release`. The permit of a call is its holder object, compared by identity: it is made
before the place is taken, and to release it again changes nothing. So a caller that an interrupt has left in doubt
whether it holds a place simply releases it.

A caller that finds no free place may join the queue until a moment of its own (`until`). The outcome is an `Arrival`:

    ADMITTED   a place was free.
    QUEUED     the caller waits. It leaves the queue by `withdraw`, or a place is handed to it.
    REFUSED    `max_waiting` callers wait already.
    HOPELESS   the caller cannot get a place before `until`, even if all goes well.

*Hand-off, not notification*: a released place goes straight to the caller that has waited longest. No new arrival can
overtake the queue, and no wake-up can be lost. While anybody waits, no place is free.

*When a wait is hopeless*: the callers that wait at least until `until` all come before a new caller; others may give up
earlier and do not count. They are served `total` at a time, and each holds its place no shorter than the shortest hold
of late (`ShortestHold`). The holders of now may all be done at once, so they do not count either. The bound is
therefore `before // total * shortest hold`; it is 0 if no hold is known.

`resize` adds places, which go to the first in the queue, or removes them: the holders keep theirs, and released places
are not handed on until no more than the new total are held.

*Interrupts*: a signal handler that raises may end any of these methods. Each method therefore reads and computes first,
and then makes all its changes by operators (`del`, subscripts, assignments), between which CPython does not look for
signals. A method call on a C object would be such a point.
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
    """The shortest time for which a place was held, over the last `RECENT` to twice `RECENT` seconds."""

    RECENT = 30.0

    __slots__ = ("_current", "_previous", "_since")

    def __init__(self) -> None:
        self._previous = self._current = math.inf
        self._since = -math.inf

    def record(self, now: float, held: float) -> None:
        """Take a hold of `held` seconds that ended at `now` into account."""
        self._rotate(now)
        self._current = min(self._current, held)

    def seconds(self, now: float) -> float:
        """Return the shortest hold, 0.0 if none is known: a place might then become free at any moment."""
        self._rotate(now)
        shortest = min(self._previous, self._current)
        return 0.0 if shortest == math.inf else shortest

    def _rotate(self, now: float) -> None:
        age = now - self._since
        if age >= self.RECENT:
            self._previous = self._current if age < 2 * self.RECENT else math.inf
            self._current, self._since = math.inf, now


class Places(Generic[W]):
    """`total` places and at most `max_waiting` waiters of type W (hashable by identity; each comes once)."""

    def __init__(self, total: int, max_waiting: int) -> None:
        self.total = total
        self._holders: dict[W, float] = {}  # each with the moment at which it got its place
        self._max_waiting = max_waiting
        self._queue: OrderedDict[W, float] = OrderedDict()  # each with the moment at which it gives up
        self._ends: list[float] = []  # those moments, sorted
        self._holds = ShortestHold()

    @property
    def held(self) -> int:
        """Places in use."""
        return len(self._holders)

    @property
    def waiting(self) -> int:
        """Callers in the queue."""
        return len(self._queue)

    def take(self, holder: W, now: float) -> bool:
        """Take a free place. Return False if there is none."""
        if len(self._holders) >= self.total:
            return False
        self._holders[holder] = now
        return True

    def holds(self, holder: W) -> bool:
        """Return whether `holder` has a place."""
        return holder in self._holders

    def arrive(self, waiter: W, now: float, until: float) -> Arrival:
        """Take a place, or join the queue until the moment `until`, or be refused."""
        if self.take(waiter, now):
            return Arrival.ADMITTED
        if until <= now or self.minimum_wait(now, until) > until - now:
            return Arrival.HOPELESS
        if len(self._queue) >= self._max_waiting:
            return Arrival.REFUSED
        at, ends, queue = bisect_left(self._ends, until), self._ends, self._queue
        ends[at:at] = (until,)
        queue[waiter] = until
        return Arrival.QUEUED

    def minimum_wait(self, now: float, until: float = -math.inf) -> float:
        """Return the seconds that a new caller, who stays until `until`, waits even if all goes well."""
        before = len(self._ends) - bisect_left(self._ends, until)
        return before // self.total * self._holds.seconds(now)

    def withdraw(self, waiter: W) -> bool:
        """Leave the queue. Return False if `waiter` is not in it: it may hold a place, and has to release that."""
        if waiter not in self._queue:
            return False
        at = bisect_left(self._ends, self._queue[waiter])
        del self._ends[at]
        del self._queue[waiter]
        return True

    def release(self, holder: W, now: float, *, is_used: bool = True) -> W | None:
        """Give back the place of `holder`. Return the waiter that has it now and must be woken, or None.

        `is_used` says whether a call was made with the place: only then the time of the hold counts.
        """
        if holder not in self._holders:
            return None
        if is_used:
            self._holds.record(now, max(0.0, now - self._holders[holder]))
        if len(self._holders) > self.total or not self._queue:
            del self._holders[holder]
            return None
        return self._admit_next(now, holder)

    def resize(self, total: int, now: float) -> list[W]:
        """Change the number of places. Return the waiters that have one now and must be woken."""
        self.total = total
        admitted = []
        while self._queue and len(self._holders) < self.total:
            admitted.append(self._admit_next(now))
        return admitted

    def _admit_next(self, now: float, instead_of: W | None = None) -> W:
        holders, queue, ends = self._holders, self._queue, self._ends
        waiter = next(iter(queue))
        at = bisect_left(ends, queue[waiter])
        if instead_of is not None:
            del holders[instead_of]
        del ends[at]
        del queue[waiter]
        holders[waiter] = now
        return waiter
