"""Which connection goes to which borrower, when a pool connects once more, and which connections it closes.

The machine is pure. The two shells (`_pool.py` for threads, `_aio.py` for tasks) pass in the time, hold the lock where
one is needed, and do the I/O.

Entries. A `PoolEntry` is one connection. It is *idle*, *in use* by one borrower, or *set aside* for a check of the pool
itself. `total` counts all three. A *borrower* is the object that the entry is lent to. It is made before it asks, so an
interrupt cannot lose an entry: whatever the borrower holds when it is dropped comes back (`lose`).

Lending. Idle entries form a stack: the entry that came back last is lent first, so the others can grow old and be
closed. Borrowers that find no idle entry wait in one queue. An entry that comes back goes straight to the borrower that
has waited longest: a new arrival cannot overtake (L20), and no wake-up can be lost. While any borrower waits, no entry
is idle, unless the pool is suspended.

Age and outcomes: see `_entry.py`. Locks and interrupts: see `_shelf.py`.
"""

from __future__ import annotations

import math
from collections import Counter, OrderedDict
from collections.abc import Callable
from typing import Generic, TypeVar

from resilience.pool._connecting import Attempt, Connecting
from resilience.pool._entry import Borrower, BorrowOutcome, PoolEntry, PoolState, Round
from resilience.pool._options import PoolOptions
from resilience.pool._shelf import pop_all, pop_entry

__all__ = ("PoolMachine",)

C = TypeVar("C")
B = TypeVar("B", bound=Borrower)

_PAST = -math.inf


