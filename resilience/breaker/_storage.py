"""A pybreaker storage of the user: access to it within a time limit, and how a circuit stays in step with it.

pybreaker lets several breakers share a storage, and lets any program write to it. A breaker reads the storage at its
next call and adopts the state. Without a storage the machine alone decides, and nothing in this file runs.

Time limit. A storage talks to a server, usually through a client whose timeouts are not ours: pybreaker's Redis storage
with a default client of redis-py takes seconds for each access when Redis is gone, and hides the error. So each access
runs in a thread of our executor, and the caller waits for at most `storage_timeout`. After an access that took longer
or raised, the storage counts as away: callers continue at once without it, and the machine decides alone. A background
thread asks the storage again and again, and the storage is used again as soon as it answers in time.

The error of the very first access is raised, if it comes in time: so a storage that was made wrongly shows up when its
breaker is made. A storage in memory has nothing to wait for and is accessed directly.

Locks. The breaker reads the state of the storage before it takes its lock (L1). It writes changes of state and results
of trials under its lock, so that they are written in the order in which they happened.
"""

from __future__ import annotations

import functools
import logging
import random
import threading
import time
import weakref
from collections.abc import Callable
from contextvars import Context, copy_context
from datetime import UTC, datetime
from typing import Final, NamedTuple, TypeAlias, TypeVar, cast

import pybreaker

from resilience._support.executor import Executor, Work
from resilience._support.fork import renew_after_fork
from resilience._support.log_writer import write_line
from resilience._support.printable import one_line
from resilience.breaker._machine import CircuitMachine, StateChange
from resilience.breaker._rules import Trip, TripLimits
from resilience.breaker._states import CLOSED, OPEN, Closed, Open, Permit, Trial
from resilience.breaker._window import CallCounts

__all__ = (
    "GuardedStorage",
    "OnChange",
    "StoredFailures",
    "StoredState",
    "follow",
    "publish",
    "read",
    "record_failure",
    "record_trial",
)

T = TypeVar("T")
OnChange: TypeAlias = Callable[[Exception | None], None]

FIRST_PAUSE: Final = 0.1
MAX_PAUSE: Final = 5.0
_GRACE: Final = 0.005
"""Extra seconds for an answer that arrived while this process did not run."""


@functools.cache
def _executor() -> Executor:
    """Return the threads that access storages: one set for the process, made at the first use."""
    return Executor(64)


