"""What happened, as records: one event per fact, delivered in order, after every lock is released (L6).

Names of kinds are `<policy kind>.<what happened>`: `breaker.opened`, `retry.scheduled`, `ratelimit.rejected`.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import threading
from collections import deque
from collections.abc import Callable
from typing import Any

from resilience._support.fork import renew_after_fork
from resilience.errors import named, shown
from resilience.options import Opaque, checked, is_plain_callable

__all__ = ("LISTENER", "Emitter", "Event", "Listener")

# Without a NullHandler, against the custom of libraries: uvicorn, gunicorn and grpcio configure no logger but their
# own, and with one a failed readiness check would leave no trace in a service that configures nothing either.
_log = logging.getLogger("resilience")
_MOST_PENDING = 1000
"""Events that wait for a slow listener, and those one caller delivers before it leaves the rest to the next."""
_TURN = (None,)
"""The one turn to deliver: taken and returned by operators, so that no interrupt comes between it and its owner."""


class Event:
    """One fact. `at` is monotonic seconds; `sequence` counts per emitter, so order survives any transport."""

    __slots__ = ("at", "facts", "kind", "policy", "sequence", "severity")

    def __init__(self, kind: str, policy: str, severity: str, at: float, sequence: int, facts: dict[str, Any]) -> None:
        self.kind = kind
        self.policy = policy
        self.severity = severity
        self.at = at
        self.sequence = sequence
        self.facts = facts

    def __repr__(self) -> str:
        facts = "".join(f", {key}={shown(value)}" for key, value in self.facts.items())
        return f"<Event {self.kind} policy={self.policy!r} #{self.sequence}{facts}>"


Listener = Callable[[Event], object]
"""Receives each event. What it returns is ignored; what it raises is logged and goes no further."""
LISTENER = Opaque("a function that takes one Event (not a coroutine function)", is_plain_callable)


class Emitter:
    """Delivers events to listeners, in the order they were recorded, never while a caller's lock is held.

    `record` is cheap and safe under a lock; `deliver` is called after its release. One thread delivers at a time:
    whoever finds another one busy leaves its event to it, so a listener that re-enters cannot deadlock or reorder.

    A listener that hangs, or answers each event with another one, holds up one caller for 1,000 events at most; what is
    left then comes with the next event. Of more than 1,000 that wait the oldest are dropped: counted in `dropped`,
    logged, and seen by listeners as a gap in `sequence`.
    """

    __slots__ = ("__weakref__", "_lock", "_pending", "_sequence", "_turns", "_unlogged", "dropped", "listeners")

    def __init__(self) -> None:
        self.listeners: tuple[Listener, ...] = ()
        self.dropped = 0
        """Events that were never delivered, because listeners were too slow."""
        self._unlogged = ""  # the policy whose dropped events the log has not told of
        self._sequence = 0
        self.after_fork()
        renew_after_fork(self)

    def after_fork(self) -> None:
        """Start with fresh locks; what the parent had queued is the parent's to deliver."""
        self._pending: deque[Event] = deque(maxlen=_MOST_PENDING)
        # Guards registration and numbering. Re-entrant, as a finalizer may emit in the very thread that holds it.
        self._lock = threading.RLock()
        self._turns: list[None] = [*_TURN]

    def __bool__(self) -> bool:
        """Whether anybody listens: building an event nobody hears is skipped."""
        return bool(self.listeners)

    def subscribe(self, listener: Listener) -> Callable[[], None]:
        """Add `listener`; the function returned takes it away again (and may be called twice)."""
        checked(listener, "listener", LISTENER)
        with self._lock:
            self.listeners = (*self.listeners, listener)
        return functools.partial(self._end, [listener])

    def _end(self, subscription: list[Listener]) -> None:
        """End one subscription, once: others of an equal listener go on."""
        if subscription:
            self.unsubscribe(subscription.pop())

    def unsubscribe(self, listener: Listener) -> None:
        """End one subscription of `listener`; nothing happens when there is none."""
        with self._lock:
            listeners = list(self.listeners)
            with contextlib.suppress(ValueError):
                listeners.remove(listener)
            self.listeners = tuple(listeners)

    def record(self, kind: str, policy: str, at: float, severity: str = "info", **facts: Any) -> None:
        """Queue an event. Does nothing when nobody listens."""
        if not self.listeners:
            return
        event = Event(kind, policy, severity, at, 0, facts)
        with self._lock:
            self._sequence += 1
            event.sequence = self._sequence
            if len(self._pending) == _MOST_PENDING:
                if self.dropped % _MOST_PENDING == 0:  # to log each one would be the same flood
                    self._unlogged = policy
                self.dropped += 1
            self._pending.append(event)

    def deliver(self) -> None:
        """Hand every queued event to every listener."""
        # The outer test is repeated after the release: an event queued in between has an owner again.
        turns = self._turns  # the one to return it to, even where a listener forked and this is the child
        left = _MOST_PENDING
        if self._unlogged:
            policy, self._unlogged = self._unlogged, ""
            _log.warning("listeners of %r are too slow: %d events dropped so far", policy, self.dropped)
        while self._pending and left:
            try:
                del turns[-1]
            except IndexError:  # another thread delivers, or a caller of ours in this one
                return
            try:
                left = self._hand_out(left)
            finally:
                turns += _TURN

    def _hand_out(self, most: int) -> int:
        """Hand over what is queued, `most` events at most; return how many more there may be.

        A method of its own: Python 3.13 leaves the jump back of a loop, at which it looks for signals, out of the `try`
        that the loop stands in.
        """
        while self._pending and most:
            most -= 1
            event = self._pending[0]
            del self._pending[0]
            self._tell(event)
        return most

    def emit(self, kind: str, policy: str, at: float, severity: str = "info", **facts: Any) -> None:
        """Record and deliver, for places that hold no lock."""
        self.record(kind, policy, at, severity, **facts)
        self.deliver()

    def _tell(self, event: Event) -> None:
        for listener in self.listeners:
            try:
                listener(event)
            except Exception:  # noqa: BLE001 - a listener's failure is its own
                _log.exception(
                    "listener %s failed on %s #%d of %r", named(listener), event.kind, event.sequence, event.policy
                )
