"""The leases of one limiter by key, at most `MAX_KEYS`, and their lock."""

from __future__ import annotations

import itertools
import os
import random
import threading
from collections.abc import Callable, Iterator
from itertools import islice
from typing import NamedTuple

from resilience._support.fork import renew_after_fork
from resilience.clock import Clock
from resilience.ratelimit.on_redis.leases._codec import LeaseAnswer
from resilience.ratelimit.on_redis.leases._machine import LIFETIME, LeaseRenewal, LeaseRule, TokenLease

__all__ = ("LeaseTable", "Renewing")

MAX_KEYS = 10_000
"""The largest number of keys with a lease, or with a known demand, of one limiter."""
_CANDIDATES = 8


class Renewing(NamedTuple):
    """A renewal, and the key that it is about."""

    key: str
    renewal: LeaseRenewal


class LeaseTable:
    """The leases of one limiter in this process.

    A token is spent without the lock (`TokenLease`). The lock is for renewals, and for keys that come and go.

    Args:
        rule: How large a lease may be.
        instances: Returns the number of live instances.
        clock: Returns seconds that never go back.
        patience: Seconds after which a renewal without an answer has been abandoned.

    Attributes:
        instance: The name of this holder of leases, among all limiters of all processes.
        leases: The lease of each key.
    """

    def __init__(self, rule: LeaseRule, instances: Callable[[], int], clock: Clock, patience: float = LIFETIME) -> None:
        self._rule = rule
        self._instances = instances
        self._clock = clock
        self._patience = patience
        self.after_fork()
        renew_after_fork(self)

    def after_fork(self) -> None:
        """Hold nothing: the leases are the parent's."""
        self.instance = os.urandom(8).hex().encode()
        self.leases: dict[str, TokenLease] = {}
        self._numbers: Iterator[int] = itertools.count(1)
        self._displaced: dict[str, TokenLease] = {}
        # Not the module's own, from which a program that has seeded it takes numbers.
        self._random = random.Random().random  # noqa: S311 - jitter
        self._lock = threading.RLock()  # re-entrant, for finalizers that make calls

    def after_test(self) -> None:
        """Hold nothing. The server takes the leases back by itself."""
        self.after_fork()

    def lease_of(self, key: str) -> TokenLease | None:
        """Return the lease of a key, a new one if need be; None if the table is full of leases under renewal."""
        lease = self.leases.get(key)
        if lease is not None:
            return lease
        with self._lock:
            if len(self.leases) >= MAX_KEYS and not self._displace():
                return None
            # A key that comes back: the server still has its lease under our name.
            lease = self._displaced.pop(key, None) or TokenLease(self._clock())
            return self.leases.setdefault(key, lease)

    def _displace(self) -> bool:
        """Make room for a key; returns whether there is room. Needs the lock."""
        now = self._clock()
        for key in tuple(islice(self.leases, _CANDIDATES)):
            lease = self.leases.pop(key)
            if lease.may_begin(now, self._patience):
                self._put_aside(key, lease)
                return True
            self.leases[key] = lease  # at the end: others are tried first
        return False

    def _put_aside(self, key: str, lease: TokenLease) -> None:
        """Keep a lease until the server has it back."""
        if lease.is_empty:
            lease.is_dropped = True
            return
        if len(self._displaced) >= MAX_KEYS:  # that one returns by its end
            self._displaced.pop(next(iter(self._displaced))).is_dropped = True
        self._displaced[key] = lease

    def drop(self, key: str) -> None:
        """Forget the lease of a key. The tokens are gone."""
        with self._lock:
            lease = self.leases.pop(key, None)
            if lease is not None:
                lease.is_dropped, lease.ends_at = True, self._clock()

    def size(self, lease: TokenLease, now: float) -> int:
        """Return the tokens that this instance should hold; 0 if the key is too quiet for a lease."""
        with self._lock:
            return self._rule.size(lease.level(now), self._instances())

    def begin(self, lease: TokenLease, least: int, now: float) -> LeaseRenewal | None:
        """Begin a renewal; None if one is under way.

        Args:
            lease: The lease to renew.
            least: Tokens to hold at least.
            now: The present time.
        """
        with self._lock:
            if not lease.may_begin(now, self._patience):
                return None
            return lease.begin(next(self._numbers), max(least, self.size(lease, now)), now)

    def settle(self, renewal: LeaseRenewal, answer: LeaseAnswer) -> None:
        """Take the answer to a renewal."""
        with self._lock:
            pause = self._rule.pause(renewal.wanted, answer.missing, self._instances(), self._random())
            renewal.lease.answered(renewal, *answer, pause, self._clock())
        renewal.end()

    def idle(self, most: int) -> list[Renewing]:
        """Begin the return of leases that have ended or that nothing is spent of, and forget quiet keys.

        Args:
            most: The most leases to return.
        """
        found: list[Renewing] = []
        for key, lease in tuple(self._displaced.items()):
            with self._lock:
                if lease.is_empty and self._displaced.get(key) is lease:
                    del self._displaced[key]
                elif len(found) < most:
                    found += self._returning(key, lease)
        for key, lease in tuple(self.leases.items()):
            with self._lock:
                now = self._clock()
                if lease.is_idle(now):
                    if len(found) < most:
                        found += self._returning(key, lease)
                elif lease.is_forgettable(now):  # counts the demand, which is compared with it next time
                    lease.is_dropped = True
                    self.leases.pop(key, None)
        return found

    def all(self) -> list[Renewing]:
        """Begin the return of all leases."""
        found: list[Renewing] = []
        for key, lease in (*self._displaced.items(), *self.leases.items()):
            with self._lock:
                found += self._returning(key, lease)
        return found

    def _returning(self, key: str, lease: TokenLease) -> list[Renewing]:
        now = self._clock()
        renewal = lease.begin(next(self._numbers), 0, now) if lease.may_begin(now, self._patience) else None
        return [] if renewal is None else [Renewing(key, renewal)]
