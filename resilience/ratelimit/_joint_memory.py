"""Buckets of several rates in the memory of this process: a call pays all rates or none.

The buckets of a key are one tuple, which is replaced as a whole: an interrupt never leaves one rate paid and another
one not.
"""

from __future__ import annotations

import threading
from itertools import islice

from resilience._support.fork import renew_after_fork
from resilience.clock import Clock
from resilience.ratelimit._decision import Decision, JointDecision
from resilience.ratelimit._machine import Quota, Withdrawal
from resilience.ratelimit._store import checked_cost, stored_key

__all__ = ("JointMemoryBuckets", "JointTable")

_CHECKS_PER_KEY = 2
_CANDIDATES = 8


class JointTable:
    """The buckets of some rates by rates and key, at most `max_keys`. Its callers hold the lock.

    Args:
        max_keys: The largest number of keys. Beyond it, the buckets nearest to full among eight are forgotten.
    """

    __slots__ = ("__weakref__", "_max_keys", "_states", "lock", "notes")

    def __init__(self, max_keys: int) -> None:
        self._max_keys = max_keys
        self._states: dict[str, tuple[float, ...]] = {}
        self.notes: dict[str, list[list[Withdrawal]]] = {}
        """For each key with cancelled calls that others wait behind: their payments, for each rate."""
        self.after_fork()
        renew_after_fork(self)

    def after_fork(self) -> None:
        """Keep the buckets, under a new lock that no thread holds."""
        self.lock = threading.RLock()  # re-entrant, for finalizers that make calls

    def after_test(self) -> None:
        """Forget all buckets: each of them is full again."""
        with self.lock:
            self._states.clear()
            self.notes.clear()

    def find(self, key: str) -> tuple[float, ...] | None:
        """Return the times at which the buckets of a key are full; None if they are full."""
        return self._states.get(key)

    def keep(self, key: str, state: tuple[float, ...], now: float) -> None:
        """Keep the buckets of a key, and forget some that are full again."""
        states = self._states
        if key not in states:
            for oldest in list(islice(states, _CHECKS_PER_KEY)):
                before = states.pop(oldest)
                if max(before) > now:
                    states[oldest] = before  # at the end of the line
                else:
                    self.notes.pop(oldest, None)
            while len(states) >= self._max_keys:
                fullest = min(islice(states, _CANDIDATES), key=lambda each: max(states[each]))
                del states[fullest]
                self.notes.pop(fullest, None)
        states[key] = state

    def drop(self, key: str) -> None:
        """Forget the buckets of a key: they are full."""
        self._states.pop(key, None)
        self.notes.pop(key, None)

    def __len__(self) -> int:
        return len(self._states)


class JointMemoryBuckets:
    """The buckets of one name, under several quotas.

    Args:
        quotas: One for each rate.
        clock: Returns seconds that never go back.
        table: The buckets of the name. Rates that are computed share one table, so their number takes no memory.
        rates: Those whose buckets these are, as text.
    """

    __slots__ = ("_clock", "_quotas", "_rates", "_table", "allowed", "refused")

    def __init__(self, quotas: tuple[Quota, ...], clock: Clock, table: JointTable, rates: str) -> None:
        self._quotas = quotas
        self._clock = clock
        self._table = table
        self._rates = rates
        self.allowed = self.refused = 0

    def _stored(self, key: str) -> str:
        """Return the key in the table. No rate contains the separator, so no two pairs have one text."""
        return f"{self._rates}\0{stored_key(key)}"

    def take(self, key: str = "", cost: int = 1, allowance: float = 0.0) -> Decision:
        """Pay `cost` tokens of each rate, or none if they do not fit within `allowance` seconds."""
        decision = self._decide(key, cost, allowance, pays=True)
        if decision.allowed:
            self.allowed += 1
        else:
            self.refused += 1
        return decision

    async def atake(self, key: str = "", cost: int = 1, allowance: float = 0.0) -> Decision:
        """Pay `cost` tokens of each rate, or none; never suspends. For the arguments see `take`."""
        return self.take(key, cost, allowance)

    def peek(self, key: str = "", cost: int = 1) -> Decision:
        """Return whether `cost` tokens of each rate would be paid now, and the state of the buckets."""
        return self._decide(key, cost, 0.0, pays=False)

    async def apeek(self, key: str = "", cost: int = 1) -> Decision:
        """Return whether `cost` tokens of each rate would be paid now; never suspends."""
        return self.peek(key, cost)

    def look(self, key: str = "") -> Decision:
        """Return the state of the buckets, taking nothing."""
        table, stored = self._table, self._stored(key)
        with table.lock:
            now = self._clock()
            state = table.find(stored) or (now,) * len(self._quotas)
        return JointDecision.joining(
            [
                Decision.of(quota, 0, allowed=True, full_at=full_at, made_at=now)
                for quota, full_at in zip(self._quotas, state, strict=True)
            ]
        )

    def _decide(self, key: str, cost: int, allowance: float, *, pays: bool) -> JointDecision:
        key = self._stored(key)
        checked_cost(cost)
        quotas, table = self._quotas, self._table
        with table.lock:
            now = self._clock()
            before = table.find(key) or (now,) * len(quotas)
            payments = [
                quota.spend(full_at, now, cost, allowance) for quota, full_at in zip(quotas, before, strict=True)
            ]
            allowed = all(payment.is_paid for payment in payments)
            after = tuple(payment.full_at for payment in payments) if allowed and pays else before
            if after is not before:
                table.keep(key, after, now)
        paid = cost if pays or not allowed else 0
        return JointDecision.joining(
            [
                Decision.of(quota, paid, allowed=allowed, full_at=full_at, made_at=now)
                for quota, full_at in zip(quotas, after, strict=True)
            ]
        )

    def give_back(self, key: str, decision: Decision) -> None:
        """Undo the payment of a call that does not take place."""
        self.refund(key, decision)

    def refund(self, key: str, decision: Decision) -> None:
        """Undo a payment of each rate, as `Quota.withdrawn` says. Buckets that are gone were full."""
        key, table = self._stored(key), self._table
        if not isinstance(decision, JointDecision):
            return
        with table.lock:
            now, before = self._clock(), table.find(key)
            if before is None:
                return
            notes = table.notes.get(key) or [[] for _ in before]
            undone = [
                quota.withdrawn(full_at, now, part.full_at, part.cost, noted)
                for quota, full_at, part, noted in zip(self._quotas, before, decision.parts, notes, strict=True)
            ]
            table.keep(key, tuple(undone), now)
            if any(notes):
                table.notes[key] = notes
            else:
                table.notes.pop(key, None)

    async def arefund(self, key: str, decision: Decision) -> None:
        """Undo a payment; never suspends."""
        self.refund(key, decision)

    def reset(self, key: str = "") -> None:
        """Fill the buckets of `key`."""
        key = self._stored(key)
        with self._table.lock:
            self._table.drop(key)

    def forget_counts(self) -> None:
        """Count decisions from zero."""
        self.allowed = self.refused = 0