class GuardedStorage:
    """Runs accesses to `storage`, each within `seconds`.

    The method `on_change` is called with an error when the storage goes away, and with None when it is back, once each
    time. The call may happen under the circuit's lock, and in the background thread. Its object is held weakly.
    """

    def __init__(self, storage: pybreaker.CircuitBreakerStorage, seconds: float, on_change: OnChange) -> None:
        self.storage = storage
        self._seconds = seconds
        self._on_change = weakref.WeakMethod(on_change)
        self._is_direct = isinstance(storage, pybreaker.CircuitMemoryStorage)
        self._is_first = True
        self.after_fork()
        renew_after_fork(self)

    def after_fork(self) -> None:
        """Use the storage again: the thread that asks it is the parent's."""
        self._away: object | None = None
        self._is_watched = False
        # Guards the two above; never held during an access. Re-entrant, because a finalizer may make calls.
        self._lock = threading.RLock()

    @property
    def is_away(self) -> bool:
        """Whether accesses are skipped."""
        return self._away is not None

    def run(self, access: Callable[[], T], without: T) -> T:
        """Return `access()`; `without` if the storage is away, or goes away by this access."""
        if self._is_direct:
            return access()
        if self._away is not None:
            if not self._is_watched:
                self._watch()
            return without
        work = _start(access, copy_context())
        if work is None:  # no thread is free: this says nothing about the storage
            return without
        is_first, self._is_first = self._is_first, False
        if not work.wait(self._seconds) and not work.wait(_GRACE):
            self._set_away(TimeoutError(f"no answer in {self._seconds:g} s"))
            return without
        if work.error is None:
            result: T = work.result
            return result
        if is_first or not isinstance(work.error, Exception):
            raise work.error
        self._set_away(work.error)
        return without

    def write(self, *steps: Callable[[], object]) -> bool:
        """Run the steps in one access; return whether all ran. After a time-out the remaining steps do not run."""

        def run_steps() -> bool:
            for step in steps:
                if self._away is not None:
                    return False
                step()
            return True

        return self.run(run_steps, without=False)

    def _set_away(self, error: Exception) -> None:
        with self._lock:
            is_new, self._away = self._away is None, self._away or object()
        if is_new:
            self._report(error)  # the log names only the type of the error: its text may hold an address
            write_line(logging.DEBUG, f"error of the storage {one_line(repr(self.storage.name))}", error=error)
        self._watch()

    def _report(self, error: Exception | None) -> None:
        if (on_change := self._on_change()) is not None:
            on_change(error)

    def _watch(self) -> None:
        """Ask the storage in the background until it answers. The thread refers to it weakly."""
        is_first = is_started = False
        try:
            with self._lock:
                is_first, self._is_watched = not self._is_watched, True
            if is_first:
                is_started = _start(functools.partial(_watch, weakref.ref(self)), Context()) is not None
        finally:
            if is_first and not is_started:  # no thread was free, or an interrupt struck: the next caller tries again
                self._is_watched = False

    def ask(self) -> bool:
        """Ask the storage in this thread, without a limit; return whether it answered within the limit."""
        since = time.monotonic()
        try:
            _ = self.storage.state
        except Exception:  # noqa: BLE001 - the outage has been reported already
            return False
        return time.monotonic() - since <= self._seconds

    def recover(self) -> None:
        """Use the storage again. Reports it once, even if two threads call this."""
        with self._lock:
            is_new, self._away, self._is_watched = self._away is not None, None, False
        if is_new:
            self._report(None)


def _start(call: Callable[[], object], context: Context) -> Work | None:
    work = Work(call, context)
    return work if _executor().submit(work) is None else None


def _watch(storage: weakref.ref[GuardedStorage]) -> None:
    pause, idle = FIRST_PAUSE, threading.Event()
    while True:
        idle.wait(pause * (1 - random.random() / 2))  # noqa: S311 - jitter
        guarded = storage()
        if guarded is None:
            return
        if guarded.ask():
            guarded.recover()
            return
        del guarded
        pause = min(MAX_PAUSE, 2 * pause)


class StoredFailures:
    """The rule `fail_max` with its count in the storage, so that breakers that share the storage count together.

    While the storage is away, the failures of this process are counted here.
    """

    def __init__(self, guarded: GuardedStorage, limit: int) -> None:
        self.limit = limit
        self._guarded = guarded
        self._failures = 0  # the last count that the storage returned
        self._unstored: list[None] = []  # one item for each failure since then; appending is atomic
        self.record_success: Callable[[], object] = self._end_run

    def _end_run(self) -> None:
        """Set the count to 0, for all breakers that share the storage."""
        self._failures = 0
        self._unstored.clear()
        self._guarded.write(self._guarded.storage.reset_counter)

    def count(self) -> None:
        """Count a failure in the storage. `record_failure` follows, under the lock."""
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

    def record_failure(self, now: float, *, slow: bool = False) -> Trip | None:  # noqa: ARG002 - a rule's signature
        """Return a trip if the count in the storage has reached the limit."""
        counts = self.counts(now)
        return Trip("consecutive failures", counts) if counts.failures >= self.limit else None

    def counts(self, _now: float) -> CallCounts:
        """Return the last count that the storage returned, plus the failures since then."""
        failures = self._failures + len(self._unstored)
        return CallCounts(failures, failures)

    def successes(self) -> None:
        """Return None: the other breakers that share the storage count, too."""

    def use_limits(self, limits: TripLimits) -> None:
        """Use another limit from the next outcome on."""
        self.limit = limits.consecutive or self.limit


