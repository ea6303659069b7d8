"""The buckets of one quota on one Redis, and the parts that all buckets on that Redis share."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import TYPE_CHECKING, Final

from resilience.ratelimit._decision import Decision, JointDecision
from resilience.ratelimit._machine import Quota
from resilience.ratelimit.on_redis._batch_threads import ThreadBatches
from resilience.ratelimit.on_redis._codec import BucketCodec
from resilience.ratelimit.on_redis._rates import RatesRunner, RatesScript
from resilience.ratelimit.on_redis._share import LocalShare, LocalShares
from resilience.redis import LuaScript, OutageGuard, RedisConnection
from resilience.redis._errors import raised
from resilience.redis._exchange import Reply
from resilience.redis._outage import RedisAttempt
from resilience.redis._script import AskingScript

if TYPE_CHECKING:
    from redis.connection import AbstractConnection

    from resilience.ratelimit.on_redis._batch_aio import TaskBatches

__all__ = ("TOKEN_BUCKET", "RedisBuckets", "ScriptRunner")

_NO_CLOCK = 0.0
"""The `made_at` of a decision on Redis; that of a local decision is the time on a monotonic clock."""

TOKEN_BUCKET: Final = Path(__file__).with_name("token_bucket.lua")
"""The script that decides for buckets."""
_REFUND = Path(__file__).with_name("refund.lua")


class ScriptRunner:
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

    def asking(self) -> ScriptRunner:
        """Return a runner for calls whose slot the server is about to get."""
        return ScriptRunner(self.connection, self.outage, self.shares, AskingScript)

    @functools.cached_property
    def task_batches(self) -> TaskBatches:
        """The batches of tasks, made at the first await."""
        from resilience.ratelimit.on_redis._batch_aio import TaskBatches  # noqa: PLC0415 - it imports asyncio

        self.shares.join()
        return TaskBatches(self.connection, self.script, self.outage)


class RedisBuckets:
    """The buckets of one quota on one Redis, and those of this process for an outage."""

    def __init__(self, quota: Quota, codec: BucketCodec, runner: ScriptRunner, share: LocalShare) -> None:
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
        share, redis_key = self._share, self._codec.redis_key(key)
        if len(share.levels) < share.most or redis_key in share.levels:
            share.levels[redis_key] = decision

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
