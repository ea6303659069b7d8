"""Who is in: the count of requests under way, and those who wait for the last one."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any

from resilience.lifecycle._hooks import Span
from resilience.lifecycle._options import LifecycleOptions
from resilience.options import seconds

__all__ = ("Presence",)


class Presence:
    """Every request is between one `enter()` and one `leave()`."""

    options: LifecycleOptions

    def after_fork(self) -> None:
        """Start counting afresh in a forked child: the parent's requests are the parent's."""
        self._lock = threading.RLock()  # re-entrant: a signal may arrive in the thread that holds it, and drain
        # One token a request: adding and taking one is a single atomic step each, so there is no count to get wrong.
        self._present: deque[None] = deque()
        self._waiters: set[Callable[[], None]] = set()

    @property
    def in_flight(self) -> int:
        """Requests under way."""
        return len(self._present)

    def enter(self) -> None:
        """Count one more request under way. Every `enter` needs exactly one `leave`."""
        self._present.append(None)

    def leave(self) -> None:
        """Count one request as done. Takes no lock, unless somebody waits for the last one."""
        try:
            self._present.pop()
        except IndexError:  # a child forked inside a request leaves what it never entered
            return
        # Whoever waits was in the set before it looked for requests: either it saw this one gone, or it is seen here.
        if self._waiters and not self._present:
            self._wake()

    def _wake(self) -> None:
        with self._lock:
            if self._present:  # somebody came in meanwhile, and will be here again
                return
            woken, self._waiters = self._waiters, set()
        for wake in woken:
            wake()

    def watch_idle(self, wake: Callable[[], None]) -> bool:
        """Have `wake` called, once, when the last request leaves; False (and no call) where there is none now."""
        with self._lock:
            self._waiters.add(wake)
            is_busy = bool(self._present)
            if not is_busy:
                self._waiters.discard(wake)
            return is_busy

    def forget_idle(self, wake: Callable[[], None]) -> None:
        """Take back a `watch_idle`."""
        with self._lock:
            self._waiters.discard(wake)

    def wait_idle(self, timeout: Span | None = None) -> bool:
        """Block until no request is under way; whether that came within `timeout` (default: `drain_timeout`)."""
        idle = threading.Event()
        limit = self.patience(timeout)
        if not self.watch_idle(idle.set):
            return True
        try:
            return idle.wait(limit)
        finally:
            self.forget_idle(idle.set)

    def await_idle(self, timeout: Span | None = None) -> Coroutine[Any, Any, bool]:
        """Suspend until no request is under way; whether that came within `timeout` (default: `drain_timeout`)."""
        from resilience.lifecycle._aio import await_idle  # noqa: PLC0415 - asyncio costs 40 ms and few need it

        return await_idle(self, self.patience(timeout))

    def patience(self, timeout: Span | None) -> float:
        """Return how long to wait for the last request, in seconds."""
        return self.options.drain_timeout if timeout is None else seconds(timeout, "timeout")