class StoredState(NamedTuple):
    """The state in the storage, and the number of changes that this circuit had made when it asked."""

    state: str
    opened_at: datetime | None
    changes: int


def read(machine: CircuitMachine, guarded: GuardedStorage, now: float, changes: int) -> StoredState | None:
    """Read the storage; None if the circuit need not follow it, or if it does not answer."""
    epoch, storage = machine.epoch, guarded.storage
    is_due = isinstance(epoch, Open) and now >= epoch.until

    def ask() -> StoredState | None:
        state = storage.state
        if state == epoch.state and not is_due:
            return None
        return StoredState(state, storage.opened_at if state == OPEN else None, changes)

    return guarded.run(ask, without=None)


def follow(machine: CircuitMachine, stored: StoredState, now: float) -> StateChange | None:
    """Adopt the stored state, which another breaker or program has set."""
    if stored.state != OPEN:
        return machine.close("storage", now) if stored.state == CLOSED else machine.half_open("storage", now)
    if isinstance(machine.epoch, Open) and stored.opened_at == machine.epoch.stamp:
        return None
    seconds = _remaining(machine, stored.opened_at)
    change = machine.open(now, "storage", seconds=seconds)  # also if it was open: another breaker tried, in vain
    cast("Open", machine.epoch).stamp = stored.opened_at
    return change


def _remaining(machine: CircuitMachine, opened_at: datetime | None) -> float:
    """Return the open time that is left. The storage keeps wall-clock time, so L7 cannot hold here."""
    if opened_at is None:
        return 0.0  # as in pybreaker: without an opening time the next call may try
    if opened_at.tzinfo is None:
        opened_at = opened_at.replace(tzinfo=UTC)  # storages written for older pybreakers keep naive UTC
    elapsed = (datetime.now(UTC) - opened_at).total_seconds()
    return min(machine.plan.open_time.base, max(0.0, machine.plan.open_time.base - elapsed))


def record_failure(permit: Permit, machine: CircuitMachine) -> None:
    """Count a failure of a closed circuit in the storage, if the permit still counts."""
    if permit is machine.epoch and isinstance(permit, Closed) and isinstance(permit.rule, StoredFailures):
        permit.rule.count()


def record_trial(trial: Trial, machine: CircuitMachine, guarded: GuardedStorage, *, is_success: bool) -> None:
    """Count the outcome of a trial in the storage, if the permit still counts."""
    epoch, storage = trial.epoch, guarded.storage
    if epoch is not machine.epoch or trial not in epoch.in_flight:
        return
    if not is_success:
        guarded.write(storage.increment_counter)
        return
    if guarded.write(storage.reset_counter, storage.increment_success_counter):
        counted = guarded.run(lambda: storage.success_counter, without=0)
        epoch.successes = max(epoch.successes, counted - 1)  # the machine counts this success next


def publish(change: StateChange, machine: CircuitMachine, guarded: GuardedStorage) -> None:
    """Write a change of our own to the storage, in pybreaker's order."""
    storage, state = guarded.storage, change.after
    stamps: list[datetime | None] = []

    def set_time() -> None:
        storage.opened_at = datetime.now(UTC)

    def set_state() -> None:
        storage.state = state

    def read_back() -> None:  # a storage may keep a time less precisely
        stamps.append(storage.opened_at)

    between = {CLOSED: [storage.reset_counter], OPEN: [set_time]}.get(state, [])
    after = [read_back] if isinstance(machine.epoch, Open) else []
    is_written = guarded.write(storage.reset_success_counter, *between, set_state, *after)
    if isinstance(machine.epoch, Open):
        machine.epoch.stamp = stamps[0] if is_written else None
