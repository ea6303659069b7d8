"""One check: the machine behind a lock, the callers that wait for its run, and the thread of its plain function."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple, TypeAlias

from resilience._support.fork import renew_after_fork
from resilience._support.measured import Measured, Measurement
from resilience.clock import Clock
from resilience.errors import described, one_line
from resilience.event_log import event_fields
from resilience.events import Emitter
from resilience.health._machine import CheckMachine, CheckOutcome, CheckRun, VerdictChange
from resilience.health._options import HealthOptions

__all__ = (
    "Check",
    "CheckFailedError",
    "CheckFunction",
    "Launch",
    "RunHost",
    "failure_of_error",
    "failure_of_result",
)

_log = logging.getLogger("resilience")

_IDLE_TIMEOUT = 60.0
"""Seconds without work after which the thread of a check ends."""

CheckFunction: TypeAlias = Callable[[], Any] | Callable[[], Awaitable[Any]]
"""A check fails if it raises, or if it returns (or resolves to) False. Any other result is a pass."""

Launch = Callable[["Check", CheckRun], None]
"""Starts the function of a check for a run that has begun."""


class CheckFailedError(Exception):
    """Raise it in a check to give the reason for a failure in your own words.

    A report shows the text alone. For any other exception it shows the name of the class too.
    """


def failure_of_result(result: object) -> str:
    """Return why the result of a check is a failure. Empty for a pass, which is any result but False."""
    return "it returned False" if result is False else ""


def failure_of_error(error: BaseException) -> str:
    """Return an exception in one line. Does not fail if the exception's own text does."""
    if isinstance(error, CheckFailedError):
        return one_line(error) or type(error).__name__
    return described(error)


class RunHost:
    """The event loop that a run goes on in. A check asks it only whether the run can still answer."""

    def is_gone(self, *, overdue: bool) -> bool:
        """Whether the event loop died with the run in it. `overdue`: the run is past its timeout."""
        raise NotImplementedError


