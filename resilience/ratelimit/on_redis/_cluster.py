"""Buckets on a cluster: each key is decided by the master that has it, through the parts of one server.

Each shard has its own connections, batches and outage guard (`ScriptRunner`). So the keys of one turn take one round
trip to each master that has some of them, and a master that is away makes only its own keys local.

A node that answers MOVED or ASK has decided nothing, and the call goes to the node that was named. The first call of a
process may be redirected twice: any node names the master of the slot, which is about to give the slot away. If nodes
go on naming others, or if half of the timeout is over, the call is decided without Redis.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Final, Generic, Protocol, TypeVar

from resilience.ratelimit._decision import Decision
from resilience.ratelimit._store import CountingBuckets, PeekingBuckets, RefundingBuckets, checked_key
from resilience.redis._errors import MALFORMED, is_redirect
from resilience.redis.cluster._table import redirection_of

if TYPE_CHECKING:
    from resilience.redis import OutageGuard, RedisConnection
    from resilience.redis.cluster._cluster import Cluster, Shard

__all__ = ("ClusterBuckets", "ClusterRunners", "ServerBuckets")

T = TypeVar("T")

_CACHED_KEYS: Final = 4096
_MOST_REDIRECTIONS: Final = 3


class ServerBuckets(CountingBuckets, PeekingBuckets, RefundingBuckets, Protocol):
    """The buckets of one limiter on one server."""

    def without_redis(self, key: str, cost: int, allowance: float | None) -> Decision:
        """Decide as the `outage` option says; take nothing if `allowance` is None."""
        ...


class ServerRunner(Protocol):
    """The parts of a store for one server."""

    @property
    def outage(self) -> OutageGuard:
        """Records whether the server answers."""
        ...


R = TypeVar("R", bound=ServerRunner)


class ClusterRunners(Generic[R]):
    """The parts of a store that exist once for each shard.

    Args:
        connection: The connections to the shards.
        cluster: The shards.
        unassigned: The runner for slots without a known master.
        make: Returns the runner of a shard.
        asking: Returns a second runner of a shard, from the first: for calls whose slot the shard is about to get.
    """

    def __init__(
        self,
        connection: RedisConnection,
        cluster: Cluster,
        unassigned: R,
        make: Callable[[Shard], R],
        asking: Callable[[R], R],
    ) -> None:
        self.timeout = connection.options.timeout
        self.cluster = cluster
        self._make, self._asking = make, asking
        self._kept: dict[Shard, R] = {cluster.unassigned: unassigned}
        self._kept_asking: dict[Shard, R] = {}

    def of(self, shard: Shard) -> R:
        """Return the runner of `shard`."""
        found = self._kept.get(shard)
        if found is None:
            for kept in (self._kept, self._kept_asking):
                for gone in [known for known in tuple(kept) if not self.cluster.is_known(known)]:
                    kept.pop(gone, None)
            # `setdefault` is one step: two threads that come first get the same runner.
            found = self._kept.setdefault(shard, self._make(shard))
        return found

    def asking(self, shard: Shard) -> R:
        """Return the runner for calls to `shard` whose slot it does not serve yet."""
        own = self.of(shard)
        return self._kept_asking.get(shard) or self._kept_asking.setdefault(shard, self._asking(own))

    @property
    def is_down(self) -> bool:
        """Whether a master that was asked did not answer when it was last asked."""
        return any(runner.outage.is_down for runner in tuple(self._kept.values()))

    @property
    def trial_after(self) -> float:
        """Seconds until all masters have been asked again; 0 if all of them answer."""
        return max(runner.outage.trial_after for runner in tuple(self._kept.values()))


class ClusterBuckets(Generic[R]):
    """The buckets of one limiter on the shards of a cluster.

    Args:
        runners: The parts of each shard.
        open_at: Opens the buckets of one shard.
        redis_key: Returns the Redis key of a key.
    """

    def __init__(
        self, runners: ClusterRunners[R], open_at: Callable[[R], ServerBuckets], redis_key: Callable[[str], bytes]
    ) -> None:
        from redis.crc import key_slot  # noqa: PLC0415 - an extra

        def slot(key: str) -> int:
            return key_slot(redis_key(key))

        self._runners, self._open_at = runners, open_at
        self._cluster = runners.cluster
        self._half = runners.timeout / 2
        self._slot = functools.lru_cache(_CACHED_KEYS)(slot)
        self._opened: dict[Shard, ServerBuckets] = {}
        self._opened_asking: dict[Shard, ServerBuckets] = {}
        self._past_allowed = self._past_refused = 0

    # --- which shard ---

    def _home(self, key: str) -> tuple[Shard, ServerBuckets]:
        """Return the shard of `key`, and the buckets there."""
        checked_key(key)  # before the cache, which needs a key that has a hash
        shard = self._cluster.shard_of(self._slot(key))
        return shard, self._opened.get(shard) or self._open(shard)

    def _open(self, shard: Shard) -> ServerBuckets:
        for kept in (self._opened, self._opened_asking):
            for gone in [known for known in tuple(kept) if not self._cluster.is_known(known)]:
                if (left := kept.pop(gone, None)) is not None:
                    self._past_allowed += left.allowed
                    self._past_refused += left.refused
        return self._opened.setdefault(shard, self._open_at(self._runners.of(shard)))

    def _named_by(self, shard: Shard, error: Exception) -> tuple[Shard, ServerBuckets] | None:
        """Return the shard that `shard` has named, and the buckets there; None if it named no address."""
        try:
            redirection = redirection_of(error, shard.endpoint)
        except MALFORMED:
            return None
        target = self._cluster.follow(redirection)
        if redirection.is_final:
            return target, self._opened.get(target) or self._open(target)
        known = self._opened_asking.get(target)
        return target, known or self._opened_asking.setdefault(target, self._open_at(self._runners.asking(target)))

    # --- one call, and its redirections ---

    def _run(self, key: str, ask: Callable[[ServerBuckets], T], otherwise: Callable[[ServerBuckets], T]) -> T:
        """Return what the shard of `key` answers to `ask`, blocking; `otherwise` if shards name one another."""
        since = time.monotonic()
        home = place = self._home(key)
        for _ in range(1 + _MOST_REDIRECTIONS):
            try:
                return ask(place[1])
            except Exception as error:
                if not is_redirect(error):
                    raise
                named = self._named_by(place[0], error)
            if named is None or time.monotonic() - since >= self._half:
                break
            place = named
        return otherwise(home[1])

    async def _arun(
        self, key: str, ask: Callable[[ServerBuckets], Awaitable[T]], otherwise: Callable[[ServerBuckets], T]
    ) -> T:
        """Return what the shard of `key` answers, suspending this task. Otherwise like `_run`."""
        since = time.monotonic()
        home = place = self._home(key)
        for _ in range(1 + _MOST_REDIRECTIONS):
            try:
                return await ask(place[1])
            except Exception as error:
                if not is_redirect(error):
                    raise
                named = self._named_by(place[0], error)
            if named is None or time.monotonic() - since >= self._half:
                break
            place = named
        return otherwise(home[1])

    def take(self, key: str = "", cost: int = 1, allowance: float = 0.0) -> Decision:
        """Pay `cost` tokens, blocking this thread for one round trip. Never raises because of Redis."""
        return self._run(
            key,
            lambda buckets: buckets.take(key, cost, allowance),
            lambda buckets: buckets.without_redis(key, cost, allowance),
        )

    async def atake(self, key: str = "", cost: int = 1, allowance: float = 0.0) -> Decision:
        """Pay `cost` tokens, suspending this task for a round trip that others may share. Otherwise like `take`."""
        return await self._arun(
            key,
            lambda buckets: buckets.atake(key, cost, allowance),
            lambda buckets: buckets.without_redis(key, cost, allowance),
        )

    def peek(self, key: str = "", cost: int = 1) -> Decision:
        """Return whether `cost` tokens would be paid now, blocking this thread for one round trip."""
        return self._run(
            key, lambda buckets: buckets.peek(key, cost), lambda buckets: buckets.without_redis(key, cost, None)
        )

    async def apeek(self, key: str = "", cost: int = 1) -> Decision:
        """Return whether `cost` tokens would be paid now, suspending this task for one round trip."""
        return await self._arun(
            key, lambda buckets: buckets.apeek(key, cost), lambda buckets: buckets.without_redis(key, cost, None)
        )

    def refund(self, key: str, decision: Decision) -> None:
        """Undo a payment, and block for one round trip. If the key has no master now, the payment stands."""
        self._run(key, lambda buckets: buckets.refund(key, decision), lambda _buckets: None)

    async def arefund(self, key: str, decision: Decision) -> None:
        """Undo a payment, and suspend this task for one round trip. Otherwise like `refund`."""
        await self._arun(key, lambda buckets: buckets.arefund(key, decision), lambda _buckets: None)

    def reset(self, key: str = "") -> None:
        """Fill the bucket of `key`, here and on Redis if it can be reached. Blocks for up to the timeout."""
        self._run(key, lambda buckets: buckets.reset(key), lambda _buckets: None)

    def give_back(self, key: str, decision: Decision) -> None:
        """Give the tokens of a call that waited back, in the background. Never blocks."""
        self._home(key)[1].give_back(key, decision)

    # --- counts ---

    def _all(self) -> list[ServerBuckets]:
        return [*tuple(self._opened.values()), *tuple(self._opened_asking.values())]

    @property
    def allowed(self) -> int:
        """Decisions for the call, by Redis or without it."""
        return self._past_allowed + sum(buckets.allowed for buckets in self._all())

    @property
    def refused(self) -> int:
        """Decisions against it, by Redis or without it."""
        return self._past_refused + sum(buckets.refused for buckets in self._all())

    def forget_counts(self) -> None:
        """Count decisions from zero."""
        self._past_allowed = self._past_refused = 0
        for buckets in self._all():
            buckets.forget_counts()
