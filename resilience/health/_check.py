"""One check: the machine behind a lock, and whoever waits for its answer."""

from __future__ import annotations

import logging
import threading
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, TypeAlias

from resilience._support.fork import renew_after_fork
from resilience.clock import Clock
from resilience.events import Emitter
from resilience.health._machine import Change, Machine, Outcome, Run
from resilience.health._verdict import reason_of
from resilience.health._worker import Worker

if TYPE_CHECKING:
    from resilience.health._options import HealthOptions

__all__ = ("Check", "Home", "Launch", "Probe")

_log = logging.getLogger("resilience")

Probe: TypeAlias = Callable[[], Any] | Callable[[], Awaitable[Any]]
"""Fails by raising or by returning (or resolving to) False; anything else is a pass."""

Launch = Callable[["Check", Run], None]


class Home:
    """Where the awaiting part of a run happens, seen only as far as a check needs: whether it will ever answer."""

    def is_gone(self, *, overdue: bool) -> bool:
        """Whether the event loop died with the run in it. `overdue`: the run is past its timeout."""
        raise NotImplementedError


class Check:
    """A named probe with its own limits. No lock is held while the probe runs (L1)."""

    def __init__(
        self,
        name: str,
        probe: Probe,
        groups: tuple[str, ...],
        failure: str,
        options: HealthOptions,
        clock: Clock,
        events: Emitter,
        every: float | None = None,
    ) -> None:
        self.name = name
        self.probe = probe
        self.groups = groups
        self.failure = failure
        self.every = every
        self.worker = Worker(f"resilience-health-{name}")
        self._options = options
        self._clock = clock
        self._events = events
        self.after_fork()
        renew_after_fork(self)

    def after_fork(self) -> None:
        """Know nothing: the parent's threads, loops and connections are not ours."""
        self._lock = threading.Lock()
        self._machine = Machine(
            timeout=self._options.timeout,
            cache=self._options.cache,
            every=self.every,
            failure_threshold=self._options.failure_threshold,
            success_threshold=self._options.success_threshold,
        )
        self._waiting: set[Callable[[], None]] = set()
        self._home: Home | None = None

    def ask(self, launch: Launch) -> Outcome | Run:
        """Return what is known, or the run to wait for; `launch` is called to start one where none is under way."""
        with self._lock:
            now = self._clock()
            orphans = self._bury(now)
            answer, change = self._machine.ask(now)
            begins = answer is None
            found = self._machine.begin(now) if answer is None else answer
            self._record(change)
        self._tell(_line(change), orphans)
        if begins and isinstance(found, Run):
            self._start(launch, found)
        return found

    @property
    def has_passed(self) -> bool:
        """Whether it has ever passed in this process."""
        return self._machine.has_passed

    def due_in(self) -> float:
        """Return the seconds until a background check is due; 0 or less: now."""
        with self._lock:
            return self._machine.due_in(self._clock())

    def run_if_due(self, launch: Launch) -> None:
        """Begin another round of a background check, unless one is under way."""
        with self._lock:
            now = self._clock()
            orphans = self._bury(now)
            run = self._machine.begin(now) if self._machine.due_in(now) <= 0 else None
        self._tell("", orphans)
        if run is not None:
            self._start(launch, run)

    def _start(self, launch: Launch, run: Run) -> None:
        try:
            launch(self, run)
        except RuntimeError as error:  # no more threads, or the loop is closing
            self.finish(run, reason_of(error))

    def _bury(self, now: float) -> set[Callable[[], None]]:
        """Give up a run whose event loop died: it must not wedge the check. Returns who waited for it."""
        run = self._machine.run
        if run is None or self._home is None or not self._home.is_gone(overdue=now >= run.until):
            return set()
        return self._give_up(run)

    def _give_up(self, run: Run) -> set[Callable[[], None]]:
        return self._release() if self._machine.give_up(run) else set()

    def _release(self) -> set[Callable[[], None]]:
        woken, self._waiting = self._waiting, set()
        self._home = None
        return woken

    def settle_in(self, home: Home, run: Run) -> None:
        """Note that `run` goes on in an event loop, which may die."""
        with self._lock:
            if self._machine.run is run:
                self._home = home

    def finish(self, run: Run, reason: str) -> None:
        """Take the answer of `run`: all is well where `reason` is empty."""
        with self._lock:
            is_current = self._machine.run is run
            change = self._machine.finish(run, reason, self._clock())
            woken = self._release() if is_current else set()
            self._record(change)
        self._tell(_line(change, run.outcome if is_current else None), woken)

    def abandon(self, run: Run) -> None:
        """Say that `run` will never answer."""
        with self._lock:
            woken = self._give_up(run)
        self._tell("", woken)

    def watch(self, run: Run, wake: Callable[[], None]) -> bool:
        """Have `wake` called, once, when `run` is over; False (and no call) where it is already."""
        with self._lock:
            if not run.is_over:
                self._waiting.add(wake)
            return not run.is_over

    def forget(self, wake: Callable[[], None]) -> None:
        """Take back a `watch`."""
        with self._lock:
            self._waiting.discard(wake)

    def patience(self, run: Run) -> float:
        """Return the seconds left until `run` is overdue."""
        return max(0.0, run.until - self._clock())

    def conclude(self, run: Run) -> Outcome:
        """Return the outcome of `run`, or that it has none in time."""
        with self._lock:
            outcome, change = self._machine.overdue(run, self._clock())
            self._record(change)
        self._tell(_line(change), set())
        return outcome

    def age(self, outcome: Outcome) -> float:
        """Return the seconds since `outcome` was found."""
        return max(0.0, self._clock() - outcome.at)

    def _record(self, change: Change | None) -> None:
        if change is not None:
            ok, reason, at, seconds, *_ = change.outcome
            severity = "info" if ok else "error" if self.failure == "fail" else "warning"
            self._events.record(
                "health.changed", self.name, at, severity, ok=ok, before=change.before, reason=reason, seconds=seconds
            )

    def _tell(self, line: str, woken: set[Callable[[], None]]) -> None:
        """Speak to the log, the waiting and the listeners, in this order, now that no lock is held.

        Whoever reads "reason withheld" finds the reason logged already; a slow listener holds up no probe.
        """
        try:
            if line:
                _log.warning("health check %r %s", self.name, line)
        finally:
            for wake in woken:
                wake()
        self._events.deliver()


def _line(change: Change | None, outcome: Outcome | None = None) -> str:
    """Return what the log should say: every failed run, being stuck once, and the end of a failure."""
    if change is None:
        if outcome is None or not outcome.reason:
            return ""
        again = "failed" if outcome.ok else "not yet" if outcome.note else "failed again"
        return f"{again}{', ' + outcome.note if outcome.note else ''}: {outcome.reason}"
    if not change.outcome.ok:
        return f"failed: {change.outcome.reason}"
    return "passes again" if change.before is False else ""
