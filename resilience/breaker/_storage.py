"""A pybreaker storage the user handed in, kept in step with the machine.

pybreaker lets several breakers share a storage and lets anybody write to it; a breaker follows what the storage says at
its next call. Without such a storage the machine alone is the truth and none of this runs.

A storage may take its time: what a closed circuit asks it is asked before the breaker's lock is taken (L1). A trial's
outcome and a change of state are written under it, so that they are written in the order in which they came about. Each
access has a bound (`_guarded.py`); without an answer the machine decides by what it knows itself.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import NamedTuple, cast

from resilience.breaker._epochs import CLOSED, OPEN, Closed, Open, Permit, Trial
from resilience.breaker._guarded import GuardedStorage
from resilience.breaker._machine import Machine, Transition
from resilience.breaker._rules import Trip
from resilience.breaker._window import Counts

__all__ = ("Reading", "StoredFailures", "failed", "follow", "publish", "read", "tried")


class StoredFailures:
    """The consecutive rule, counting in the storage, so that breakers that share one count together.

    While the storage is away the failures of this process are counted here.
    """

    def __init__(self, guarded: GuardedStorage, limit: int) -> None:
        self.limit = limit
        self._guarded = guarded
        self._failures = 0  # as the storage said last
        self._unstored: list[None] = []  # one for each failure since then; appending is atomic
        self.succeeded: Callable[[], object] = self._end_run

    def _end_run(self) -> None:
        """End the run, for all that share the storage."""
        self._failures = 0
        self._unstored.clear()
        self._guarded.write(self._guarded.storage.reset_counter)

    def count(self) -> None:
        """Count a failure in the storage. `failed` is told of it next, under the lock."""
        counted = self._guarded.run(self._increment, without=None)
        if counted is None:
            self._unstored.append(None)
        else:
            self._failures = counted
            self._unstored.clear()

    def _increment(self) -> int | None:
        storage = self._guarded.storage
        storage.increment_counter()
        return None if self._guarded.is_away else storage.counter

    def failed(self, now: float, *, slow: bool = False) -> Trip | None:  # noqa: ARG002 - a rule's signature
        """Trip where the storage has counted up to the limit."""
        counts = self.counts(now)
        return Trip("consecutive failures", counts) if counts.failures >= self.limit else None

    def counts(self, _now: float) -> Counts:
        """Return the count as it was when the storage was asked last, twice."""
        failures = self._failures + len(self._unstored)
        return Counts(failures, failures)

    def answers(self) -> None:
        """Return None: the others that share the storage count as well."""


class Reading(NamedTuple):
    """What a storage said, and after how many changes of our own it was asked."""

    state: str
    opened_at: datetime | None
    changes: int


def read(machine: Machine, guarded: GuardedStorage, now: float, changes: int) -> Reading | None:
    """Ask the storage; None if it says nothing that is to be followed, or does not answer."""
    epoch, storage = machine.epoch, guarded.storage
    is_due = isinstance(epoch, Open) and now >= epoch.until

    def ask() -> Reading | None:
        state = storage.state
        if state == epoch.state and not is_due:
            return None
        return Reading(state, storage.opened_at if state == OPEN else None, changes)

    return guarded.run(ask, without=None)


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


def tried(trial: Trial, machine: Machine, guarded: GuardedStorage, *, is_success: bool) -> None:
    """Count a trial call's outcome together with those of the others that share the storage, if it still counts."""
    epoch, storage = trial.epoch, guarded.storage
    if epoch is not machine.epoch or trial not in epoch.out:
        return
    if not is_success:
        guarded.write(storage.increment_counter)
        return
    if guarded.write(storage.reset_counter, storage.increment_success_counter):
        counted = guarded.run(lambda: storage.success_counter, without=0)
        epoch.successes = max(epoch.successes, counted - 1)  # the machine is about to count this one


def publish(change: Transition, machine: Machine, guarded: GuardedStorage) -> None:
    """Write our own transition to the storage, in pybreaker's order."""
    storage, state = guarded.storage, change.after
    stamps: list[datetime | None] = []

    def set_time() -> None:
        storage.opened_at = datetime.now(UTC)

    def set_state() -> None:
        storage.state = state

    def read_back() -> None:  # a storage may keep less of a time than it was given
        stamps.append(storage.opened_at)

    between = {CLOSED: [storage.reset_counter], OPEN: [set_time]}.get(state, [])
    after = [read_back] if isinstance(machine.epoch, Open) else []
    is_written = guarded.write(storage.reset_success_counter, *between, set_state, *after)
    if isinstance(machine.epoch, Open):
        machine.epoch.stamp = stamps[0] if is_written else None
