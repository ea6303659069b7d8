"""The results of one cache, safe for threads: an index for each function, over one bounded store.

An index is read without a lock, because finding a key may run the user's `__hash__` and `__eq__`. The lock guards the
store, the epochs and the set of indexes. Nothing of the user's runs under it except finalizers, which the garbage
collector may run at any moment and which may make calls. The lock is therefore re-entrant, and a finalizer that comes
in the midst of a change of the store (`_is_changing`) does not touch the store: its result is not kept.

An invalidation must also hold for calls that are in flight, since they may have read the value that has just changed.
Keys are therefore spread over `_STRIPES` epoch numbers. A call notes the number of its key before it is made, and its
result is kept only if the number is still the same.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Hashable, Iterator
from typing import ParamSpec, TypeVar, cast
from weakref import WeakSet

from resilience._support.fork import renew_after_fork
from resilience._support.measured import Measured, Measurement
from resilience._support.sharing import Keys
from resilience.cache._machine import CacheEntry, EntryStore

__all__ = ("MAX_PENDING_HITS", "CacheMiss", "FunctionIndex", "Results")

P = ParamSpec("P")
R = TypeVar("R")
MAX_PENDING_HITS = 128
"""Hits that are collected at most before the store learns of them."""
_STRIPES = 256


class FunctionIndex:
    """The entries of one function by key: two functions with the same arguments do not share results."""

    __slots__ = ("__weakref__", "entries", "keys")

    def __init__(self, keys: Keys) -> None:
        self.keys = keys
        self.entries: dict[Hashable, CacheEntry] = {}

    def remove_by_arguments(self, key: Hashable) -> Iterator[CacheEntry]:
        """Remove the entries of calls whose arguments have this `key`, and yield them."""
        for known in self._keys_with(key):
            entry = self.entries.pop(known, None)
            if entry is not None:
                yield entry

    def arguments_of(self, key: Hashable) -> Hashable:
        """Return the part of `key` that stands for the arguments: a key may begin with the function."""
        return cast("tuple[Hashable, Hashable]", key)[1] if self.keys.leading_args else key

    def _keys_with(self, key: Hashable) -> list[Hashable]:
        if not self.keys.leading_args:
            return [key]
        return [known for known in list(self.entries) if self.arguments_of(known) == key]


class CacheMiss:
    """One call that has to be made, and the entry that may answer in place of its error."""

    __slots__ = ("entry", "epoch", "index", "key", "stripe")

    def __init__(self, index: FunctionIndex, key: Hashable, stripe: int, epoch: int) -> None:
        self.index, self.key, self.stripe, self.epoch = index, key, stripe, epoch
        self.entry: CacheEntry | None = index.entries.get(key)


class Results(Measured):
    """At most `max_size` results of any number of functions."""

    def __init__(self, name: str, max_size: int) -> None:
        self.name = name
        """The name of the cache."""
        self._max_size = max_size
        self.hits = self.misses = self.stale_served = 0
        self.pending_hits: deque[CacheEntry] = deque()
        """Entries that answered a call, which the store does not know yet: a lock for each hit would cost too much."""
        self._indexes: WeakSet[FunctionIndex] = WeakSet()
        self._epochs = [0] * _STRIPES
        self._store = EntryStore(max_size)
        self._lock = threading.RLock()
        self._is_changing = False
        renew_after_fork(self)

    def after_fork(self) -> None:
        """Keep the parent's results, unless one of its threads was changing the store."""
        if self._is_changing:
            self._store = EntryStore(self._max_size)
            for index in list(self._indexes):
                index.entries.clear()
        self.pending_hits.clear()
        self._lock = threading.RLock()
        self._is_changing = False

    def after_test(self) -> None:
        """Remove all results, and start with no counts."""
        self.clear()
        with self._lock:
            self.hits = self.misses = self.stale_served = 0
            self._store.evicted = 0

    def measure(self) -> Measurement:
        """Return the look-ups by outcome, the stale answers, and the results kept and evicted."""
        counts = {"hit": self.hits, "miss": self.misses, "stale": self.stale_served, "evicted": self._store.evicted}
        return Measurement("cache", self.name, counts, {"size": self._store.size})

    def new_index(self, keys: Keys) -> FunctionIndex:
        """Return the index of a function that is wrapped now. The cache does not keep it alive."""
        index = FunctionIndex(keys)
        with self._lock:
            self._indexes.add(index)
        return index

    def report_hits(self) -> None:
        """Tell the store which entries were used."""
        with self._lock:
            if not self._is_changing:
                self._change(self._mark_used)

    def miss(self, index: FunctionIndex, key: Hashable) -> CacheMiss:
        """Return the record of a call that is made now."""
        stripe = hash(index.arguments_of(key)) % _STRIPES
        return CacheMiss(index, key, stripe, self._epochs[stripe])

    def is_current(self, miss: CacheMiss) -> bool:
        """Whether nothing with this key was invalidated since the call began."""
        return miss.epoch == self._epochs[miss.stripe]

    def add(self, miss: CacheMiss, result: object, fresh_until: float, expires_at: float, now: float) -> None:
        """Keep the result of a call, unless its key was invalidated meanwhile."""
        entries = miss.index.entries
        # First into the index, where it answers nothing yet: so each entry in the store can be found and removed.
        entry, old = CacheEntry(entries, miss.key, result), entries.get(miss.key)
        entries[miss.key] = entry
        with self._lock:
            is_refused = self._is_changing or not self.is_current(miss)
            removed = [entry] if is_refused else self._change(self._replace, old, entry, fresh_until, expires_at, now)
        for each in removed:
            each.remove_from_index()

    def invalidate(self, key: Hashable) -> None:
        """Remove the results of all functions for this key. Raises `TypeError` if `key` cannot be hashed."""
        stripe = hash(key) % _STRIPES
        with self._lock:
            self._epochs[stripe] += 1
            indexes = list(self._indexes)
        removed = [entry for index in indexes for entry in index.remove_by_arguments(key)]
        with self._lock:
            if not self._is_changing:
                self._change(self._remove, removed)

    def clear(self) -> None:
        """Remove all results."""
        with self._lock:
            self._epochs = [epoch + 1 for epoch in self._epochs]
            indexes, store = list(self._indexes), self._store
            self._store = EntryStore(self._max_size)
            self._store.evicted = store.evicted
            self.pending_hits.clear()
        for index in indexes:
            index.entries.clear()

    def count(self, now: float) -> tuple[int, int]:
        """Return how many results are kept and how many were evicted so far, after removing those that have expired."""
        with self._lock:
            removed = [] if self._is_changing else self._change(self._store.expire, now)
            counts = self._store.size, self._store.evicted
        for each in removed:
            each.remove_from_index()
        return counts

    def _change(self, change: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
        self._is_changing = True
        try:
            return change(*args, **kwargs)
        finally:
            self._is_changing = False

    def _mark_used(self) -> None:
        self._store.mark_used([self.pending_hits.popleft() for _ in range(len(self.pending_hits))])

    def _replace(
        self, old: CacheEntry | None, entry: CacheEntry, fresh_until: float, expires_at: float, now: float
    ) -> list[CacheEntry]:
        self._mark_used()
        if old is not None:
            self._store.remove(old)
        return self._store.add(entry, fresh_until, expires_at, now)

    def _remove(self, removed: list[CacheEntry]) -> None:
        self._mark_used()
        for entry in removed:
            self._store.remove(entry)
