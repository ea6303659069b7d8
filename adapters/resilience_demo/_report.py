"""What the shop says of its inside: counted by a listener on its pipeline, told as lines of JSON."""

from __future__ import annotations

import json
import threading
from collections import Counter, deque
from collections.abc import Callable
from typing import Any

from resilience.events import Event
from resilience.pipeline import Pipeline

__all__ = ("Reporter",)

_TRANSITIONS = ("breaker.opened", "breaker.half_opened", "breaker.closed")
_MOST_NEWS = 100


class Reporter:
    """Counts the events of a pipeline and tells the counts every `interval` seconds, transitions at once.

    The listener runs inside the shop's event loop, so it only counts; a thread of its own does the writing.
    """

    def __init__(self, pipeline: Pipeline, write: Callable[[str], object], interval: float = 0.1) -> None:
        self._pipeline = pipeline
        self._write = write
        self._interval = interval
        self._counts: Counter[str] = Counter()
        self._news: deque[Event] = deque(maxlen=_MOST_NEWS)
        self._has_news = threading.Event()
        pipeline.subscribe(self.listen)

    def listen(self, event: Event) -> None:
        """Count one event."""
        self._counts[event.kind] += 1
        if event.kind in _TRANSITIONS:
            self._news.append(event)
            self._has_news.set()

    def start(self) -> threading.Thread:
        """Tell from now on, until the process ends or nobody reads any more."""
        thread = threading.Thread(target=self._tell, name="reporter", daemon=True)
        thread.start()
        return thread

    def line(self) -> str:
        """Return how things are, and the transitions not told yet."""
        facts: dict[str, Any] = {"counts": dict(self._counts), "news": [_told(event) for event in self._taken()]}
        for policy in self._pipeline.policies:
            kind = getattr(policy, "kind", "")
            if kind == "breaker":
                facts["breaker"] = policy.current_state  # type: ignore[union-attr]  # the kind says what it is
            elif kind == "bulkhead":
                facts["in_use"] = policy.concurrent_calls  # type: ignore[union-attr]  # as above
                facts["places"] = policy.options.max_concurrent_calls  # type: ignore[union-attr]  # as above
        return json.dumps(facts)

    def _tell(self) -> None:
        while True:
            self._has_news.wait(self._interval)
            self._has_news.clear()
            try:
                self._write(self.line())
            except OSError:
                return

    def _taken(self) -> list[Event]:
        return [self._news.popleft() for _ in range(len(self._news))]


def _told(event: Event) -> dict[str, Any]:
    kept = {key: event.facts[key] for key in ("reason", "failures", "calls")}
    return {"kind": event.kind, "at": event.at, **kept}
