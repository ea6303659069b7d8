"""The strategy for the asynchronous storages of limits."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol, cast

from limits import RateLimitItem, WindowStats
from limits.aio.storage import MemoryStorage, RedisStorage, Storage
from limits.aio.storage.redis.coredis import CoredisBridge
from limits.aio.storage.redis.redispy import RedispyBridge
from limits.aio.strategies import RateLimiter
from limits.errors import StorageError

from resilience.limits_strategy._items import (
    bucket_key,
    checked_hits,
    fits,
    no_bucket,
    quota_for,
    unsupported,
    window_stats,
)
from resilience.limits_strategy._memory import MemoryCells, cells_beside
from resilience.limits_strategy._recent import RecentAnswers
from resilience.limits_strategy._script import arguments_for, decision_from, script_key
from resilience.ratelimit import Decision, Quota
from resilience.ratelimit.on_redis._buckets import TOKEN_BUCKET

__all__ = ("AsyncTokenBucketRateLimiter",)


class _AwaitingCells(Protocol):
    """The buckets of one storage."""

    async def take(self, quota: Quota, key: str, cost: int) -> Decision:
        """Pay `cost` tokens, or none."""
        ...

    async def look(self, quota: Quota, key: str) -> Decision:
        """Return the state of a bucket, taking nothing."""
        ...

    async def clear(self, quota: Quota, key: str, /) -> None:
        """Fill a bucket."""
        ...


class AsyncTokenBucketRateLimiter(RateLimiter):
    """The strategy `token-bucket` of `limits.aio`; otherwise like `TokenBucketRateLimiter`.

    On Redis it uses the client that limits uses: coredis, redis-py or valkey-py.

    Args:
        storage: A memory or Redis storage of `limits.aio`.

    Raises:
        ConfigurationError: The storage cannot keep buckets.

    Example:
        >>> import asyncio
        >>> from limits import parse
        >>> from limits.aio import storage
        >>> from resilience.limits_strategy import AsyncTokenBucketRateLimiter
        >>> limiter = AsyncTokenBucketRateLimiter(storage.MemoryStorage())
        >>> asyncio.run(limiter.hit(parse("10/minute"), "client-42"))
        True
    """

    def __init__(self, storage: Storage) -> None:
        self._cells = _cells_of(storage)
        self._recent = RecentAnswers()
        super().__init__(storage)

    def burst(self, item: RateLimitItem) -> int:
        """Return how many hits of an item may come at once: the amount that it names, 1 to 1,000,000,000."""
        return item.amount

    async def hit(self, item: RateLimitItem, *identifiers: str, cost: int = 1) -> bool:
        """Pay the cost, and return whether it was paid. For the arguments see `TokenBucketRateLimiter.hit`."""
        checked_hits(cost)
        if not item.amount:
            return False
        quota, key = self._quota(item), bucket_key(item, identifiers)
        decision = await (self._cells.take(quota, key, cost) if cost else self._cells.look(quota, key))
        self._recent.keep(key, window_stats(decision))
        return decision.allowed

    async def test(self, item: RateLimitItem, *identifiers: str, cost: int = 1) -> bool:
        """Return whether the cost could be paid now, taking nothing. For the arguments see `hit`."""
        checked_hits(cost)
        if not item.amount:
            return False
        return fits(await self._cells.look(self._quota(item), bucket_key(item, identifiers)), cost)

    async def get_window_stats(self, item: RateLimitItem, *identifiers: str) -> WindowStats:
        """Return the time of the next token, in seconds since 1970, and the tokens left."""
        if not item.amount:
            return no_bucket(item)
        key = bucket_key(item, identifiers)
        return self._recent.take(key) or window_stats(await self._cells.look(self._quota(item), key))

    async def clear(self, item: RateLimitItem, *identifiers: str) -> None:
        """Fill the bucket."""
        if item.amount:
            key = bucket_key(item, identifiers)
            self._recent.take(key)
            await self._cells.clear(self._quota(item), key)

    def _quota(self, item: RateLimitItem) -> Quota:
        return quota_for(item.amount, item.get_expiry(), self.burst(item))


def _cells_of(storage: Storage) -> _AwaitingCells:
    """Return the buckets of a storage."""
    if isinstance(storage, MemoryStorage):
        return _MemoryCellsOfLoop(cells_beside(storage))
    if isinstance(storage, RedisStorage):
        return _RedisCellsOfLoop(storage)
    raise unsupported(storage, "asynchronous")


class _MemoryCellsOfLoop:
    """Buckets in this process; never suspends."""

    def __init__(self, cells: MemoryCells) -> None:
        self._cells = cells

    async def take(self, quota: Quota, key: str, cost: int) -> Decision:
        return self._cells.take(quota, key, cost)

    async def look(self, quota: Quota, key: str) -> Decision:
        return self._cells.look(quota, key)

    async def clear(self, quota: Quota, key: str, /) -> None:
        self._cells.clear(quota, key)


class _RedisCellsOfLoop:
    """Buckets on the server of a Redis storage, of its cluster or of its Sentinel's master."""

    def __init__(self, storage: RedisStorage) -> None:
        self._storage = storage
        bridge, script = storage.bridge, TOKEN_BUCKET.read_text(encoding="utf-8")
        # coredis calls the method `execute`. redis-py and valkey-py have scripts that are called.
        if isinstance(bridge, CoredisBridge):
            run: object = bridge.get_connection().register_script(script).execute
        else:
            run = cast("RedispyBridge", bridge).get_connection().register_script(script.encode())
        self._execute = cast("Callable[[Sequence[bytes], Sequence[int]], Awaitable[object]]", run)

    async def take(self, quota: Quota, key: str, cost: int) -> Decision:
        return await self._run(quota, key, cost)

    async def look(self, quota: Quota, key: str) -> Decision:
        return await self._run(quota, key, 0)

    async def _run(self, quota: Quota, key: str, cost: int) -> Decision:
        prefixed = script_key(self._storage.bridge.prefixed_key(key))
        try:
            reply = await self._execute([prefixed], arguments_for(quota, cost))
        except self._storage.base_exceptions as error:
            if self._storage.wrap_exceptions:
                raise StorageError(error) from error
            raise
        return decision_from(reply, quota, cost)

    async def clear(self, _quota: Quota, key: str, /) -> None:
        await self._storage.clear(key)
