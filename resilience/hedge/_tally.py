"""What a hedge remembers of its calls, safe for threads."""

from __future__ import annotations

import threading
from typing import Any

from resilience._fork import renew_after_fork
from resilience.hedge._machine import Latencies, Race
from resilience.hedge._options import HedgeOptions

__all__ = ("Tally",)


class Tally:
    """Counts since the start, and the latencies learned."""

    def __init__(self, options: HedgeOptions) -> None:
        self._options = options
        self.after_fork()
        renew_after_fork(self)

    def after_fork(self) -> None:
        """Start afresh: another thread of the parent may have been half-way through a change."""
        options = self._options
        self._lock = threading.Lock()  # guards everything below
        self._latencies = Latencies(options.quantile, options.minimum_samples, options.sliding_window)
        self.slow: float | None = None
        self.typical: float | None = None
        self._counts = {"calls": 0, "hedged": 0, "hedges": 0, "won": 0}
        self._suppressed = {"budget": 0, "deadline": 0, "threads": 0}

    def close(self, race: Race, now: float) -> None:
        """Count a call that is over, and learn from it."""
        latency = race.latency(now)
        with self._lock:
            self._counts["calls"] += 1
            if race.started > 1:
                self._counts["hedged"] += 1
                self._counts["hedges"] += race.started - 1
            if latency is not None:
                self._latencies.observe(latency)
                self.slow, self.typical = self._latencies.slow, self._latencies.typical

    def win(self) -> None:
        """Count a call that a hedge answered."""
        with self._lock:
            self._counts["won"] += 1

    def suppress(self, reason: str) -> None:
        """Count a hedge that was not made."""
        with self._lock:
            self._suppressed[reason] += 1

    def snapshot(self) -> dict[str, Any]:
        """Return all of it as plain data."""
        with self._lock:
            learned = {"samples": self._latencies.samples, "typical_latency": self.typical}
            return {**self._counts, "suppressed": dict(self._suppressed), **learned}
