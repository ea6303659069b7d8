"""Which outcomes a closed circuit looks back on, counted so that a plain success costs one atomic C call and no lock.

Outcomes are numbered by an `itertools.count`. A success only takes the next number; a failure or a slow call (under the
policy's lock) takes one too and is remembered by it. Runs and windows are exact under any interleaving, because the
order of outcomes *is* the order of their numbers.
"""

from __future__ import annotations

import bisect
import itertools
import math
from collections import deque
from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ("CallWindow", "Counts", "NoWindow", "Numbers", "TimeWindow", "Window")

_BUCKETS = 10


class Counts(NamedTuple):
    """Of `calls` outcomes in the window, `failures` failed and `slow` were slow; one may be both."""

    failures: int
    calls: int
    slow: int = 0


class Numbers:
    """Hands out the number of each outcome, from 1 on."""

    __slots__ = ("_peeks", "next")

    def __init__(self) -> None:
        self.next: Callable[[], int] = itertools.count(1).__next__
        """Take a number, atomically. It counts the peeks as well, which only `take` leaves out."""
        self._peeks = 0  # a counter can only be read by advancing it: these advances are not outcomes

    def take(self) -> int:
        """Return the number of a new outcome."""
        return self.next() - self._peeks

    def last(self) -> int:
        """Return the number of the newest outcome, 0 where there is none."""
        self._peeks += 1
        return self.next() - self._peeks


class Window(Protocol):
    """Remembers failures and slow calls by number. `edge` is when `advance` has to be told the time next."""

    edge: float

    def advance(self, now: float, last: int, /) -> None:
        """Let the time be `now`; outcomes up to number `last` came before."""
        ...

    def holds(self, number: int, /) -> bool:
        """Whether the outcome of that number is still looked back on."""
        ...

    def failed(self, number: int, /) -> None:
        """Remember a failure."""
        ...

    def slowed(self, number: int, /) -> None:
        """Remember a slow call."""
        ...

    def counts(self, last: int, /) -> Counts:
        """Return what is in the window whose newest outcome is number `last`."""
        ...


class NoWindow:
    """Looks back on nothing: for a circuit that only counts failures in a row."""

    edge = math.inf

    def advance(self, _now: float, _last: int) -> None:
        """Do nothing."""

    def holds(self, _number: int) -> bool:
        """Nothing is held."""
        return False

    def failed(self, _number: int) -> None:
        """Do nothing."""

    def slowed(self, _number: int) -> None:
        """Do nothing."""

    def counts(self, _last: int) -> Counts:
        """Return nothing."""
        return Counts(0, 0)


class CallWindow:
    """The last `size` outcomes."""

    edge = math.inf

    def __init__(self, size: int) -> None:
        self._size = size
        self._last = 0
        self._failures: deque[int] = deque()
        self._slow: deque[int] = deque()

    def advance(self, _now: float, last: int) -> None:
        """Time alone moves nothing here."""
        self._last = last

    def holds(self, number: int) -> bool:
        """Whether fewer than `size` outcomes came after it."""
        return number > self._last - self._size

    def failed(self, number: int) -> None:
        """Remember a failure."""
        _keep(self._failures, number)

    def slowed(self, number: int) -> None:
        """Remember a slow call."""
        _keep(self._slow, number)

    def counts(self, last: int) -> Counts:
        """Return what is among the last `size` outcomes."""
        for numbers in (self._failures, self._slow):
            while numbers and numbers[0] <= last - self._size:
                numbers.popleft()
        return Counts(len(self._failures), min(last, self._size), len(self._slow))


def _keep(numbers: deque[int], number: int) -> None:
    """Put `number` in its place: nearly always the end; a call that fails long after it was counted comes late."""
    if not numbers or numbers[-1] < number:
        numbers.append(number)
    else:
        numbers.insert(bisect.bisect_left(numbers, number), number)


class _Bucket:
    """What happened within a tenth of the window: outcomes numbered from `first` on."""

    __slots__ = ("failures", "first", "slow", "tick")

    def __init__(self, tick: int, first: int) -> None:
        self.tick = tick
        self.first = first
        self.failures = 0
        self.slow = 0


class TimeWindow:
    """The outcomes of the last `seconds`, in ten buckets: what leaves the window leaves it a tenth at a time."""

    def __init__(self, seconds: float, now: float) -> None:
        self._width = seconds / _BUCKETS
        self._start = now
        self._buckets = deque([_Bucket(0, 1)])
        self.edge = now + self._width

    def advance(self, now: float, last: int) -> None:
        """Begin a new bucket where the time for one has come, and forget those that are too old."""
        if now < self.edge:
            return
        tick = max(int((now - self._start) / self._width), self._buckets[-1].tick + 1)
        self._buckets.append(_Bucket(tick, last + 1))
        self.edge = self._start + (tick + 1) * self._width
        while self._buckets[0].tick <= tick - _BUCKETS:
            self._buckets.popleft()

    def holds(self, number: int) -> bool:
        """Whether its bucket is still there."""
        return number >= self._buckets[0].first

    def failed(self, number: int) -> None:
        """Remember a failure."""
        self._bucket_of(number).failures += 1

    def slowed(self, number: int) -> None:
        """Remember a slow call."""
        self._bucket_of(number).slow += 1

    def counts(self, last: int) -> Counts:
        """Return what is in the buckets."""
        failures = sum(bucket.failures for bucket in self._buckets)
        slow = sum(bucket.slow for bucket in self._buckets)
        return Counts(failures, last + 1 - self._buckets[0].first, slow)

    def _bucket_of(self, number: int) -> _Bucket:
        return next(bucket for bucket in reversed(self._buckets) if bucket.first <= number)
