"""A pybreaker storage the user handed in, kept in step with the machine.

pybreaker lets several breakers share a storage and lets anybody write to it; a breaker follows what the storage says at
its next call. Without such a storage the machine alone is the truth and none of this runs.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import cast

import pybreaker

from resilience.breaker._epochs import CLOSED, OPEN, Open, Trial
from resilience.breaker._machine import Machine, Transition
from resilience.breaker._rules import Trip
from resilience.breaker._window import Counts

__all__ = ("StoredFailures", "follow", "publish", "tried")


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
    state, epoch = storage.state, machine.epoch
    if state == OPEN:
        return _follow_open(machine, storage, now)
    if state == epoch.state:
        return None
    return machine.close("storage", now) if state == CLOSED else machine.half_open("storage", now)


def _follow_open(machine: Machine, storage: pybreaker.CircuitBreakerStorage, now: float) -> Transition | None:
    epoch = machine.epoch
    if isinstance(epoch, Open) and now < epoch.until:
        return None
    stamp = storage.opened_at
    if isinstance(epoch, Open) and stamp == epoch.stamp:
        return None
    change = machine.open(now, "storage", seconds=_remaining(machine, stamp))  # others tried since then, in vain
    cast("Open", machine.epoch).stamp = stamp
    return change


def _remaining(machine: Machine, opened_at: datetime | None) -> float:
    """Return the open time left. The storage keeps wall-clock time, so this much of L7 is out of our hands."""
    if opened_at is None:
        return 0.0  # as in pybreaker: open since nobody knows when may be tried at once
    if opened_at.tzinfo is None:
        opened_at = opened_at.replace(tzinfo=UTC)  # storages written for older pybreakers keep naive UTC
    elapsed = (datetime.now(UTC) - opened_at).total_seconds()
    return min(machine.plan.open_time.base, max(0.0, machine.plan.open_time.base - elapsed))


def tried(trial: Trial, machine: Machine, storage: pybreaker.CircuitBreakerStorage, *, is_success: bool) -> None:
    """Count a trial call's outcome together with those of the others that share the storage, if it still counts."""
    epoch = trial.epoch
    if epoch is not machine.epoch or trial not in epoch.out:
        return
    if not is_success:
        storage.increment_counter()
        return
    storage.reset_counter()
    storage.increment_success_counter()
    epoch.successes = max(epoch.successes, storage.success_counter - 1)  # the machine is about to count this one


def publish(change: Transition, machine: Machine, storage: pybreaker.CircuitBreakerStorage) -> None:
    """Write our own transition to the storage, in pybreaker's order."""
    storage.reset_success_counter()
    if change.after == CLOSED:
        storage.reset_counter()
    elif change.after == OPEN:
        storage.opened_at = datetime.now(UTC)
    storage.state = change.after
    if isinstance(machine.epoch, Open):
        machine.epoch.stamp = storage.opened_at  # read back: a storage may keep less of it than it was given
