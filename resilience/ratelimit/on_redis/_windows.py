"""Windows on Redis, and those of this process for an outage."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from resilience.ratelimit._decision import Decision
from resilience.ratelimit._machine import Quota
from resilience.ratelimit._rate import Rate
from resilience.ratelimit._store import checked_cost, checked_key
from resilience.ratelimit.on_redis._codec import BucketCodec
from resilience.ratelimit.on_redis._rates import RatesRunner
from resilience.ratelimit.windows._decision import WindowDecision
from resilience.ratelimit.windows._machine import Found
from resilience.ratelimit.windows._memory import MemoryWindows
from resilience.redis._errors import MALFORMED, raised, unreadable

if TYPE_CHECKING:
    from resilience.redis._exchange import Reply
    from resilience.redis._script import ScriptCall

__all__ = ("RedisWindows", "share_of_window")


def share_of_window(quota: Quota, instances: int) -> Quota:
    """Return the quota of one of `instances`: a part of the amount, at least 1, in the same period."""
    amount = max(1, quota.burst // instances)
    return Quota(quota.name, Rate(amount, quota.rate.period_seconds), amount)


class RedisWindows:
    """The windows of one name, strategy and rate on one Redis. A call is one round trip of its own.

    Args:
        strategy: How calls are counted.
        quota: The amount and the period.
        runner: Runs the script.
        open_local: Returns the windows of this process, for the number of instances that are alive.
        join: Has this instance counted, so that the others know their share during an outage.
    """

    def __init__(
        self,
        strategy: str,
        quota: Quota,
        runner: RatesRunner,
        open_local: Callable[[], MemoryWindows],
        join: Callable[[], None],
    ) -> None:
        self._strategy, self._quota, self._runner = strategy, quota, runner
        self._local, self._join = open_local, join
        self._codec = BucketCodec(quota, runner.connection.options.prefix)
        self._suffix = f":{strategy}:{quota.rate.amount}/{quota.rate.period_seconds}".encode()
        self.allowed = self.refused = 0

    def take(self, key: str = "", cost: int = 1, allowance: float = 0.0) -> Decision:  # noqa: ARG002 - a window gives no turns
        """Count a call of `cost` if it fits, blocking this thread for one round trip. Never raises because of Redis."""
        return self._counted(self._decide(key, cost, pays=True))

    async def atake(self, key: str = "", cost: int = 1, allowance: float = 0.0) -> Decision:  # noqa: ARG002 - a window gives no turns
        """Count a call of `cost` if it fits, suspending this task for one round trip. Otherwise like `take`."""
        return self._counted(await self._adecide(key, cost, pays=True))

    def peek(self, key: str = "", cost: int = 1) -> Decision:
        """Return whether a call of `cost` would fit now, blocking this thread for one round trip."""
        return self._decide(key, cost, pays=False)

    async def apeek(self, key: str = "", cost: int = 1) -> Decision:
        """Return whether a call of `cost` would fit now, suspending this task for one round trip."""
        return await self._adecide(key, cost, pays=False)

    def _decide(self, key: str, cost: int, *, pays: bool) -> Decision:
        self._join()
        call, runner = self._encode(key, cost, pays=pays), self._runner
        with runner.outage.attempt() as attempt:
            if attempt.may_try:
                return self._decode(runner.windows.run(runner.connection.pool, *call), cost)
        return self.without_redis(key, cost, 0.0 if pays else None)

    async def _adecide(self, key: str, cost: int, *, pays: bool) -> Decision:
        self._join()
        call, runner = self._encode(key, cost, pays=pays), self._runner
        with runner.outage.attempt() as attempt:
            if attempt.may_try:
                return self._decode(raised(await runner.shielded.run(runner.windows, call)), cost)
        return self.without_redis(key, cost, 0.0 if pays else None)

    def _key(self, key: str) -> bytes:
        return self._codec.redis_key(key) + self._suffix

    def _encode(self, key: str, cost: int, *, pays: bool) -> ScriptCall:
        checked_key(key)
        checked_cost(cost)
        amount, fits = self._quota.burst, cost <= self._quota.burst
        period = self._quota.rate.period_seconds * 1_000_000
        return (self._key(key),), (self._strategy, amount, period, min(cost, amount), int(pays and fits))

    def _decode(self, reply: Reply, cost: int) -> WindowDecision:
        try:
            if not isinstance(reply, list):
                raise TypeError(type(reply).__name__)
            allowed, used, retry, reset = map(int, reply)
        except MALFORMED as error:
            raise unreadable(error) from error
        fits = bool(allowed) and cost <= self._quota.burst
        return WindowDecision.from_window(self._quota, cost, Found(fits, used / 1e3, retry / 1e6, reset / 1e6))

    def without_redis(self, key: str, cost: int, allowance: float | None) -> Decision:
        """Decide as the `outage` option says; count nothing if `allowance` is None."""
        outage = self._runner.connection.options.outage
        if outage == "local":
            local = self._local()
            return local.peek(key, cost) if allowance is None else local.take(key, cost)
        if outage == "allow":
            return WindowDecision.from_window(self._quota, cost, Found(True, 0.0, 0.0, 0.0))
        wait = self._runner.outage.trial_after
        return WindowDecision.from_window(self._quota, cost, Found(False, self._quota.burst, wait, wait))

    def _counted(self, decision: Decision) -> Decision:
        if decision.allowed:
            self.allowed += 1
        else:
            self.refused += 1
        return decision

    def give_back(self, key: str, decision: Decision) -> None:
        """Do nothing: no call waits for a window."""

    def refund(self, key: str, decision: Decision) -> None:
        """Do nothing: windows give nothing back."""

    async def arefund(self, key: str, decision: Decision) -> None:
        """Do nothing: windows give nothing back."""

    def reset(self, key: str = "") -> None:
        """Forget the calls of `key`, here and on Redis if it can be reached. Blocks for up to the timeout."""
        self._local().reset(key)
        with self._runner.outage.attempt() as attempt:
            if attempt.may_try:
                self._runner.deletion.run(self._runner.connection.pool, (self._key(key),), ())

    def forget_counts(self) -> None:
        """Count decisions from zero."""
        self.allowed = self.refused = 0
