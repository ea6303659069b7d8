"""A pybreaker storage the user handed in, kept in step with the machine.

pybreaker lets several breakers share a storage and lets anybody write to it; a breaker follows what the storage says at
its next call. Without such a storage the machine alone is the truth and none of this runs.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

import pybreaker

from resilience.breaker._epochs import CLOSED, OPEN
from resilience.breaker._machine import Machine, Transition
from resilience.breaker._rules import Trip
from resilience.breaker._window import Counts

__all__ = ("StoredFailures", "follow", "publish")


class StoredFailures:
    """The consecutive rule, counting in the storage, so that breakers that share one count together."""

    def __init__(self, storage: pybreaker.CircuitBreakerStorage, limit: int) -> None:
        self.limit = limit
        self._storage = storage
        self.succeeded: Callable[[], object] = storage.reset_counter

    def failed(self, now: float, *, slow: bool = False) -> Trip | None:  # noqa: ARG002 - a rule's signature
        """Count in the storage; trip where the limit is reached."""
        self._storage.increment_counter()
        counts = self.counts(now)
        return Trip("consecutive failures", counts) if counts.failures >= self.limit else None

    def counts(self, _now: float) -> Counts:
        """Return the stored count, twice."""
        return Counts(self._storage.counter, self._storage.counter)


def follow(machine: Machine, storage: pybreaker.CircuitBreakerStorage, now: float) -> Transition | None:
    """Adopt the stored state where somebody else changed it."""
    state = storage.state
    if state == machine.epoch.state:
        return None
    if state == CLOSED:
        return machine.close("storage", now)
    if state == OPEN:
        return machine.open(now, "storage", seconds=_remaining(machine, storage))
    return machine.half_open("storage", now)


def _remaining(machine: Machine, storage: pybreaker.CircuitBreakerStorage) -> float:
    """Return the open time left. The storage keeps wall-clock time, so this much of L7 is out of our hands."""
    opened_at = storage.opened_at
    if opened_at is None:
        return 0.0  # as in pybreaker: open since nobody knows when may be tried at once
    if opened_at.tzinfo is None:
        opened_at = opened_at.replace(tzinfo=UTC)  # storages written for older pybreakers keep naive UTC
    elapsed = (datetime.now(UTC) - opened_at).total_seconds()
    return min(machine.plan.open_time.base, max(0.0, machine.plan.open_time.base - elapsed))


def publish(change: Transition, storage: pybreaker.CircuitBreakerStorage) -> None:
    """Write our own transition to the storage, in pybreaker's order."""
    storage.reset_success_counter()
    if change.after == CLOSED:
        storage.reset_counter()
    elif change.after == OPEN:
        storage.opened_at = datetime.now(UTC)
    storage.state = change.after
