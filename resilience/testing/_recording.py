"""Events as a list: of one policy, or of all policies of the process."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from resilience._support.fork import known_objects
from resilience.events import Emitter, Event

__all__ = ("RecordingListener", "record_events")


class RecordingListener:
    """Keeps every event, in order."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def __call__(self, event: Event) -> None:
        """Keep `event`."""
        self.events.append(event)

    @property
    def kinds(self) -> list[str]:
        """The kinds of the events, in order."""
        return [event.kind for event in self.events]


@contextlib.contextmanager
def record_events() -> Iterator[RecordingListener]:
    """Record the events of all policies of the process while the `with` block runs.

    Policies that are made in the block are recorded, too. Blocks may overlap, but end in the reverse order.

    Example:
        >>> from resilience import CircuitBreaker, Pipeline
        >>> breaker = CircuitBreaker(name="docs-recorded")
        >>> with record_events() as recorded:
        ...     opened = breaker.open()
        >>> recorded.kinds
        ['breaker.opened']
    """
    recorder = RecordingListener()
    subscriptions: dict[Emitter, Callable[[], None]] = {}
    outer = Emitter.on_new

    def subscribe(emitter: Emitter) -> None:
        # The policy of a key: its `Keyed` forwards the event, with the key.
        subscriptions[emitter] = emitter.subscribe(lambda event: None if emitter.log.key else recorder(event))
        if outer is not None:
            outer(emitter)

    Emitter.on_new = subscribe
    for known in known_objects():
        if isinstance(known, Emitter) and known not in subscriptions:
            subscribe(known)
    try:
        yield recorder
    finally:
        Emitter.on_new = outer
        for end in subscriptions.values():
            end()
