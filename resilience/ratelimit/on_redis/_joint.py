"""Buckets of several rates on Redis, and those of this process for an outage: a call pays all rates or none."""

from __future__ import annotations

from collections.abc import Callable

from resilience.ratelimit._decision import Decision, JointDecision
from resilience.ratelimit._joint_memory import JointMemoryBuckets
from resilience.ratelimit._machine import Quota
from resilience.ratelimit.on_redis._rates import RatesRunner, RatesScript

__all__ = ("JointRedisBuckets",)

OpenLocal = Callable[[], JointMemoryBuckets]


class JointRedisBuckets:
    """The buckets of one name under several quotas.

    Args:
        quotas: One for each rate.
        runner: Runs the scripts.
        open_local: Returns the buckets of this process, for the number of instances that are alive.
        join: Has this instance counted, so that the others know their share during an outage.
    """

    def __init__(
        self, quotas: tuple[Quota, ...], runner: RatesRunner, open_local: OpenLocal, join: Callable[[], None]
    ) -> None:
        self._quotas = quotas
        self._runner = runner
        self._script = RatesScript(quotas, runner)
        self._local = open_local
        self._join = join
        self.allowed = self.refused = 0

    def take(self, key: str = "", cost: int = 1, allowance: float = 0.0) -> Decision:
        """Pay `cost` tokens of each rate, blocking this thread for one round trip. Never raises because of Redis."""
        self._join()
        decision = self._script.decide(key, cost, allowance)
        return self._counted(self.without_redis(key, cost, allowance) if decision is None else decision)

    async def atake(self, key: str = "", cost: int = 1, allowance: float = 0.0) -> Decision:
        """Pay `cost` tokens of each rate, suspending this task for one round trip. Otherwise like `take`."""
        self._join()
        decision = await self._script.adecide(key, cost, allowance)
        return self._counted(self.without_redis(key, cost, allowance) if decision is None else decision)

    def peek(self, key: str = "", cost: int = 1) -> Decision:
        """Return whether `cost` tokens of each rate would be paid now, blocking this thread for one round trip."""
        found = self._script.decide(key, cost, pays=False)
        return self.without_redis(key, cost, None) if found is None else found

    async def apeek(self, key: str = "", cost: int = 1) -> Decision:
        """Return whether `cost` tokens of each rate would be paid now, suspending this task for one round trip."""
        found = await self._script.adecide(key, cost, pays=False)
        return self.without_redis(key, cost, None) if found is None else found

    def without_redis(self, key: str, cost: int, allowance: float | None) -> Decision:
        """Decide as the `outage` option says; take nothing if `allowance` is None."""
        outage = self._runner.connection.options.outage
        if outage == "local":
            local = self._local()
            return local.peek(key, cost) if allowance is None else local.take(key, cost, allowance)
        if outage == "allow":
            parts = [Decision.of(each, cost, allowed=True, full_at=0.0, made_at=0.0) for each in self._quotas]
        else:
            parts = [Decision.refusal(each, cost, self._runner.outage.trial_after) for each in self._quotas]
        return JointDecision.joining(parts)

    def _counted(self, decision: Decision) -> Decision:
        if decision.allowed:
            self.allowed += 1
        else:
            self.refused += 1
        return decision

    def forget_counts(self) -> None:
        """Count decisions from zero."""
        self.allowed = self.refused = 0

    def give_back(self, key: str, decision: Decision) -> None:
        """Give the tokens of a call that waited back, in the background. Never blocks."""
        if isinstance(decision, JointDecision) and decision.marks:
            self._script.give_back(key, decision)
        else:
            self._local().give_back(key, decision)

    def refund(self, key: str, decision: Decision) -> None:
        """Undo a payment, in Redis or in this process, and block for one round trip. During an outage it stands."""
        if isinstance(decision, JointDecision) and decision.marks:
            self._script.refund(key, decision)
        else:
            self._local().refund(key, decision)

    async def arefund(self, key: str, decision: Decision) -> None:
        """Undo a payment, and suspend this task for one round trip. Otherwise like `refund`."""
        if isinstance(decision, JointDecision) and decision.marks:
            await self._script.arefund(key, decision)
        else:
            self._local().refund(key, decision)

    def reset(self, key: str = "") -> None:
        """Fill the buckets of `key`, here and on Redis if it can be reached. Blocks for up to the timeout."""
        self._local().reset(key)
        with self._runner.outage.attempt() as attempt:
            if attempt.may_try:
                self._runner.deletion.run(self._runner.connection.pool, (self._script.codec.redis_key(key),), ())
