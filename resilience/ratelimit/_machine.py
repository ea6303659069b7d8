"""The token bucket as arithmetic, and the bounded table of the buckets of a process.

The machine is pure: the caller passes in the time. Any unit of time will do as long as it is one unit; here it is
seconds.

The bucket. A bucket is one number: the time at which it will be full again. This is the generic cell rate algorithm
(ITU-T I.371), read as a bucket. One token is `interval` seconds of filling. A bucket of `burst` tokens is empty if it
is full in `capacity = burst * interval` seconds. To pay `cost` tokens moves the time by `cost * interval`, and the call
fits if the bucket is then full within `capacity`. A bucket that is full needs no memory at all, and no timer refills a
bucket. Over any time t at most `rate * t + burst` tokens are paid.

Refusals cost nothing. A refused call leaves the number as it was, so `retry_after` is exact: it is the time until the
same payment fits.

Waiting. A call that may wait passes an `allowance`: the bucket may go that many seconds below empty. The caller sleeps
for as long as the bucket is below empty, so calls get their turns in the order in which they paid. A wait that is
cancelled is refunded if no later call has paid. Later calls keep their turns, and their number includes the payment
before it: then the payment is noted, and refunded when the payments after it are (`Quota.withdrawn`). So if all calls
that wait are cancelled, in any order, all of them get their tokens back. A payment in front of a call that goes on
waiting stays: its token is lost, and the limit errs on the strict side. golang.org/x/time/rate restores such a token
never.

Refunds. A request under several limits pays all of them, or none: if one refuses, the others are paid back
(`Quota.returned`). A refund is the inverse of a payment, so the bucket is then as if there had been no payment. Between
payment and refund the tokens are missing for other calls. A bucket that would have been full meanwhile keeps the refill
of that time, which would have been lost. So over any time t at most `rate * t + burst` tokens are paid, and those that
are paid back in that time.

Rounding. Floats round, so one token may be used a thousandth of itself early (`_EARLY`). The error does not accumulate,
because each payment starts from a number that was stored, not from a sum of differences.

The table. Each process keeps the buckets of one name by key. A `Cell` is a list that holds the one number. `list.pop`
and `list.append` are one step each to every other thread, so a thread that pops the number owns the bucket until it
appends the new one. This is the lock of the usual case. Callers that find the cell empty, add a key, or do anything but
spend one token take the lock of the table (in `_memory.py`).

Bounds. The table has at most `max_keys` buckets. Each key that comes in checks two others, in turn, and drops them if
they are full. So there is no timer and no sweep, and each call does a bounded piece of work. If all `max_keys` are in
use, the bucket nearest to full among the next eight makes room: its owner gains least by it. A bucket from which a
thread is spending stays, even if the table then has one bucket too many until the next key comes.
"""

from __future__ import annotations

import contextlib
from collections import deque
from itertools import islice
from typing import NamedTuple, TypeAlias

from resilience.ratelimit._rate import Rate

__all__ = ("BucketTable", "Cell", "Payment", "Quota", "Withdrawal")

_EARLY = 1e-3
"""The part of a token that may be used early, once: room for the rounding of floats."""
_MOST_NOTES = 100
"""The most payments of one bucket that are noted. Beyond it, the oldest one stands."""


class Payment(NamedTuple):
    """Whether the cost was paid, and the time at which the bucket is full after that."""

    is_paid: bool
    full_at: float


class Withdrawal(NamedTuple):
    """A payment that a cancelled call has made, and the time at which the bucket was full after it."""

    paid: float
    cost: int


