"""What is kept and what has to go. Pure; not thread-safe.

Entries are looked up elsewhere: here they are told apart by identity, so that nothing of the user's (a key's `__eq__`)
ever runs inside. cachetools does the bookkeeping: least recently used order, and a heap of expiry times.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Hashable, Iterable, MutableMapping
from typing import Any

from cachetools import TLRUCache

__all__ = ("Entry", "Store")


class Entry:
    """One result: fresh until the one time, good enough instead of an error until the other, gone after that."""

    __slots__ = ("fresh_until", "gone_at", "home", "key", "value")

    def __init__(self, home: MutableMapping[Hashable, Entry], key: Hashable, value: Any) -> None:
        self.home, self.key, self.value = home, key, value
        # Good for nothing until it is kept.
        self.fresh_until = self.gone_at = -math.inf

    def leave_home(self) -> None:
        """Take the entry out of where it is looked up, unless another has its place already."""
        if self.home.get(self.key) is self:
            self.home.pop(self.key, None)


class Store:
    """At most `max_size` entries, each until its own time."""

    def __init__(self, max_size: int) -> None:
        self._now = -math.inf
        self._max_size = max_size
        self._entries: TLRUCache[Entry, None, float] = TLRUCache(
            max_size, lambda entry, _value, _now: entry.gone_at, timer=lambda: self._now
        )
        self.evicted = 0
        """Entries that had to go before their time."""

    def expire(self, now: float) -> list[Entry]:
        """Let go of the entries whose time is up, and return them."""
        self._now = now
        return [entry for entry, _ in self._entries.expire(now)]

    @property
    def size(self) -> int:
        """How many entries are kept."""
        return len(self._entries)

    def touch(self, used: Iterable[Entry]) -> None:
        """Note which entries were used, in this order; what has gone meanwhile stays gone."""
        # Of several uses only the last one matters.
        for entry in reversed(list(dict.fromkeys(reversed(list(used))))):
            with contextlib.suppress(KeyError):
                self._entries[entry]

    def keep(self, entry: Entry, fresh_until: float, gone_at: float, now: float) -> list[Entry]:
        """Take `entry` in, and return those that had to go: their time was up, or the room was needed."""
        gone = self.expire(now)
        entry.fresh_until, entry.gone_at = fresh_until, gone_at
        while len(self._entries) >= self._max_size:
            gone.append(self._entries.popitem()[0])
            self.evicted += 1
        self._entries[entry] = None
        return gone

    def drop(self, entry: Entry) -> None:
        """Let go of `entry`; nothing happens where it has gone already."""
        self._now = -math.inf  # cachetools takes nothing out that has expired
        self._entries.pop(entry, None)
        entry.fresh_until = entry.gone_at = -math.inf
