"""Buckets in this process."""

from __future__ import annotations

import threading
import time
from collections.abc import Coroutine
from typing import Any

from resilience._support.fork import renew_after_fork
from resilience.clock import Clock
from resilience.errors import ConfigurationError, Problem
from resilience.options import Refused, Whole
from resilience.ratelimit._decision import Decision
from resilience.ratelimit._key import checked_cost, stored_key
from resilience.ratelimit._machine import Quota, Table

__all__ = ("MemoryLedger", "MemoryStore")

_MAX_KEYS = Whole(1, 100_000_000)
_LONG_AGO = float("-inf")
_NAPS = (0.0,) * 50 + (0.001,) * 100
"""Waits for a number somebody has, 0.1 s in all. Counted in naps: a starved or stopped process loses nothing by it."""


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
    """The buckets of one name.

    The lock is for those who add or remove buckets, and for everything but the usual case: one token of a known key
    is spent without it (`MemoryLedger.take`).
    """

    __slots__ = ("__weakref__", "lock", "longest_wait", "table")

    def __init__(self, max_keys: int) -> None:
        self.table = Table(max_keys)
        self.longest_wait = 0.0
        self.after_fork()
        renew_after_fork(self)

    def after_fork(self) -> None:
        """Keep what was spent, under a lock nobody holds."""
        self.lock = threading.RLock()  # re-entrant, for finalizers that make calls


class MemoryLedger:
    """One quota's view of a shelf."""

    __slots__ = ("_cells", "_clock", "_interval", "_quota", "_room", "_shelf")

    def __init__(self, quota: Quota, clock: Clock, shelf: _Shelf) -> None:
        self._quota = quota
        self._interval, self._room = quota.interval, quota.room
        self._clock = clock
        self._shelf = shelf
        self._cells = shelf.table.cells

    def take(self, key: str = "", cost: int = 1, allowance: float = 0.0) -> Decision:
        """Pay `cost` tokens.

        The usual case, one token of a known key, is `Quota.spend` written out between the cell's `pop` and `append`:
        no lock, and two calls less on every request. The time is read first, so that nothing in between calls anybody
        or can raise; a thread that is held up there decides by an older time, which only makes it stricter.
        """
        if cost != 1 or allowance:
            return self._take(key, cost, allowance)
        now = self._clock()
        try:
            cell = self._cells[key]
            full_at = cell.pop()
        except LookupError:  # a new key, or somebody is spending from it
            return self._take(key, 1, 0.0)
        full_after = (full_at if full_at > now else now) + self._interval  # noqa: FURB136 - max() costs 80 ns
        is_paid = full_after - now <= self._room
        if is_paid:
            full_at = full_after
        cell.append(full_at)
        decision = Decision()
        decision.quota, decision.cost, decision.allowed = self._quota, 1, is_paid
        decision.full_at, decision.made_at = full_at, now
        return decision

    def spend(self, key: str) -> Decision | None:
        """Pay one token; return the refusal, or None where it was paid. `take`, less the making of a decision."""
        now = self._clock()
        try:
            cell = self._cells[key]
            full_at = cell.pop()
        except LookupError:
            decision = self._take(key, 1, 0.0)
            return None if decision.allowed else decision
        full_after = (full_at if full_at > now else now) + self._interval  # noqa: FURB136 - max() costs 80 ns
        if full_after - now <= self._room:
            cell.append(full_after)
            return None
        cell.append(full_at)
        return Decision.of(self._quota, 1, allowed=False, full_at=full_at, made_at=now)

    def _take(self, key: str, cost: int, allowance: float) -> Decision:
        key = stored_key(key)
        checked_cost(cost)
        shelf = self._shelf
        with shelf.lock:
            shelf.longest_wait = max(shelf.longest_wait, allowance)
            full_at = self._held(key)
            if full_at is None:
                now = self._clock()
                is_paid, full_at = self._quota.spend(now, now, cost, allowance)
                if is_paid:
                    shelf.table.add(key, full_at, now)
            else:
                cell = self._cells[key]  # now: a finalizer that finds it empty puts another one in its place
                try:
                    now = self._clock()
                    is_paid, full_at = self._quota.spend(full_at, now, cost, allowance)
                finally:
                    cell.append(full_at)
        return Decision.of(self._quota, cost, allowed=is_paid, full_at=full_at, made_at=now)

    def _held(self, key: str) -> float | None:
        """Take the number out of its cell, None where there is no bucket. Needs the lock; give it back to the cell.

        A cell that stays empty has lost its number: to an exception from a signal handler right after `pop`, to a
        thread that did not survive a fork. Nobody knows what it was, so it counts as all spent, turns to come included.
        """
        cell = self._cells.get(key)
        if cell is None:
            return None
        for nap in _NAPS:
            try:
                return cell.pop()
            except IndexError:
                time.sleep(nap)
        spent = self._clock() + self._quota.capacity + self._shelf.longest_wait
        self._cells[key] = []  # another cell: whoever is late after all gives back to the old one
        return spent

    def atake(self, key: str = "", cost: int = 1, allowance: float = 0.0) -> Coroutine[Any, Any, Decision]:
        """Pay `cost` tokens when awaited; never suspends."""
        from resilience.ratelimit import _memory_aio  # noqa: PLC0415 - blocking programs never need it

        return _memory_aio.take(self, key, cost, allowance)

    def give_back(self, key: str, decision: Decision) -> None:
        """Undo a payment, unless somebody has paid after it."""
        key = stored_key(key)
        with self._shelf.lock:
            full_at = self._held(key)
            if full_at is not None:
                self._cells[key].append(self._quota.refunded(full_at, decision.full_at, decision.cost))

    def look(self, key: str = "") -> Decision:
        """Return what is there, taking nothing."""
        key = stored_key(key)
        with self._shelf.lock:
            now = self._clock()
            full_at = self._held(key)
            if full_at is not None:
                self._cells[key].append(full_at)
        return Decision.of(self._quota, 0, allowed=True, full_at=now if full_at is None else full_at, made_at=now)

    def drain(self, key: str = "", wait: float = 0.0) -> None:
        """Take all tokens of `key`; the next one comes in `wait` seconds at the earliest."""
        key = stored_key(key)
        with self._shelf.lock:
            now = self._clock()
            full_at = self._held(key)
            if full_at is None:
                self._shelf.table.add(key, self._quota.drained(now, now, wait), now)
            else:
                self._cells[key].append(self._quota.drained(full_at, now, wait))

    def reset(self, key: str = "") -> None:
        """Fill the bucket of `key`; its place in the table is given up when its turn comes."""
        key = stored_key(key)
        with self._shelf.lock:
            if self._held(key) is not None:
                self._cells[key].append(_LONG_AGO)
