"""Checks in blocking code: how a run is started and waited for, and the rounds of background checks."""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Awaitable, Callable
from typing import Any

from resilience._support.awaiting import resolve
from resilience._support.fork import renew_after_fork
from resilience.health._check import Check, Launch, failure_of_error, failure_of_result
from resilience.health._machine import CheckOutcome, CheckRun

__all__ = ("Schedule", "collect", "launch", "launch_in_thread")

_MAX_PAUSE = 1.0
_MIN_PAUSE = 0.01

Resume = Callable[[Check, CheckRun, Awaitable[Any]], None]
"""Takes over a run whose function, a plain one, returned an awaitable. Must not raise."""


def collect(asked: list[tuple[Check, CheckOutcome | CheckRun]]) -> list[CheckOutcome]:
    """Return the outcome of each check. Blocks for the longest timeout at most, because all checks run already."""
    return [_outcome_of(check, found) for check, found in asked]


def _outcome_of(check: Check, found: CheckOutcome | CheckRun) -> CheckOutcome:
    if isinstance(found, CheckOutcome):
        return found
    is_over = threading.Event()
    if check.watch(found, is_over.set):
        try:
            is_over.wait(check.time_left(found))
        finally:
            check.unwatch(is_over.set)
    return check.conclude(found)


def launch(check: Check, run: CheckRun) -> None:
    """Start a run for a caller without an event loop. An awaitable gets a loop of its own, in the check's thread."""
    launch_in_thread(check, run, _await_here)


def launch_in_thread(check: Check, run: CheckRun, resume: Resume) -> None:
    """Call the function in the check's thread. `resume` takes over if it returns an awaitable."""
    check.thread.submit(functools.partial(_call, check, run, resume))


def _call(check: Check, run: CheckRun, resume: Resume) -> None:
    try:
        result = check.function()
    except BaseException as error:  # noqa: BLE001 - any exception is this check's failure, SystemExit too
        check.finish(run, failure_of_error(error))
        return
    if hasattr(type(result), "__await__"):
        resume(check, run, result)
    else:
        check.finish(run, failure_of_result(result))


def _await_here(check: Check, run: CheckRun, awaitable: Awaitable[Any]) -> None:
    try:
        reason = failure_of_result(resolve(awaitable))
    except BaseException as error:  # noqa: BLE001 - any exception is this check's failure, SystemExit too
        reason = failure_of_error(error)
    check.finish(run, reason)


class Schedule:
    """Starts background checks when they are due, in a thread that runs none of them itself.

    The thread begins with the first probe, so a process that is not probed runs no background check.
    """

    def __init__(self, launcher: Callable[[], Launch]) -> None:
        self._launcher = launcher
        self.after_fork()
        renew_after_fork(self)

    def after_fork(self) -> None:
        """Have no thread: a forked child does not inherit it."""
        self._lock = threading.Lock()
        self._stop: threading.Event | None = None

    def ensure(self, checks: Callable[[], list[Check]]) -> None:
        """Begin the rounds of `checks` if they have not begun. Without a free thread, the next call tries again."""
        if self._stop is not None:
            return
        with self._lock:
            if self._stop is None:
                stop = threading.Event()
                thread = threading.Thread(target=self._loop, args=(checks, stop), name="resilience-health", daemon=True)
                with contextlib.suppress(RuntimeError):  # no more threads: checks become stale, and the report says so
                    thread.start()
                    self._stop = stop

    def close(self) -> None:
        """End the rounds. The next probe begins them again."""
        with self._lock:
            stop, self._stop = self._stop, None
        if stop is not None:
            stop.set()

    def _loop(self, checks: Callable[[], list[Check]], stop: threading.Event) -> None:
        pause = 0.0
        while not stop.wait(pause):
            scheduled = checks()
            for check in scheduled:
                check.run_if_due(self._launcher())
            pause = max(_MIN_PAUSE, min(_MAX_PAUSE, *(check.due_in() for check in scheduled), _MAX_PAUSE))