class Check(Measured):
    """A named function with limits of its own. No lock is held while the function runs (L1).

    Args:
        name: The name in reports.
        function: Passes or fails, see `CheckFunction`.
        groups: The groups whose reports include this check.
        failure: `fail`, or `warn` if a failure takes nothing out of service.
        options: `timeout`, `cache` and the thresholds.
        clock: Monotonic time.
        events: Emits `health.changed`.
        every: Seconds between two runs in the background; None for a check that runs when it is asked.
    """

    def __init__(
        self,
        name: str,
        function: CheckFunction,
        groups: tuple[str, ...],
        failure: str,
        options: HealthOptions,
        clock: Clock,
        events: Emitter,
        every: float | None = None,
    ) -> None:
        self.name = name
        self.function = function
        self.groups = groups
        self.failure = failure
        self.every = every
        self.thread = CheckThread(f"resilience-health-{name}")
        self._options = options
        self._clock = clock
        self._events = events
        self.after_fork()
        renew_after_fork(self)

    def after_fork(self) -> None:
        """Forget all outcomes in a forked child: the parent's threads, loops and connections are not the child's."""
        self._lock = threading.Lock()
        self._machine = self._new_machine()
        self._waiters: set[Callable[[], None]] = set()
        self._host: RunHost | None = None

    def after_test(self) -> None:
        """Forget all outcomes. A run that is under way is late."""
        with self._lock:
            self._machine = self._new_machine()

    def _new_machine(self) -> CheckMachine:
        return CheckMachine(
            timeout=self._options.timeout,
            cache=self._options.cache,
            every=self.every,
            failure_threshold=self._options.failure_threshold,
            success_threshold=self._options.success_threshold,
        )

    @property
    def has_passed(self) -> bool:
        """Whether the check has ever passed in this process."""
        return self._machine.has_passed

    def ask(self, launch: Launch) -> CheckOutcome | CheckRun:
        """Return the outcome if it is known, or the run to wait for. If there is none, begin one by `launch`."""
        with self._lock:
            now = self._clock()
            woken = self._give_up_dead_run(now)
            answer, change = self._machine.ask(now)
            begins = answer is None
            found = self._machine.begin(now) if answer is None else answer
            self._record(change)
        self._publish(_log_line(change), woken)
        if begins and isinstance(found, CheckRun):
            self._start(launch, found)
        return found

    def measure(self) -> Measurement:
        """Return a 1 for the verdict."""
        verdict = self._machine.was_ok
        state = "unknown" if verdict is None else "ok" if verdict else "failed"
        return Measurement("health", self.name, levels={state: 1})

    def snapshot(self) -> dict[str, Any]:
        """Return the last outcome as plain data, without the reason. Runs nothing."""
        with self._lock:
            last, verdict, now = self._machine.last, self._machine.was_ok, self._clock()
        return {
            "name": self.name,
            "groups": list(self.groups),
            "failure": self.failure,
            "status": "unknown" if verdict is None else "ok" if verdict else "failed",
            "age": None if last is None else now - last.at,
        }

    def due_in(self) -> float:
        """Return the seconds until the next background run. 0 or less means now."""
        with self._lock:
            return self._machine.due_in(self._clock())

    def run_if_due(self, launch: Launch) -> None:
        """Begin the next background run if it is due and none is going on."""
        with self._lock:
            now = self._clock()
            woken = self._give_up_dead_run(now)
            run = self._machine.begin(now) if self._machine.due_in(now) <= 0 else None
        self._publish(None, woken)
        if run is not None:
            self._start(launch, run)

    def _start(self, launch: Launch, run: CheckRun) -> None:
        try:
            launch(self, run)
        except RuntimeError as error:  # no more threads, or the loop is closing
            self.finish(run, failure_of_error(error))

    def _give_up_dead_run(self, now: float) -> set[Callable[[], None]]:
        """Give up a run whose event loop has died: it would block the check for ever. Return its waiters."""
        run = self._machine.run
        if run is None or self._host is None or not self._host.is_gone(overdue=now >= run.until):
            return set()
        return self._give_up(run)

    def _give_up(self, run: CheckRun) -> set[Callable[[], None]]:
        return self._take_waiters() if self._machine.give_up(run) else set()

    def _take_waiters(self) -> set[Callable[[], None]]:
        woken, self._waiters = self._waiters, set()
        self._host = None
        return woken

    def move_to(self, host: RunHost, run: CheckRun) -> None:
        """Note that `run` goes on in an event loop, which may die."""
        with self._lock:
            if self._machine.run is run:
                self._host = host

    def finish(self, run: CheckRun, reason: str) -> None:
        """Take the answer of `run`: a pass if `reason` is empty."""
        with self._lock:
            is_present = self._machine.run is run
            change = self._machine.finish(run, reason, self._clock())
            woken = self._take_waiters() if is_present else set()
            self._record(change)
        self._publish(_log_line(change, run.outcome if is_present else None), woken)

    def abandon(self, run: CheckRun) -> None:
        """Give up `run`, which will never answer."""
        with self._lock:
            woken = self._give_up(run)
        self._publish(None, woken)

    def watch(self, run: CheckRun, wake: Callable[[], None]) -> bool:
        """Call `wake` once, when `run` is over. If it is over already, return False and do not call it."""
        with self._lock:
            if not run.is_over:
                self._waiters.add(wake)
            return not run.is_over

    def unwatch(self, wake: Callable[[], None]) -> None:
        """End a `watch`."""
        with self._lock:
            self._waiters.discard(wake)

    def time_left(self, run: CheckRun) -> float:
        """Return the seconds until the timeout of `run`."""
        return max(0.0, run.until - self._clock())

    def conclude(self, run: CheckRun) -> CheckOutcome:
        """Return the outcome of `run`: a failure if it has not answered."""
        with self._lock:
            outcome, change = self._machine.overdue(run, self._clock())
            self._record(change)
        self._publish(_log_line(change), set())
        return outcome

    def age(self, outcome: CheckOutcome) -> float:
        """Return the seconds since the run of `outcome` ended."""
        return max(0.0, self._clock() - outcome.at)

    def _record(self, change: VerdictChange | None) -> None:
        if change is not None:
            ok, reason, at, seconds, *_ = change.outcome
            severity = "info" if ok else "error" if self.failure == "fail" else "warning"
            self._events.record(
                "health.changed", self.name, at, severity, ok=ok, before=change.before, reason=reason, seconds=seconds
            )

    def _publish(self, line: CheckLine | None, woken: set[Callable[[], None]]) -> None:
        """Write the log, wake the waiters and call the listeners, in this order, after the lock is released.

        A report that says "reason withheld" comes after the reason is in the log. A slow listener delays no probe.
        """
        try:
            if line is not None:
                extra = event_fields("health.changed", self.name, line.facts)
                _log.warning("health check %r %s", self.name, line.text, extra=extra)
        finally:
            for wake in woken:
                wake()
        self._events.deliver()


