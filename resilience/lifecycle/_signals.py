"""SIGTERM, handled in front of the server's own handler: first the drain, then the server's shutdown.

A signal handler interrupts the main thread anywhere. That thread may hold any lock, or be a greenlet that must not
switch. So our handler only sets attributes. A thread, started when the handler was installed, polls these attributes
ten times a second and does the rest.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
import weakref
from types import FrameType
from typing import Any, Protocol

from resilience._support.fork import renew_after_fork
from resilience.errors import one_line
from resilience.lifecycle._hooks import POLL_INTERVAL, wait_until
from resilience.lifecycle._in_flight import InFlight
from resilience.lifecycle._machine import HookProgress, Shutdown
from resilience.lifecycle._options import LifecycleOptions
from resilience.options import LONGEST

__all__ = ("SIGNALS", "SignalTarget", "Signals", "belongs_to_a_loop")

_log = logging.getLogger("resilience")

_ECHO = 0.1
"""Seconds within which a second signal counts as the first one: a signal to a process group may arrive twice."""
_LAST_COUNT = 3
"""The number of the signal that ends the wait for requests in flight, if no server handles the signal."""
_STATUS_BASE = 128
_LOOP_HANDLERS = ("_sighandler_noop", "__sighandler")


class SignalTarget(Protocol):
    """What a signal needs of a lifecycle. `Life` has it."""

    options: LifecycleOptions
    in_flight: InFlight
    in_with_block: bool

    @property
    def shutdown(self) -> Shutdown:
        """The shutdown of the present life."""
        ...

    @property
    def has_drain_work(self) -> bool:
        """Whether there is something to do between the signal and the server's own shutdown."""
        ...

    @property
    def drain_hooks_timeout(self) -> float:
        """Seconds that all drain hooks together may take."""
        ...

    def drain_hooks_done(self) -> bool:
        """Return whether no drain hook is running."""
        ...

    def on_signal(self, name: str) -> None:
        """Begin the drain because of a signal."""
        ...

    def stop(self) -> None:
        """Run the stop hooks."""
        ...


def belongs_to_a_loop(handler: Any) -> bool:
    """Whether an event loop (asyncio's, uvloop's) handles the signal by itself: its handler in Python does nothing."""
    names = (getattr(handler, "__qualname__", ""), getattr(handler, "__name__", ""))
    return any(str(name).endswith(_LOOP_HANDLERS) for name in names)


