"""The token bucket as arithmetic, and the bounded table of buckets in a process.

A bucket is one number: the moment it will be full again (the generic cell rate algorithm, ITU-T I.371, read as a
bucket). A token is `interval` seconds of filling; a bucket that is full needs no memory at all. Pure: told the time.
Any unit of time will do as long as it is one unit; here it is seconds.
"""

from __future__ import annotations

import contextlib
from collections import deque
from itertools import islice
from typing import NamedTuple

from resilience.ratelimit._rate import Rate

__all__ = ("Cell", "Quota", "Spent", "Table")

_EARLY = 1e-3
"""A token may be used this fraction of itself early, once: room for the rounding of floats, never accumulating."""


class Spent(NamedTuple):
    """Whether the cost was paid, and the moment the bucket is full after that."""

    is_paid: bool
    full_at: float


class Quota:
    """`burst` tokens at most, `rate` of them back over time."""

    __slots__ = ("burst", "capacity", "interval", "name", "rate", "room")

    def __init__(self, name: str, rate: Rate, burst: int) -> None:
        self.name = name
        self.rate = rate
        self.burst = burst
        self.interval = rate.interval
        self.capacity = burst * self.interval
        """Seconds from empty to full."""
        self.room = self.capacity + self.interval * _EARLY

    def spend(self, full_at: float, now: float, cost: int = 1, allowance: float = 0.0) -> Spent:
        """Pay `cost` tokens. A refusal costs nothing.

        With an `allowance` a bucket may go that many seconds of filling below empty: the payer waits as long as it
        is below. A clock that went back finds the bucket as empty as it was left, never fuller.
        """
        full_after = max(now, full_at) + cost * self.interval
        if full_after - now > self.room + allowance:
            return Spent(False, full_at)
        return Spent(True, full_after)

    def refunded(self, full_at: float, paid: float, cost: int) -> float:
        """Undo the payment that left the bucket full at `paid`, unless somebody has paid after it.

        Those who wait behind it keep their turn, so what it held would let another call through beside them
        (golang.org/x/time/rate cancels reservations by the same rule).
        """
        return full_at - cost * self.interval if full_at == paid else full_at

    def drained(self, full_at: float, now: float, wait: float = 0.0) -> float:
        """Return the moment the bucket is full with every token taken, and the next one `wait` seconds away at least.

        A bucket that is emptier than that already, because calls wait for their turn, stays as it is.
        """
        return max(full_at, now + self.capacity + max(0.0, wait - self.interval))

    def __repr__(self) -> str:
        return f"Quota({self.name!r}, {str(self.rate)!r}, burst={self.burst})"


_LOOKS = 2
_CHOICES = 8
_NEVER = float("inf")

Cell = list[float]
"""One bucket as several threads share it: `[full_at]`, and empty while somebody is spending from it.

The number is its own lock, because `pop` and `append` are one step each to every other thread. Cells are emptied before
they leave the table, so whoever finds one empty has to look its key up again.
"""


class Table:
    """The buckets of a process by key: at most `max_keys`, those that are full forgotten.

    Every key that comes in has two others looked at, in turn, and dropped where they are full: no timer, no sweep, and
    no more than a fixed piece of work per call. When all `max_keys` are in use, the bucket nearest to full among the
    next eight makes room: the one whose owner gains least from being forgotten. Buckets somebody is spending from
    stay, even where that is one too many until the next key comes.

    One thread at a time may call its methods, and a finalizer in the midst of that; others may spend from its cells.
    """

    __slots__ = ("_max_keys", "_order", "cells", "displaced")

    def __init__(self, max_keys: int) -> None:
        self._max_keys = max_keys
        self.cells: dict[str, Cell] = {}
        self._order: deque[str] = deque()
        self.displaced = 0
        """Buckets that were forgotten while not full."""

    def add(self, key: str, full_at: float, now: float) -> None:
        """Remember a bucket that is not in the table."""
        for _ in range(min(_LOOKS, len(self._order))):
            self._look(now)
        while len(self.cells) >= self._max_keys and self._displace():
            self.displaced += 1
        # In this order: an interrupt may leave a key in line that has no bucket, never a bucket nobody looks at again.
        self._order.append(key)
        self.cells[key] = [full_at]

    def _look(self, now: float) -> None:
        order = self._order
        order.rotate(-1)
        if self._drop(order[-1], now):
            order.pop()

    def _displace(self) -> bool:
        order = self._order
        keys = list(islice(order, _CHOICES))
        chosen = min(keys, key=self._full_at)
        if not self._drop(chosen, _NEVER):
            return False
        with contextlib.suppress(ValueError):  # a finalizer that made a call meanwhile has done it
            order.remove(chosen)  # while it is in front: this looks from there
        order.rotate(1 - len(keys))
        return True

    def _full_at(self, key: str) -> float:
        return next(iter(self.cells.get(key, ())), _NEVER)

    def _drop(self, key: str, latest: float) -> bool:
        """Forget a bucket that is full by `latest`, unless somebody is spending from it."""
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
