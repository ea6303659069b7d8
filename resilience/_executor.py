"""Threads for blocking calls that must return on time: bounded, ours, never queueing (L9).

A thread cannot be stopped, so a late call keeps its thread; at the bound new calls are refused at once instead of
waiting behind it. The threads are daemons: a hung dependency must not hold up the end of the process.
"""

from __future__ import annotations

import enum
import logging
import os
import queue
import sys
import threading
from collections import deque
from collections.abc import Callable
from contextvars import Context
from typing import Any

from resilience._fork import renew_after_fork
from resilience.errors import named

__all__ = ("Executor", "Shortage", "Work")

_IDLE_SECONDS = 10.0
_log = logging.getLogger("resilience")


class Work:
    """One call on its way through a thread."""

    __slots__ = ("_call", "_callbacks", "_context", "_finished", "_guard", "error", "result")

    def __init__(self, call: Callable[[], Any], context: Context) -> None:
        self._call = call
        self._context = context
        self._callbacks: list[Callable[[], None]] | None = []
        self._guard = threading.Lock()  # guards the callbacks
        self._finished = threading.Lock()  # a latch: released once, when the call has ended
        self._finished.acquire()
        self.result: Any = None
        self.error: BaseException | None = None

    def run(self) -> None:
        """Make the call and keep what became of it."""
        try:
            self.result = self._context.run(self._call)
        except BaseException as error:  # noqa: BLE001 - it belongs to the caller, who gets it in its own thread
            # This frame refers to the work, and the work to the error: cut the cycle, and leave none in a local name.
            # By its method: to an error that is frozen, a dataclass perhaps, nothing can be assigned.
            self.error = error.with_traceback(error.__traceback__ and error.__traceback__.tb_next)

    def finish(self) -> None:
        """Let the caller go on."""
        with self._guard:
            callbacks, self._callbacks = self._callbacks or [], None
        self._finished.release()
        for callback in callbacks:
            try:
                callback()
            except BaseException:  # noqa: BLE001 - users add some of them, and the thread has more calls to make
                _log.exception("a callback failed that %s was to call at its end", named(self._call))

    def wait(self, seconds: float) -> bool:
        """Wait up to `seconds` for the end, below 0 for as long as it takes; return whether it came."""
        return self._finished.acquire(timeout=min(seconds, threading.TIMEOUT_MAX))

    def add_done_callback(self, callback: Callable[[], None]) -> None:
        """Call `callback` at the end, in the working thread; at once if that is past."""
        with self._guard:
            if self._callbacks is not None:
                self._callbacks.append(callback)
                return
        callback()


_idle: dict[int, _Worker] = {}
"""The threads that have nothing to do, by thread. They serve every executor: one that is gone leaves none behind."""

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_idle.clear)  # they are threads of the parent


class Shortage(enum.Enum):
    """Why a call has no thread. Its caller is to blame for neither, and the dependency least of all."""

    PLACES = "every thread of the executor is taken"
    THREADS = "no thread can be started"
    """The system is out of threads, the interpreter is ending, or a finalizer makes the call where none can be used."""


class Executor:
    """At most `max_threads` calls at once (None for no bound of its own), each in a thread of its own.

    A thread that becomes idle is used again, by any executor and the newest first, and ends after a while. So there are
    as many threads as calls were under way at once, however many executors (one for each key, perhaps) there are.
    """

    def __init__(self, max_threads: int | None) -> None:
        self._max_threads = max_threads
        self.after_fork()
        renew_after_fork(self)

    def after_fork(self) -> None:
        """Forget the calls in the parent's threads: none of them runs here."""
        # No lock: each step is one atomic operation, so that a finalizer may make a call in the midst of another one.
        self._places: deque[None] | None = None if self._max_threads is None else deque([None]) * self._max_threads

    @property
    def busy(self) -> int:
        """Calls under way, late ones included; 0 without a bound, for they are not counted."""
        return 0 if self._max_threads is None or self._places is None else self._max_threads - len(self._places)

    def submit(self, work: Work) -> Shortage | None:
        """Start `work` at once and return None, or return what is short: `work` is not run then, and takes no place."""
        # Refused: a finalizer in a thread that rests, two of which would wait for each other, and one at the very end
        # of the process, where no daemon runs any more.
        if threading.get_ident() in _idle or sys.is_finalizing():
            return Shortage.THREADS
        places = self._places
        try:
            if places is not None:
                places.pop()
        except IndexError:
            return Shortage.PLACES
        try:
            try:
                _, worker = _idle.popitem()
            except KeyError:
                _Worker(work, places).start()
            else:
                worker.inbox.put((work, places))
        except RuntimeError:  # only from start(): a limit of the system, or the end of the interpreter (3.12 and later)
            if places is not None:
                places.append(None)
            return Shortage.THREADS
        except BaseException:
            if places is not None:
                places.append(None)
            raise
        return None


class _Worker(threading.Thread):
    def __init__(self, first: Work, places: deque[None] | None) -> None:
        super().__init__(name="resilience", daemon=True)
        self.inbox: queue.SimpleQueue[tuple[Work, deque[None] | None]] = queue.SimpleQueue()
        self.inbox.put((first, places))

    def run(self) -> None:
        thread = threading.get_ident()
        while True:
            try:
                work, places = self.inbox.get(timeout=_IDLE_SECONDS)
            except queue.Empty:
                if _idle.pop(thread, None) is not None:
                    return
                continue  # it has just been given work
            work.run()
            # Free before its caller can come again: with a bound of one it must find the place and the thread here.
            _idle[thread] = self
            if places is not None:
                places.append(None)
            work.finish()
            del work, places  # an idle thread must not keep the last result alive