class Quota:
    """The size of a bucket and its rate.

    Args:
        name: The name under which a store keeps the buckets.
        rate: How fast tokens come back.
        burst: The size of a bucket, in tokens.

    Attributes:
        interval: Seconds from one token to the next.
        capacity: Seconds from empty to full.
    """

    __slots__ = ("burst", "capacity", "interval", "name", "rate", "room")

    def __init__(self, name: str, rate: Rate, burst: int) -> None:
        self.name = name
        self.rate = rate
        self.burst = burst
        self.interval = rate.interval
        self.capacity = burst * self.interval
        self.room = self.capacity + self.interval * _EARLY

    def spend(self, full_at: float, now: float, cost: int = 1, allowance: float = 0.0) -> Payment:
        """Pay `cost` tokens, or none if they do not fit.

        If the clock went back, the bucket is as empty as it was left, never fuller.

        Args:
            full_at: The time at which the bucket is full.
            now: The present time.
            cost: Tokens to pay.
            allowance: How many seconds of filling the bucket may go below empty.
        """
        full_after = max(now, full_at) + cost * self.interval
        if full_after - now > self.room + allowance or cost > self.burst:
            return Payment(False, full_at)
        return Payment(True, full_after)

    def withdrawn(self, full_at: float, now: float, paid: float, cost: int, notes: list[Withdrawal]) -> float:
        """Undo a payment, and return the time at which the bucket is full.

        If calls wait for their turn, and one of them has paid later, the payment is only noted: later calls keep their
        turns, and a refund would let one more call share the turn of another. A payment that was noted is undone when
        the payment after it is.

        Args:
            full_at: The time at which the bucket is full now, in seconds.
            now: The present time.
            paid: The time at which the bucket was full after the payment.
            cost: The tokens that were paid.
            notes: The payments noted so far, which this method changes.
        """
        if full_at - now <= self.room:  # no call waits
            return full_at - cost * self.interval
        early = self.interval * _EARLY
        if abs(full_at - paid) > early:
            notes[:] = [note for note in notes if note.paid > now][-_MOST_NOTES + 1 :]
            notes.append(Withdrawal(paid, cost))
            return full_at
        undone: Withdrawal | None = Withdrawal(paid, cost)
        while undone is not None:
            full_at -= undone.cost * self.interval
            undone = next((note for note in notes if abs(full_at - note.paid) <= early), None)
            if undone is not None:
                notes.remove(undone)
        return full_at

    def returned(self, full_at: float, cost: int) -> float:
        """Undo a payment, also if later calls have paid after it, and return the time at which the bucket is full.

        Args:
            full_at: The time at which the bucket is full now, in seconds.
            cost: The tokens that were paid.

        Only for buckets without calls that wait for their turn.
        """
        return full_at - cost * self.interval

    def drained(self, full_at: float, now: float, wait: float = 0.0) -> float:
        """Return the time at which the bucket is full if it is emptied now.

        Args:
            full_at: The time at which the bucket is full without that, in seconds.
            now: Seconds.
            wait: The shortest time to the next token, in seconds.

        The next token comes after `wait` seconds at the earliest. A bucket that is emptier than that already, because
        calls wait for their turn, stays as it is.
        """
        return max(full_at, now + self.capacity + max(0.0, wait - self.interval))

    def __repr__(self) -> str:
        return f"Quota({self.name!r}, {str(self.rate)!r}, burst={self.burst})"


_CHECKS_PER_KEY = 2
_CANDIDATES = 8
_NEVER = float("inf")

Cell: TypeAlias = list[float]
"""One bucket as threads share it: `[full_at]`, and empty while a thread is spending from it.

A cell is emptied before it leaves the table, so a thread that finds a cell empty has to look its key up again.
"""


class BucketTable:
    """The buckets of one name by key, at most `max_keys`.

    One thread at a time may call its methods, and a finalizer in the middle of that. Other threads may spend from its
    cells at the same time.

    Attributes:
        cells: The bucket of each key.
        displaced: How many buckets were dropped while they were not full.
    """

    __slots__ = ("_max_keys", "_order", "cells", "displaced")

    def __init__(self, max_keys: int) -> None:
        self._max_keys = max_keys
        self.cells: dict[str, Cell] = {}
        self._order: deque[str] = deque()
        self.displaced = 0

    def add(self, key: str, full_at: float, now: float) -> None:
        """Add the bucket of a key that is not in the table."""
        for _ in range(min(_CHECKS_PER_KEY, len(self._order))):
            self._check_next(now)
        while len(self.cells) >= self._max_keys and self._displace():
            self.displaced += 1
        # In this order: an interrupt may leave a key in line that has no bucket, never a bucket that is not in line.
        self._order.append(key)
        self.cells[key] = [full_at]

    def clear(self) -> None:
        """Drop all buckets, except those that threads are spending from."""
        for key in list(self.cells):
            self._drop(key, _NEVER)
        self._order = deque(self.cells)

    def _check_next(self, now: float) -> None:
        order = self._order
        order.rotate(-1)
        if self._drop(order[-1], now):
            order.pop()

    def _displace(self) -> bool:
        order = self._order
        keys = list(islice(order, _CANDIDATES))
        chosen = min(keys, key=self._full_at)
        if not self._drop(chosen, _NEVER):
            return False
        with contextlib.suppress(ValueError):  # a finalizer that made a call meanwhile has removed it
            order.remove(chosen)  # before the rotation: `remove` searches from the front
        order.rotate(1 - len(keys))
        return True

    def _full_at(self, key: str) -> float:
        return next(iter(self.cells.get(key, ())), _NEVER)

    def _drop(self, key: str, latest: float) -> bool:
        """Drop a bucket that is full by `latest`, unless a thread is spending from it; returns whether it is gone."""
        cell = self.cells.get(key)
        if cell is None:
            return True
        try:
            full_at = cell.pop()
        except IndexError:
            return False
        if full_at > latest:
            cell.append(full_at)
            return False
        del self.cells[key]
        return True

    def __len__(self) -> int:
        return len(self.cells)
