"""Threads for blocking calls that must return on time: bounded, ours, never queueing (L9).

A thread cannot be stopped, so a late call keeps its thread; at the bound new calls are refused at once instead of
waiting behind it. The threads are daemons: a hung dependency must not hold up the end of the process.
"""

from __future__ import annotations

import contextlib
import enum
import logging
import os
import queue
import sys
import threading
from collections.abc import Callable
from contextvars import Context
from typing import Any

from resilience._support.fork import renew_after_fork
from resilience.errors import named

__all__ = ("Executor", "Shortage", "Work")

_IDLE_SECONDS = 10.0
_PLACE = (None,)
_log = logging.getLogger("resilience")


class Work:
    """One call on its way through a thread.

    The right to it belongs to one thread: the one that makes the call, or the one that cancels it. Who has the right
    gives the place back and calls the callbacks. So an interrupt (a signal handler that raises) in the midst of the
    hand-over leaves no doubt: its caller cancels the work, or finds that a thread has it.
    """

    __slots__ = (
        "_call",
        "_callbacks",
        "_context",
        "_finished",
        "_is_over",
        "_right",
        "error",
        "is_cancelled",
        "places",
        "result",
    )

    def __init__(self, call: Callable[[], Any], context: Context) -> None:
        self._call = call
        self._context = context
        self._callbacks: dict[object, Callable[[], object]] = {}  # a callback belongs to the thread that deletes it
        self._right = [None]
        self._is_over = False
        self._finished = threading.Lock()  # a latch: released once, when the call has ended
        self._finished.acquire()
        self.is_cancelled = False
        self.places: list[None] | None = None
        """The list to which the place of this work is returned, None if it holds no place."""
        self.result: Any = None
        self.error: BaseException | None = None

    def claim(self) -> bool:
        """Take the right to the call, to make or to cancel it; return False if another thread has taken it."""
        try:
            del self._right[-1]
        except IndexError:
            return False
        return True

    def cancel(self) -> bool:
        """Give up a call that no thread makes yet, and return whether it is never made."""
        if self.claim():
            self.is_cancelled = True
            self.finish()
        return self.is_cancelled

    def run(self) -> None:
        """Make the call and keep what became of it."""
        try:
            self.result = self._context.run(self._call)
        except BaseException as error:  # noqa: BLE001 - it belongs to the caller, who gets it in its own thread
            # This frame refers to the work, and the work to the error: cut the cycle, and leave none in a local name.
            # By its method: to an error that is frozen, a dataclass perhaps, nothing can be assigned.
            self.error = error.with_traceback(error.__traceback__ and error.__traceback__.tb_next)

    def leave(self) -> None:
        """Give the place back."""
        places = self.places
        if places is not None:
            self.places = None
            places += _PLACE

    def finish(self) -> None:
        """Give the place back and let the caller go on."""
        self._tell(self.leave)
        self._is_over = True
        self._finished.release()
        callbacks = self._callbacks
        for token in list(callbacks):
            try:
                callback = callbacks[token]
                del callbacks[token]
            except KeyError:  # the thread that adds it has found the call to be over
                continue
            self._tell(callback)

    def _tell(self, callback: Callable[[], object]) -> None:
        try:
            callback()
        except BaseException:  # noqa: BLE001 - users add some of them, and the thread has more calls to make
            _log.exception("a callback failed that %s was to call at its end", named(self._call))

    def wait(self, seconds: float) -> bool:
        """Wait up to `seconds` for the end, below 0 for as long as it takes; return whether it came."""
        return self._finished.acquire(timeout=min(seconds, threading.TIMEOUT_MAX))

    def add_done_callback(self, callback: Callable[[], object]) -> None:
        """Call `callback` at the end, in the working thread; at once if that is past.

        If an interrupt is raised from here, `callback` is not called at the end.
        """
        callbacks, token = self._callbacks, object()
        callbacks[token] = callback  # an operator, and CPython looks for no signal behind it
        if self._is_over:
            try:
                del callbacks[token]
            except KeyError:  # the working thread calls it
                return
            callback()


_idle: list[_Worker] = []
"""The threads that have nothing to do. They serve every executor: one that is gone leaves none behind."""
_resting: dict[int, None] = {}
"""The identifiers of these threads, until they begin the next work."""


