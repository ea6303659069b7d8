"""Buckets on Redis, shared by all processes that use it."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from resilience.clock import Clock, monotonic
from resilience.errors import ConfigurationError, Problem
from resilience.events import Emitter
from resilience.ratelimit._decision import Decision, JointDecision
from resilience.ratelimit._machine import Quota
from resilience.ratelimit._rate import as_rate
from resilience.ratelimit.on_redis._batch_threads import ThreadBatches
from resilience.ratelimit.on_redis._cluster import ClusterBuckets, ClusterRunners
from resilience.ratelimit.on_redis._codec import BucketCall, BucketCodec
from resilience.ratelimit.on_redis._joint import JointRedisBuckets
from resilience.ratelimit.on_redis._rates import RatesRunner, RatesScript
from resilience.ratelimit.on_redis._share import LocalShare, LocalShares
from resilience.ratelimit.on_redis._windows import RedisWindows
from resilience.ratelimit.on_redis.leases._buckets import LeasedBuckets
from resilience.ratelimit.on_redis.leases._machine import LeaseRule
from resilience.redis import LuaScript, OutageGuard, RedisConnection
from resilience.redis._errors import raised
from resilience.redis._exchange import Reply
from resilience.redis._outage import RedisAttempt
from resilience.redis._script import AskingScript
from resilience.redis._trial import ScriptTrial
from resilience.redis.cluster._trial import ShardTrial, UnassignedTrial

if TYPE_CHECKING:
    from redis.connection import AbstractConnection

    from resilience.ratelimit.on_redis._batch_aio import TaskBatches
    from resilience.redis.cluster._cluster import Cluster, Shard

__all__ = ("TOKEN_BUCKET", "RedisBuckets", "RedisStore")

_NO_CLOCK = 0.0
"""The `made_at` of a decision on Redis; that of a local decision is the time on a monotonic clock."""

_TRIAL = Quota(".probe", as_rate("1000/second"), 1000)
"""The bucket of trials during an outage. No limiter can have its name, and it is always full."""

TOKEN_BUCKET: Final = Path(__file__).with_name("token_bucket.lua")
"""The script that decides for buckets."""
_ANYWHERE: Final[Mapping[str, object]] = MappingProxyType({})
_REFUND = Path(__file__).with_name("refund.lua")


class _ScriptRunner:
    """The parts that all buckets of one store share: the connection, the script, the outage and the batches."""

    def __init__(
        self,
        connection: RedisConnection,
        outage: OutageGuard,
        shares: LocalShares,
        kind: type[LuaScript] = LuaScript,
    ) -> None:
        self.connection = connection
        self.shares = shares
        self.outage = outage
        self.script = kind(TOKEN_BUCKET.read_text(encoding="utf-8"))
        self.refunds = kind(_REFUND.read_text(encoding="utf-8"))
        self.rates = RatesRunner(connection, outage, kind)
        self.thread_batches = ThreadBatches(connection, self.script)

    def asking(self) -> _ScriptRunner:
        """Return a runner for calls whose slot the server is about to get."""
        return _ScriptRunner(self.connection, self.outage, self.shares, AskingScript)

    @functools.cached_property
    def task_batches(self) -> TaskBatches:
        """The batches of tasks, made at the first await."""
        from resilience.ratelimit.on_redis._batch_aio import TaskBatches  # noqa: PLC0415 - it imports asyncio

        self.shares.join()
        return TaskBatches(self.connection, self.script, self.outage)


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
            self._shards: ClusterRunners[_ScriptRunner] | None = None
        else:
            self._runner = self._make_runner(connection, UnassignedTrial(connection, cluster), cluster.unassigned.facts)
            make = functools.partial(self._runner_of_shard, cluster)
            self._shards = ClusterRunners(connection, cluster, self._runner, make, _ScriptRunner.asking)
        self.outage = self._shards or self._runner.outage

    def _make_runner(
        self, connection: RedisConnection, trial: Callable[[], bool], where: Mapping[str, object] = _ANYWHERE
    ) -> _ScriptRunner:
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
        return _ScriptRunner(connection, outage, shares)

    def _runner_of_shard(self, cluster: Cluster, shard: Shard) -> _ScriptRunner:
        connection = self.connection.at(shard)

        def call() -> BucketCall:
            return self._trial_call(cluster.tag_at(shard, lambda tag: self._trial_call(tag)[0][0]))

        trial = ShardTrial(cluster, shard, self._trial_of(connection, call))
        return self._make_runner(connection, trial, shard.facts)

    def _trial_of(self, connection: RedisConnection, call: Callable[[], BucketCall]) -> ScriptTrial:
        return ScriptTrial(connection, LuaScript(TOKEN_BUCKET.read_text(encoding="utf-8")), call)

    def _trial_call(self, tag: str) -> BucketCall:
        return BucketCodec(_TRIAL, self.connection.options.prefix).encode(tag, 1, 0.0)

    def open(self, quota: Quota, clock: Clock) -> RedisBuckets | ClusterBuckets[_ScriptRunner]:
        """Return the buckets of `quota.name`. `clock` paces only the decisions of this process during an outage."""
        codec = BucketCodec(quota, self.connection.options.prefix)

        def open_at(runner: _ScriptRunner) -> RedisBuckets:
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

    def open_joint(self, quotas: tuple[Quota, ...], clock: Clock) -> JointRedisBuckets | ClusterBuckets[_ScriptRunner]:
        """Return the buckets of several rates with one name. All rates of a key are one value on Redis."""

        def open_at(runner: _ScriptRunner) -> JointRedisBuckets:
            shares = runner.shares
            return JointRedisBuckets(quotas, runner.rates, lambda: shares.open_joint(quotas, clock), shares.join)

        if self._shards is None:
            return open_at(self._runner)
        return ClusterBuckets(self._shards, open_at, BucketCodec(quotas[0], self.connection.options.prefix).redis_key)

    def open_windows(self, strategy: str, quota: Quota, clock: Clock) -> RedisWindows | ClusterBuckets[_ScriptRunner]:
        """Return the windows of `quota.name`.

        Args:
            strategy: The name of a window, such as `moving-window`.
            quota: The amount and the period.
            clock: Paces only the decisions of this process during an outage.
        """

        def open_at(runner: _ScriptRunner) -> RedisWindows:
            shares = runner.shares
            return RedisWindows(
                strategy, quota, runner.rates, lambda: shares.open_windows(strategy, quota, clock), shares.join
            )

        if self._shards is None:
            return open_at(self._runner)
        return ClusterBuckets(self._shards, open_at, BucketCodec(quota, self.connection.options.prefix).redis_key)


class RedisBuckets:
    """The buckets of one quota on one Redis, and those of this process for an outage."""

    def __init__(self, quota: Quota, codec: BucketCodec, runner: _ScriptRunner, share: LocalShare) -> None:
        self._quota = quota
        self._codec = codec
        self._runner = runner
        self._rates = RatesScript((quota,), runner.rates)
        self._outage = runner.outage
        self._share = share
        self._allowed = self._refused = 0

    @property
    def allowed(self) -> int:
        """Decisions for the call, by Redis or without it."""
        return self._allowed + self._share.buckets.allowed

    @property
    def refused(self) -> int:
        """Decisions against it, by Redis or without it."""
        return self._refused + self._share.buckets.refused

    def forget_counts(self) -> None:
        """Count decisions from zero."""
        self._allowed = self._refused = 0
        self._share.buckets.forget_counts()

    def remember(self, key: str, decision: Decision) -> None:
        """Keep the level of a bucket for an outage, as a decision on a lease says."""
        share = self._share
        if len(share.levels) < share.most:
            share.levels[self._codec.redis_key(key)] = decision

    def _counted(self, redis_key: bytes, decision: Decision) -> Decision:
        share = self._share
        levels = share.levels
        if len(levels) < share.most or redis_key in levels:
            levels[redis_key] = decision
        if decision.allowed:
            self._allowed += 1
        else:
            self._refused += 1
        return decision

    def take(self, key: str = "", cost: int = 1, allowance: float = 0.0) -> Decision:
        """Pay `cost` tokens, blocking this thread for one round trip. Never raises because of Redis."""
        if allowance:
            return self._take_patiently(key, cost, allowance)
        runner, codec = self._runner, self._codec
        call = codec.encode(key, cost, allowance)
        permit = self._outage.admit()
        if permit is not None:

            def ask(connection: AbstractConnection) -> list[Reply]:
                return runner.script.call(connection, (call,))

            with RedisAttempt(self._outage, permit):
                batches = runner.thread_batches
                replies = None if batches.is_forming else runner.connection.pool.run_if_free(ask)
                if replies is not None:
                    return self._counted(call[0][0], codec.decode(raised(replies[0]), cost))
                runner.shares.join()  # here: the first call of a process finds no connection
                decision = batches.decide(codec, permit, call, cost)
                if decision is not None:
                    return self._counted(call[0][0], decision)
        return self._decide_locally(key, cost, allowance)

    async def atake(self, key: str = "", cost: int = 1, allowance: float = 0.0) -> Decision:
        """Pay `cost` tokens, suspending this task for a round trip that others may share. Otherwise like `take`."""
        if allowance:
            return await self._atake_patiently(key, cost, allowance)
        batches = self._runner.task_batches
        loop = batches.running_loop(self._quota.name)  # also during an outage: a call must not depend on that
        call = self._codec.encode(key, cost, allowance)
        permit = self._outage.admit()
        if permit is not None:
            batch = batches.batch_of(loop, permit)  # held here: a loop keeps no task alive by itself
            decision = await batch.join(self._codec, call, cost)
            if decision is not None:
                return self._counted(call[0][0], decision)
        return self._decide_locally(key, cost, allowance)

    def _take_patiently(self, key: str, cost: int, allowance: float) -> Decision:
        """Pay without a wait if that is possible; else book a turn, in a second round trip.

        The first round trip is one that callers may share. The second one returns the place of the payment in
        line, so that it can be given back.
        """
        decision = self.take(key, cost)
        if not _may_book(decision, allowance):
            return decision
        booked = self._rates.decide(key, cost, allowance) if decision.made_at == _NO_CLOCK else None
        return self._booked(booked, key, cost, allowance)

    async def _atake_patiently(self, key: str, cost: int, allowance: float) -> Decision:
        """Pay without blocking the thread. Otherwise like `_take_patiently`."""
        decision = await self.atake(key, cost)
        if not _may_book(decision, allowance):
            return decision
        booked = await self._rates.adecide(key, cost, allowance) if decision.made_at == _NO_CLOCK else None
        return self._booked(booked, key, cost, allowance)

    def _booked(self, decision: Decision | None, key: str, cost: int, allowance: float) -> Decision:
        """Return the second decision about a call, and count it in place of the first, a refusal."""
        self._refused -= 1
        return (
            self._decide_locally(key, cost, allowance)
            if decision is None
            else self._counted(self._codec.redis_key(key), decision)
        )

    def peek(self, key: str = "", cost: int = 1) -> Decision:
        """Return whether `cost` tokens would be paid now, blocking this thread for one round trip."""
        found = self._rates.decide(key, cost, pays=False)
        return self._peek_locally(key, cost) if found is None else found

    async def apeek(self, key: str = "", cost: int = 1) -> Decision:
        """Return whether `cost` tokens would be paid now, suspending this task for one round trip."""
        found = await self._rates.adecide(key, cost, pays=False)
        return self._peek_locally(key, cost) if found is None else found

    def without_redis(self, key: str, cost: int, allowance: float | None) -> Decision:
        """Decide as the `outage` option says; take nothing if `allowance` is None."""
        return self._peek_locally(key, cost) if allowance is None else self._decide_locally(key, cost, allowance)

    def _peek_locally(self, key: str, cost: int) -> Decision:
        """Decide without Redis and without taking anything, as the `outage` option says."""
        outage = self._runner.connection.options.outage
        if outage == "local":
            return self._share.peek(key, cost)
        if outage == "allow":
            return Decision.of(self._quota, cost, allowed=True, full_at=0.0, made_at=0.0)
        return Decision.refusal(self._quota, cost, self._outage.trial_after)

    def _decide_locally(self, key: str, cost: int, allowance: float) -> Decision:
        """Decide without Redis, as the `outage` option says."""
        outage = self._runner.connection.options.outage
        self._runner.shares.join()
        if outage == "local":
            return self._share.take(key, cost, allowance)
        if outage == "allow":
            return self._counted(b"", Decision.of(self._quota, cost, allowed=True, full_at=0.0, made_at=0.0))
        return self._counted(b"", Decision.refusal(self._quota, cost, self._outage.trial_after))

    def give_back(self, key: str, decision: Decision) -> None:
        """Give the tokens of a call that waited back, in the background. Never blocks."""
        if isinstance(decision, JointDecision):
            self._rates.give_back(key, decision)
        elif decision.made_at != _NO_CLOCK:
            self._share.buckets.give_back(key, decision)

    def refund(self, key: str, decision: Decision) -> None:
        """Undo a payment, in Redis or in this process, and block for one round trip. During an outage it stands."""
        if decision.made_at != _NO_CLOCK:
            self._share.buckets.refund(key, decision)
            return
        if isinstance(decision, JointDecision):
            self._rates.refund(key, decision)
            return
        with self._outage.attempt() as attempt:
            if attempt.may_try:
                self._runner.refunds.run(self._runner.connection.pool, *self._codec.encode_refund(key, decision.cost))

    async def arefund(self, key: str, decision: Decision) -> None:
        """Undo a payment, and suspend this task for one round trip. Otherwise like `refund`."""
        if decision.made_at != _NO_CLOCK:
            self._share.buckets.refund(key, decision)
            return
        if isinstance(decision, JointDecision):
            await self._rates.arefund(key, decision)
            return
        script, calls = self._runner.refunds, (self._codec.encode_refund(key, decision.cost),)
        with self._outage.attempt() as attempt:
            if attempt.may_try:
                raised((await self._runner.connection.aio_pool.run(lambda link: script.acall(link, calls)))[0])

    def reset(self, key: str = "") -> None:
        """Fill the bucket of `key`, here and on Redis if it can be reached. Blocks for up to the timeout."""
        self._share.reset(key)
        script, calls = self._runner.rates.deletion, (((self._codec.redis_key(key),), ()),)

        def delete(connection: AbstractConnection) -> list[Reply]:
            return script.call(connection, calls)

        with self._outage.attempt() as attempt:
            if attempt.may_try:
                pool = self._runner.connection.pool
                raised((pool.run_if_free(delete) or pool.run(delete))[0])


def _may_book(decision: Decision, allowance: float) -> bool:
    """Whether a call that was refused would get a turn within `allowance` seconds."""
    wait = decision.retry_after
    return not decision.allowed and wait is not None and wait <= allowance