class CheckLine(NamedTuple):
    """One line of the log about a check."""

    text: str
    facts: dict[str, object]


def _log_line(change: VerdictChange | None, outcome: CheckOutcome | None = None) -> CheckLine | None:
    """Return the line for the log, or None.

    There is a line for each run that fails, for the first timeout of a run that hangs, and for the first pass after a
    failure.
    """
    outcome = outcome if change is None else change.outcome
    text = "" if outcome is None else _text(change, outcome)
    if outcome is None or not text:
        return None
    before = None if change is None else change.before
    return CheckLine(text, {"ok": outcome.ok, "before": before, "reason": outcome.reason, "seconds": outcome.seconds})


def _text(change: VerdictChange | None, outcome: CheckOutcome) -> str:
    if change is None:
        if not outcome.reason:
            return ""
        again = "failed" if outcome.ok else "not yet" if outcome.note else "failed again"
        return f"{again}{', ' + outcome.note if outcome.note else ''}: {outcome.reason}"
    if not outcome.ok:
        return f"failed: {outcome.reason}"
    return "passes again" if change.before is False else ""


class CheckThread:
    """Runs a check's plain function in one daemon thread. A check that hangs holds no thread of the application.

    The thread starts when it is needed, and ends after a minute without work. It is kept between runs, because database
    drivers tie connections to threads.
    """

    __slots__ = ("__weakref__", "_name", "_ready", "_thread", "_work")

    def __init__(self, name: str) -> None:
        self._name = name
        self.after_fork()
        renew_after_fork(self)

    def after_fork(self) -> None:
        """Have no thread: a forked child does not inherit it."""
        self._ready = threading.Condition(threading.Lock())
        self._work: deque[Callable[[], None]] = deque()
        self._thread: threading.Thread | None = None

    def submit(self, work: Callable[[], None]) -> None:
        """Run `work` in the thread. Raises RuntimeError if no thread can be started."""
        with self._ready:
            self._work.append(work)
            if self._thread is not None:
                self._ready.notify()
                return
            thread = threading.Thread(target=self._loop, name=self._name, daemon=True)
            try:
                thread.start()
            except RuntimeError:
                self._work.clear()
                raise
            self._thread = thread

    def _loop(self) -> None:
        while (work := self._next()) is not None:
            try:
                work()
            except BaseException as error:  # noqa: BLE001 - a log handler's error must not end the thread: it has a queue
                facts = (type(error), error, error.__traceback__, threading.current_thread())
                threading.excepthook(threading.ExceptHookArgs(facts))
            del work  # frees what the check refers to, while the thread is idle

    def _next(self) -> Callable[[], None] | None:
        with self._ready:
            while not self._work:
                if not self._ready.wait(_IDLE_TIMEOUT) and not self._work:
                    self._thread = None
                    return None
            return self._work.popleft()
