"""Buckets in the memory of this process."""

from __future__ import annotations

import threading
import time
from datetime import timedelta
from typing import TYPE_CHECKING

from resilience._support.fork import renew_after_fork
from resilience.clock import Clock
from resilience.errors import ConfigurationError, Problem
from resilience.options import Refused, Whole
from resilience.ratelimit._decision import Decision
from resilience.ratelimit._joint_memory import JointMemoryBuckets, JointTable
from resilience.ratelimit._machine import BucketTable, Quota, Withdrawal
from resilience.ratelimit._rate import text_of
from resilience.ratelimit._store import checked_cost, stored_key
from resilience.ratelimit._waiting import aacquire_in_turn, acquire_in_turn

if TYPE_CHECKING:
    from resilience.ratelimit.windows._memory import MemoryWindows, WindowTable

__all__ = ("MemoryBuckets", "MemoryStore")

_MAX_KEYS = Whole(1, 100_000_000)
_MAX_NOTED_KEYS = 1_000
_LONG_AGO = float("-inf")
_PAUSES = (0.0,) * 50 + (0.001,) * 100
"""Waits for a number that another thread has, 0.1 s in all.

They are counted, not timed: a process that was starved or stopped loses nothing by it.
"""


class MemoryStore:
    """Keeps buckets in the memory of this process, and forgets those that are full again.

    Args:
        max_keys: The largest number of buckets for each name, 1 to 100,000,000. Beyond it, the bucket nearest to full
            among eight is forgotten.

    Raises:
        ConfigurationError: `max_keys` is out of range.
    """

    waits = False

    def __init__(self, max_keys: int = 100_000) -> None:
        try:
            self.max_keys = _MAX_KEYS.check(max_keys)
        except Refused:
            raise ConfigurationError([Problem("max_keys", max_keys, _MAX_KEYS.expected)]) from None
        self._tables: dict[str, _LockedTable] = {}
        self._joint: dict[str, JointTable] = {}
        self._windows: dict[str, WindowTable] = {}

    def open(self, quota: Quota, clock: Clock) -> MemoryBuckets:
        """Return the buckets of `quota.name`."""
        # setdefault is one atomic step: two threads that open the same name get the same table.
        shared = self._tables.setdefault(quota.name, _LockedTable(self.max_keys))
        return MemoryBuckets(quota, clock, shared)

    def open_joint(
        self, quotas: tuple[Quota, ...], clock: Clock, whole: tuple[Quota, ...] | None = None
    ) -> JointMemoryBuckets:
        """Return the buckets of several rates with one name. Limiters with the same rates share them.

        Args:
            quotas: One for each rate.
            clock: Returns seconds that never go back.
            whole: The quotas of which `quotas` are shares: the shares of one limit have the same buckets, whatever
                their size is. The default is `quotas`.
        """
        # setdefault is one atomic step: see `open`.
        table = self._joint.setdefault(quotas[0].name, JointTable(self.max_keys))
        return JointMemoryBuckets(quotas, clock, table, text_of(quota.rate for quota in whole or quotas))

    def open_windows(self, strategy: str, quota: Quota, clock: Clock, whole: Quota | None = None) -> MemoryWindows:
        """Return the windows of `quota.name`, counted by `strategy`.

        Args:
            strategy: The name of a window, such as `moving-window`.
            quota: The amount and the period.
            clock: Returns seconds that never go back.
            whole: The limit of which `quota` is a share, as for `open_joint`.
        """
        from resilience.ratelimit.windows._memory import MemoryWindows, WindowTable  # noqa: PLC0415 - few use windows

        # setdefault is one atomic step: see `open`.
        table = self._windows.setdefault(quota.name, WindowTable(self.max_keys, clock))
        return MemoryWindows(strategy, quota, clock, table, str((whole or quota).rate))

    def __len__(self) -> int:
        """Return the number of buckets in memory, of all names."""
        joint = sum(len(table) for table in self._joint.values())
        return joint + sum(len(shared.table) for shared in self._tables.values())


