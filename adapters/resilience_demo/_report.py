"""Reports the events and states of the shop's pipeline to the demo, as lines of JSON."""

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
_MAX_NEWS = 100


class Reporter:
    """Counts the events of a pipeline. Writes the counts every `interval` seconds, and transitions at once.

    The listener runs in the event loop of the shop, so it only counts. A separate thread writes.
    """

    def __init__(self, pipeline: Pipeline, write: Callable[[str], object], interval: float = 0.1) -> None:
        self._pipeline = pipeline
        self._write = write
        self._interval = interval
        self._counts: Counter[str] = Counter()
        self._news: deque[Event] = deque(maxlen=_MAX_NEWS)
        self._has_news = threading.Event()
        pipeline.subscribe(self.listen)

    def listen(self, event: Event) -> None:
        """Count one event."""
        self._counts[event.kind] += 1
        if event.kind in _TRANSITIONS:
            self._news.append(event)
            self._has_news.set()

    def start(self) -> threading.Thread:
        """Start the thread that writes. It ends with the process, or when the reader closes the pipe."""
        thread = threading.Thread(target=self._write_lines, name="reporter", daemon=True)
        thread.start()
        return thread

    def line(self) -> str:
        """Return the counts, the states, and the transitions since the last line."""
        facts: dict[str, Any] = {
            "counts": dict(self._counts),
            "news": [_transition(event) for event in self._take_news()],
        }
        for policy in self._pipeline.policies:
            kind = getattr(policy, "kind", "")
            if kind == "breaker":
                facts["breaker"] = policy.current_state  # type: ignore[union-attr]  # the kind names the class
            elif kind == "bulkhead":
                facts["in_use"] = policy.concurrent_calls  # type: ignore[union-attr]  # the kind names the class
                facts["places"] = policy.options.max_concurrent_calls  # type: ignore[union-attr]  # also a bulkhead
        return json.dumps(facts)

    def _write_lines(self) -> None:
        while True:
            self._has_news.wait(self._interval)
            self._has_news.clear()
            try:
                self._write(self.line())
            except OSError:
                return

    def _take_news(self) -> list[Event]:
        return [self._news.popleft() for _ in range(len(self._news))]


def _transition(event: Event) -> dict[str, Any]:
    kept = {key: event.facts[key] for key in ("reason", "failures", "calls")}
    return {"kind": event.kind, "at": event.at, **kept}
