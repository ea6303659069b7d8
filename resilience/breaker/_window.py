"""The window: which outcomes the rules of a closed circuit look back on.

Every outcome has a number. The numbers come from one `itertools.count`, whose `next` is atomic in CPython.

- A plain success takes the next number and does nothing else: one C call, no lock.
- A failure or a slow call takes a number, too. Its caller holds the lock of the circuit, and the window remembers the
  number.

So "the last 100 calls" are the last 100 numbers, and the failures among them are the remembered numbers in that range.
The order of the outcomes *is* the order of their numbers. So the counts are exact under any interleaving of threads,
although successes take no lock.

A counter is read by its text, which needs no lock either: see `count_of`.

A window of time works on the same numbers. It has ten buckets. A bucket remembers the number of its first outcome and
how many of its outcomes failed or were slow. The number of calls in the window is the newest number minus the first
number of the oldest bucket. Only the change of buckets needs the lock, ten times per window.

A success, too, can open the circuit: if it completes the minimum of calls of a rate, or if it changes the bucket, so
that old successes leave and the rate rises. `TripRules` says when a success takes the lock for this.
"""

from __future__ import annotations

import bisect
import itertools
import math
from collections import deque
from typing import TYPE_CHECKING, NamedTuple, Protocol

from resilience._support.measured import count_of

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ("CallCounts", "CallWindow", "NoWindow", "Numbers", "TimeWindow", "Window")

_BUCKETS = 10


class CallCounts(NamedTuple):
    """Of `calls` outcomes in the window, `failures` failed and `slow` were slow; one outcome can be both."""

    failures: int
    calls: int
    slow: int = 0


class Numbers:
    """Numbers the outcomes, from 1 on."""

    __slots__ = ("_counter", "next")

    def __init__(self) -> None:
        self._counter = itertools.count(1)
        self.next: Callable[[], int] = self._counter.__next__
        """Take the number of a new outcome, atomically, and return it."""

    def last(self) -> int:
        """Return the number of the newest outcome, 0 if there is none. Needs no lock."""
        return count_of(self._counter) - 1


class Window(Protocol):
    """Remembers failures and slow calls by number."""

    edge: float
    """The time at which `advance` has work to do next."""

    def advance(self, now: float, last: int, /) -> None:
        """Move the window to `now`; the outcomes up to number `last` came before."""
        ...

    def holds(self, number: int, /) -> bool:
        """Return whether the outcome with this number is in the window."""
        ...

    def add_failure(self, number: int, /) -> None:
        """Remember a failure."""
        ...

    def add_slow(self, number: int, /) -> None:
        """Remember a slow call."""
        ...

    def counts(self, last: int, now: float | None = None, /) -> CallCounts:
        """Return the counts of the window whose newest outcome has the number `last`; at `now`, without moving it."""
        ...


class NoWindow:
    """Remembers nothing: for a circuit that counts only consecutive failures."""

    edge = math.inf

    def advance(self, _now: float, _last: int) -> None:
        """Do nothing."""

    def holds(self, _number: int) -> bool:
        """Return False."""
        return False

    def add_failure(self, _number: int) -> None:
        """Do nothing."""

    def add_slow(self, _number: int) -> None:
        """Do nothing."""

    def counts(self, _last: int, _now: float | None = None) -> CallCounts:
        """Return zeros."""
        return CallCounts(0, 0)


class CallWindow:
    """The last `size` outcomes."""

    edge = math.inf

    def __init__(self, size: int) -> None:
        self._size = size
        self._last = 0
        self._failures: deque[int] = deque()
        self._slow: deque[int] = deque()

    def advance(self, _now: float, last: int) -> None:
        """Remember the newest number. Time does not move this window."""
        self._last = last

    def holds(self, number: int) -> bool:
        """Return whether fewer than `size` outcomes came after this one."""
        return number > self._last - self._size

    def add_failure(self, number: int) -> None:
        """Remember a failure."""
        _insert(self._failures, number)

    def add_slow(self, number: int) -> None:
        """Remember a slow call."""
        _insert(self._slow, number)

    def counts(self, last: int, _now: float | None = None) -> CallCounts:
        """Return the counts of the last `size` outcomes."""
        for numbers in (self._failures, self._slow):
            while numbers and numbers[0] <= last - self._size:
                numbers.popleft()
        return CallCounts(len(self._failures), min(last, self._size), len(self._slow))


def _insert(numbers: deque[int], number: int) -> None:
    """Insert `number` in order: nearly always at the end. A call that was counted as slow can fail much later."""
    if not numbers or numbers[-1] < number:
        numbers.append(number)
    else:
        numbers.insert(bisect.bisect_left(numbers, number), number)


class _Bucket:
    """The outcomes of one tenth of the window: the numbers from `first` on."""

    __slots__ = ("failures", "first", "slow", "tick")

    def __init__(self, tick: int, first: int) -> None:
        self.tick = tick
        self.first = first
        self.failures = 0
        self.slow = 0


class TimeWindow:
    """The outcomes of the last `seconds`, in ten buckets; outcomes leave the window one bucket at a time."""

    def __init__(self, seconds: float, now: float) -> None:
        self._width = seconds / _BUCKETS
        self._start = now
        self._buckets = deque([_Bucket(0, 1)])
        self.edge = now + self._width

    def advance(self, now: float, last: int) -> None:
        """Begin a new bucket when its time has come, and drop the buckets that are too old."""
        if now < self.edge:
            return
        tick = max(int((now - self._start) / self._width), self._buckets[-1].tick + 1)
        self._buckets.append(_Bucket(tick, last + 1))
        self.edge = self._start + (tick + 1) * self._width
        while self._buckets[0].tick <= tick - _BUCKETS:
            self._buckets.popleft()

    def holds(self, number: int) -> bool:
        """Return whether the bucket of this outcome is in the window."""
        return number >= self._buckets[0].first

    def add_failure(self, number: int) -> None:
        """Remember a failure."""
        self._bucket_of(number).failures += 1

    def add_slow(self, number: int) -> None:
        """Remember a slow call."""
        self._bucket_of(number).slow += 1

    def counts(self, last: int, now: float | None = None) -> CallCounts:
        """Return the counts of all buckets that are not too old at `now`."""
        buckets = list(self._buckets)
        if now is not None and now >= self.edge:
            oldest = int((now - self._start) / self._width) - _BUCKETS
            buckets = [bucket for bucket in buckets if bucket.tick > oldest]
        failures = sum(bucket.failures for bucket in buckets)
        slow = sum(bucket.slow for bucket in buckets)
        return CallCounts(failures, last + 1 - buckets[0].first if buckets else 0, slow)

    def _bucket_of(self, number: int) -> _Bucket:
        return next(bucket for bucket in reversed(self._buckets) if bucket.first <= number)
