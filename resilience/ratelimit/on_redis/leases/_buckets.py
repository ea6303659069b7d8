"""Buckets on Redis whose tokens are leased ahead: the usual decision makes no round trip and takes no lock."""

from __future__ import annotations

import functools
import threading
from collections.abc import Generator
from datetime import timedelta
from typing import TYPE_CHECKING, NamedTuple, Protocol, TypeAlias

from resilience.ratelimit._decision import Decision
from resilience.ratelimit._store import checked_cost, stored_key
from resilience.ratelimit._waiting import aacquire_in_turn, acquire_in_turn
from resilience.ratelimit.on_redis.leases._codec import LEASE, LeaseCodec
from resilience.ratelimit.on_redis.leases._keeper import LeaseKeeper
from resilience.ratelimit.on_redis.leases._machine import LeaseRenewal, LeaseRule, TokenLease
from resilience.ratelimit.on_redis.leases._table import LeaseTable, Renewing
from resilience.redis._errors import raised
from resilience.redis._exchange import Reply, exchange, packed

if TYPE_CHECKING:
    from redis.connection import AbstractConnection

    from resilience.clock import Clock
    from resilience.ratelimit.on_redis.leases._renewals_aio import TaskRenewals
    from resilience.redis import OutageGuard, RedisConnection
    from resilience.redis._script import ScriptCall

__all__ = ("LeasedBuckets", "LeasedDecision")

_NO_CLOCK = 0.0
"""The `made_at` of a decision that Redis has made."""


class ExactBuckets(Protocol):
    """The buckets of the same quota without leases."""

    @property
    def allowed(self) -> int: ...
    @property
    def refused(self) -> int: ...
    def forget_counts(self) -> None: ...
    def take(self, key: str = "", cost: int = 1, allowance: float = 0.0) -> Decision: ...
    async def atake(self, key: str = "", cost: int = 1, allowance: float = 0.0) -> Decision: ...
    def peek(self, key: str = "", cost: int = 1) -> Decision: ...
    async def apeek(self, key: str = "", cost: int = 1) -> Decision: ...
    def give_back(self, key: str, decision: Decision) -> None: ...
    def refund(self, key: str, decision: Decision) -> None: ...
    async def arefund(self, key: str, decision: Decision) -> None: ...
    def remember(self, key: str, decision: Decision) -> None: ...
    def reset(self, key: str = "") -> None: ...


class LeasedDecision(Decision):
    """A decision that was made from a lease, on the clock of this process."""

    __slots__ = ()


class TakeExactly(NamedTuple):
    """Ask the server for this payment alone."""

    key: str
    cost: int
    allowance: float


class Renew(NamedTuple):
    """Ask the server for a lease. If `is_ahead`, the caller needs no answer."""

    renewing: Renewing
    is_ahead: bool = False


class WaitFor(NamedTuple):
    """Wait for the renewal of another caller, for a bounded time."""

    renewal: LeaseRenewal


Step: TypeAlias = TakeExactly | Renew | WaitFor
Deciding: TypeAlias = Generator[Step, Decision, Decision]


