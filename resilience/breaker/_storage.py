"""A pybreaker storage the user handed in, kept in step with the machine.

pybreaker lets several breakers share a storage and lets anybody write to it; a breaker follows what the storage says at
its next call. Without such a storage the machine alone is the truth and none of this runs.

A storage may take its time: what a closed circuit asks it is asked before the breaker's lock is taken (L1). A trial's
outcome and a change of state are written under it, so that they are written in the order in which they came about.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import NamedTuple, cast

import pybreaker

from resilience.breaker._epochs import CLOSED, OPEN, Closed, Open, Permit, Trial
from resilience.breaker._machine import Machine, Transition
from resilience.breaker._rules import Trip
from resilience.breaker._window import Counts

__all__ = ("Reading", "StoredFailures", "failed", "follow", "publish", "read", "tried")


class StoredFailures:
    """The consecutive rule, counting in the storage, so that breakers that share one count together."""

    def __init__(self, storage: pybreaker.CircuitBreakerStorage, limit: int) -> None:
        self.limit = limit
        self._storage = storage
        self._failures = 0  # as the storage said last
        self.succeeded: Callable[[], object] = self._end_run

    def _end_run(self) -> None:
        """End the run, for all that share the storage."""
        self._failures = 0
        self._storage.reset_counter()

    def count(self) -> None:
        """Count a failure in the storage. `failed` is told of it next, under the lock."""
        self._storage.increment_counter()
        self._failures = self._storage.counter

    def failed(self, now: float, *, slow: bool = False) -> Trip | None:  # noqa: ARG002 - a rule's signature
        """Trip where the storage has counted up to the limit."""
        counts = self.counts(now)
        return Trip("consecutive failures", counts) if counts.failures >= self.limit else None

    def counts(self, _now: float) -> Counts:
        """Return the count as it was when the storage was asked last, twice."""
        return Counts(self._failures, self._failures)

    def answers(self) -> None:
        """Return None: the others that share the storage count as well."""


class Reading(NamedTuple):
    """What a storage said, and after how many changes of our own it was asked."""

    state: str
    opened_at: datetime | None
    changes: int


def read(machine: Machine, storage: pybreaker.CircuitBreakerStorage, now: float, changes: int) -> Reading | None:
    """Ask the storage; None where it says nothing that is to be followed."""
    epoch, state = machine.epoch, storage.state
    if state == epoch.state and not (isinstance(epoch, Open) and now >= epoch.until):
        return None
    return Reading(state, storage.opened_at if state == OPEN else None, changes)


def follow(machine: Machine, reading: Reading, now: float) -> Transition | None:
    """Adopt the stored state: somebody else changed it."""
    if reading.state != OPEN:
        return machine.close("storage", now) if reading.state == CLOSED else machine.half_open("storage", now)
    if isinstance(machine.epoch, Open) and reading.opened_at == machine.epoch.stamp:
        return None
    seconds = _remaining(machine, reading.opened_at)
    change = machine.open(now, "storage", seconds=seconds)  # where it was open already: others tried, in vain
    cast("Open", machine.epoch).stamp = reading.opened_at
    return change


def _remaining(machine: Machine, opened_at: datetime | None) -> float:
    """Return the open time left. The storage keeps wall-clock time, so this much of L7 is out of our hands."""
    if opened_at is None:
        return 0.0  # as in pybreaker: open since nobody knows when may be tried at once
    if opened_at.tzinfo is None:
        opened_at = opened_at.replace(tzinfo=UTC)  # storages written for older pybreakers keep naive UTC
    elapsed = (datetime.now(UTC) - opened_at).total_seconds()
    return min(machine.plan.open_time.base, max(0.0, machine.plan.open_time.base - elapsed))


def failed(permit: Permit, machine: Machine) -> None:
    """Count a closed circuit's failure together with those of the others that share the storage, if it still counts."""
    if permit is machine.epoch and isinstance(permit, Closed) and isinstance(permit.rule, StoredFailures):
        permit.rule.count()


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
