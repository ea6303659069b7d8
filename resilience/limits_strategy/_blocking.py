"""The strategy for the blocking storages of limits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from limits import RateLimitItem, WindowStats
from limits.errors import StorageError
from limits.storage import MemoryStorage, RedisStorage
from limits.strategies import RateLimiter

from resilience.limits_strategy._items import (
    bucket_key,
    checked_hits,
    fits,
    no_bucket,
    quota_for,
    unsupported,
    window_stats,
)
from resilience.limits_strategy._memory import cells_beside
from resilience.limits_strategy._recent import RecentAnswers
from resilience.limits_strategy._script import arguments_for, decision_from, script_key
from resilience.ratelimit import Decision, Quota
from resilience.ratelimit.on_redis._buckets import TOKEN_BUCKET

if TYPE_CHECKING:
    from limits.storage import StorageTypes

__all__ = ("TokenBucketRateLimiter",)


class _BlockingCells(Protocol):
    """The buckets of one storage."""

    def take(self, quota: Quota, key: str, cost: int) -> Decision:
        """Pay `cost` tokens, or none."""
        ...

    def look(self, quota: Quota, key: str) -> Decision:
        """Return the state of a bucket, taking nothing."""
        ...

    def clear(self, quota: Quota, key: str, /) -> None:
        """Fill a bucket."""
        ...


class TokenBucketRateLimiter(RateLimiter):
    """limits' strategy `token-bucket`: an item such as `100/minute` is a bucket of 100 tokens, refilled at that rate.

    A client that has used up its bucket waits for the next token, not for the end of a window. Over any time t at most
    rate x t + burst hits are admitted, and a refused hit costs nothing. On Redis each hit is one round trip, and it
    uses the server's clock. After a `hit`, `get_window_stats` answers in the same context from the hit's reply.

    `get_window_stats` returns the tokens left, and the time of the next token. After a refused hit it returns the time
    at which that hit fits: Flask-Limiter and slowapi send it as `Retry-After`. An error of Redis reaches the caller, as
    with the strategies of limits.

    A subclass can override `burst`. Register it in `limits.strategies.STRATEGIES` under a name of your own.

    Args:
        storage: A memory or Redis storage of limits.

    Raises:
        ConfigurationError: The storage cannot keep buckets.

    Example:
        >>> from limits import parse, storage
        >>> from resilience.limits_strategy import TokenBucketRateLimiter
        >>> limiter = TokenBucketRateLimiter(storage.MemoryStorage())
        >>> limiter.hit(parse("10/minute"), "client-42", cost=9)
        True
        >>> limiter.test(parse("10/minute"), "client-42", cost=2)
        False
        >>> limiter.get_window_stats(parse("10/minute"), "client-42").remaining
        1
    """

    def __init__(self, storage: StorageTypes) -> None:
        self._cells = _cells_of(storage)
        self._recent = RecentAnswers()
        super().__init__(storage)

    def burst(self, item: RateLimitItem) -> int:
        """Return how many hits of an item may come at once: the amount that it names, 1 to 1,000,000,000."""
        return item.amount

    def hit(self, item: RateLimitItem, *identifiers: str, cost: int = 1) -> bool:
        """Pay the cost, and return whether it was paid.

        Args:
            item: The limit.
            identifiers: Which bucket of it, such as the client and the route.
            cost: Tokens to pay. A cost of 0 is always admitted.

        Raises:
            ConfigurationError: The cost is negative or not a whole number, or the rate is out of range.
        """
        checked_hits(cost)
        if not item.amount:
            return False
        quota, key = self._quota(item), bucket_key(item, identifiers)
        decision = self._cells.take(quota, key, cost) if cost else self._cells.look(quota, key)
        self._recent.keep(key, window_stats(decision))
        return decision.allowed

    def test(self, item: RateLimitItem, *identifiers: str, cost: int = 1) -> bool:
        """Return whether the cost could be paid now, taking nothing. For the arguments see `hit`."""
        checked_hits(cost)
        if not item.amount:
            return False
        return fits(self._cells.look(self._quota(item), bucket_key(item, identifiers)), cost)

    def get_window_stats(self, item: RateLimitItem, *identifiers: str) -> WindowStats:
        """Return the time of the next token, in seconds since 1970, and the tokens left."""
        if not item.amount:
            return no_bucket(item)
        key = bucket_key(item, identifiers)
        return self._recent.take(key) or window_stats(self._cells.look(self._quota(item), key))

    def clear(self, item: RateLimitItem, *identifiers: str) -> None:
        """Fill the bucket."""
        if item.amount:
            key = bucket_key(item, identifiers)
            self._recent.take(key)
            self._cells.clear(self._quota(item), key)

    def _quota(self, item: RateLimitItem) -> Quota:
        return quota_for(item.amount, item.get_expiry(), self.burst(item))


def _cells_of(storage: StorageTypes) -> _BlockingCells:
    """Return the buckets of a storage."""
    if isinstance(storage, MemoryStorage):
        return cells_beside(storage)
    if isinstance(storage, RedisStorage):
        return _RedisCells(storage)
    raise unsupported(storage, "blocking")


class _RedisCells:
    """Buckets on the server of a Redis storage, of its cluster or of its Sentinel's master."""

    def __init__(self, storage: RedisStorage) -> None:
        self._storage = storage
        self._script = storage.get_connection().register_script(TOKEN_BUCKET.read_bytes())

    def take(self, quota: Quota, key: str, cost: int) -> Decision:
        return self._run(quota, key, cost)

    def look(self, quota: Quota, key: str) -> Decision:
        return self._run(quota, key, 0)

    def _run(self, quota: Quota, key: str, cost: int) -> Decision:
        try:
            reply = self._script(keys=[script_key(self._storage.prefixed_key(key))], args=arguments_for(quota, cost))
        except self._storage.base_exceptions as error:
            if self._storage.wrap_exceptions:
                raise StorageError(error) from error
            raise
        return decision_from(reply, quota, cost)

    def clear(self, _quota: Quota, key: str, /) -> None:
        self._storage.clear(key)
