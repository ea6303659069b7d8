"""Buckets beside a memory storage of limits, of either kind.

The storage's own counters are not used: a thread of the storage drops them while others count. A reset of the storage
fills all buckets. For this the storage keeps a mark among its counters, which `reset` removes.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, TypeAlias
from weakref import WeakKeyDictionary

from resilience.clock import monotonic
from resilience.ratelimit import Decision, LocalBuckets, MemoryStore, Quota

if TYPE_CHECKING:
    from collections.abc import Callable

    from limits.aio.storage import MemoryStorage as AsyncMemoryStorage
    from limits.storage import MemoryStorage

    AnyMemoryStorage: TypeAlias = MemoryStorage | AsyncMemoryStorage

__all__ = ("MemoryCells", "cells_beside")

_MARK = "resilience/token-bucket"
_MAX_QUOTAS = 1024


class MemoryCells:
    """The buckets of one storage.

    Args:
        storage: The storage beside which they are kept.
    """

    def __init__(self, storage: AnyMemoryStorage) -> None:
        self._counters = storage.storage
        self._open = self._begin()

    def _begin(self) -> Callable[[Quota], LocalBuckets]:
        """Return a function that opens the buckets of a quota in a new store."""
        store = MemoryStore()
        self._counters[_MARK] = 1
        return functools.lru_cache(_MAX_QUOTAS)(lambda quota: store.open(quota, monotonic))

    def take(self, quota: Quota, key: str, cost: int) -> Decision:
        """Pay `cost` tokens, or none."""
        return self._of(quota).take(key, cost)

    def look(self, quota: Quota, key: str) -> Decision:
        """Return the state of a bucket, taking nothing."""
        return self._of(quota).look(key)

    def clear(self, quota: Quota, key: str) -> None:
        """Fill a bucket."""
        self._of(quota).reset(key)

    def _of(self, quota: Quota) -> LocalBuckets:
        # No lock: of two threads that come right after a reset, one may open its buckets in a store that is dropped.
        if _MARK not in self._counters:
            self._open = self._begin()
        return self._open(quota)


# Two limiters of one storage share their buckets, for as long as the storage lives.
_known: WeakKeyDictionary[AnyMemoryStorage, MemoryCells] = WeakKeyDictionary()


def cells_beside(storage: AnyMemoryStorage) -> MemoryCells:
    """Return the buckets of a storage."""
    return _known.get(storage) or _known.setdefault(storage, MemoryCells(storage))
