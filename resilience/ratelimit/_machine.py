"""The token bucket as arithmetic, and the bounded table of buckets in a process.

A bucket is one number: the moment it will be full again (the generic cell rate algorithm, ITU-T I.371, read as a
bucket). A token is `interval` seconds of filling; a bucket that is full needs no memory at all. Pure: told the time,
not thread-safe. Any unit of time will do as long as it is one unit; here it is seconds.
"""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

from resilience.ratelimit._rate import Rate

__all__ = ("Quota", "Spent", "Table")

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

    def __repr__(self) -> str:
        return f"Quota({self.name!r}, {str(self.rate)!r}, burst={self.burst})"


_LOOKS = 2
_CHOICES = 8
_LONG_AGO = float("-inf")


class Table:
    """The moments at which buckets will be full, by key: at most `max_keys`, the full ones forgotten.

    Every key that comes in has two others looked at, in turn, and dropped where they are full: no timer, no sweep, and
    no more than a fixed piece of work per call. When all `max_keys` are in use, the bucket nearest to full among the
    next eight makes room: the one whose owner gains least from being forgotten.
    """

    __slots__ = ("_max_keys", "_order", "displaced", "full_at")

    def __init__(self, max_keys: int) -> None:
        self._max_keys = max_keys
        self.full_at: dict[str, float] = {}
        self._order: deque[str] = deque()
        self.displaced = 0
        """Buckets that were forgotten while not full."""

    def add(self, key: str, full_at: float, now: float) -> None:
        """Remember a bucket that is not in the table."""
        for _ in range(min(_LOOKS, len(self._order))):
            self._look(now)
        if len(self.full_at) >= self._max_keys:
            self._displace()
        self.full_at[key] = full_at
        self._order.append(key)

    def _look(self, now: float) -> None:
        key = self._order.popleft()
        if self.full_at[key] <= now:
            del self.full_at[key]
        else:
            self._order.append(key)

    def _displace(self) -> None:
        order, full_at = self._order, self.full_at
        keys = [order.popleft() for _ in range(min(_CHOICES, len(order)))]
        chosen = min(keys, key=full_at.__getitem__)
        order.extend(key for key in keys if key is not chosen)
        del full_at[chosen]
        self.displaced += 1

    def forget(self, key: str) -> None:
        """Fill the bucket of `key`; its place in the line is given up when its turn comes."""
        if key in self.full_at:
            self.full_at[key] = _LONG_AGO

    def __len__(self) -> int:
        return len(self.full_at)
