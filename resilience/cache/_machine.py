"""Which results a cache keeps, for how long, and which result it evicts. Pure; not thread-safe.

A result is one `CacheEntry`. It passes through three states, and time alone moves it on:

    fresh     until `fresh_until`: the entry answers calls.
    stale     from then until `expires_at`: the entry answers only a call that has failed (`stale_on_error`).
    expired   after `expires_at`: the entry answers nothing, and the next change of the store removes it.

`fresh_until` and `expires_at` are -inf until the store has accepted the entry, and again once it was removed on
purpose: such an entry answers nothing, even if a caller still finds it.

An entry stands in two places. The *index* is a plain dictionary, one for each function, in which calls find the entry
by their arguments. It is read without a lock and belongs to `_results.py`. The `EntryStore` holds the same entries for
all functions of a cache and knows nothing of keys: it compares entries by identity, so no `__hash__` and no `__eq__` of
the user's runs inside it. Each method of the store that removes entries returns them, and the caller takes them out of
their indexes. In between, an entry may be in an index and not in the store; it is never in the store alone.

The store bounds the number of entries by `max_size`. It removes expired entries first, and then evicts the entry that
was used least recently. A use is recorded by `mark_used`; the caller may collect uses and report many at once, in
their order. Expiry and order are `cachetools.TLRUCache`: an ordered dictionary, and a heap of expiry times. There is no
timer: expired entries are removed when the next entry is added, or when `expire` is called.

No permit exists here: a cache owns the call, it does not admit it. Hits and misses are counted by the policy.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Hashable, Iterable, MutableMapping
from typing import Any

from cachetools import TLRUCache

__all__ = ("CacheEntry", "EntryStore")


class CacheEntry:
    """One result: fresh until `fresh_until`, good enough in place of an error until `expires_at`."""

    __slots__ = ("expires_at", "fresh_until", "index", "key", "value")

    def __init__(self, index: MutableMapping[Hashable, CacheEntry], key: Hashable, value: object) -> None:
        self.index, self.key = index, key
        self.value: Any = value
        # It answers nothing until the store has accepted it.
        self.fresh_until = self.expires_at = -math.inf

    def remove_from_index(self) -> None:
        """Remove the entry from its index, unless another entry has taken its place there."""
        if self.index.get(self.key) is self:
            self.index.pop(self.key, None)


class EntryStore:
    """At most `max_size` entries, each until its own `expires_at`."""

    def __init__(self, max_size: int) -> None:
        self._now = -math.inf
        self._max_size = max_size
        self._entries: TLRUCache[CacheEntry, None, float] = TLRUCache(
            max_size, lambda entry, _value, _now: entry.expires_at, timer=lambda: self._now
        )
        self.evicted = 0
        """Entries that were removed before their time, to make room."""

    def expire(self, now: float) -> list[CacheEntry]:
        """Remove the expired entries and return them."""
        self._now = now
        return [entry for entry, _ in self._entries.expire(now)]

    @property
    def size(self) -> int:
        """How many entries are kept."""
        return len(self._entries)

    def mark_used(self, used: Iterable[CacheEntry]) -> None:
        """Record that these entries were used, in this order. Entries that are not in the store are ignored."""
        # Of several uses of one entry only the last one matters.
        for entry in reversed(list(dict.fromkeys(reversed(list(used))))):
            with contextlib.suppress(KeyError):
                self._entries[entry]

    def add(self, entry: CacheEntry, fresh_until: float, expires_at: float, now: float) -> list[CacheEntry]:
        """Add `entry`; return the entries that were removed: expired ones, and those evicted to make room."""
        removed = self.expire(now)
        entry.fresh_until, entry.expires_at = fresh_until, expires_at
        while len(self._entries) >= self._max_size:
            removed.append(self._entries.popitem()[0])
            self.evicted += 1
        self._entries[entry] = None
        return removed

    def remove(self, entry: CacheEntry) -> None:
        """Remove `entry`, if it is in the store; it answers nothing from now on."""
        self._now = -math.inf  # cachetools does not remove an entry that has expired
        self._entries.pop(entry, None)
        entry.fresh_until = entry.expires_at = -math.inf