class LeasedBuckets:
    """The buckets of one quota on one Redis, whose tokens are leased ahead.

    Args:
        rule: The quota, and how large a lease may be.
        exact: The same buckets without leases.
        connection: The Redis to use.
        outage: Records whether Redis answered.
        clock: Returns seconds that never go back.
    """

    def __init__(
        self, rule: LeaseRule, exact: ExactBuckets, connection: RedisConnection, outage: OutageGuard, clock: Clock
    ) -> None:
        self._quota = rule.quota
        self._exact = exact
        self._connection = connection
        self._outage = outage
        self._clock = clock
        self._codec = LeaseCodec(rule.quota, connection.options.prefix)
        self._keeper = LeaseKeeper.of(connection)
        # A renewal takes `timeout` at most, unless its event loop stands still.
        self._table = LeaseTable(rule, lambda: self._keeper.instances, clock, 2 * connection.options.timeout)
        self._allowed = self._refused = 0
        self._keeper.add(self)

    # --- the usual case ---

    def _spend(self, key: str) -> LeasedDecision | None:
        """Spend one leased token, or return None: there is none, or it is time to ask for more."""
        now = self._clock()
        lease = self._table.leases.get(key)
        if lease is None or now >= lease.ends_at or len(tokens := lease.tokens) <= lease.low:
            return None
        try:
            tokens.pop()
        except IndexError:
            return None
        self._allowed += 1
        decision, interval = LeasedDecision(), self._quota.interval
        decision.quota, decision.cost, decision.allowed, decision.made_at = self._quota, 1, True, now
        full_at = lease.full_at - len(tokens) * interval
        decision.full_at = full_at if full_at > now else now + interval  # at least this token is missing
        return decision

    def take(self, key: str = "", cost: int = 1, allowance: float = 0.0) -> Decision:
        """Pay `cost` tokens, with no round trip if they are leased. Never raises because of Redis."""
        if cost == 1 and type(key) is str and (decision := self._spend(key)) is not None:
            return decision
        deciding, answer = self._decide(key, cost, allowance), None
        while True:
            try:
                step = next(deciding) if answer is None else deciding.send(answer)
            except StopIteration as end:
                return end.value  # type: ignore[no-any-return]  # the decision: see `Deciding`
            answer = self._perform(step)

    async def atake(self, key: str = "", cost: int = 1, allowance: float = 0.0) -> Decision:
        """Pay `cost` tokens, suspending this task only if they are not leased. Otherwise like `take`."""
        if cost == 1 and type(key) is str and (decision := self._spend(key)) is not None:
            return decision
        renewals = self._task_renewals
        renewals.require_loop(self._quota.name)
        deciding, answer = self._decide(key, cost, allowance), None
        while True:
            try:
                step = next(deciding) if answer is None else deciding.send(answer)
            except StopIteration as end:
                return end.value  # type: ignore[no-any-return]  # the decision: see `Deciding`
            answer = None
            if isinstance(step, TakeExactly):
                answer = await self._exact.atake(*step)
            elif isinstance(step, WaitFor):
                await renewals.wait(step.renewal)
            else:
                renewals.start(step.renewing)
                if not step.is_ahead:
                    await renewals.wait(step.renewing.renewal)

    def acquire(self, key: str = "", cost: int = 1, wait: float | str | timedelta | None = None) -> Decision:
        """Pay `cost` tokens, or none if they do not fit in time; may block."""
        return self.take(key, cost) if wait is None else acquire_in_turn(self, key, cost, wait)

    async def aacquire(self, key: str = "", cost: int = 1, wait: float | str | timedelta | None = None) -> Decision:
        """Pay `cost` tokens, or none if they do not fit in time; may suspend this task."""
        return await (self.atake(key, cost) if wait is None else aacquire_in_turn(self, key, cost, wait))

    # --- the other cases, for both colours ---

    def _decide(self, key: str, cost: int, allowance: float) -> Deciding:
        """Decide for a call that has found no token at hand: yields each step that may block, and gets its answer."""
        checked_cost(cost)
        lease = self._table.lease_of(stored := stored_key(key))
        if lease is None or cost > self._quota.burst:
            return (yield TakeExactly(key, cost, allowance))
        now = self._clock()
        if lease.spend(cost, now):
            if len(lease.tokens) <= lease.low and (renewal := self._table.begin(lease, 0, now)) is not None:
                yield Renew(Renewing(stored, renewal), is_ahead=True)
            return self._counted(self._decision(lease, cost, now, allowed=True))
        lease.ask(cost)
        if now >= lease.ask_at:
            if not self._table.size(lease, now):
                decision = yield TakeExactly(key, cost, allowance)
                if decision.allowed or allowance or decision.made_at != _NO_CLOCK or self._outage.is_down:
                    return decision
                self._refused -= 1  # the server is asked once more: leases may have ended
            yield self._renewal_of(stored, lease, cost, now)
            now = self._clock()
            if lease.spend(cost, now):
                return self._counted(self._decision(lease, cost, now, allowed=True))
        if allowance or now >= lease.ask_at:  # no answer, or other callers have spent the lease
            return (yield TakeExactly(key, cost, allowance))
        return self._counted(self._decision(lease, cost, now, allowed=False))

    def _renewal_of(self, stored: str, lease: TokenLease, cost: int, now: float) -> Renew | WaitFor:
        """Return the step that brings tokens: this caller asks for them, or waits for the caller that does."""
        renewal = self._table.begin(lease, cost, now)
        if renewal is not None:
            return Renew(Renewing(stored, renewal))
        return WaitFor(lease.renewal or LeaseRenewal.ended(lease, now))

    def _decision(self, lease: TokenLease, cost: int, now: float, *, allowed: bool) -> Decision:
        quota = self._quota
        full_at = lease.full_at - len(lease.tokens) * quota.interval
        if allowed:
            full_at = max(full_at, now + cost * quota.interval)
        else:  # not before the server is asked again
            full_at = max(full_at, lease.ask_at + quota.capacity - cost * quota.interval)
        decision = LeasedDecision()
        decision.quota, decision.cost, decision.allowed = quota, cost, allowed
        decision.full_at, decision.made_at = full_at, now
        return decision

    def _counted(self, decision: Decision) -> Decision:
        if decision.allowed:
            self._allowed += 1
        else:
            self._refused += 1
        return decision

    # --- steps of threads ---

    def _perform(self, step: Step) -> Decision | None:
        if isinstance(step, TakeExactly):
            return self._exact.take(*step)
        if isinstance(step, WaitFor):
            arrived = threading.Event()
            step.renewal.notify(arrived.set)
            arrived.wait(self._connection.options.timeout)
        else:
            self._renew(step.renewing)
        return None

    def _renew(self, renewing: Renewing) -> None:
        """Ask for a lease, blocking this thread for one round trip."""
        call, pool = self.encode(renewing), self._connection.pool

        def ask(connection: AbstractConnection) -> list[Reply]:
            return LEASE.call(connection, (call,))

        try:
            with self._outage.attempt() as attempt:
                if attempt.may_try:
                    self.settle(renewing, (pool.run_if_free(ask) or pool.run(ask))[0])
        finally:
            renewing.renewal.end()

    @functools.cached_property
    def _task_renewals(self) -> TaskRenewals:
        """The renewals of tasks, made at the first await."""
        from resilience.ratelimit.on_redis.leases._renewals_aio import TaskRenewals  # noqa: PLC0415 - it imports asyncio

        return TaskRenewals(self._connection, LEASE, self._outage, self)

    # --- for the keeper, and for the renewals of tasks ---

    def encode(self, renewing: Renewing) -> ScriptCall:
        """Return the script call of a renewal."""
        return self._codec.encode(renewing.key, self._table.instance, renewing.renewal)

    def settle(self, renewing: Renewing, reply: Reply) -> None:
        """Take the reply to a renewal. Raises its error."""
        try:
            answer = self._codec.decode(reply)
            self._table.settle(renewing.renewal, answer)
        finally:
            renewing.renewal.end()
        if answer.granted:
            self._keeper.join()
        self._exact.remember(
            renewing.key, Decision.of(self._quota, 1, allowed=True, full_at=answer.missing, made_at=_NO_CLOCK)
        )

    def idle(self, most: int, /) -> list[Renewing]:
        """Begin the return of leases that are idle."""
        return self._table.idle(most)

    def all(self) -> list[Renewing]:
        """Begin the return of all leases."""
        return self._table.all()

    # --- everything but paying ---

    @property
    def allowed(self) -> int:
        """Decisions for the call."""
        return self._allowed + self._exact.allowed

    @property
    def refused(self) -> int:
        """Decisions against it."""
        return self._refused + self._exact.refused

    def forget_counts(self) -> None:
        """Count decisions from zero."""
        self._allowed = self._refused = 0
        self._exact.forget_counts()

    def peek(self, key: str = "", cost: int = 1) -> Decision:
        """Return whether `cost` tokens would be paid now: with no round trip if they are leased, or refused here."""
        found, at_hand = self._seen(key, cost)
        if found is not None:
            return found
        return self._with_leased(self._exact.peek(key, max(1, cost - at_hand)), cost, at_hand)

    async def apeek(self, key: str = "", cost: int = 1) -> Decision:
        """Return whether `cost` tokens would be paid now, suspending this task if they are not leased."""
        found, at_hand = self._seen(key, cost)
        if found is not None:
            return found
        return self._with_leased(await self._exact.apeek(key, max(1, cost - at_hand)), cost, at_hand)

    def _seen(self, key: str, cost: int) -> tuple[Decision | None, int]:
        """Return the decision that this process can make alone, and the tokens at hand."""
        checked_cost(cost)
        lease, now = self._table.leases.get(stored_key(key)), self._clock()
        if lease is None:
            return None, 0
        at_hand = len(lease.tokens) if now < lease.ends_at else 0
        if at_hand >= cost:
            found = self._decision(lease, 0, now, allowed=True)
            return found, at_hand
        return (self._decision(lease, cost, now, allowed=False) if now < lease.ask_at else None), at_hand

    def _with_leased(self, found: Decision, cost: int, at_hand: int) -> Decision:
        """Return what the server says, with the tokens at hand. A decision without the server stands."""
        if not at_hand or found.made_at != _NO_CLOCK:
            return found
        full_at = found.full_at - at_hand * self._quota.interval
        paid = 0 if found.allowed else cost
        return Decision.of(self._quota, paid, allowed=found.allowed, full_at=full_at, made_at=_NO_CLOCK)

    def give_back(self, key: str, decision: Decision) -> None:
        """Give the tokens of a call that waited back. Never blocks. A leased token has no wait."""
        if not self._put_back(key, decision):
            self._exact.give_back(key, decision)

    def refund(self, key: str, decision: Decision) -> None:
        """Undo a payment: leased tokens can be spent again; if their lease has ended, they go back to Redis."""
        if not self._put_back(key, decision):
            self._exact.refund(key, self._as_exact(decision))

    async def arefund(self, key: str, decision: Decision) -> None:
        """Undo a payment without blocking the thread. Otherwise like `refund`."""
        if not self._put_back(key, decision):
            await self._exact.arefund(key, self._as_exact(decision))

    def _put_back(self, key: str, decision: Decision) -> bool:
        lease = self._table.leases.get(stored_key(key)) if isinstance(decision, LeasedDecision) else None
        return lease is not None and lease.put_back(decision.cost, self._clock())

    def _as_exact(self, decision: Decision) -> Decision:
        if not isinstance(decision, LeasedDecision):
            return decision
        return Decision.of(self._quota, decision.cost, allowed=True, full_at=decision.reset_after, made_at=_NO_CLOCK)

    def reset(self, key: str = "") -> None:
        """Fill the bucket of `key`, and drop its lease. The leases of other instances end by themselves."""
        self._table.drop(stored_key(key))
        self._exact.reset(key)
        command = packed(b"DEL", *self._codec.keys(key))
        with self._outage.attempt() as attempt:
            if attempt.may_try:
                raised(self._connection.pool.run(lambda link: exchange(link, (command,)))[0])