class _LockedTable:
    """The buckets of one name, and their lock.

    The lock is for calls that add or remove buckets, and for everything but the usual case: one token of a known key
    is spent without it (`MemoryBuckets.take`).
    """

    __slots__ = ("__weakref__", "_notes", "lock", "longest_wait", "table")

    def __init__(self, max_keys: int) -> None:
        self.table = BucketTable(max_keys)
        self.longest_wait = 0.0
        self._notes: dict[str, list[Withdrawal]] = {}
        self.after_fork()
        renew_after_fork(self)

    def after_fork(self) -> None:
        """Keep the buckets, under a new lock that no thread holds."""
        self.lock = threading.RLock()  # re-entrant, for finalizers that make calls

    def after_test(self) -> None:
        """Forget all buckets: each of them is full again."""
        with self.lock:
            self.table.clear()
            self._notes.clear()

    def notes_of(self, key: str) -> list[Withdrawal]:
        """Return the payments of cancelled calls of `key` that calls behind them have kept. Needs the lock."""
        return self._notes.get(key, [])

    def keep_notes(self, key: str, notes: list[Withdrawal]) -> None:
        """Keep the payments of cancelled calls of `key`. Needs the lock."""
        if not notes:
            self._notes.pop(key, None)
        elif key not in self._notes:
            if len(self._notes) >= _MAX_NOTED_KEYS:
                del self._notes[next(iter(self._notes))]  # its payments stand
            self._notes[key] = notes


