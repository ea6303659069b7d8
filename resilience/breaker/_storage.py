"""A pybreaker storage the user handed in, kept in step with the machine.

pybreaker lets several breakers share a storage and lets anybody write to it; a breaker follows what the storage says at
its next call. Without such a storage the machine alone is the truth and none of this runs.
"""

from __future__ import annotations

from datetime import UTC, datetime

import pybreaker

from resilience.breaker._machine import CLOSED, OPEN, Machine, Transition

__all__ = ("StoredFailures", "follow", "publish")


class StoredFailures:
    """The consecutive rule, counting in the storage, so that breakers that share one count together."""

    reason = "consecutive failures"

    def __init__(self, storage: pybreaker.CircuitBreakerStorage, limit: int) -> None:
        self.limit = limit
        self._storage = storage
        self.succeeded = storage.reset_counter

    def failed(self) -> bool:
        """Count in the storage; return whether the limit is reached."""
        self._storage.increment_counter()
        return self._storage.counter >= self.limit

    def counts(self) -> tuple[int, int]:
        """Return the stored count, twice."""
        return self._storage.counter, self._storage.counter


def follow(machine: Machine, storage: pybreaker.CircuitBreakerStorage, now: float) -> Transition | None:
    """Adopt the stored state where somebody else changed it."""
    state = storage.state
    if state == machine.epoch.state:
        return None
    if state == CLOSED:
        return machine.close("storage")
    if state == OPEN:
        return machine.open(now, "storage", seconds=_remaining(machine, storage))
    return machine.half_open("storage")


def _remaining(machine: Machine, storage: pybreaker.CircuitBreakerStorage) -> float:
    """Return the open time left. The storage keeps wall-clock time, so this much of L7 is out of our hands."""
    opened_at = storage.opened_at
    if opened_at is None:
        return 0.0  # as in pybreaker: open since nobody knows when may be tried at once
    if opened_at.tzinfo is None:
        opened_at = opened_at.replace(tzinfo=UTC)  # storages written for older pybreakers keep naive UTC
    elapsed = (datetime.now(UTC) - opened_at).total_seconds()
    return min(machine.reset_timeout, max(0.0, machine.reset_timeout - elapsed))


def publish(change: Transition, storage: pybreaker.CircuitBreakerStorage) -> None:
    """Write our own transition to the storage, in pybreaker's order."""
    storage.reset_success_counter()
    if change.after == CLOSED:
        storage.reset_counter()
    elif change.after == OPEN:
        storage.opened_at = datetime.now(UTC)
    storage.state = change.after
