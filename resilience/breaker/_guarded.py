"""A storage of the user's, each access to which has a bound.

A storage talks to a server, as a rule with a client whose timeouts are not ours: pybreaker's Redis storage with a
default client of redis-py takes seconds for each access when Redis is gone, and hides the error. So each access runs in
a thread of our own executor, and its caller waits for it no longer than the bound. After an access that took longer, or
raised, the storage is left alone: callers go on at once without it, and a background thread asks it now and then.
The storage is used again as soon as it has answered that thread within the bound.

The error of the very first access is raised, if it does not come too late: a storage that was made wrongly shows when
its breaker is made. A storage in memory has nothing to wait for and is asked directly.
"""

from __future__ import annotations

import functools
import logging
import random
import threading
import weakref
from collections.abc import Callable
from contextvars import Context, copy_context
from typing import Final, TypeVar

import pybreaker

from resilience._support.executor import Executor, Work
from resilience._support.fork import renew_after_fork
from resilience.clock import monotonic

__all__ = ("GuardedStorage",)

T = TypeVar("T")
Tell = Callable[[Exception | None], object]

FIRST_PAUSE: Final = 0.1
LONGEST_PAUSE: Final = 5.0
_LATE: Final = 0.005
"""Seconds of grace for an answer that came while this process did not run."""
_log = logging.getLogger("resilience")


@functools.cache
def _executor() -> Executor:
    """Return the threads in which storages are asked: one set for the process, made when first needed."""
    return Executor(64)


class GuardedStorage:
    """Runs accesses to `storage`, each within `seconds`.

    `tell` is called with an error when the storage goes, and with None when it is back, once each time. It may run
    under the breaker's lock, and in the background thread.
    """

    def __init__(self, storage: pybreaker.CircuitBreakerStorage, seconds: float, tell: Tell) -> None:
        self.storage = storage
        self._seconds = seconds
        self._tell = tell
        self._is_direct = isinstance(storage, pybreaker.CircuitMemoryStorage)
        self._is_first = True
        self.after_fork()
        renew_after_fork(self)

    def after_fork(self) -> None:
        """Believe in the storage again: the thread that asks it is the parent's."""
        self._away: object | None = None
        self._is_watched = False
        # Guards the two above; never held while the storage is asked. Re-entrant, for finalizers that make calls.
        self._lock = threading.RLock()

    @property
    def is_away(self) -> bool:
        """Whether the storage is left alone."""
        return self._away is not None

    def run(self, access: Callable[[], T], without: T) -> T:
        """Return `access()`, or `without` if the storage is away, or proves to be by this access."""
        if self._is_direct:
            return access()
        if self._away is not None:
            if not self._is_watched:
                self._watch()
            return without
        work = _start(access, copy_context())
        if work is None:  # no thread is free: this says nothing about the storage
            return without
        is_first, self._is_first = self._is_first, False
        if not work.wait(self._seconds) and not work.wait(_LATE):
            self._lost(TimeoutError(f"no answer in {self._seconds:g} s"))
            return without
        if work.error is None:
            result: T = work.result
            return result
        if is_first or not isinstance(work.error, Exception):
            raise work.error
        self._lost(work.error)
        return without

    def write(self, *steps: Callable[[], object]) -> bool:
        """Make the steps in one access; returns whether all were made. A late one makes none of those that follow."""

        def make() -> bool:
            for step in steps:
                if self._away is not None:
                    return False
                step()
            return True

        return self.run(make, without=False)

    def _lost(self, error: Exception) -> None:
        with self._lock:
            is_news, self._away = self._away is None, self._away or object()
        if is_news:
            trace = None if isinstance(error, TimeoutError) else error
            _log.warning(
                "storage %r of a breaker is left alone: %s", self.storage.name, type(error).__name__, exc_info=trace
            )
            self._tell(error)
        self._watch()

    def _watch(self) -> None:
        """Ask the storage in the background until it answers; by a weak reference, which keeps no storage alive."""
        is_first = is_started = False
        try:
            with self._lock:
                is_first, self._is_watched = not self._is_watched, True
            if is_first:
                is_started = _start(functools.partial(_watch, weakref.ref(self)), Context()) is not None
        finally:
            if is_first and not is_started:  # no thread was free, or an interrupt came: the next caller tries again
                self._is_watched = False

    def ask(self) -> bool:
        """Ask the storage, in this thread, for as long as it takes; returns whether that was within the bound."""
        since = monotonic()
        try:
            _ = self.storage.state
        except Exception:  # noqa: BLE001 - the error was told at the outage
            return False
        return monotonic() - since <= self._seconds

    def recover(self) -> None:
        """Use the storage again. Tells it once, even if two threads found it back."""
        with self._lock:
            is_news, self._away, self._is_watched = self._away is not None, None, False
        if is_news:
            self._tell(None)


def _start(call: Callable[[], object], context: Context) -> Work | None:
    work = Work(call, context)
    return work if _executor().submit(work) is None else None


def _watch(storage: weakref.ref[GuardedStorage]) -> None:
    pause, idle = FIRST_PAUSE, threading.Event()
    while True:
        idle.wait(pause * (1 - random.random() / 2))  # noqa: S311 - jitter
        guarded = storage()
        if guarded is None:
            return
        if guarded.ask():
            guarded.recover()
            return
        del guarded
        pause = min(LONGEST_PAUSE, 2 * pause)
