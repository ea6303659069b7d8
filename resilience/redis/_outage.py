"""The outage of one Redis, for the calls of a process: while it lasts no caller asks, and a background thread does.

`_machine.py` decides. This module adds the lock, the clock, the thread, the events and the log. `_trial.py` asks.
"""

from __future__ import annotations

import functools
import logging
import random
import threading
import weakref
from collections.abc import Callable, Mapping
from contextvars import Context
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, Self

from resilience._support.executor import Executor, Work
from resilience._support.fork import renew_after_fork
from resilience._support.measured import Measured, Measurement
from resilience.clock import Clock, monotonic
from resilience.redis._errors import code_of, is_about_one_key, is_of_redis
from resilience.redis._machine import MIN_PAUSE, Availability, Down, OutagePermit, Up
from resilience.redis._pool_machine import NotAskedError, StillConnectingError

if TYPE_CHECKING:
    from types import TracebackType

    from resilience.events import Emitter

__all__ = ("OutageGuard", "RedisAttempt")

_log = logging.getLogger("resilience")


_threads: Final = Executor(None)
"""The threads of the watches: one for each Redis that is down."""


def _nothing() -> None:
    return


def _no_answer(_error: Exception) -> bool:
    return False


class OutageGuard(Measured):
    """Decides which calls may ask Redis, and reports each outage once.

    It emits `<kind>.outage` when Redis stops answering and `<kind>.recovered` when Redis answers again, the latter in a
    background thread. While Redis answers, `admit` takes no lock. While Redis is down, no call waits for it: a daemon
    thread asks until Redis answers, and ends then. The thread keeps the guard alive only during a trial. An error about
    one key is no outage, because the server has answered; the guard logs it once for each code.

    Args:
        kind: The first part of the names of the events.
        events: Where the events go.
        trial: Asks Redis, blocking, and raises its error. Returns False if the outage is to be forgotten, because its
            connection was closed.
        clock: Returns seconds that never go back.
        facts: Further facts of the event of an outage, such as the outage mode.
        where: Facts of both events that say which server of several it is. They may change.
        is_answer: Whether an error of redis-py is the answer of a server that works. It goes on to the caller.
        evict: Called at an outage, and after each trial that failed. The connections that exist may lead to a server
            that is no longer the right one.
    """

    def __init__(
        self,
        kind: str,
        events: Emitter,
        trial: Callable[[], bool],
        *,
        clock: Clock = monotonic,
        evict: Callable[[], object] = _nothing,
        facts: Mapping[str, object] = MappingProxyType({}),
        where: Mapping[str, object] = MappingProxyType({}),
        is_answer: Callable[[Exception], bool] = _no_answer,
    ) -> None:
        self._facts = facts
        self._where = where
        self.is_answer = is_answer
        self._kind = kind
        self._events = events
        self._trial = trial
        self._clock = clock
        self._evict = evict
        self._reported: set[str | None] = set()
        self._outages = 0
        self.after_fork()
        renew_after_fork(self)

    def after_fork(self) -> None:
        """Treat Redis as up in a forked child: the watch is a thread of the parent."""
        self._availability = Availability()
        # Not the module's own, from which a program that has seeded it takes numbers: our thread uses this one.
        self._random = random.Random().random  # noqa: S311 - jitter
        # Guards the machine; never held while Redis is asked. Re-entrant, for finalizers that make calls.
        self._lock = threading.RLock()

    def after_test(self) -> None:
        """Treat Redis as up."""
        with self._lock:
            self._availability = Availability()

    @property
    def is_down(self) -> bool:
        """Whether Redis did not answer when it was last asked."""
        return not isinstance(self._availability.epoch, Up)

    @property
    def trial_after(self) -> float:
        """Seconds until Redis is asked again; 0 if it answers. Also while it is asked, clients should wait a little."""
        with self._lock:
            return max(MIN_PAUSE, self._availability.trial_after(self._clock())) if self.is_down else 0.0

    def measure(self) -> Measurement:
        """Return the outages so far, and a 1 while one lasts."""
        return Measurement("redis", self._kind, {"outages": self._outages}, {"down": int(self.is_down)})

    def attempt(self) -> RedisAttempt:
        """Ask Redis inside `with guard.attempt() as attempt: if attempt.may_try: ...`.

        An error of redis-py or an `OSError` inside the block means that Redis is down: it ends the block and goes no
        further. Any other exception goes on to the caller and says nothing about Redis. An example is a time limit
        that a signal handler raises.
        """
        return RedisAttempt(self, self.admit())

    def admit(self) -> OutagePermit | None:
        """Return a permit to ask Redis, or None if this call must decide without Redis. Never waits."""
        epoch = self._availability.epoch
        if type(epoch) is Up:
            return epoch
        if isinstance(epoch, Down) and epoch.watch is None and self._clock() >= epoch.trial_at:
            self._start_watch(epoch)  # no thread could be started for it at the time
        return None

    def failed(self, permit: OutagePermit, error: Exception) -> None:
        """Record that Redis did not answer, or answered that it can serve no caller."""
        if is_about_one_key(error):
            self._log_key_error(code_of(error))
            return
        with self._lock:
            now = self._clock()
            down = self._availability.failed(permit, now, self._random())
            if down is not None:
                self._outages += 1
                # Facts name the kind of error only: its text may hold addresses, and listeners export what they get.
                facts: dict[str, object] = {"error": type(error).__name__}
                facts |= {"retry_after": self._availability.trial_after(now), **self._facts, **self._where}
                if (code := code_of(error)) is not None:
                    facts["code"] = code
                self._events.record(f"{self._kind}.outage", "redis", now, "error", **facts)
        # A late report of an earlier epoch says nothing about connections made since.
        if down is not None:
            self._leave_connections(error)
            self._start_watch(down)
        self._events.deliver()

    def _leave_connections(self, error: Exception) -> None:
        if not isinstance(error, NotAskedError):  # a connection that is being made may go on
            self._evict()

    def _log_key_error(self, code: str | None) -> None:
        if code not in self._reported:
            self._reported.add(code)
            _log.warning("Redis answered %s for a key; the decision was made without it", code)

    def not_asked(self, permit: OutagePermit, reason: NotAskedError) -> None:
        """Record that this process had no connection for the caller: an outage only if the process has none at all."""
        if isinstance(reason, StillConnectingError):
            self.failed(permit, reason)

    def _start_watch(self, down: Down) -> None:
        """Have a thread ask Redis until it answers. If no thread can be started, a later caller tries again."""
        claim, is_started = object(), False
        try:
            with self._lock:
                if down.watch is not None:
                    return
                down.watch = claim
            work = Work(functools.partial(_watch, weakref.ref(self), down, claim), Context())
            is_started = _threads.submit(work) is None
        finally:
            if not is_started:  # also after an interrupt: a thread that was started all the same finds no claim
                self._give_up(down, claim)

    def _give_up(self, down: Down, claim: object) -> None:
        with self._lock:
            if down.watch is claim:
                down.watch = None
                self._availability.trial_failed(down, self._clock(), self._random())

    def try_again(self, down: Down) -> float | None:
        """Ask Redis if the outage lasts and a trial is due. Blocks; for the thread of the watch.

        Returns:
            The seconds until the next trial is due, or None if there is no need of one.
        """
        with self._lock:
            if down is not self._availability.epoch:
                return None
            wait = self._availability.trial_after(self._clock())
        return wait or self._ask(down)

    def _ask(self, down: Down) -> float | None:
        try:
            is_answered = self._trial()
        except Exception as error:  # noqa: BLE001 - the thread must go on: callers wait for no one else
            if not is_about_one_key(error):
                if not isinstance(error, NotAskedError) and not is_of_redis(error):
                    _log.exception("the trial whether Redis answers again failed")
                return self._trial_failed(down, error)
            is_answered = True
        with self._lock:
            if self._availability.trial_succeeded(down) and is_answered:
                self._events.record(f"{self._kind}.recovered", "redis", self._clock(), "info", **self._where)
        self._events.deliver()
        return None

    def _trial_failed(self, down: Down, error: Exception) -> float:
        with self._lock:
            now = self._clock()
            self._availability.trial_failed(down, now, self._random())
            wait = self._availability.trial_after(now)
        self._leave_connections(error)
        return wait


def _watch(guard: weakref.ref[OutageGuard], down: Down, claim: object) -> None:
    """Ask Redis until it answers, or until nothing refers to the guard any more."""
    idle = threading.Event()
    try:
        while (watched := guard()) is not None and down.watch is claim:
            wait = watched.try_again(down)
            del watched
            if wait is None:
                return
            idle.wait(wait)
    finally:
        if down.watch is claim:
            down.watch = None


class RedisAttempt:
    """One use of Redis that must not fail its caller: it reports an error of its block to the guard."""

    __slots__ = ("_guard", "_permit")

    def __init__(self, guard: OutageGuard, permit: OutagePermit | None) -> None:
        self._guard = guard
        self._permit = permit

    @property
    def may_try(self) -> bool:
        """Whether this caller may ask Redis."""
        return self._permit is not None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        permit = self._permit
        if permit is None or error is None:
            return False
        if isinstance(error, NotAskedError):
            self._guard.not_asked(permit, error)
            return True
        if isinstance(error, Exception) and is_of_redis(error) and not self._guard.is_answer(error):
            self._guard.failed(permit, error)
            return True
        return False