class MemoryBuckets:
    """The buckets of one name, under one quota."""

    __slots__ = ("_cells", "_clock", "_interval", "_quota", "_room", "_shared", "allowed", "refused")

    def __init__(self, quota: Quota, clock: Clock, shared: _LockedTable) -> None:
        self._quota = quota
        self._interval, self._room = quota.interval, quota.room
        self._clock = clock
        self._shared = shared
        self._cells = shared.table.cells
        self.allowed = self.refused = 0

    def acquire(self, key: str = "", cost: int = 1, wait: float | str | timedelta | None = None) -> Decision:
        """Pay `cost` tokens, or none if they do not fit in time.

        The usual case, one token of a known key, is `Quota.spend` written out between the cell's `pop` and `append`.
        That saves a lock and two calls on every request. The time is read and the decision is made first, so that
        nothing in between calls other code or can raise. A thread that is held up there decides by an older time, which
        only makes it stricter.
        """
        if cost != 1 or wait is not None:
            return acquire_in_turn(self, key, cost, wait)
        now, decision = self._clock(), Decision()
        decision.quota, decision.cost, decision.made_at = self._quota, 1, now
        try:
            cell = self._cells[key]
            full_at = cell.pop()
        except LookupError:  # a new key, or another thread is spending from the bucket
            return self._take_locked(key, 1, 0.0)
        if full_at > now:
            full_after = full_at + self._interval
            if full_after - now > self._room:
                cell.append(full_at)
                self.refused += 1
                decision.full_at, decision.allowed = full_at, False
                return decision
        else:  # a full bucket has room for a token
            full_after = now + self._interval
        cell.append(full_after)
        self.allowed += 1
        decision.full_at, decision.allowed = full_after, True
        return decision

    async def aacquire(self, key: str = "", cost: int = 1, wait: float | str | timedelta | None = None) -> Decision:
        """Pay `cost` tokens, or none; suspends only with `wait`.

        It is a coroutine function so that Python reports a forgotten `await`. The caller would otherwise take the
        awaitable for a yes.
        """
        return self.acquire(key, cost) if wait is None else await aacquire_in_turn(self, key, cost, wait)

    def take(self, key: str = "", cost: int = 1, allowance: float = 0.0) -> Decision:
        """Pay `cost` tokens, or none if they do not fit within `allowance` seconds."""
        return self._take_locked(key, cost, allowance) if cost != 1 or allowance else self.acquire(key)

    async def atake(self, key: str = "", cost: int = 1, allowance: float = 0.0) -> Decision:
        """Pay `cost` tokens, or none; never suspends. For the arguments see `take`."""
        return self.take(key, cost, allowance)

    def spend(self, key: str) -> Decision | None:
        """Pay one token; returns the refusal, or None if the token was paid. Like `take`, without the decision."""
        now = self._clock()
        try:
            cell = self._cells[key]
            full_at = cell.pop()
        except LookupError:
            decision = self._take_locked(key, 1, 0.0)
            return None if decision.allowed else decision
        if full_at > now:
            full_after = full_at + self._interval
            if full_after - now > self._room:
                cell.append(full_at)
                self.refused += 1
                return Decision.of(self._quota, 1, allowed=False, full_at=full_at, made_at=now)
        else:
            full_after = now + self._interval
        cell.append(full_after)
        self.allowed += 1
        return None

    def _take_locked(self, key: str, cost: int, allowance: float) -> Decision:
        key = stored_key(key)
        checked_cost(cost)
        shared = self._shared
        with shared.lock:
            shared.longest_wait = max(shared.longest_wait, allowance)
            full_at = self._claim(key)
            if full_at is None:
                now = self._clock()
                is_paid, full_at = self._quota.spend(now, now, cost, allowance)
                if is_paid:
                    shared.table.add(key, full_at, now)
            else:
                cell = self._cells[key]  # now: a finalizer that finds it empty puts another one in its place
                try:
                    now = self._clock()
                    is_paid, full_at = self._quota.spend(full_at, now, cost, allowance)
                finally:
                    cell.append(full_at)
            if is_paid:
                self.allowed += 1
            else:
                self.refused += 1
        return Decision.of(self._quota, cost, allowed=is_paid, full_at=full_at, made_at=now)

    def _claim(self, key: str) -> float | None:
        """Take the number out of its cell, or return None if there is no bucket. Needs the lock.

        The caller puts the number back. A cell that stays empty has lost its number: to an exception from a signal
        handler right after `pop`, or to a thread that did not survive a fork. The number is unknown then, so all tokens
        count as spent, the turns of waiting calls included.
        """
        cell = self._cells.get(key)
        if cell is None:
            return None
        for pause in _PAUSES:
            try:
                return cell.pop()
            except IndexError:
                time.sleep(pause)
        spent = self._clock() + self._quota.capacity + self._shared.longest_wait
        self._cells[key] = []  # another cell: a thread that is late after all puts its number into the old one
        return spent

    def forget_counts(self) -> None:
        """Count decisions from zero."""
        self.allowed = self.refused = 0

    def give_back(self, key: str, decision: Decision) -> None:
        """Undo the payment of a call that does not take place."""
        self.refund(key, decision)

    def refund(self, key: str, decision: Decision) -> None:
        """Undo a payment, as `Quota.withdrawn` says. A bucket that is gone was full."""
        key = stored_key(key)
        with self._shared.lock:
            now, notes = self._clock(), self._shared.notes_of(key)
            full_at = self._claim(key)
            if full_at is not None:
                after = full_at
                try:
                    after = self._quota.withdrawn(full_at, now, decision.full_at, decision.cost, notes)
                finally:
                    self._cells[key].append(after)
                self._shared.keep_notes(key, notes)

    async def arefund(self, key: str, decision: Decision) -> None:
        """Undo a payment; never suspends."""
        self.refund(key, decision)

    def peek(self, key: str = "", cost: int = 1) -> Decision:
        """Return whether `cost` tokens would be paid now, and the state of the bucket, taking nothing."""
        checked_cost(cost)
        found = self.look(key)
        if self._quota.spend(found.full_at, found.made_at, cost).is_paid:
            return found
        return Decision.of(self._quota, cost, allowed=False, full_at=found.full_at, made_at=found.made_at)

    async def apeek(self, key: str = "", cost: int = 1) -> Decision:
        """Return whether `cost` tokens would be paid now; never suspends."""
        return self.peek(key, cost)

    def look(self, key: str = "") -> Decision:
        """Return the state of a bucket, taking nothing."""
        key = stored_key(key)
        with self._shared.lock:
            now = self._clock()
            full_at = self._claim(key)
            if full_at is not None:
                self._cells[key].append(full_at)
        return Decision.of(self._quota, 0, allowed=True, full_at=now if full_at is None else full_at, made_at=now)

    def seed(self, key: str, missing: float) -> None:
        """Let the bucket of `key` be full in `missing` seconds at the earliest, and not emptier than empty."""
        key = stored_key(key)
        with self._shared.lock:
            now = self._clock()
            full_at = self._claim(key)
            seeded = now + min(missing, self._quota.capacity)
            if full_at is None:
                self._shared.table.add(key, seeded, now)
            else:
                self._cells[key].append(max(full_at, seeded))

    def levels(self) -> list[tuple[str, float]]:
        """Return the key of each bucket that is not full, and the seconds until it is."""
        now = self._clock()
        found = [(key, next(iter(cell), now) - now) for key, cell in list(self._cells.items())]
        return [(key, missing) for key, missing in found if missing > 0]

    def drain(self, key: str = "", wait: float = 0.0) -> None:
        """Take all tokens of `key`; the next one comes in `wait` seconds at the earliest."""
        key = stored_key(key)
        with self._shared.lock:
            now = self._clock()
            full_at = self._claim(key)
            if full_at is None:
                self._shared.table.add(key, self._quota.drained(now, now, wait), now)
            else:
                self._cells[key].append(self._quota.drained(full_at, now, wait))

    def reset(self, key: str = "") -> None:
        """Fill the bucket of `key`. The table drops it later, when its turn to be checked comes."""
        key = stored_key(key)
        with self._shared.lock:
            if self._claim(key) is not None:
                self._cells[key].append(_LONG_AGO)
            self._shared.keep_notes(key, [])