def _forget_threads() -> None:
    _idle.clear()
    _resting.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_threads)  # they are threads of the parent


class Shortage(enum.Enum):
    """Why a call has no thread. Its caller is to blame for neither, and the dependency least of all."""

    PLACES = "every thread of the executor is taken"
    THREADS = "no thread can be started"
    """The system is out of threads, the interpreter is ending, or a finalizer makes the call where none can be used."""


class Executor:
    """At most `max_threads` calls at once (None for no bound of its own), each in a thread of its own.

    A thread that becomes idle is used again, by any executor and the newest first, and ends after a while. So there are
    as many threads as calls were in flight at once, however many executors (one for each key, perhaps) there are.
    """

    def __init__(self, max_threads: int | None) -> None:
        self._max_threads = max_threads
        self.after_fork()
        renew_after_fork(self)

    def after_fork(self) -> None:
        """Forget the calls in the parent's threads: none of them runs here."""
        # No lock: each step is one atomic operation, so that a finalizer may make a call in the midst of another one.
        # Each is an operator: CPython looks for signals when a call of C has returned, and what `pop` returned would be
        # lost.
        self._places: list[None] | None = None if self._max_threads is None else [None] * self._max_threads

    @property
    def busy(self) -> int:
        """Calls in flight, late ones included; 0 without a bound, for they are not counted."""
        return 0 if self._max_threads is None or self._places is None else self._max_threads - len(self._places)

    def submit(self, work: Work) -> Shortage | None:
        """Start `work` at once and return None, or return what is short: `work` is not run then, and takes no place.

        If an interrupt is raised from here, a thread has the work or none has: `Work.cancel` says which, and gives the
        place back.
        """
        # Refused: a finalizer in a thread that rests, two of which would wait for each other, and one at the very end
        # of the process, where no daemon runs any more.
        if threading.get_ident() in _resting or sys.is_finalizing():
            return Shortage.THREADS
        places = self._places
        if places is not None:
            try:
                del places[-1]
            except IndexError:
                return Shortage.PLACES
            work.places = places
        try:
            _hand_over(work)
        except RuntimeError:  # only from start(): a limit of the system, or the end of the interpreter (3.12 and later)
            if not work.cancel():
                raise
            return Shortage.THREADS
        return None


def _hand_over(work: Work) -> None:
    """Give `work` to the thread that became idle last, or to a new one."""
    while _idle:
        try:
            worker = _idle[-1]
            del _idle[-1]
            del worker.rest[-1]
        except IndexError:  # another thread was quicker, or the worker has rested long enough
            continue
        worker.inbox.put(work)
        return
    _Worker(work).start()


class _Worker(threading.Thread):
    def __init__(self, first: Work) -> None:
        super().__init__(name="resilience", daemon=True)
        self.inbox: queue.SimpleQueue[Work] = queue.SimpleQueue()
        self.inbox.put(first)
        self.rest: list[None] = []
        """Holds one item while the thread is idle: who deletes it gives the thread its next work, or lets it end."""

    def start(self) -> None:
        """Start the thread; an interrupt meanwhile is raised as it is.

        `Thread.start` and the new thread forget the same entry if the interrupt is an `Exception` and comes right after
        the thread was created. The later of the two gets a KeyError: here in place of the interrupt, or in the thread,
        which then ends before it takes its work.
        """
        try:
            super().start()
        except KeyError as error:
            if error.__context__ is None:
                raise
            raise error.__context__ from None

    def run(self) -> None:
        thread = threading.get_ident()
        while True:
            try:
                work = self.inbox.get(timeout=_IDLE_SECONDS)
            except queue.Empty:
                if self._may_end(thread):
                    return
                continue  # it has just been given work
            _resting.pop(thread, None)
            is_ours = work.claim()  # unless an interrupt has struck its caller while this thread was started
            if is_ours:
                work.run()
            # Free before its caller can come again: with a bound of one it must find the place and the thread here.
            _resting[thread] = None
            self.rest.append(None)
            _idle.append(self)
            if is_ours:
                work.finish()
            del work  # an idle thread must not keep the last result alive

    def _may_end(self, thread: int) -> bool:
        try:
            del self.rest[-1]
        except IndexError:
            return False
        with contextlib.suppress(ValueError):
            _idle.remove(self)
        _resting.pop(thread, None)
        return True
