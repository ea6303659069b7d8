"""Buckets in this process."""

from __future__ import annotations

import threading
from collections.abc import Coroutine
from typing import Any

from resilience._fork import renew_after_fork
from resilience.clock import Clock
from resilience.errors import ConfigurationError, Problem
from resilience.options import Refused, Whole
from resilience.ratelimit._decision import Decision
from resilience.ratelimit._key import checked_cost, stored_key
from resilience.ratelimit._machine import Quota, Table

__all__ = ("MemoryLedger", "MemoryStore")

_MAX_KEYS = Whole(1, 100_000_000)


class MemoryStore:
    """Keeps at most `max_keys` buckets per name in this process; those that are full again are forgotten."""

    waits = False

    def __init__(self, max_keys: int = 100_000) -> None:
        try:
            self.max_keys = _MAX_KEYS.check(max_keys)
        except Refused:
            raise ConfigurationError([Problem("max_keys", max_keys, _MAX_KEYS.expected)]) from None
        self._shelves: dict[str, _Shelf] = {}

    def open(self, quota: Quota, clock: Clock) -> MemoryLedger:
        """Return the buckets of `quota.name`."""
        # setdefault is one atomic step: of two threads that open the same name, both get the same shelf.
        shelf = self._shelves.setdefault(quota.name, _Shelf(self.max_keys))
        return MemoryLedger(quota, clock, shelf)

    def __len__(self) -> int:
        """Buckets remembered, of all names."""
        return sum(len(shelf.table) for shelf in self._shelves.values())


class _Shelf:
    """The buckets of one name and the lock that guards them."""

    __slots__ = ("__weakref__", "lock", "table")

    def __init__(self, max_keys: int) -> None:
        self.table = Table(max_keys)
        self.after_fork()
        renew_after_fork(self)

    def after_fork(self) -> None:
        """Keep what was spent, under a lock nobody holds."""
        self.lock = threading.Lock()


class MemoryLedger:
    """One quota's view of a shelf."""

    __slots__ = ("_clock", "_full_at", "_interval", "_quota", "_room", "_shelf")

    def __init__(self, quota: Quota, clock: Clock, shelf: _Shelf) -> None:
        self._quota = quota
        self._interval, self._room = quota.interval, quota.room
        self._clock = clock
        self._shelf = shelf
        self._full_at = shelf.table.full_at

    def take(self, key: str = "", cost: int = 1, allowance: float = 0.0) -> Decision:
        """Pay `cost` tokens.

        The usual case, one token of a known key, is `Quota.spend` written out: two calls less on every request.
        """
        if cost != 1 or allowance:
            return self._take(key, cost, allowance)
        decision = Decision()
        decision.quota, decision.cost = self._quota, 1
        with self._shelf.lock:
            decision.made_at = now = self._clock()
            full_at = self._full_at.get(key)
            if full_at is not None:
                full_after = (full_at if full_at > now else now) + self._interval  # noqa: FURB136 - max() costs 80 ns
                if full_after - now > self._room:
                    decision.allowed, decision.full_at = False, full_at
                else:
                    decision.allowed, decision.full_at = True, full_after
                    self._full_at[key] = full_after
                return decision
        return self._take(key, 1, 0.0)

    def _take(self, key: str, cost: int, allowance: float) -> Decision:
        key = stored_key(key)
        checked_cost(cost)
        with self._shelf.lock:
            now = self._clock()
            known = self._full_at.get(key)
            spent = self._quota.spend(now if known is None else known, now, cost, allowance)
            if spent.is_paid and known is None:
                self._shelf.table.add(key, spent.full_at, now)
            elif spent.is_paid:
                self._full_at[key] = spent.full_at
        return Decision.of(self._quota, cost, allowed=spent.is_paid, full_at=spent.full_at, made_at=now)

    def atake(self, key: str = "", cost: int = 1, allowance: float = 0.0) -> Coroutine[Any, Any, Decision]:
        """Pay `cost` tokens when awaited; never suspends."""
        from resilience.ratelimit import _memory_aio  # noqa: PLC0415 - blocking programs never need it

        return _memory_aio.take(self, key, cost, allowance)

    def give_back(self, key: str, decision: Decision) -> None:
        """Undo a payment, unless somebody has paid after it.

        Those who wait behind it keep their turn, so what it held would let another call through beside them
        (golang.org/x/time/rate cancels reservations by the same rule).
        """
        key = stored_key(key)
        with self._shelf.lock:
            if self._full_at.get(key) == decision.full_at:
                self._full_at[key] = decision.full_at - decision.cost * self._interval

    def reset(self, key: str = "") -> None:
        """Fill the bucket of `key`."""
        key = stored_key(key)
        with self._shelf.lock:
            self._shelf.table.forget(key)
