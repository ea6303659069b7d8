"""The keys that are kept: the most recently used ones, each until it has been idle for too long.

Every use has a number, one more than the use before. Two rules remove entries, and neither removes a busy value:

- Idle: an entry that was not used for `max_idle` seconds. Each use and each addition looks at the oldest entry at most
  once, and only after `due`, the time at which the entry looked at last would be idle. A busy entry counts as used.
- Surplus: if there are more than `max_keys` entries after an addition, the oldest ones that are not busy, without the
  new one. If all others are busy, the number of entries exceeds `max_keys` until some become idle.

A value can also be worth keeping: an open circuit, a bucket that is not full. A new value in its place would admit
calls that this one refuses, so a client that invents keys could clear all refusals. Such a value counts as used when
its turn comes, up to `WORTH_KEEPING` times `max_keys` entries. Beyond that number memory comes first.

The order. A heap holds an item for each entry: the number of a use, and the key. A use does not touch the heap, which
would need a lock: it only writes its number and its time into the entry. So the number in the heap may be too low, and
is never too high. The oldest entry is found by raising numbers that are too low until the first item of the heap has
the number of its entry: all other entries were used after it.

Locks. The machine takes none, and reads no clock: the caller passes `now`. For all methods but `touch` the caller lets
one thread in at a time. `touch` needs no lock. An entry is removed by `_drop` alone. It compares the number, marks the
entry and deletes it without a call in between, so no other thread runs meanwhile: CPython switches threads at calls and
backward jumps. A `touch` that comes before has written another number, and the entry stays. A `touch` that comes after
finds the mark, and returns None.

The work of an addition is constant, except for the entries that were used since the last addition, each of which is put
right once, and for the busy entries that it must skip.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Callable, Hashable, Iterator
from operator import itemgetter
from typing import Generic, TypeVar

__all__ = ("RecentKeys",)

T = TypeVar("T")
WORTH_KEEPING = 4
"""Multiple of `max_keys` up to which values that are worth keeping are kept."""
_MAX_LOOKS = 64
"""Values worth keeping at which one addition looks: its work stays bounded."""


class _KeyEntry(Generic[T]):
    __slots__ = ("is_dropped", "number", "used", "value")

    def __init__(self, value: T, used: float, number: int) -> None:
        self.value = value
        self.used = used
        self.number = number
        self.is_dropped = False


class RecentKeys(Generic[T]):
    """Values by key, least recently used first.

    Args:
        max_keys: The number of values that are kept, if not more of them are busy.
        max_idle: Seconds without use after which a value is dropped.
        is_busy: Whether a value must be kept now.
        is_worth: Whether a value should be kept now. Default: no value.
    """

    def __init__(
        self,
        max_keys: int,
        max_idle: float,
        is_busy: Callable[[T], bool],
        is_worth: Callable[[T], bool] = lambda _value: False,
    ) -> None:
        self._max_keys = max_keys
        self._max_idle = max_idle
        self._is_busy, self._is_worth = is_busy, is_worth
        self._entries: dict[Hashable, _KeyEntry[T]] = {}
        self._heap: list[tuple[int, Hashable]] = []
        self._next_number = itertools.count().__next__
        self.due = -math.inf
        """Before this time no value is idle for too long."""

    def __len__(self) -> int:
        return len(self._entries)

    def items(self) -> Iterator[tuple[Hashable, T]]:
        """Yield keys and values, least recently used first."""
        for key, entry in sorted(self._entries.items(), key=lambda item: item[1].number):
            yield key, entry.value

    def peek(self, key: Hashable) -> T | None:
        """Return the value of `key` without using it."""
        entry = self._entries.get(key)
        return None if entry is None else entry.value

    def touch(self, key: Hashable, now: float) -> T | None:
        """Return the value of `key` and make it the most recently used; None if the key is not kept. Needs no lock."""
        entry = self._entries.get(key)
        if entry is None:
            return None
        entry.number = self._next_number()
        entry.used = now
        return None if entry.is_dropped else entry.value

    def use(self, key: Hashable, now: float) -> T | None:
        """Do as `touch`, and drop the oldest value if it is idle for too long."""
        value = self.touch(key, now)
        if value is not None:
            self.drop_idle(now)
        return value

    def add(self, key: Hashable, value: T, now: float) -> T:
        """Keep `value` unless `key` has a value already; return the value of the key."""
        known = self.use(key, now)
        if known is not None:
            return known
        number = self._next_number()
        heapq.heappush(self._heap, (number, key))
        self._entries[key] = _KeyEntry(value, now, number)
        self.drop_idle(now)
        if len(self._entries) > self._max_keys:
            self._drop_surplus(key, now)
        return value

    def clear(self) -> None:
        """Drop all values that are not busy."""
        for key, entry in list(self._entries.items()):
            if not self._is_busy(entry.value):
                self._drop(entry.number, key, entry)

    def drop_idle(self, now: float) -> None:
        """Drop the oldest value if it is idle for too long. If it must or should be kept, it counts as used now."""
        if now < self.due or not self._entries:
            return
        number, key, oldest = self._oldest()
        self.due = oldest.used + self._max_idle
        if now < self.due:
            return
        if self._is_busy(oldest.value) or self._is_worth(oldest.value):
            self.touch(key, now)
        else:
            self._drop(number, key, oldest)

    def _oldest(self) -> tuple[int, Hashable, _KeyEntry[T]]:
        """Bring the least recently used entry to the front of the heap, and return it with its number and key."""
        heap = self._heap
        while True:
            if not heap:  # an interrupt struck in `_drop_surplus`
                heap += sorted(((entry.number, key) for key, entry in self._entries.items()), key=itemgetter(0))
            number, key = heap[0]
            entry = self._entries.get(key)
            if entry is None:
                heapq.heappop(heap)  # dropped before
            elif entry.number == number:
                return number, key, entry
            else:
                heapq.heapreplace(heap, (entry.number, key))

    def _drop(self, number: int, key: Hashable, entry: _KeyEntry[T]) -> bool:
        """Drop an entry and return True, unless it was used meanwhile. Its item in the heap goes later."""
        if entry.number != number:
            return False
        entry.is_dropped = True
        del self._entries[key]
        return True

    def _drop_surplus(self, newest: Hashable, now: float) -> None:
        """Drop the oldest values beyond `max_keys` that are not busy, but never the newest."""
        skipped: list[tuple[int, Hashable]] = []
        looks = min(_MAX_LOOKS, len(self._entries))
        try:
            while len(self._entries) > self._max_keys and len(skipped) < len(self._entries) and looks:
                number, key, entry = self._oldest()
                if key == newest or self._is_busy(entry.value):
                    skipped.append(heapq.heappop(self._heap))
                elif self._should_stay(entry.value):
                    self.touch(key, now)
                    looks -= 1
                elif not self._drop(number, key, entry):
                    skipped.append(heapq.heappop(self._heap))
        finally:
            for item in skipped:
                heapq.heappush(self._heap, item)

    def _should_stay(self, value: T) -> bool:
        return len(self._entries) <= WORTH_KEEPING * self._max_keys and self._is_worth(value)
