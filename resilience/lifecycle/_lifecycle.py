"""The thread-safe lifecycle: the state machine, and the count of requests under way."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Coroutine
from datetime import timedelta
from typing import Any

from resilience._fork import renew_after_fork
from resilience.clock import Clock, monotonic
from resilience.events import Emitter
from resilience.lifecycle._machine import DRAINING, READY, STOPPED, Machine, Transition
from resilience.lifecycle._options import LifecycleOptions
from resilience.options import CLOCK, Instance, checked, seconds

__all__ = ("Lifecycle",)

_LEAVING = frozenset({DRAINING, STOPPED})
_EVENTS = {READY: "lifecycle.started", DRAINING: "lifecycle.draining", STOPPED: "lifecycle.stopped"}

_OPTIONS = Instance(LifecycleOptions, expected="LifecycleOptions, or None")


class Lifecycle:
    """Where a process is between start and end: `starting`, `ready`, `draining` or `stopped`.

    `started()`, `drain()` and `stopped()` move it on and may be called at any time, from any thread, any number of
    times; each answers whether anything changed. Every request is between one `enter()` and one `leave()`.
    Raises `ConfigurationError` only through its options.
    """

    def __init__(self, options: LifecycleOptions | None = None, *, clock: Clock = monotonic) -> None:
        self.options: LifecycleOptions = (
            LifecycleOptions() if options is None else checked(options, "options", _OPTIONS)
        )
        self.events = Emitter()
        self._clock = checked(clock, "clock", CLOCK)
        self._machine = Machine(clock())
        self.is_draining = False
        """Whether this process is on its way out: draining, or stopped already."""
        self.after_fork()
        renew_after_fork(self)

    def after_fork(self) -> None:
        """Start counting afresh in a forked child: the parent's requests are the parent's."""
        self._lock = threading.RLock()  # re-entrant: a signal may arrive in the thread that holds it, and drain
        # One token a request: adding and taking one is a single atomic step each, so there is no count to get wrong.
        self._present: deque[None] = deque()
        self._waiters: set[Callable[[], None]] = set()

    @property
    def state(self) -> str:
        """One of `starting`, `ready`, `draining`, `stopped`."""
        return self._machine.state

    @property
    def is_ready(self) -> bool:
        """Whether this process should be sent requests."""
        return self._machine.state == READY

    @property
    def in_flight(self) -> int:
        """Requests under way."""
        return len(self._present)

    def started(self) -> bool:
        """Declare the start finished. Changes nothing once draining: a drain is never taken back."""
        return self._become(READY)

    def drain(self) -> bool:
        """Declare that no new requests are wanted. Requests under way go on; see `wait_idle`."""
        return self._become(DRAINING)

    def stopped(self) -> bool:
        """Declare the end. `started()` begins a new life, for test clients that run an application twice."""
        return self._become(STOPPED)

    def _become(self, state: str) -> bool:
        with self._lock:
            now = self._clock()
            change = self._machine.become(state, now)
            self.is_draining = self._machine.state in _LEAVING
            if change is not None:
                self._record(change, now)
        self.events.deliver()
        return change is not None

    def _record(self, change: Transition, now: float) -> None:
        facts: dict[str, Any] = {"before": change.before, "lasted": change.lasted, "in_flight": self.in_flight}
        self.events.record(_EVENTS[change.after], "lifecycle", now, **facts)

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

    def wait_idle(self, timeout: float | str | timedelta | None = None) -> bool:
        """Block until no request is under way; whether that came within `timeout` (default: `drain_timeout`)."""
        idle = threading.Event()
        limit = self._patience(timeout)
        if not self.watch_idle(idle.set):
            return True
        try:
            return idle.wait(limit)
        finally:
            self.forget_idle(idle.set)

    def await_idle(self, timeout: float | str | timedelta | None = None) -> Coroutine[Any, Any, bool]:
        """Suspend until no request is under way; whether that came within `timeout` (default: `drain_timeout`)."""
        from resilience.lifecycle._aio import await_idle  # noqa: PLC0415 - asyncio costs 40 ms and few need it

        return await_idle(self, self._patience(timeout))

    def _patience(self, timeout: float | str | timedelta | None) -> float:
        return self.options.drain_timeout if timeout is None else seconds(timeout, "timeout")

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

    def __repr__(self) -> str:
        return f"<Lifecycle {self.state}, {self.in_flight} in flight>"
