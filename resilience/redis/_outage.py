"""The outage of one Redis, for the calls of a process: while it lasts, one caller now and then asks, and no other.

`_machine.py` decides. This module adds the lock, the clock, the events and the log.
"""

from __future__ import annotations

import logging
import random
import threading
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Self

from resilience._support.fork import renew_after_fork
from resilience._support.measured import Measured, Measurement
from resilience.clock import Clock, monotonic
from resilience.redis._errors import code_of, is_about_one_key, is_of_redis
from resilience.redis._machine import Availability, OutagePermit, Up
from resilience.redis._pool_machine import NotAskedError, StillConnectingError

if TYPE_CHECKING:
    from types import TracebackType

    from resilience.events import Emitter

__all__ = ("OutageGuard", "RedisAttempt")

_log = logging.getLogger("resilience")


def _nothing() -> None:
    return


class OutageGuard(Measured):
    """Decides which calls may ask Redis, and reports each outage once.

    It emits `<kind>.outage` when Redis stops answering and `<kind>.recovered` when Redis answers again. While Redis
    answers, `admit` and `succeeded` take no lock. An error about one key is no outage, because the server has answered;
    the guard logs it once for each code.

    Args:
        kind: The first part of the names of the events.
        events: Where the events go.
        lease: How many seconds a trial may take before another caller takes its place.
        clock: Returns seconds that never go back.
        facts: Further facts of the event of an outage, such as the outage mode.
        evict: Called at an outage, and after each trial that failed. The connections that exist may lead to a server
            that is no longer the right one.
    """

    def __init__(
        self,
        kind: str,
        events: Emitter,
        *,
        lease: float,
        clock: Clock = monotonic,
        evict: Callable[[], object] = _nothing,
        facts: Mapping[str, object] = MappingProxyType({}),
    ) -> None:
        self._facts = facts
        self._kind = kind
        self._events = events
        self._clock = clock
        self._lease = lease
        self._evict = evict
        self._reported: set[str | None] = set()
        self._outages = 0
        self._random = random.random
        self.after_fork()
        renew_after_fork(self)

    def after_fork(self) -> None:
        """Treat Redis as up in a forked child: a trial under way belongs to the parent."""
        self._availability = Availability(self._lease)
        # Guards the machine; never held while Redis is asked. Re-entrant, for finalizers that make calls.
        self._lock = threading.RLock()

    def after_test(self) -> None:
        """Treat Redis as up."""
        with self._lock:
            self._availability = Availability(self._lease)

    @property
    def is_down(self) -> bool:
        """Whether Redis did not answer when it was last asked."""
        return not isinstance(self._availability.epoch, Up)

    @property
    def trial_after(self) -> float:
        """Seconds until Redis is asked again; 0 if it answers."""
        with self._lock:
            return self._availability.trial_after(self._clock())

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
        """Return a permit to ask Redis, or None if this call must decide without Redis."""
        epoch = self._availability.epoch
        if type(epoch) is Up:
            return epoch
        with self._lock:
            return self._availability.admit(self._clock())

    def failed(self, permit: OutagePermit, error: Exception) -> None:
        """Record that Redis did not answer, or answered that it can serve no caller."""
        if is_about_one_key(error):
            self._log_key_error(code_of(error))
            self.succeeded(permit)
            return
        with self._lock:
            now, before = self._clock(), self._availability.epoch
            if self._availability.failed(permit, now, self._random()):
                self._outages += 1
                # Facts name the kind of error only: its text may hold addresses, and listeners export what they get.
                facts: dict[str, object] = {"error": type(error).__name__}
                facts |= {"retry_after": self._availability.trial_after(now), **self._facts}
                if (code := code_of(error)) is not None:
                    facts["code"] = code
                self._events.record(f"{self._kind}.outage", "redis", now, "error", **facts)
            is_news = self._availability.epoch is not before
        # A late report of an earlier epoch says nothing about connections made since. A connection that is being made
        # is not evicted: it may go on.
        if is_news and not isinstance(error, StillConnectingError):
            self._evict()
        self._events.deliver()

    def _log_key_error(self, code: str | None) -> None:
        if code not in self._reported:
            self._reported.add(code)
            _log.warning("Redis answered %s for a key; the decision was made without it", code)

    def not_asked(self, permit: OutagePermit, reason: NotAskedError) -> None:
        """Record that this process had no connection for the caller: an outage only if the process has none at all."""
        if isinstance(reason, StillConnectingError) and type(permit) is Up:
            self.failed(permit, reason)
        else:
            self.abandoned(permit)

    def succeeded(self, permit: OutagePermit) -> None:
        """Record an answer. Takes no lock while Redis is up."""
        if type(permit) is Up:
            return
        with self._lock:
            if self._availability.succeeded(permit):
                self._events.record(f"{self._kind}.recovered", "redis", self._clock())
        self._events.deliver()

    def abandoned(self, permit: OutagePermit) -> None:
        """Record that the outcome is unknown: the caller was cancelled or interrupted."""
        with self._lock:
            self._availability.abandoned(permit)


class RedisAttempt:
    """One use of Redis that must not fail its caller: it reports the outcome of its block to the guard."""

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
        if permit is None:
            return False
        if error is None:
            self._guard.succeeded(permit)
        elif isinstance(error, NotAskedError):
            self._guard.not_asked(permit, error)
            return True
        elif isinstance(error, Exception) and is_of_redis(error):
            self._guard.failed(permit, error)
            return True
        else:
            self._guard.abandoned(permit)
        return False
