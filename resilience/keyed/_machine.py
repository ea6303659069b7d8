"""Which keys are remembered: the most recently used ones, and none for longer than it was of use. Pure."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from typing import Generic, TypeVar

__all__ = ("Recent",)

T = TypeVar("T")


class _Entry(Generic[T]):
    __slots__ = ("used", "value")

    def __init__(self, value: T, used: float) -> None:
        self.value = value
        self.used = used


class Recent(Generic[T]):
    """At most `most` values, least recently used first; none that `is_busy` is ever forgotten."""

    def __init__(self, most: int, idle: float, is_busy: Callable[[T], bool]) -> None:
        self._most = most
        self._idle = idle
        self._is_busy = is_busy
        self._entries: OrderedDict[Hashable, _Entry[T]] = OrderedDict()
        self._due = -math.inf
        """Before then no value is out of use: none was used less recently than the one looked at last."""

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
        """Return the value of `key`, if it is remembered, as the most recently used one."""
        entry = self._entries.get(key)
        if entry is None:
            return None
        entry.used = now
        self._entries.move_to_end(key)
        if now >= self._due:
            self._forget_idle(now)
        return entry.value

    def add(self, key: Hashable, value: T, now: float) -> T:
        """Remember `value` unless `key` has one already; return the one it has."""
        known = self.use(key, now)
        if known is not None:
            return known
        self._entries[key] = _Entry(value, now)
        if now >= self._due:
            self._forget_idle(now)
        if len(self._entries) > self._most:
            self._forget_surplus(key)
        return value

    def _forget_idle(self, now: float) -> None:
        """Forget one value that is out of use, if there is one; a busy one is in use."""
        key, oldest = next(iter(self._entries.items()))
        self._due = oldest.used + self._idle
        if now < self._due:
            return
        if self._is_busy(oldest.value):
            oldest.used = now
            self._entries.move_to_end(key)
        else:
            del self._entries[key]

    def _forget_surplus(self, newest: Hashable) -> None:
        """Make room: there are more than `most` values only while all but the newest are busy."""
        surplus = len(self._entries) - self._most
        free: list[Hashable] = []
        for key, entry in self._entries.items():
            if key != newest and not self._is_busy(entry.value):
                free.append(key)
                if len(free) == surplus:  # more than one if busy ones stood in the way before
                    break
        for key in free:
            del self._entries[key]
