"""SIGTERM, taken in front of the server that handles it: first the drain, then the server's own shutdown.

A handler runs in the middle of whatever the main thread does, which may hold any lock, or be a greenlet that must not
switch. So it only sets attributes; a thread started long before looks at them ten times a second and does the rest.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
import weakref
from types import FrameType
from typing import TYPE_CHECKING, Any

from resilience._support.fork import renew_after_fork
from resilience.errors import one_line
from resilience.lifecycle._sync import SLICE, wait_until
from resilience.options import LONGEST

if TYPE_CHECKING:
    from resilience.lifecycle._lifecycle import Lifecycle
    from resilience.lifecycle._standing import Standing

__all__ = ("SIGNALS", "Signals", "is_of_a_loop")

_log = logging.getLogger("resilience")

_ECHO = 0.1
"""Seconds within which a second signal is the first one again: sent to a process group, it arrives by two ways."""
_LAST_WORD = 3
_BASE = 128
_OF_LOOPS = ("_sighandler_noop", "__sighandler")


def is_of_a_loop(handler: Any) -> bool:
    """Whether an event loop (asyncio's, uvloop's) sees the signal by itself: its handler in Python does nothing."""
    names = (getattr(handler, "__qualname__", ""), getattr(handler, "__name__", ""))
    return any(str(name).endswith(_OF_LOOPS) for name in names)


class Signals:
    """Stands between a signal and who handled it before, for every lifecycle of this process somebody still holds."""

    def __init__(self) -> None:
        self._known: tuple[weakref.ref[Lifecycle], ...] = ()
        self._previous: dict[int, list[Any]] = {}
        self._watch: object = None
        self._masks = threading.local()
        self.after_fork()
        renew_after_fork(self)

    @property
    def _lifecycles(self) -> tuple[Lifecycle, ...]:
        found = [reference() for reference in self._known]
        return tuple(lifecycle for lifecycle in found if lifecycle is not None)

    def _renew(self) -> None:
        self._number = self._count = self._depth = 0
        self._at = 0.0
        self.came_twice = self._is_due = self._has_passed = False

    def after_fork(self) -> None:
        """Be gone in a forked child: nobody watches there, and a process pool ends its children by SIGTERM."""
        self._known, self._watch = (), None
        self._lock = threading.RLock()  # never taken by the handler
        self._restore()
        self._renew()

    def install(self, lifecycle: Lifecycle, numbers: tuple[int, ...]) -> bool:
        """Drain `lifecycle` on these signals from now on; False where that cannot be, as off the main thread."""
        if threading.current_thread() is not threading.main_thread():
            return False
        try:
            taken = [self._take(number) for number in numbers]
        except ValueError:  # a sub-interpreter
            return False
        return any(taken) and self._watches_for(lifecycle)

    def _watches_for(self, lifecycle: Lifecycle) -> bool:
        with self._lock:
            others = [one for one in self._lifecycles if one is not lifecycle]
            self._known = tuple(map(weakref.ref, (*others, lifecycle)))
            try:
                self._start_watching()
            except RuntimeError as error:  # no more threads, and a signal held back would stay so
                self.forget(lifecycle)
                _log.warning("signals are not watched for: %s", one_line(error))
                return False
        return True

    def _take(self, number: int) -> bool:
        handler = signal.getsignal(number)
        if handler is None or handler is signal.SIG_IGN:  # C code's, or a wish not to be disturbed
            return False
        if handler != self._handle:
            if handler is signal.SIG_DFL:
                self._previous.pop(number, None)
            # Whoever has taken it from us meanwhile will call us in turn: `_pass_on` goes down this list.
            self._previous.setdefault(number, []).append(handler)
            signal.signal(number, self._handle)
        return True

    def _start_watching(self) -> None:
        if self._watch is None:
            self._renew()
            self._watch = watch = object()
            threading.Thread(target=self._wait, args=(watch,), name="resilience-signals", daemon=True).start()

    def forget(self, lifecycle: Standing) -> None:
        """Leave the signals to who handled them before, once no lifecycle is left to drain."""
        with self._lock:
            left = [one for one in self._lifecycles if one is not lifecycle]
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
                del self._previous[number]  # not before: whoever has taken it from us may still call us

    def _handle(self, number: int, frame: FrameType | None) -> None:
        """Take note, in the main thread. Nothing in here waits, logs, locks or starts anything."""
        if self._depth or self._is_due or not self._lifecycles:
            self._pass_on(number, frame)
        elif not self._count:
            self._at, self._number = time.monotonic(), number
            self._count = 1
            if not self._is_held(number):
                self._pass_on(number, frame)
        elif number != self._number or time.monotonic() - self._at >= _ECHO:
            self._count += 1
            self.came_twice = True
            if number == signal.SIGINT or not self._is_deadly(number) or self._count >= _LAST_WORD:
                self._pass_on(number, frame)

    def _is_held(self, number: int) -> bool:
        if number == signal.SIGINT:
            return False
        return self._is_deadly(number) or any(lifecycle.holds for lifecycle in self._lifecycles)

    def _is_deadly(self, number: int) -> bool:
        return self._handler(number) is signal.SIG_DFL

    def _handler(self, number: int) -> Any:
        handlers = self._previous.get(number, ())
        return handlers[-1 - self._depth] if self._depth < len(handlers) else None

    def _pass_on(self, number: int, frame: FrameType | None) -> None:
        handler = self._handler(number)
        self._has_passed = True
        if handler is signal.SIG_DFL:
            self._die(number)
        elif callable(handler) and not is_of_a_loop(handler):
            self._depth += 1
            try:
                handler(number, frame)
            finally:
                self._depth -= 1

    def _die(self, number: int) -> None:
        """End the process as the signal would have; a `with lifecycle:` block is left in an orderly way."""
        for lifecycle in self._lifecycles:
            if lifecycle.is_inside and not lifecycle.is_stopping:
                raise SystemExit(_BASE + number)
            if lifecycle.is_inside and self._count < _LAST_WORD:
                return
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)

    def _wait(self, watch: object) -> None:
        while self._is_watched_by(watch):
            if self._count:
                self._depart(self._number, self._lifecycles)
                return
            time.sleep(SLICE)

    def _is_watched_by(self, watch: object) -> bool:
        """Whether this is still the watcher; it gives up once nobody is left to drain."""
        if self._watch is watch and not self._lifecycles:
            with self._lock:
                if self._watch is watch and not self._lifecycles:
                    self._watch = None
        return self._watch is watch

    def _depart(self, number: int, lifecycles: tuple[Lifecycle, ...]) -> None:
        handler = self._handler(number)
        for lifecycle in lifecycles:
            lifecycle.signalled(signal.Signals(number).name)
        if is_of_a_loop(handler):
            if any(lifecycle.options.drain_delay for lifecycle in lifecycles):
                _log.warning("the event loop of this server takes signals itself: drain_delay cannot hold it back")
            return
        self._hold(lifecycles)
        if handler is signal.SIG_DFL:
            for lifecycle in lifecycles:
                self._end(lifecycle)
        if not self._has_passed and signal.getsignal(number) == self._handle:
            self._is_due = True
            os.kill(os.getpid(), number)

    def _hold(self, lifecycles: tuple[Lifecycle, ...]) -> None:
        """Serve on, until routers have noticed and registries have been told."""
        for lifecycle in lifecycles:
            wait_until(self._is_waited_for, self._at + lifecycle.options.drain_delay - time.monotonic())
            wait_until(lambda one=lifecycle: self._is_waited_for() or one.is_deregistered, lifecycle.longest_goodbye)  # type: ignore[misc]  # mypy knows no default of a lambda

    def _is_waited_for(self) -> bool:
        return self.came_twice or self._has_passed

    def _end(self, lifecycle: Lifecycle) -> None:
        """Do what no server does here: wait for work under way, and stop."""
        limit = lifecycle.options.drain_timeout
        if not lifecycle.is_inside:
            wait_until(lambda: self._has_passed or not lifecycle.in_flight, limit)
            lifecycle.stop()
        elif lifecycle.is_attended:  # the main thread drains, within limits of its own, and stops then
            wait_until(lambda: self._has_passed or not lifecycle.is_inside, LONGEST)
        else:  # it leaves and stops by itself, if it looks whether it should
            wait_until(lambda: self._is_waited_for() or not lifecycle.is_inside, limit)

    def mask(self) -> None:
        """Hold signals back while this thread forks: one that came to the child before `after_fork` would be lost."""
        if self._previous:
            self._masks.before = signal.pthread_sigmask(signal.SIG_BLOCK, self._previous)

    def unmask(self) -> None:
        """Let them through again, on both sides of the fork."""
        before = self._masks.__dict__.pop("before", None)
        if before is not None:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


SIGNALS = Signals()

if hasattr(os, "register_at_fork"):
    # After those of `_fork`, so that in the child the handlers before ours are back when a signal comes through.
    os.register_at_fork(before=SIGNALS.mask, after_in_parent=SIGNALS.unmask, after_in_child=SIGNALS.unmask)
