"""Where the process stands: the state machine behind a lock, and its events."""

from __future__ import annotations

import functools
import logging
import os
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from resilience._support.fork import renew_after_fork
from resilience.clock import Clock, monotonic
from resilience.events import Emitter
from resilience.lifecycle._machine import DRAINING, READY, STOPPED, Machine, Transition
from resilience.lifecycle._options import LifecycleOptions
from resilience.lifecycle._presence import Presence
from resilience.lifecycle._signals import SIGNALS
from resilience.options import CLOCK, Instance, checked

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop

__all__ = ("Standing",)

_log = logging.getLogger("resilience")

_LEAVING = frozenset({DRAINING, STOPPED})
_EVENTS = {READY: "lifecycle.started", DRAINING: "lifecycle.draining", STOPPED: "lifecycle.stopped"}

_OPTIONS = Instance(LifecycleOptions, expected="LifecycleOptions, or None")


class Standing(Presence):
    """One of `starting`, `ready`, `draining` and `stopped`, and who is told when that changes."""

    def __init__(self, options: LifecycleOptions | None = None, *, clock: Clock = monotonic) -> None:
        self.options: LifecycleOptions = (
            LifecycleOptions() if options is None else checked(options, "options", _OPTIONS)
        )
        self.events = Emitter()
        self._clock = checked(clock, "clock", CLOCK)
        self._machine = Machine(clock())
        self.is_draining = False
        """Whether this process is on its way out: draining, or stopped already."""
        self.is_inside = False
        """Whether the main thread is in a `with lifecycle:` or `async with lifecycle:` block."""
        self.is_attended = False
        """Whether somebody has waited for the drain, and so knows that it began."""
        self.after_fork()
        renew_after_fork(self)

    def after_fork(self) -> None:
        """Start counting afresh in a forked child: the parent's requests, hooks and loop are the parent's."""
        super().after_fork()
        self.loop: AbstractEventLoop | None = None
        """The event loop this process serves in, where there is one: hooks may hold what is bound to it."""
        self._drain_watchers: set[Callable[[], None]] = set()
        self._goodbye: threading.Event | None = None
        self._stopping: threading.Event | None = None

    @property
    def state(self) -> str:
        """One of `starting`, `ready`, `draining`, `stopped`."""
        return self._machine.state

    @property
    def is_ready(self) -> bool:
        """Whether this process should be sent requests. Looks for the drain file, where one is configured."""
        return self._machine.state == READY and not self.drain_file_exists

    @property
    def drain_file_exists(self) -> bool:
        """Whether the drain file exists at this moment."""
        path = self.options.drain_file
        return path is not None and os.path.exists(path)  # noqa: PTH110 - a Path costs three times what the stat does

    @property
    def is_stopping(self) -> bool:
        """Whether the stop hooks are running, or have run."""
        return self._stopping is not None

    def started(self) -> bool:
        """Declare the start finished. Returns whether this changed the state.

        It does not once ready, nor once draining, for a drain is never taken back. After the end a new life begins.
        """
        return self._become(READY)

    def stopped(self) -> bool:
        """Declare the end, without hooks. Returns whether this changed the state: False where it is stopped already.

        A start begins a new life: test clients run an application twice.
        """
        SIGNALS.forget(self)
        self.loop = None
        return self._become(STOPPED)

    def _become(self, state: str) -> bool:
        woken, goodbye = set[Callable[[], None]](), None
        with self._lock:
            now = self._clock()
            change = self._machine.become(state, now)
            self.is_draining = self._machine.state in _LEAVING
            if change is not None:
                self._record(change, now)
                if change.before == STOPPED:
                    self._forget_the_last_life()
                if state == DRAINING:
                    woken = self._drain_watchers.copy()
                    # No later than the state: whoever comes to stop meanwhile has to find what to wait for.
                    goodbye = self._goodbye = threading.Event()
        if goodbye is not None:
            self._say_goodbye(goodbye)
        self.events.deliver()
        for wake in woken:
            wake()
        return change is not None

    def _say_goodbye(self, over: threading.Event) -> None:
        """Set `over` when all is done that has to be when a drain begins. Does not wait for it."""
        over.set()

    def watch_drain(self, wake: Callable[[], None]) -> Callable[[], None] | None:
        """Have `wake` called when a drain begins, in the thread that begins it.

        For adapters, whose callback must not wait. Use an `on_drain` hook for work that a service does at the drain.

        Returns:
            A function that ends the watch and may be called twice; None if a drain has already begun. `wake` is not
            called then.
        """
        with self._lock:
            if self.is_draining:
                return None
            self._drain_watchers.add(wake)
        return functools.partial(self._unwatch_drain, wake)

    def _unwatch_drain(self, wake: Callable[[], None]) -> None:
        with self._lock:
            self._drain_watchers.discard(wake)

    def _record(self, change: Transition, now: float) -> None:
        facts: dict[str, Any] = {"before": change.before, "lasted": change.lasted, "in_flight": self.in_flight}
        self.events.record(_EVENTS[change.after], "lifecycle", now, **facts)

    def signalled(self, name: str) -> None:
        """Drain because of a signal. Called by the thread that watches for it, not by its handler."""
        _log.info("%s: draining with %d requests under way", name, self.in_flight)
        self.events.emit("lifecycle.signalled", "lifecycle", self._clock(), signal=name, in_flight=self.in_flight)
        self.drain()

    def drain(self) -> bool:
        """Declare that no new requests are wanted, and start the drain hooks in the background.

        Requests under way go on, and whoever accepts new ones still does; see `wait_drained` and `stop`.
        Returns whether this call began the drain: False where one has begun, and after the end.
        """
        return self._become(DRAINING)

    def begin(self, loop: AbstractEventLoop | None) -> None:
        """Begin a life that is served in `loop`, or in threads alone."""
        with self._lock:
            self.loop = loop
            if self.state == STOPPED:
                self._forget_the_last_life()

    def _forget_the_last_life(self) -> None:
        self._stopping = self._goodbye = None
        self.is_attended = False

    def claim_stop(self) -> threading.Event | None:
        """Return what to set when the stop hooks have run; None for all but the first who asks."""
        with self._lock:
            if self._stopping is not None:
                return None
            self._stopping = threading.Event()
            return self._stopping

    @property
    def is_over(self) -> bool:
        """Whether the stop hooks have run."""
        return self._stopping is not None and self._stopping.is_set()

    def __repr__(self) -> str:
        return f"<Lifecycle {self.state}, {self.in_flight} in flight>"
