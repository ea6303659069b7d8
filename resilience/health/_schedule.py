"""Rounds of the background checks: one thread that starts them when they are due, and runs none of them itself."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable

from resilience._support.fork import renew_after_fork
from resilience.health._check import Check, Launch

__all__ = ("Schedule",)

_LONGEST = 1.0
_SHORTEST = 0.01


class Schedule:
    """Starts the rounds of checks that have `every`, from the first question on: a process nobody asks runs none."""

    def __init__(self, launch: Callable[[], Launch]) -> None:
        self._launch = launch
        self.after_fork()
        renew_after_fork(self)

    def after_fork(self) -> None:
        """Have no thread: a forked child did not inherit it."""
        self._lock = threading.Lock()
        self._over: threading.Event | None = None

    def ensure(self, checks: Callable[[], list[Check]]) -> None:
        """Start the rounds of whatever `checks` returns, if they have not begun; where no thread can be, next time."""
        if self._over is not None:
            return
        with self._lock:
            if self._over is None:
                over = threading.Event()
                thread = threading.Thread(
                    target=self._go_round, args=(checks, over), name="resilience-health", daemon=True
                )
                with contextlib.suppress(RuntimeError):  # no more threads: checks grow stale, and the probe says so
                    thread.start()
                    self._over = over

    def close(self) -> None:
        """End the rounds; the next question begins them again."""
        with self._lock:
            over, self._over = self._over, None
        if over is not None:
            over.set()

    def _go_round(self, checks: Callable[[], list[Check]], over: threading.Event) -> None:
        wait = 0.0
        while not over.wait(wait):
            due = checks()
            for check in due:
                check.run_if_due(self._launch())
            wait = max(_SHORTEST, min(_LONGEST, *(check.due_in() for check in due), _LONGEST))
