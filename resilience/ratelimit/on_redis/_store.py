"""Buckets on Redis, shared by all processes that use it."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from resilience.clock import Clock, monotonic
from resilience.errors import ConfigurationError, Problem
from resilience.events import Emitter
from resilience.ratelimit._machine import Quota
from resilience.ratelimit._rate import as_rate
from resilience.ratelimit.on_redis._buckets import TOKEN_BUCKET, RedisBuckets, ScriptRunner
from resilience.ratelimit.on_redis._cluster import ClusterBuckets, ClusterRunners
from resilience.ratelimit.on_redis._codec import BucketCall, BucketCodec
from resilience.ratelimit.on_redis._joint import JointRedisBuckets
from resilience.ratelimit.on_redis._share import LocalShares
from resilience.ratelimit.on_redis._windows import RedisWindows
from resilience.ratelimit.on_redis.leases._buckets import LeasedBuckets
from resilience.ratelimit.on_redis.leases._machine import LeaseRule
from resilience.redis import LuaScript, OutageGuard, RedisConnection
from resilience.redis._trial import ScriptTrial
from resilience.redis.cluster._trial import ShardTrial, UnassignedTrial

if TYPE_CHECKING:
    from resilience.redis.cluster._cluster import Cluster, Shard

__all__ = ("RedisStore",)

_TRIAL = Quota(".probe", as_rate("1000/second"), 1000)
"""The bucket of trials during an outage. No limiter can have its name, and it is always full."""

_ANYWHERE: Final[Mapping[str, object]] = MappingProxyType({})


class RedisStore:
    """Keeps buckets on a Redis that several processes share. Decisions use the server's clock.

    While Redis is down, the `outage` option of the connection decides. `local` limits in each process, by its share of
    the limit: the rate and the burst divided by the last known number of live instances. To be counted, a store in this
    mode joins the fleet at its first decision: a background thread makes one round trip each second. `allow` lets every
    call through. `deny` refuses every call. The first call that gets no answer waits for the connection's timeout. The
    next ones do not wait: a background thread asks Redis until it answers. `events` emits `ratelimit.outage` and
    `ratelimit.recovered`, once each time.

    Args:
        connection: The Redis to use.
        clock: Returns seconds that never go back; paces the trials of the background thread during an outage.

    Raises:
        ConfigurationError: `connection` is not a `RedisConnection`.

    Example:
        >>> from resilience.ratelimit import RedisStore, TokenBucket
        >>> from resilience.redis import RedisConnection
        >>> store = RedisStore(RedisConnection.from_url("redis://localhost:6379/0"))
        >>> TokenBucket("100/minute", store=store, name="uploads")
        <TokenBucket 'uploads' 100/minute burst=100>
    """

    waits = True

    def __init__(self, connection: RedisConnection, *, clock: Clock = monotonic) -> None:
        if not isinstance(connection, RedisConnection):
            raise ConfigurationError([Problem("connection", connection, "a RedisConnection")])
        self.connection = connection
        self.events = Emitter()
        self._clock = clock
        if (cluster := connection.cluster) is None:
            self._runner = self._make_runner(connection, self._trial_of(connection, lambda: self._trial_call("")))
            self._shards: ClusterRunners[ScriptRunner] | None = None
        else:
            self._runner = self._make_runner(connection, UnassignedTrial(connection, cluster), cluster.unassigned.facts)
            make = functools.partial(self._runner_of_shard, cluster)
            self._shards = ClusterRunners(connection, cluster, self._runner, make, ScriptRunner.asking)
        self.outage = self._shards or self._runner.outage

    def _make_runner(
        self, connection: RedisConnection, trial: Callable[[], bool], where: Mapping[str, object] = _ANYWHERE
    ) -> ScriptRunner:
        """Return the parts for one server.

        Args:
            connection: The connections to it.
            trial: Asks it during an outage.
            where: Which server of a cluster it is, for events.
        """
        shares = LocalShares(self.connection, trial)
        outage = OutageGuard(
            "ratelimit",
            self.events,
            shares.trial,
            clock=self._clock,
            evict=connection.evict,
            facts={"outage": connection.options.outage},
            where=where,
            is_answer=connection.is_redirect,
        )
        shares.watch(outage)
        return ScriptRunner(connection, outage, shares)

    def _runner_of_shard(self, cluster: Cluster, shard: Shard) -> ScriptRunner:
        connection = self.connection.at(shard)

        def call() -> BucketCall:
            return self._trial_call(cluster.tag_at(shard, lambda tag: self._trial_call(tag)[0][0]))

        trial = ShardTrial(cluster, shard, self._trial_of(connection, call))
        return self._make_runner(connection, trial, shard.facts)

    def _trial_of(self, connection: RedisConnection, call: Callable[[], BucketCall]) -> ScriptTrial:
        return ScriptTrial(connection, LuaScript(TOKEN_BUCKET.read_text(encoding="utf-8")), call)

    def _trial_call(self, tag: str) -> BucketCall:
        return BucketCodec(_TRIAL, self.connection.options.prefix).encode(tag, 1, 0.0)

    def open(self, quota: Quota, clock: Clock) -> RedisBuckets | ClusterBuckets[ScriptRunner]:
        """Return the buckets of `quota.name`. `clock` paces only the decisions of this process during an outage."""
        codec = BucketCodec(quota, self.connection.options.prefix)

        def open_at(runner: ScriptRunner) -> RedisBuckets:
            return RedisBuckets(quota, codec, runner, runner.shares.open(quota, codec, clock))

        if self._shards is None:
            return open_at(self._runner)
        return ClusterBuckets(self._shards, open_at, codec.redis_key)

    def open_leased(self, quota: Quota, clock: Clock, most: int) -> LeasedBuckets:
        """Return the buckets of `quota.name`, whose tokens are leased.

        Args:
            quota: The name, the rate and the size of the buckets.
            clock: Returns seconds that never go back; paces the leases, and the decisions during an outage.
            most: The most tokens of a key that this instance leases.
        """
        if self._shards is not None:
            reason = "None with redis+cluster://, where the key and its leases may move to another master"
            raise ConfigurationError([Problem("lease", most, reason)])
        codec, runner = BucketCodec(quota, self.connection.options.prefix), self._runner
        exact = RedisBuckets(quota, codec, runner, runner.shares.open(quota, codec, clock))
        return LeasedBuckets(LeaseRule(quota, most), exact, self.connection, runner.outage, clock)

    def open_joint(self, quotas: tuple[Quota, ...], clock: Clock) -> JointRedisBuckets | ClusterBuckets[ScriptRunner]:
        """Return the buckets of several rates with one name. All rates of a key are one value on Redis."""

        def open_at(runner: ScriptRunner) -> JointRedisBuckets:
            shares = runner.shares
            return JointRedisBuckets(quotas, runner.rates, lambda: shares.open_joint(quotas, clock), shares.join)

        if self._shards is None:
            return open_at(self._runner)
        return ClusterBuckets(self._shards, open_at, BucketCodec(quotas[0], self.connection.options.prefix).redis_key)

    def open_windows(self, strategy: str, quota: Quota, clock: Clock) -> RedisWindows | ClusterBuckets[ScriptRunner]:
        """Return the windows of `quota.name`.

        Args:
            strategy: The name of a window, such as `moving-window`.
            quota: The amount and the period.
            clock: Paces only the decisions of this process during an outage.
        """

        def open_at(runner: ScriptRunner) -> RedisWindows:
            shares = runner.shares
            return RedisWindows(
                strategy, quota, runner.rates, lambda: shares.open_windows(strategy, quota, clock), shares.join
            )

        if self._shards is None:
            return open_at(self._runner)
        return ClusterBuckets(self._shards, open_at, BucketCodec(quota, self.connection.options.prefix).redis_key)