class PoolMachine(Generic[C, B]):
    """The connections of a pool and the borrowers that wait. Not thread-safe.

    Args:
        options: The options of the pool.
        chance: Returns a number from 0 to 1.
        has_check: Whether the pool can check a connection.
    """

    def __init__(self, options: PoolOptions, chance: Callable[[], float], *, has_check: bool) -> None:
        self.maximum, self.minimum_idle = options.maximum_pool_size, options.minimum_idle
        self._options, self._chance = options, chance
        self._lifetime = math.inf if options.max_lifetime is None else options.max_lifetime
        self._bypass = options.alive_bypass if has_check else math.inf
        self.state = PoolState.OPEN
        self.entries: dict[PoolEntry[C], None] = {}
        self._shelf: list[PoolEntry[C]] = []
        """The idle entries. Entries that come back go here."""
        self._idle = self._shelf
        """What is lent from. A suspended pool has an empty list here."""
        self.waiting: OrderedDict[B, None] = OrderedDict()
        self.connecting = Connecting(options, chance)
        self._aside: dict[PoolEntry[C], None] = {}
        self.handed: list[B] = []
        self.doomed: list[tuple[PoolEntry[C], str]] = []
        self.found: list[tuple[PoolEntry[C], float]] = []
        self.exhausted_since: float | None = None
        """The moment since which borrowers have waited without a break, None if none waits."""
        self.uses = self.waits = self.timeouts = self.refusals = self.leaks = self.lost = 0
        """Uses that have ended; waits that ended with an entry, or in vain; borrowers refused because of `max_waiting`;
        leases reported as leaks, and leases dropped without a release."""
        self.use_seconds = self.wait_seconds = 0.0
        self.closed: Counter[str] = Counter()
        """Entries closed so far, by reason."""

    # What a borrower does

    def take(self, borrower: B, now: float) -> bool:
        """Lend an idle entry, and return whether it is fit for use. This is the way of nearly all calls.

        It needs no lock. If the borrower has an entry although the answer is False, the entry must be checked first, or
        it has expired.
        """
        idle = self._idle
        if self.waiting or not idle:
            return False
        try:
            entry = idle[-1]; del idle[-1]  # fmt: skip  # noqa: E702 - one step, for tracers too: see `pop_entry`
        except IndexError:
            return False
        borrower.entry = entry
        entry.borrowed_at = now
        return now < entry.fresh_until

    def arrive(self, borrower: B, now: float) -> BorrowOutcome:
        """Put the borrower into the queue, or refuse it. It has an entry at once if one has become idle meanwhile."""
        if self.state is PoolState.CLOSED:
            return BorrowOutcome.CLOSED
        if not self.entries and self.connecting.is_refused(now):
            return BorrowOutcome.REFUSED
        if len(self.waiting) >= self._options.max_waiting and not self._idle:
            self.refusals += 1
            return BorrowOutcome.SATURATED
        if self.exhausted_since is None:
            self.exhausted_since = now
        waiting = self.waiting
        borrower.since = now
        waiting[borrower] = None
        self.match(now)
        return BorrowOutcome.QUEUED if borrower in waiting else BorrowOutcome.LENT

    def leave(self, borrower: B) -> bool:
        """Take a borrower out of the queue. Return False if it has been served meanwhile, or was never in it."""
        if borrower not in self.waiting:
            return False
        del self.waiting[borrower]
        if not self.waiting:
            self.exhausted_since = None
        return True

    def give_up(self, borrower: B) -> bool:
        """End a wait whose time is up. Return False if the borrower has been served meanwhile."""
        is_out = self.leave(borrower)
        self.timeouts += is_out
        return is_out

    def put_back(self, borrower: B, now: float) -> bool:
        """Take an entry back that is fit for the next borrower, if that is simple. This is the way of nearly all calls.

        It needs no lock. If the answer is False, the shell has to call `match`, and before it `give_back` if the
        borrower still has its entry.
        """
        entry: PoolEntry[C] | None
        entry, borrower.entry = borrower.entry, None  # one step: a second release finds None
        if entry is None:
            return False
        back = (entry,)  # made here: the garbage collector may run now, and not below
        if self.waiting or now >= entry.expires_at or entry.is_reported:
            borrower.entry = entry
            return False
        fresh_until = now + self._bypass
        self.uses += 1
        self.use_seconds += now - entry.borrowed_at
        entry.idle_since = entry.alive_at = now
        entry.fresh_until = fresh_until if fresh_until < entry.expires_at else entry.expires_at  # noqa: FURB136 - a call
        shelf = self._shelf
        shelf += back
        # Both are looked at once more: meanwhile another thread may wait, or drain or close the pool.
        return not self.waiting and now < entry.expires_at

    @property
    def is_unmatched(self) -> bool:
        """Whether `match` has something to do."""
        return bool(self.waiting and self._idle) or bool(self.state is PoolState.CLOSED and self._shelf)

    def match(self, now: float) -> None:
        """Give idle entries to the borrowers that wait, and close those that came back to a pool while it closed."""
        shelf = self._shelf
        while self.is_unmatched:
            entry = pop_entry(shelf)
            if entry is None:
                return
            try:
                self._hand(entry, now)
            except BaseException:  # an interrupt, before any change
                if entry in self.entries:
                    shelf += (entry,)
                raise

    def give_back(self, borrower: B, now: float) -> None:
        """Take an entry back that is fit for the next borrower."""
        entry: PoolEntry[C] = borrower.entry  # type: ignore[assignment]  # the caller has looked
        borrower.entry = None
        self._count_use(entry, now)
        self.offer(entry, now)

    def discard(self, borrower: B, now: float, reason: str) -> None:
        """Take an entry back that must not be used again."""
        entry: PoolEntry[C] = borrower.entry  # type: ignore[assignment]  # the caller has looked
        borrower.entry = None
        self._count_use(entry, now)
        self._doom(entry, reason)
        self._refuse_if_empty(now)

    def _count_use(self, entry: PoolEntry[C], now: float) -> None:
        seconds = max(0.0, now - entry.borrowed_at)
        self.uses += 1
        self.use_seconds += seconds
        if entry.is_reported:
            entry.is_reported = False
            self.found.append((entry, seconds))

    # How entries come and go

    def offer(self, entry: PoolEntry[C], now: float) -> None:
        """Give an entry to the borrower that has waited longest, or make it idle, or close it if it has expired."""
        entry.idle_since = entry.alive_at = now
        entry.fresh_until = min(now + self._bypass, entry.expires_at)
        self._hand(entry, now)

    def _hand(self, entry: PoolEntry[C], now: float) -> None:
        if now >= entry.expires_at:
            self._doom(entry, entry.reason)
            self._refuse_if_empty(now)
            return
        borrower = next(iter(self.waiting)) if self.waiting and self.state is PoolState.OPEN else None
        if borrower is None:
            shelf = self._shelf
            shelf += (entry,)
            return
        waiting, handed = self.waiting, self.handed
        del waiting[borrower]
        borrower.entry = entry
        entry.borrowed_at = now
        handed += (borrower,)
        self.waits += 1
        self.wait_seconds += now - borrower.since
        if not waiting:
            self.exhausted_since = None

    def _doom(self, entry: PoolEntry[C], reason: str) -> None:
        if entry in self.entries:
            doomed = self.doomed
            del self.entries[entry]
            doomed += ((entry, reason),)
            self.closed[reason] += 1

    @property
    def wanted(self) -> int:
        """Attempts to connect that are missing, apart from the pause after a failure."""
        if self.state is not PoolState.OPEN:
            return 0
        # After a failure an empty pool goes on without borrowers: health checks keep them away until it can connect.
        at_least = 1 if self.connecting.failures and not self.entries else 0
        needed = max(len(self.waiting), self.minimum_idle - len(self._idle), at_least)
        return self.connecting.missing(needed, self.maximum - len(self.entries))

    def begin_attempts(self, now: float) -> list[Attempt]:
        """Return the attempts to connect that the shell has to start now."""
        return self.connecting.begin(self.wanted, now)

    def connected(self, attempt: Attempt, connection: C, now: float) -> bool:
        """Take a new connection into the pool. Return False if it comes too late: the shell closes it then."""
        if not self.connecting.succeed(attempt, now) or len(self.entries) >= self.maximum:
            return False  # the pool has been resized meanwhile, if it was in time
        lifetime = self._lifetime * (1 - self._options.max_lifetime_jitter * self._chance())
        entry = PoolEntry(connection, now, now + lifetime)
        self.entries[entry] = None
        self.offer(entry, now)
        return True

    def failed(self, attempt: Attempt, error: BaseException, now: float) -> bool:
        """Record a failed attempt. Return False if the attempt was over already."""
        if not self.connecting.fail(attempt, error, now):
            return False
        self._refuse_if_empty(now)
        return True

    def _refuse_if_empty(self, now: float) -> None:
        """End the waits if there is no connection to wait for, and the circuit breaker refuses to make one."""
        if not self.entries and self.connecting.is_refused(now):
            self._fail_all(self.connecting.refusal)

    def _fail_all(self, error: BaseException) -> None:
        """Let every waiting borrower go on with `error`."""
        borrowers = list(self.waiting)
        for borrower in borrowers:
            borrower.error = error
        self.handed += borrowers
        self.waiting = OrderedDict()
        self.exhausted_since = None

    # Maintenance

    def maintain(self, now: float) -> Round[C]:
        """Close idle entries that are too old, set those aside that need a check, and find those that look lost."""
        options, due = self._options, []
        idle = pop_all(self._shelf)
        try:
            spare = len(idle) - self.minimum_idle
            for entry in idle:
                idle_for = now - entry.idle_since
                if now >= entry.expires_at:
                    self._doom(entry, entry.reason)
                elif spare > 0 and options.idle_timeout is not None and idle_for >= options.idle_timeout:
                    self._doom(entry, "idle_timeout")
                elif options.keepalive_time is not None and now - entry.alive_at >= options.keepalive_time:
                    self._aside[entry] = None
                    due.append(entry)
                else:
                    continue
                spare -= 1
        finally:
            self._shelve(idle)
        return Round(due, self._suspects(now), self.connecting.late(now))

    def _shelve(self, entries: list[PoolEntry[C]]) -> None:
        """Put entries that were taken off the shelf back below the others, apart from those that have left it."""
        self._shelf[0:0] = [entry for entry in entries if entry in self.entries and entry not in self._aside]

    def _suspects(self, now: float) -> list[tuple[PoolEntry[C], float]]:
        threshold = self._options.leak_detection_threshold
        if threshold is None:
            return []
        late = [entry for entry in self._in_use() if not entry.is_reported and now - entry.borrowed_at >= threshold]
        for entry in late:
            entry.is_reported = True
        self.leaks += len(late)
        return [(entry, now - entry.borrowed_at) for entry in late]

    def restore(self, entry: PoolEntry[C], now: float, *, is_alive: bool) -> None:
        """End the check of an entry that was set aside. Its idle time goes on."""
        self._aside.pop(entry, None)
        if not is_alive:
            self._doom(entry, "check failed")
            self._refuse_if_empty(now)
            return
        entry.alive_at, entry.fresh_until = now, min(now + self._bypass, entry.expires_at)
        self._hand(entry, now)

    # Figures. They are read without the lock: each copy here is one step of the interpreter.

    def _in_use(self) -> list[PoolEntry[C]]:
        others = {*self._shelf, *self._aside}
        return [entry for entry in list(self.entries) if entry not in others]

    @property
    def idle(self) -> int:
        """Idle entries."""
        return len(self._shelf)

    @property
    def in_use(self) -> int:
        """Entries that are lent."""
        return len(self.entries) - len(self._shelf) - len(self._aside)

    def oldest_lease(self, now: float) -> float | None:
        """Return for how long the entry that was lent first has been in use, in seconds; None if none is in use."""
        return max((now - entry.borrowed_at for entry in self._in_use()), default=None)

    def resize(self, maximum: int, minimum_idle: int) -> None:
        """Change the number of connections. Of too many, idle ones are closed now, others when they come back."""
        self.maximum, self.minimum_idle = maximum, minimum_idle
        surplus = max(0, len(self.entries) - maximum)
        left = surplus - self._doom_idle(surplus, "resized")
        for entry in list(self.entries)[: max(0, left)]:  # if any is left, no entry is idle
            entry.expires_at, entry.reason = _PAST, "resized"

    def recycle(self, reason: str) -> None:
        """Close all connections: idle ones now, others when they come back."""
        for entry in self.entries:
            entry.expires_at = entry.fresh_until = _PAST
            entry.reason = reason
        self._doom_idle(len(self.entries), reason)

    def _doom_idle(self, count: int, reason: str) -> int:
        """Close idle entries, `count` at most, and return how many. Those that were idle longest are the first."""
        idle = pop_all(self._shelf)
        try:
            for entry in idle[:count]:
                self._doom(entry, reason)
        finally:
            self._shelve(idle)
        return min(count, len(idle))

    def suspend(self) -> None:
        """Lend nothing until `resume`: borrowers wait."""
        if self.state is PoolState.OPEN:
            self.state, self._idle = PoolState.SUSPENDED, []

    def resume(self, now: float) -> None:
        """Lend again, first to the borrowers that wait."""
        if self.state is PoolState.SUSPENDED:
            self.state = PoolState.OPEN
            self._idle = self._shelf
            self.match(now)
            self._refuse_if_empty(now)

    def disown(self) -> None:
        """Forget all entries, in a forked child: they are the parent's, and come back to no pool."""
        for entry in self.entries:
            entry.expires_at = entry.fresh_until = _PAST
        self.entries = {}

    def abandon(self) -> None:
        """Forget all entries, attempts and borrowers: their event loop has ended, and the tasks with it."""
        self.recycle("event loop ended")
        self.disown()
        self.connecting.give_up()
        self._aside, self.waiting, self.exhausted_since = {}, OrderedDict(), None
        self.handed, self.doomed = [], []

    def close(self, error: BaseException) -> None:
        """Lend nothing any more. Waiting borrowers fail with `error`."""
        self.recycle("pool closed")
        self.state = PoolState.CLOSED  # not before: an interrupt in `recycle` leaves an open pool behind
        self.connecting.give_up()
        self._fail_all(error)

    def reopen(self) -> None:
        """Lend again after `close`. Entries still in use are closed when they come back."""
        self.state, self._idle = PoolState.OPEN, self._shelf
        self.connecting.forget()
