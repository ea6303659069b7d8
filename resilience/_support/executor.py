"""Threads for blocking calls whose callers must return on time: bounded, and without a queue (L9).

A thread cannot be stopped, so a late call keeps its thread. At the bound, a new call is refused at once; it does not
wait behind a late one. The threads are daemons: a hung dependency must not delay the end of the process.

No lock is used: each step that must not be split is one operator, so a finalizer may make a call in the midst of
another one, and an interrupt (a signal handler that raises) finds a step done or not done. CPython looks for signals
when a C function has returned, so what `list.pop` returned could be lost; `del items[-1]` loses nothing. The item that
is deleted is a *right*: a place in the executor, the call of a `Work`, or an idle thread. If several threads try,
one of them gets it, and the others get an IndexError.
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

    The right to the call belongs to one thread: the thread that makes the call, or the thread that cancels it. This
    thread gives the place back and calls the callbacks. So an interrupt in the midst of the hand-over leaves no doubt:
    the caller cancels the work, or finds that a thread has it.
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
        self._callbacks: dict[object, Callable[[], object]] = {}  # each is called by the thread that deletes it
        self._right = [None]
        self._is_over = False
        self._finished = threading.Lock()  # released once, when the call has ended
        self._finished.acquire()
        self.is_cancelled = False
        self.places: list[None] | None = None
        """The list to which the place of this work is returned, None if it holds no place."""
        self.result: Any = None
        self.error: BaseException | None = None

    def claim(self) -> bool:
        """Take the right to make or to cancel the call; return False if another thread has it."""
        try:
            del self._right[-1]
        except IndexError:
            return False
        return True

    def cancel(self) -> bool:
        """Cancel the call if no thread makes it yet; return whether it is cancelled."""
        if self.claim():
            self.is_cancelled = True
            self.finish()
        return self.is_cancelled

    def run(self) -> None:
        """Make the call and keep its result or error."""
        try:
            self.result = self._context.run(self._call)
        except BaseException as error:  # noqa: BLE001 - the caller gets it, in its own thread
            # This frame refers to the work, and the work to the error: cut the cycle. By a method of the error, because
            # nothing can be assigned to one that is a frozen dataclass.
            self.error = error.with_traceback(error.__traceback__ and error.__traceback__.tb_next)

    def leave(self) -> None:
        """Give the place back."""
        places = self.places
        if places is not None:
            self.places = None
            places += _PLACE

    def finish(self) -> None:
        """Give the place back and let the caller go on."""
        self._run(self.leave)
        self._is_over = True
        self._finished.release()
        callbacks = self._callbacks
        for token in list(callbacks):
            try:
                callback = callbacks[token]
                del callbacks[token]
            except KeyError:  # the thread that adds it calls it: it has found that the call is over
                continue
            self._run(callback)

    def _run(self, callback: Callable[[], object]) -> None:
        try:
            callback()
        except BaseException:  # noqa: BLE001 - it may be a user's, and the thread has more calls to make
            _log.exception("a callback at the end of %s failed", named(self._call))

    def wait(self, seconds: float) -> bool:
        """Wait up to `seconds` for the end of the call, below 0 without a limit; return whether it has ended."""
        return self._finished.acquire(timeout=min(seconds, threading.TIMEOUT_MAX))

    def add_done_callback(self, callback: Callable[[], object]) -> None:
        """Call `callback` at the end of the call, in the working thread; at once if the call has ended.

        If an interrupt is raised from this method, `callback` is not called at the end.
        """
        callbacks, token = self._callbacks, object()
        callbacks[token] = callback  # an operator: no interrupt comes after it
        if self._is_over:
            try:
                del callbacks[token]
            except KeyError:  # the working thread calls it
                return
            callback()


_idle: list[_Worker] = []
"""The idle threads. They serve every executor, so an executor that is dropped leaves no thread behind."""
_resting: dict[int, None] = {}
"""The identifiers of the idle threads, until they begin the next work."""


def _forget_threads() -> None:
    _idle.clear()
    _resting.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_threads)  # the threads are the parent's


class Shortage(enum.Enum):
    """Why a call gets no thread. Neither reason says anything about the caller or the dependency."""

    PLACES = "every thread of the executor is taken"
    THREADS = "no thread can be started"
    """The system is out of threads, the interpreter is ending, or a finalizer calls in a thread that is idle."""


class Executor:
    """Runs at most `max_threads` calls at once (None for no bound), each in a thread of its own.

    An idle thread is used again, by any executor; the thread that became idle last is used first. It ends after ten
    seconds without work. So there are as many threads as calls were in flight at once, however many executors (one for
    each key, perhaps) there are.
    """

    def __init__(self, max_threads: int | None) -> None:
        self._max_threads = max_threads
        self.after_fork()
        renew_after_fork(self)

    def after_fork(self) -> None:
        """Forget the calls in the parent's threads: none of them runs here."""
        self._places: list[None] | None = None if self._max_threads is None else [None] * self._max_threads

    @property
    def busy(self) -> int:
        """Calls in flight, late ones included; 0 without a bound, because they are not counted then."""
        return 0 if self._max_threads is None or self._places is None else self._max_threads - len(self._places)

    def submit(self, work: Work) -> Shortage | None:
        """Start `work` at once and return None, or return what is short: `work` does not run then, and takes no place.

        If an interrupt is raised from this method, a thread may or may not have the work: `Work.cancel` finds out, and
        gives the place back if no thread has it.
        """
        # Refused: finalizers in idle threads, two of which could wait for each other, and finalizers at the very end of
        # the process, when no daemon thread runs any more.
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
        except RuntimeError:  # from `Thread.start`: a limit of the system, or the end of the interpreter (3.12)
            if not work.cancel():
                raise
            return Shortage.THREADS
        return None


def _hand_over(work: Work) -> None:
    """Give `work` to the thread that became idle last, or to a new thread."""
    while _idle:
        try:
            worker = _idle[-1]
            del _idle[-1]
            del worker.rest[-1]
        except IndexError:  # another thread took it, or the worker is about to end
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
        """Holds one item while the thread is idle: another thread deletes it to hand over work, this one to end."""

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
                continue  # another thread has just handed work over
            _resting.pop(thread, None)
            is_ours = work.claim()  # False if an interrupt struck the caller while it started this thread
            if is_ours:
                work.run()
            # Idle before the caller goes on: with a bound of one, its next call must find the place and this thread.
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
