"""One process: its state, hooks and requests, and the blocking operations on them.

`Lifecycle` is the public face. `_aio` has the same operations for async code, and `_signals` calls some of them when a
signal arrives.
"""

from __future__ import annotations

import functools
import logging
import os
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from resilience._support.fork import renew_after_fork
from resilience._support.measured import Measured, Measurement
from resilience.clock import Clock
from resilience.event_log import event_fields
from resilience.events import Emitter
from resilience.lifecycle._hooks import (
    Dependency,
    DependencyWait,
    Hook,
    HookRegistry,
    HookStage,
    report_failure,
    run_in_thread,
    wait_for,
    wait_until,
)
from resilience.lifecycle._in_flight import InFlight
from resilience.lifecycle._machine import (
    DRAINING,
    READY,
    STOPPED,
    HookProgress,
    LifecycleMachine,
    LifecycleState,
    Shutdown,
)
from resilience.lifecycle._options import LifecycleOptions
from resilience.lifecycle._signals import SIGNALS

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop

__all__ = ("Life",)

_log = logging.getLogger("resilience")

_EVENTS = {READY: "lifecycle.started", DRAINING: "lifecycle.draining", STOPPED: "lifecycle.stopped"}


class Life(Measured):
    """The machine behind a lock, with events, hooks and the count of requests. No lock is held while a hook runs."""

    def __init__(self, options: LifecycleOptions, clock: Clock) -> None:
        self.options = options
        self.events = Emitter()
        self.hooks = HookRegistry(options)
        self.in_flight = InFlight()
        self.in_with_block = False
        """Whether the main thread is in a `with lifecycle:` or `async with lifecycle:` block."""
        self.is_leaving = False
        """Whether the process is draining or stopped. An attribute, not a property, because each request reads it."""
        self._clock = clock
        self._machine = LifecycleMachine(clock())
        self._renew()
        renew_after_fork(self)

    def after_fork(self) -> None:
        """Begin afresh in a forked child: the parent's requests, hooks under way and loop stay with the parent."""
        self.in_flight.after_fork()
        self._machine.shutdown = Shutdown()
        self._renew()

    def after_test(self) -> None:
        """Take a drain back: the process is ready. No router has acted on the drain of a test."""
        with self._lock:
            self._machine.take_drain_back(self._clock())
            self.is_leaving = self._machine.is_leaving

    def _renew(self) -> None:
        self._lock = threading.RLock()  # re-entrant: a signal may arrive in the thread that holds it, and drain
        self._drain_watchers: set[Callable[[], None]] = set()
        self.loop: AbstractEventLoop | None = None
        """The event loop that this process serves in. Hooks may hold clients that are bound to it."""

    def measure(self) -> Measurement:
        """Return the requests in flight, and a 1 for the state."""
        return Measurement("lifecycle", "", levels={"in flight": self.in_flight.count, str(self.state): 1})

    @property
    def state(self) -> LifecycleState:
        """The state of the process."""
        return self._machine.state

    @property
    def shutdown(self) -> Shutdown:
        """The shutdown of the present life."""
        return self._machine.shutdown

    @property
    def drain_file_exists(self) -> bool:
        """Whether the drain file exists now."""
        path = self.options.drain_file
        return path is not None and os.path.exists(path)  # noqa: PTH110 - a Path costs three times what the stat does

    # Transitions.

    def begin(self, loop: AbstractEventLoop | None) -> None:
        """Begin a life that is served in `loop`, or in threads alone."""
        with self._lock:
            self.loop = loop
            self._machine.begin_life()

    def started(self) -> bool:
        """Declare the start finished. Return whether the state changed."""
        return self._become(READY)

    def drain(self) -> bool:
        """Begin the drain, and its hooks in the background. Return whether the state changed."""
        return self._become(DRAINING)

    def stopped(self) -> bool:
        """Declare the end. Return whether the state changed."""
        SIGNALS.forget(self)
        self.loop = None
        return self._become(STOPPED)

    def on_signal(self, name: str) -> None:
        """Begin the drain because of a signal. The thread that watches for signals calls this, not the handler."""
        in_flight = self.in_flight.count
        extra = event_fields("lifecycle.signalled", "lifecycle", {"signal": name, "in_flight": in_flight})
        _log.info("%s: draining with %d requests in flight", name, in_flight, extra=extra)
        self.events.emit("lifecycle.signalled", "lifecycle", self._clock(), signal=name, in_flight=in_flight)
        self.drain()

    def _become(self, state: LifecycleState) -> bool:
        watchers = set[Callable[[], None]]()
        with self._lock:
            now = self._clock()
            change = self._machine.become(state, now)
            self.is_leaving = self._machine.is_leaving
            shutdown = self._machine.shutdown
            if change is not None:
                before, lasted, in_flight = change.before.value, change.lasted, self.in_flight.count
                self.events.record(_EVENTS[state], "lifecycle", now, before=before, lasted=lasted, in_flight=in_flight)
                if state is DRAINING:
                    watchers = self._drain_watchers.copy()
        if change is not None and state is DRAINING:
            self._start_drain_hooks(shutdown)
        self.events.deliver()
        for wake in watchers:
            wake()
        return change is not None

    def watch_drain(self, wake: Callable[[], None]) -> Callable[[], None] | None:
        """Have `wake` called when a drain begins. Return a function that ends the watch, None if one has begun."""
        with self._lock:
            if self.is_leaving:
                return None
            self._drain_watchers.add(wake)
        return functools.partial(self._unwatch_drain, wake)

    def _unwatch_drain(self, wake: Callable[[], None]) -> None:
        with self._lock:
            self._drain_watchers.discard(wake)

    # Hooks.

    def add_hook(self, stage: HookStage, hook: Hook) -> None:
        """Add a hook. Logs a warning if its stage has begun: then it will not run in this life."""
        self.hooks.add(stage, hook)
        stop_hooks = self.shutdown.stop_hooks
        has_begun = {
            HookStage.START: self.state in {READY, DRAINING},
            HookStage.DRAIN: self.state is DRAINING,
            HookStage.STOP: stop_hooks is not HookProgress.NOT_RUN,
        }
        if has_begun[stage] and stop_hooks is not HookProgress.DONE:  # once DONE, the hook may be for the next life
            _log.warning("%s hook %r was added too late to be run", stage, hook.name)

    @property
    def needs_start(self) -> bool:
        """Whether a start hook or a dependency makes `start()` necessary."""
        return bool(self.hooks.at(HookStage.START) or self.hooks.dependencies)

    @property
    def has_drain_work(self) -> bool:
        """Whether there is something to do between a signal and the server's own shutdown."""
        return self.options.drain_delay > 0 or bool(self.hooks.at(HookStage.DRAIN))

    @property
    def drain_hooks_timeout(self) -> float:
        """Seconds that all drain hooks together may take."""
        return self.hooks.timeout_of(HookStage.DRAIN)

    @property
    def stop_timeout(self) -> float:
        """Seconds that all drain and stop hooks together may take."""
        return self.drain_hooks_timeout + self.hooks.timeout_of(HookStage.STOP)

    def drain_hooks_done(self) -> bool:
        """Return whether no drain hook is running."""
        return self.shutdown.drain_hooks is not HookProgress.RUNNING

    def wait_on(self, dependency: Dependency) -> DependencyWait:
        """Return the wait for one dependency. A drain ends it early."""
        return DependencyWait(dependency, self.events, lambda: self.state is DRAINING)

    def _start_drain_hooks(self, shutdown: Shutdown) -> None:
        def run() -> None:
            try:
                self._run_hooks(HookStage.DRAIN)
            finally:
                shutdown.drain_hooks = HookProgress.DONE

        if not self.hooks.at(HookStage.DRAIN):
            shutdown.drain_hooks = HookProgress.DONE
            return
        try:
            threading.Thread(target=run, name="resilience-drain", daemon=True).start()
        except RuntimeError:  # the interpreter is ending and starts no more threads
            run()

    def _run_hooks(self, stage: HookStage) -> None:
        loop = None if stage is HookStage.START else self.loop
        for hook in self.hooks.at(stage):
            outcome = run_in_thread(hook.run, hook.timeout, f"{stage}-{hook.name}", loop=loop)
            report_failure(self.events, stage, hook, outcome)

    # Blocking operations. `AsyncLife` has each of them for async code.

    def start(self) -> None:
        """Wait for the dependencies, run the start hooks, and become ready. Raises `StartupError`."""
        self.begin(None)
        for dependency in tuple(self.hooks.dependencies):
            wait_for(self.wait_on(dependency))
        self._run_hooks(HookStage.START)
        self.started()

    def wait_drained(self, limit: float) -> bool:
        """Drain, and block until the last request has left. Return whether that came within `limit` seconds."""
        self.drain()
        self.shutdown.is_observed = True
        wait_until(lambda: SIGNALS.came_twice, self.options.drain_delay)
        wait_until(self.drain_hooks_done, self.drain_hooks_timeout)
        return self.in_flight.wait(limit)

    def stop(self) -> None:
        """Drain, wait for the drain hooks, and run the stop hooks, once in a life."""
        shutdown, is_first = self.begin_stop()
        if not is_first:
            wait_until(lambda: shutdown.stop_hooks is HookProgress.DONE, self.stop_timeout)
            return
        try:
            wait_until(self.drain_hooks_done, self.drain_hooks_timeout)
            self._run_hooks(HookStage.STOP)
        finally:
            self.end_stop(shutdown)

    def begin_stop(self) -> tuple[Shutdown, bool]:
        """Drain. Return the shutdown, and whether the caller is the first one and has to run the stop hooks."""
        self.drain()
        with self._lock:
            shutdown = self._machine.shutdown
            return shutdown, shutdown.begin_stop_hooks()

    def end_stop(self, shutdown: Shutdown) -> None:
        """Declare that the stop hooks have run."""
        self.stopped()
        shutdown.stop_hooks = HookProgress.DONE

    def enter_block(self) -> None:
        """Start, at the beginning of a `with lifecycle:` block. If that fails, stop."""
        self.in_with_block = threading.current_thread() is threading.main_thread()
        try:
            self.start()
        except BaseException:
            self._stop_in_block()
            raise

    def leave_block(self, *, has_failed: bool) -> None:
        """Drain and stop, at the end of the block. Waits for requests in flight unless the block failed."""
        self.drain()
        self.shutdown.is_observed = True
        try:
            if not has_failed:
                self.in_flight.wait(self.options.drain_timeout)
        finally:
            self._stop_in_block()

    def _stop_in_block(self) -> None:
        try:
            self.stop()
        finally:
            self.in_with_block = False

    def stop_if_begun(self) -> None:
        """Stop if the process is ready or draining."""
        if self.state is READY or self.state is DRAINING:
            self.stop()
