"""Callers leave a Redis alone that does not answer, all but one now and then."""

from __future__ import annotations

import logging
import random
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Self

from resilience._support.fork import renew_after_fork
from resilience.clock import Clock, monotonic
from resilience.redis._errors import code_of, is_about_one_key, is_of_redis
from resilience.redis._machine import Absence, Permit, Up
from resilience.redis._places import NotAskedError, StillConnectingError

if TYPE_CHECKING:
    from types import TracebackType

    from resilience.events import Emitter

__all__ = ("Attempt", "OutageGuard")

_log = logging.getLogger("resilience")


def _nothing() -> None:
    return


class OutageGuard:
    """Emits `<kind>.outage` when Redis stops answering and `<kind>.recovered` when it is back, once each time.

    `lease` is how many seconds a probe may take before another caller takes its place. While Redis answers, asking for
    permission takes no lock. `evict` is called at an outage, and after each probe that failed: the connections that
    exist may lead to a server that is no longer the one to ask.

    An error about one key is no outage: the server has answered. It is logged once for each code.
    """

    def __init__(
        self,
        kind: str,
        events: Emitter,
        *,
        lease: float,
        clock: Clock = monotonic,
        evict: Callable[[], object] = _nothing,
    ) -> None:
        self._kind = kind
        self._events = events
        self._clock = clock
        self._lease = lease
        self._evict = evict
        self._reported: set[str | None] = set()
        self._random = random.random
        self.after_fork()
        renew_after_fork(self)

    def after_fork(self) -> None:
        """Believe in Redis again: the probe under way, if any, is the parent's."""
        self._absence = Absence(self._lease)
        # Guards the machine; never held while Redis is asked. Re-entrant, for finalizers that make calls.
        self._lock = threading.RLock()

    @property
    def is_away(self) -> bool:
        """Whether Redis did not answer when last asked."""
        return not isinstance(self._absence.epoch, Up)

    @property
    def probe_after(self) -> float:
        """Seconds until Redis is asked again; 0 where it answers."""
        with self._lock:
            return self._absence.probe_after(self._clock())

    def attempt(self) -> Attempt:
        """Ask Redis inside `with guard.attempt() as attempt: if attempt.may_try: ...`.

        An error of redis-py, or an OSError, inside the block is Redis being away: it ends the block and goes no
        further. Any other exception goes on to the caller and says nothing about Redis: a time limit, for example, that
        a signal handler raises.
        """
        return Attempt(self, self.admit())

    def admit(self) -> Permit | None:
        """Return a permit to ask Redis, or None."""
        epoch = self._absence.epoch
        if type(epoch) is Up:
            return epoch
        with self._lock:
            return self._absence.admit(self._clock())

    def failed(self, permit: Permit, error: Exception) -> None:
        """Note that Redis did not answer, or answered that it cannot serve anybody."""
        if is_about_one_key(error):
            self._report_key(code_of(error))
            self.succeeded(permit)
            return
        with self._lock:
            now, before = self._clock(), self._absence.epoch
            if self._absence.failed(permit, now, self._random()):
                # Facts name the kind of error only: its text may hold addresses, and listeners export what they get.
                facts = {"error": type(error).__name__}
                if (code := code_of(error)) is not None:
                    facts["code"] = code
                self._events.record(f"{self._kind}.outage", "redis", now, "error", **facts)
            is_news = self._absence.epoch is not before
        # A straggler of an earlier epoch says nothing about connections made since; one that is being made may go on.
        if is_news and not isinstance(error, StillConnectingError):
            self._evict()
        self._events.deliver()

    def _report_key(self, code: str | None) -> None:
        if code not in self._reported:
            self._reported.add(code)
            _log.warning("Redis answered %s for a key; the decision was made without it", code)

    def not_asked(self, permit: Permit, reason: NotAskedError) -> None:
        """Note that this process had no connection for the caller. That is an outage only if it has none at all."""
        if isinstance(reason, StillConnectingError) and type(permit) is Up:
            self.failed(permit, reason)
        else:
            self.abandoned(permit)

    def succeeded(self, permit: Permit) -> None:
        """Note an answer. Takes no lock while Redis is up."""
        if type(permit) is Up:
            return
        with self._lock:
            if self._absence.succeeded(permit):
                self._events.record(f"{self._kind}.recovered", "redis", self._clock())
        self._events.deliver()

    def abandoned(self, permit: Permit) -> None:
        """Note that nobody will know: the caller was cancelled or interrupted."""
        with self._lock:
            self._absence.abandoned(permit)


class Attempt:
    """One use of Redis that must not fail its caller."""

    __slots__ = ("_guard", "_permit")

    def __init__(self, guard: OutageGuard, permit: Permit | None) -> None:
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
