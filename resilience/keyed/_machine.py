"""The keys that are kept: the most recently used ones, each until it has been idle for too long.

Entries stand in the order of their last use, the oldest first. Two rules remove entries, and neither removes a busy
value:

- Idle: an entry that was not used for `max_idle` seconds. Each use and each addition looks at the oldest entry at most
  once, and only after `_due`, the time at which the entry looked at last would be idle. A busy entry counts as used.
- Surplus: if there are more than `max_keys` entries after an addition, the oldest ones that are not busy, without the
  new one. If all others are busy, the number of entries exceeds `max_keys` until some become idle.

A method never takes a lock or reads a clock: the caller passes `now`, and lets one thread in at a time. The work of an
addition is constant, except for the busy entries that it must skip.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from typing import Generic, TypeVar

__all__ = ("RecentKeys",)

T = TypeVar("T")


class _KeyEntry(Generic[T]):
    __slots__ = ("used", "value")

    def __init__(self, value: T, used: float) -> None:
        self.value = value
        self.used = used


class RecentKeys(Generic[T]):
    """Values by key, least recently used first.

    Args:
        max_keys: The number of values that are kept, if not more of them are busy.
        max_idle: Seconds without use after which a value is dropped.
        is_busy: Whether a value must be kept now.
    """

    def __init__(self, max_keys: int, max_idle: float, is_busy: Callable[[T], bool]) -> None:
        self._max_keys = max_keys
        self._max_idle = max_idle
        self._is_busy = is_busy
        self._entries: OrderedDict[Hashable, _KeyEntry[T]] = OrderedDict()
        self._due = -math.inf
        """Before this time no value is idle for too long."""

    def __len__(self) -> int:
        return len(self._entries)

    def items(self) -> Iterator[tuple[Hashable, T]]:
        """Yield keys and values, least recently used first."""
        for key, entry in self._entries.items():
            yield key, entry.value

    def peek(self, key: Hashable) -> T | None:
        """Return the value of `key` without using it."""
        entry = self._entries.get(key)
        return None if entry is None else entry.value

    def use(self, key: Hashable, now: float) -> T | None:
        """Return the value of `key` and make it the most recently used; None if the key is not kept."""
        entry = self._entries.get(key)
        if entry is None:
            return None
        entry.used = now
        self._entries.move_to_end(key)
        if now >= self._due:
            self._drop_idle(now)
        return entry.value

    def add(self, key: Hashable, value: T, now: float) -> T:
        """Keep `value` unless `key` has a value already; return the value of the key."""
        known = self.use(key, now)
        if known is not None:
            return known
        self._entries[key] = _KeyEntry(value, now)
        if now >= self._due:
            self._drop_idle(now)
        if len(self._entries) > self._max_keys:
            self._drop_surplus(key)
        return value

    def _drop_idle(self, now: float) -> None:
        """Drop the oldest value if it is idle for too long. A busy value counts as used now."""
        key, oldest = next(iter(self._entries.items()))
        self._due = oldest.used + self._max_idle
        if now < self._due:
            return
        if self._is_busy(oldest.value):
            oldest.used = now
            self._entries.move_to_end(key)
        else:
            del self._entries[key]

    def _drop_surplus(self, newest: Hashable) -> None:
        """Drop the oldest values beyond `max_keys` that are not busy, but never the newest."""
        surplus = len(self._entries) - self._max_keys
        free: list[Hashable] = []
        for key, entry in self._entries.items():
            if key != newest and not self._is_busy(entry.value):
                free.append(key)
                if len(free) == surplus:  # more than 1 if earlier surplus was busy
                    break
        for key in free:
            del self._entries[key]
