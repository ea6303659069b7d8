"""Threads for blocking calls that must return on time: bounded, ours, never queueing (L9).

A thread cannot be stopped, so a late call keeps its thread; at the bound new calls are refused at once instead of
waiting behind it. The threads are daemons: a hung dependency must not hold up the end of the process.
"""

from __future__ import annotations

import logging
import queue
import sys
import threading
from collections import deque
from collections.abc import Callable
from contextvars import Context
from typing import Any

from resilience._fork import renew_after_fork
from resilience.errors import named

__all__ = ("Executor", "Work")

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


class Executor:
    """At most `max_threads` calls at once; idle threads are used again, newest first, and end after a while."""

    def __init__(self, max_threads: int, name: str = "resilience") -> None:
        self._max_threads = max_threads
        self.name = name
        self.after_fork()
        renew_after_fork(self)

    def after_fork(self) -> None:
        """Forget the parent's threads: none of them exists here."""
        # No lock: each step is one atomic operation, so that a finalizer may make a call in the midst of another one.
        self._places: deque[None] = deque([None] * self._max_threads)  # of threads that do not exist yet
        self._idle: dict[int, _Worker] = {}  # by thread

    @property
    def busy(self) -> int:
        """Calls under way, late ones included."""
        return max(0, self._max_threads - len(self._places) - len(self._idle))

    def submit(self, work: Work) -> bool:
        """Start `work` at once, or return False when every thread is taken."""
        idle = self._idle
        # Refused as well: a finalizer in a thread that rests, two of which would wait for each other, and one at the
        # very end of the process, where no daemon runs any more.
        if threading.get_ident() in idle or sys.is_finalizing():
            return False
        try:
            _, worker = idle.popitem()
        except KeyError:
            return self._begin(work)
        worker.inbox.put(work)
        return True

    def _begin(self, work: Work) -> bool:
        places = self._places
        try:
            places.pop()
        except IndexError:
            return False
        try:
            _Worker(self, work).start()
        except BaseException:  # the system is out of threads
            places.append(None)
            raise
        return True

    def rest(self, worker: _Worker) -> None:
        """Take `worker` back, before its caller can come again: with a bound of one it must find it here."""
        self._idle[worker.thread] = worker

    def dismiss(self, worker: _Worker) -> bool:
        """Let an idle worker end, unless it has just been given work."""
        if self._idle.pop(worker.thread, None) is None:
            return False
        self._places.append(None)
        return True


class _Worker(threading.Thread):
    def __init__(self, executor: Executor, first: Work) -> None:
        super().__init__(name=executor.name, daemon=True)
        self._executor = executor
        self.thread = 0
        self.inbox: queue.SimpleQueue[Work] = queue.SimpleQueue()
        self.inbox.put(first)

    def run(self) -> None:
        self.thread = threading.get_ident()
        while True:
            try:
                work = self.inbox.get(timeout=_IDLE_SECONDS)
            except queue.Empty:
                if self._executor.dismiss(self):
                    return
                continue
            work.run()
            self._executor.rest(self)
            work.finish()
            del work  # an idle thread must not keep the last result alive
