"""Events: one record per fact, delivered in order, after every lock is released (L6).

The kind of an event is `<policy kind>.<fact>`: `breaker.opened`, `retry.scheduled`, `ratelimit.rejected`.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import threading
from collections import deque
from collections.abc import Callable
from typing import Any, ClassVar, ParamSpec, Protocol, TypeVar

from resilience._support.fork import renew_after_fork
from resilience._support.log_writer import write_line
from resilience._support.measured import Measured, Measurement
from resilience.errors import named, one_line, shown
from resilience.event_log import EVENT_LOG, EventLog, LogOptions, PolicyLog
from resilience.options import Opaque, checked, is_plain_callable

__all__ = (
    "EVENT_LOG",
    "LISTENER",
    "AttemptingPolicy",
    "Emitter",
    "Event",
    "EventLog",
    "Listener",
    "LogOptions",
    "Observer",
)

P = ParamSpec("P")
R = TypeVar("R")

_MOST_PENDING = 1000
"""The most events that wait for a slow listener, and the most that one caller delivers."""
_NO_EVENTS = Measurement("events", "", {"dropped": 0}, {"waiting": 0})
_TURN = (None,)
"""The one turn to deliver. Operators take and return it, so that no interrupt can lose it."""


class Event:
    """One fact.

    Args:
        kind: `<policy kind>.<fact>`, such as `breaker.opened`.
        policy: The name of the policy.
        severity: `debug`, `info`, `warning` or `error`.
        at: Monotonic seconds.
        sequence: Counts the events of an emitter. A gap shows dropped events.
        facts: The fields of the event; docs/events.md lists them.
    """

    __slots__ = ("at", "facts", "kind", "policy", "seen", "sequence", "severity")

    def __init__(self, kind: str, policy: str, severity: str, at: float, sequence: int, facts: dict[str, Any]) -> None:
        self.kind = kind
        self.policy = policy
        self.severity = severity
        self.at = at
        self.sequence = sequence
        self.facts = facts
        self.seen: tuple[Listener, ...] = ()
        """Listeners that have got the event from its source. They do not get this copy of it."""

    def __repr__(self) -> str:
        facts = "".join(f", {key}={shown(value)}" for key, value in self.facts.items())
        return f"<Event {self.kind} policy={self.policy!r} #{self.sequence}{facts}>"


Listener = Callable[[Event], object]
"""A function that gets each event. Its result is ignored; an error that it raises is logged."""
LISTENER = Opaque("a function that takes one Event (not a coroutine function)", is_plain_callable)
"""The rule for a listener."""


class AttemptingPolicy(Protocol):
    """A policy that makes attempts: a retry or a hedge."""

    @property
    def name(self) -> str:
        """The name of the policy."""
        ...


class Observer(Protocol):
    """Follows the calls of the process in traces, and their durations. `resilience.telemetry.otel` has ours.

    No method may raise. All are called in the thread and the context of the call, and none under a lock.
    """

    def span(self) -> object | None:
        """Return the present span, None if there is none or it is not recorded. Cheap: each refusal asks."""
        ...

    def add_event(self, span: object, event: Event, /) -> None:
        """Add an event to a span. The thread of another call may call this."""
        ...

    def observe(self, metric: str, seconds: float, /, *labels: str) -> None:
        """Record a duration.

        Args:
            metric: The name of a histogram in the metric table.
            seconds: The duration.
            labels: The values of the labels of its row.
        """
        ...

    def trace_attempts(
        self, policy: AttemptingPolicy, attempt: Callable[P, R], guard: Callable[[Callable[P, R]], Callable[P, R]], /
    ) -> Callable[P, R]:
        """Return `guard(attempt)`, with a span around each attempt if that is asked for.

        Args:
            policy: The retry or hedge.
            attempt: The function that it calls for each attempt: a plain function or a coroutine function.
            guard: Puts the policy around a function.
        """
        ...


class Emitter(Measured):
    """Delivers events to listeners in the order in which they were recorded, and never under a caller's lock.

    A policy calls `record` under its lock and `deliver` after the release. One thread delivers at a time. A thread that
    finds another thread delivering leaves its event to that thread, so a listener that makes a guarded call itself
    causes no deadlock and no change of the order.

    Each event goes to the log first, if `event_log` says so, and then to the listeners. An event that is not logged
    and has no listener is not built.

    A caller delivers at most 1,000 events; the next event brings the others. If more than 1,000 events wait, the oldest
    are dropped. The emitter counts them in `dropped` and logs a warning; listeners see a gap in `sequence`.
    """

    __slots__ = ("__weakref__", "_lock", "_sequence", "_turns", "_unlogged", "dropped", "listeners", "log", "pending")

    on_new: ClassVar[Callable[[Emitter], object] | None] = None
    """Called with each emitter that is made. `resilience.testing` records the events of all of them by it."""

    observer: ClassVar[Observer | None] = None
    """Follows the calls of the process, if telemetry is on."""

    def __init__(self) -> None:
        self.listeners: tuple[Listener, ...] = ()
        self.log = PolicyLog(EVENT_LOG)
        self.dropped = 0
        """Events that were never delivered, because listeners were too slow."""
        self._unlogged = ""  # the policy whose dropped events are not logged yet
        self._sequence = 0
        self.after_fork()
        renew_after_fork(self)
        if Emitter.on_new is not None:
            Emitter.on_new(self)

    def after_fork(self) -> None:
        """Make new locks, and drop the queue: the parent process delivers it."""
        self.pending: deque[tuple[Event, int | None, object | None]] = deque(maxlen=_MOST_PENDING)
        # Guards registration and numbering. Re-entrant, as a finalizer may emit in the very thread that holds it.
        self._lock = threading.RLock()
        self._turns: list[None] = [*_TURN]

    def measure(self) -> Measurement:
        """Return the events that were dropped, and those that wait for a slow listener."""
        if not self.dropped and not self.pending:
            return _NO_EVENTS
        return Measurement("events", "", {"dropped": self.dropped}, {"waiting": len(self.pending)})

    def __bool__(self) -> bool:
        """Whether there is a listener."""
        return bool(self.listeners)

    def wants(self, kind: str, at: float) -> bool:
        """Whether to emit an event of this kind. If not, the log counts it as left out.

        Ask before you collect the facts of an event that is frequent in an outage, such as a refusal.
        """
        sample = self.log.samples.get(kind)
        if sample is None or at >= sample.quiet_until or self.listeners or self.is_traced:
            return True
        next(sample.left_out)
        return False

    @property
    def wants_details(self) -> bool:
        """Whether to emit an event that the log has only in the mode `all`."""
        return bool(self.listeners) or self.log.log.has_details or self.is_traced

    @property
    def is_traced(self) -> bool:
        """Whether this call is in a span that takes events."""
        return Emitter.observer is not None and Emitter.observer.span() is not None

    def log_to(self, log: EventLog) -> None:
        """Log events from now on as `log` says, and send them to the listeners of `log`."""
        before, self.log.log = self.log.log, log
        if log is not before:
            before.detach(self)
            log.attach(self)

    def subscribe(self, listener: Listener) -> Callable[[], None]:
        """Add `listener`, and return a function that removes it. A second call of that function does nothing."""
        checked(listener, "listener", LISTENER)
        with self._lock:
            self.listeners = (*self.listeners, listener)
        return functools.partial(self._end, [listener])

    def _end(self, subscription: list[Listener]) -> None:
        """End one subscription. Subscriptions of an equal listener go on."""
        if subscription:
            self.unsubscribe(subscription.pop())

    def unsubscribe(self, listener: Listener) -> None:
        """End one subscription of `listener`, if it has one."""
        with self._lock:
            listeners = list(self.listeners)
            with contextlib.suppress(ValueError):
                listeners.remove(listener)
            self.listeners = tuple(listeners)

    def record(self, kind: str, policy: str, at: float, severity: str = "info", **facts: object) -> None:
        """Queue an event, if it is logged, there is a listener, or the call is in a span.

        Args:
            kind: `<policy kind>.<fact>`, such as `breaker.opened`.
            policy: The name of the policy.
            at: Monotonic seconds.
            severity: `debug`, `info`, `warning` or `error`.
            facts: The fields of the event.
        """
        left_out, observer = self.log.take(kind, at), Emitter.observer
        span = None if observer is None else observer.span()  # now: another thread may deliver the event
        if left_out is not None or self.listeners or span is not None:
            self._queue(Event(kind, policy, severity, at, 0, facts), left_out, span)

    def _queue(self, event: Event, left_out: int | None, span: object | None = None) -> None:
        """Queue an event for the listeners, for the log unless `left_out` is None, and for a span."""
        with self._lock:
            self._sequence += 1
            event.sequence = self._sequence
            if len(self.pending) == _MOST_PENDING:
                if self.dropped % _MOST_PENDING == 0:  # one log line per 1,000 dropped events
                    self._unlogged = event.policy
                self.dropped += 1
            self.pending.append((event, left_out, span))

    def deliver(self) -> None:
        """Call every listener with every queued event."""
        # The outer test is repeated after the release: an event queued in between has an owner again.
        turns = self._turns  # the list to return it to, even if a listener forks and this is the child
        left = _MOST_PENDING
        if self._unlogged:
            policy, self._unlogged = self._unlogged, ""
            dropped = f"{self.dropped} events dropped so far"
            write_line(logging.WARNING, f"listeners of {one_line(repr(policy))} are too slow: {dropped}")
        while self.pending and left:
            try:
                del turns[-1]
            except IndexError:  # another thread delivers, or a caller of ours in this one
                return
            try:
                left = self._hand_out(left)
            finally:
                turns += _TURN

    def _hand_out(self, most: int) -> int:
        """Deliver at most `most` queued events, and return how many more may be delivered.

        A method of its own: Python 3.13 leaves the jump back of a loop, at which it looks for signals, out of the `try`
        that the loop stands in.
        """
        while self.pending and most:
            most -= 1
            event, left_out, span = self.pending[0]
            del self.pending[0]
            if span is not None and Emitter.observer is not None:
                Emitter.observer.add_event(span, event)
            self._tell(event, left_out)
        return most

    def emit(self, kind: str, policy: str, at: float, severity: str = "info", **facts: object) -> None:
        """Record and deliver an event, for callers without a lock. For the arguments see `record`."""
        self.record(kind, policy, at, severity, **facts)
        self.deliver()

    def forward(self, event: Event, policy: str, *, seen: tuple[Listener, ...] = (), **facts: object) -> None:
        """Deliver an event of another emitter, which has logged it, to the listeners here.

        Args:
            event: The event.
            policy: The name of the policy that the listeners get.
            seen: Listeners that get the event from the other emitter as well, and not from here.
            facts: The fields that the listeners get in addition.
        """
        if self.listeners:
            copy = Event(event.kind, policy, event.severity, event.at, 0, {**event.facts, **facts})
            copy.seen = seen
            self._queue(copy, None)
            self.deliver()

    def _tell(self, event: Event, left_out: int | None) -> None:
        if left_out is not None:
            self.log.write(event.kind, event.policy, event.facts, left_out)
        for listener in self.listeners:
            if any(each is listener for each in event.seen):
                continue
            try:
                listener(event)
            except Exception as error:  # noqa: BLE001 - a listener's failure is its own
                at = f"{event.kind} #{event.sequence} of {one_line(repr(event.policy))}"
                write_line(logging.ERROR, f"listener {named(listener)} failed on {at}", error=error)


class ForwardingEmitter(Emitter):
    """Emits the events of several emitters. It calls `start`, which begins to forward them, for each listener."""

    __slots__ = ("_start",)

    def __init__(self, start: Callable[[], None]) -> None:
        super().__init__()
        self._start = start

    def subscribe(self, listener: Listener) -> Callable[[], None]:
        """Add `listener`; the function returned removes it."""
        end = super().subscribe(listener)
        self._start()
        return end