class Signals:
    """The one handler of this process, for all its lifecycles that are still in use, and the handlers before it."""

    def __init__(self) -> None:
        self._known: tuple[weakref.ref[SignalTarget], ...] = ()
        self._previous: dict[int, list[Any]] = {}
        self._watch: object = None
        self._masks = threading.local()
        self.after_fork()
        renew_after_fork(self)

    @property
    def _targets(self) -> tuple[SignalTarget, ...]:
        found = [reference() for reference in self._known]
        return tuple(target for target in found if target is not None)

    def _reset(self) -> None:
        self._number = self._count = self._depth = 0
        self._at = 0.0
        self.came_twice = self._is_due = self._has_passed = False

    def after_fork(self) -> None:
        """Remove the handler in a forked child: it has no thread that watches, and process pools end it by SIGTERM."""
        self._known, self._watch = (), None
        self._lock = threading.RLock()  # the handler never takes it
        self._restore()
        self._reset()

    def install(self, target: SignalTarget, numbers: tuple[int, ...]) -> bool:
        """Drain `target` on these signals from now on. Return False if that is impossible, as off the main thread."""
        if threading.current_thread() is not threading.main_thread():
            return False
        try:
            taken = [self._take(number) for number in numbers]
        except ValueError:  # a sub-interpreter
            return False
        return any(taken) and self._watch_for(target)

    def _watch_for(self, target: SignalTarget) -> bool:
        with self._lock:
            others = [each for each in self._targets if each is not target]
            self._known = tuple(map(weakref.ref, (*others, target)))
            try:
                self._start_watching()
            except RuntimeError as error:  # no more threads: a signal that the handler holds back would be lost
                self.forget(target)
                _log.warning("signals are not watched for: %s", one_line(error))
                return False
        return True

    def _take(self, number: int) -> bool:
        handler = signal.getsignal(number)
        if handler is None or handler is signal.SIG_IGN:  # installed by C code, or the process ignores this signal
            return False
        if handler != self._handle:
            if handler is signal.SIG_DFL:
                self._previous.pop(number, None)
            # If another handler replaced ours, it may call ours in turn. `_pass_on` then goes one down in this list.
            self._previous.setdefault(number, []).append(handler)
            signal.signal(number, self._handle)
        return True

    def _start_watching(self) -> None:
        if self._watch is None:
            self._reset()
            self._watch = watch = object()
            threading.Thread(target=self._wait, args=(watch,), name="resilience-signals", daemon=True).start()

    def forget(self, target: SignalTarget) -> None:
        """Drain `target` no longer. With the last target, put the previous handlers back."""
        with self._lock:
            left = [each for each in self._targets if each is not target]
            self._known = tuple(map(weakref.ref, left))
            if left:
                return
            self._watch = None
        if threading.current_thread() is threading.main_thread():
            self._restore()

    def _restore(self) -> None:
        for number, handlers in tuple(self._previous.items()):
            if signal.getsignal(number) == self._handle:
                signal.signal(number, handlers[-1])
                del self._previous[number]  # not if another handler has replaced ours: it may still call ours

    def _handle(self, number: int, frame: FrameType | None) -> None:
        """Note the signal, in the main thread. Nothing in here waits, logs, locks or starts a thread."""
        if self._depth or self._is_due or not self._targets:
            self._pass_on(number, frame)
        elif not self._count:
            self._at, self._number = time.monotonic(), number
            self._count = 1
            if not self._is_held_back(number):
                self._pass_on(number, frame)
        elif number != self._number or time.monotonic() - self._at >= _ECHO:
            self._count += 1
            self.came_twice = True
            if number == signal.SIGINT or not self._is_fatal(number) or self._count >= _LAST_COUNT:
                self._pass_on(number, frame)

    def _is_held_back(self, number: int) -> bool:
        if number == signal.SIGINT:
            return False
        return self._is_fatal(number) or any(target.has_drain_work for target in self._targets)

    def _is_fatal(self, number: int) -> bool:
        return self._handler(number) is signal.SIG_DFL

    def _handler(self, number: int) -> Any:
        handlers = self._previous.get(number, ())
        return handlers[-1 - self._depth] if self._depth < len(handlers) else None

    def _pass_on(self, number: int, frame: FrameType | None) -> None:
        handler = self._handler(number)
        self._has_passed = True
        if handler is signal.SIG_DFL:
            self._end_process(number)
        elif callable(handler) and not belongs_to_a_loop(handler):
            self._depth += 1
            try:
                handler(number, frame)
            finally:
                self._depth -= 1

    def _end_process(self, number: int) -> None:
        """End the process as the signal would have. A `with lifecycle:` block is left by `SystemExit`."""
        for target in self._targets:
            if target.in_with_block and target.shutdown.stop_hooks is HookProgress.NOT_RUN:
                raise SystemExit(_STATUS_BASE + number)
            if target.in_with_block and self._count < _LAST_COUNT:
                return
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)

    def _wait(self, watch: object) -> None:
        while self._is_watched_by(watch):
            if self._count:
                self._drain(self._number, self._targets)
                return
            time.sleep(POLL_INTERVAL)

    def _is_watched_by(self, watch: object) -> bool:
        """Whether this is still the thread that watches. It ends once no lifecycle is left."""
        if self._watch is watch and not self._targets:
            with self._lock:
                if self._watch is watch and not self._targets:
                    self._watch = None
        return self._watch is watch

    def _drain(self, number: int, targets: tuple[SignalTarget, ...]) -> None:
        handler = self._handler(number)
        for target in targets:
            target.on_signal(signal.Signals(number).name)
        if belongs_to_a_loop(handler):
            if any(target.options.drain_delay for target in targets):
                _log.warning("the event loop of this server takes signals itself: drain_delay cannot hold it back")
            return
        for target in targets:
            self._hold_back(target)
        if handler is signal.SIG_DFL:
            for target in targets:
                self._finish(target)
        if not self._has_passed and signal.getsignal(number) == self._handle:
            self._is_due = True
            os.kill(os.getpid(), number)

    def _hold_back(self, target: SignalTarget) -> None:
        """Let the server go on, until routers have noticed the drain and the drain hooks have run."""
        wait_until(self._is_hurried, self._at + target.options.drain_delay - time.monotonic())
        wait_until(lambda: self._is_hurried() or target.drain_hooks_done(), target.drain_hooks_timeout)

    def _is_hurried(self) -> bool:
        return self.came_twice or self._has_passed

    def _finish(self, target: SignalTarget) -> None:
        """Wait for requests in flight and stop, as a server would do. Here no server handles the signal."""
        limit = target.options.drain_timeout
        if not target.in_with_block:
            wait_until(lambda: self._has_passed or not target.in_flight.count, limit)
            target.stop()
        elif target.shutdown.is_observed:  # the main thread drains within limits of its own, and then stops
            wait_until(lambda: self._has_passed or not target.in_with_block, LONGEST)
        else:  # the main thread leaves its block and stops by itself, if it looks at `is_draining`
            wait_until(lambda: self._is_hurried() or not target.in_with_block, limit)

    def mask(self) -> None:
        """Block signals while this thread forks. A signal to the child before its `after_fork` would be lost."""
        if self._previous:
            self._masks.before = signal.pthread_sigmask(signal.SIG_BLOCK, self._previous)

    def unmask(self) -> None:
        """Unblock them again, on both sides of the fork."""
        before = self._masks.__dict__.pop("before", None)
        if before is not None:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


SIGNALS = Signals()

if hasattr(os, "register_at_fork"):
    # Registered after `_support.fork`: in the child, the previous handlers are back before a signal is unblocked.
    os.register_at_fork(before=SIGNALS.mask, after_in_parent=SIGNALS.unmask, after_in_child=SIGNALS.unmask)
