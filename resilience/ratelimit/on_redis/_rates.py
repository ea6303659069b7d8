"""Buckets of one or several rates on Redis, decided together: payments that may wait for their turn, and looks.

`rates.lua` decides and `withdraw.lua` gives tokens back. All buckets of a key are one value on the server, so one
command pays all rates or none. With one rate, the value is that of `token_bucket.lua`: plain payments, and those that
wait, are made from the same bucket.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from resilience.ratelimit._decision import Decision, JointDecision
from resilience.ratelimit._machine import Quota
from resilience.ratelimit._store import checked_cost, checked_key
from resilience.ratelimit.on_redis._codec import BucketCodec, units_of
from resilience.ratelimit.on_redis._withdrawals import Withdrawals
from resilience.redis import LuaScript, OutageGuard, RedisConnection
from resilience.redis._errors import MALFORMED, raised, unreadable

if TYPE_CHECKING:
    from resilience.ratelimit.on_redis._rates_aio import ShieldedCalls
    from resilience.redis._exchange import Reply
    from resilience.redis._script import ScriptCall

__all__ = ("RatesCodec", "RatesRunner", "RatesScript")

_SCRIPT = Path(__file__).with_name("rates.lua")
_WITHDRAW = Path(__file__).with_name("withdraw.lua")
_WINDOWS = Path(__file__).with_name("windows.lua")
_MAX_EXACT = 2**52


class RatesCodec:
    """The language of some rates: keys and arguments of the scripts, and decisions from their replies. No I/O.

    Args:
        quotas: One for each rate, with one name.
        prefix: The start of every key.
    """

    def __init__(self, quotas: tuple[Quota, ...], prefix: str) -> None:
        self._quotas = quotas
        self._units = [units_of(quota) for quota in quotas]
        self._bucket = BucketCodec(quotas[0], prefix)
        rates = ";".join(f"{each.rate.amount}/{each.rate.period_seconds}" for each in quotas)
        self._suffix = b"" if len(quotas) == 1 else f":{rates}".encode()
        self._rates = tuple(number for units in self._units for number in units)
        self._most_patient = min((_MAX_EXACT - units.capacity) // units.refill for units in self._units)

    def redis_key(self, key: str) -> bytes:
        """Return the Redis key. The hash tag is that of the bucket with one rate."""
        checked_key(key)
        return self._bucket.redis_key(key) + self._suffix

    def encode(self, key: str, cost: int, allowance: float, *, pays: bool) -> ScriptCall:
        """Return the script call that pays `cost` tokens, or that looks whether they would be paid.

        Raises:
            ConfigurationError: `key` or `cost` is not valid.
        """
        checked_cost(cost)
        patience = min(int(allowance * 1e6), self._most_patient)
        return (self.redis_key(key),), (int(pays), cost, patience, *self._rates)

    def encode_withdrawal(self, key: str, decision: JointDecision) -> ScriptCall:
        """Return the script call that gives the tokens of a decision back."""
        numbers = [decision.cost]
        for units, mark in zip(self._units, decision.marks, strict=True):
            numbers += [*units, *mark]
        return (self.redis_key(key),), numbers

    def decode(self, reply: Reply, cost: int, *, pays: bool = True) -> JointDecision:
        """Return the decision. One that was to take nothing has a cost of 0 if the call fits."""
        try:
            if not isinstance(reply, list):
                raise TypeError(type(reply).__name__)
            allowed, *numbers = map(int, reply)
            states = [tuple(numbers[at : at + 3]) for at in range(0, 3 * len(self._units), 3)]
            missing, marks = [state[0] for state in states], tuple((state[1], state[2]) for state in states)
        except MALFORMED as error:
            raise unreadable(error) from error
        paid = cost if pays or not allowed else 0
        parts = [
            Decision.of(quota, paid, allowed=bool(allowed), full_at=units.seconds(lack), made_at=0.0)
            for quota, units, lack in zip(self._quotas, self._units, missing, strict=True)
        ]
        return JointDecision.joining(parts, marks)


class RatesRunner:
    """The parts that the buckets of one store share for payments that may wait.

    Args:
        connection: Gives the connections.
        outage: Records whether Redis answered.
        kind: The class of the scripts.
    """

    def __init__(self, connection: RedisConnection, outage: OutageGuard, kind: type[LuaScript] = LuaScript) -> None:
        self.connection = connection
        self.outage = outage
        self.script = kind(_SCRIPT.read_text(encoding="utf-8"))
        self.windows = kind(_WINDOWS.read_text(encoding="utf-8"))
        self.deletion = kind("return redis.call('DEL', KEYS[1])")
        self.withdrawals = Withdrawals(connection, kind(_WITHDRAW.read_text(encoding="utf-8")), outage)

    @functools.cached_property
    def shielded(self) -> ShieldedCalls:
        """The script calls of tasks, made at the first await."""
        from resilience.ratelimit.on_redis._rates_aio import ShieldedCalls  # noqa: PLC0415 - it imports asyncio

        return ShieldedCalls(self.connection)


class RatesScript:
    """Runs the scripts for the buckets of one name. Each method returns None, or does nothing, during an outage."""

    def __init__(self, quotas: tuple[Quota, ...], runner: RatesRunner) -> None:
        self.codec = RatesCodec(quotas, runner.connection.options.prefix)
        self._runner = runner

    def decide(self, key: str, cost: int, allowance: float = 0.0, *, pays: bool = True) -> JointDecision | None:
        """Return the decision of Redis, blocking this thread for one round trip.

        Args:
            key: Which bucket.
            cost: Tokens to pay.
            allowance: How many seconds the caller is ready to wait for its tokens.
            pays: Whether the tokens are taken; if not, the decision is the one that a payment would get.
        """
        call, runner = self.codec.encode(key, cost, allowance, pays=pays), self._runner
        with runner.outage.attempt() as attempt:
            if attempt.may_try:
                return self.codec.decode(runner.script.run(runner.connection.pool, *call), cost, pays=pays)
        return None

    async def adecide(self, key: str, cost: int, allowance: float = 0.0, *, pays: bool = True) -> JointDecision | None:
        """Return the decision of Redis, suspending this task for one round trip. For the arguments see `decide`.

        If the task is cancelled while Redis decides, the payment goes back when the answer has come.
        """
        call, runner = self.codec.encode(key, cost, allowance, pays=pays), self._runner
        with runner.outage.attempt() as attempt:
            if attempt.may_try:
                reply = await runner.shielded.run(runner.script, call, self._giving_back(key, cost) if pays else None)
                return self.codec.decode(raised(reply), cost, pays=pays)
        return None

    def _giving_back(self, key: str, cost: int) -> Callable[[Reply], None]:
        """Return the function that gives back the payment of a reply for which no task waits any more."""

        def give_back(reply: Reply) -> None:
            if not isinstance(reply, Exception):
                self.give_back(key, self.codec.decode(reply, cost))

        return give_back

    def give_back(self, key: str, decision: JointDecision) -> None:
        """Give the tokens of a decision back, in the background. Never blocks."""
        if decision.is_paid:
            self._runner.withdrawals.add(self.codec.encode_withdrawal(key, decision))

    def refund(self, key: str, decision: JointDecision) -> None:
        """Give the tokens of a decision back, blocking this thread for one round trip."""
        self._runner.withdrawals.run(self.codec.encode_withdrawal(key, decision))

    async def arefund(self, key: str, decision: JointDecision) -> None:
        """Give the tokens of a decision back, suspending this task for one round trip."""
        call, runner = self.codec.encode_withdrawal(key, decision), self._runner
        with runner.outage.attempt() as attempt:
            if attempt.may_try:
                raised(await runner.shielded.run(runner.withdrawals.script, call))
