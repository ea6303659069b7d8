"""The counts and latencies of a hedge, under one lock."""

from __future__ import annotations

import threading
from typing import Any

from resilience._support.fork import renew_after_fork
from resilience._support.measured import Measured, Measurement
from resilience.hedge._machine import Latencies, Race
from resilience.hedge._options import HedgeOptions

__all__ = ("HedgeStatistics",)


class HedgeStatistics(Measured):
    """Counts since the start, and the latencies of the latest answers."""

    def __init__(self, name: str, options: HedgeOptions) -> None:
        self.name = name
        """The name of the hedge."""
        self._options = options
        self.after_fork()
        renew_after_fork(self)

    def after_fork(self) -> None:
        """Start with no counts: a thread of the parent may have been in the middle of a change."""
        options = self._options
        self._lock = threading.RLock()  # guards all that follows; re-entrant, for calls that the collector ends
        self._is_learning = False
        self._latencies = Latencies(options.quantile, options.minimum_samples, options.sliding_window)
        self.slow: float | None = None
        self._calls = self._hedged = self._hedges = self._won = 0
        self._suppressed = {"budget": 0, "deadline": 0, "threads": 0}

    def after_test(self) -> None:
        """Start with no counts."""
        self.after_fork()

    @property
    def typical(self) -> float | None:
        """The median latency in seconds; None while too few answers are known."""
        with self._lock:
            return self._latencies.typical

    def close(self, race: Race, now: float) -> None:
        """Count a call that has ended, once, and add its latency."""
        latency = race.latency(now)
        with self._lock:
            if race.is_closed:
                return
            race.is_closed = True
            self._calls += 1
            if race.started > 1:
                self._hedged += 1
                self._hedges += race.started - 1
            if latency is not None and not self._is_learning:
                self._learn(latency)

    def _learn(self, latency: float) -> None:
        self._is_learning = True  # a call that the collector ends meanwhile is left out
        try:
            self._latencies.observe(latency)
            self.slow = self._latencies.slow
        finally:
            self._is_learning = False

    def win(self) -> None:
        """Count a call that a hedge answered."""
        with self._lock:
            self._won += 1

    def suppress(self, reason: str) -> None:
        """Count a hedge that was denied."""
        with self._lock:
            self._suppressed[reason] += 1

    def measure(self) -> Measurement:
        """Return the calls, the hedges that were started, won, and denied by reason."""
        counts = {"calls": self._calls, "hedged": self._hedged, "hedges": self._hedges, "won": self._won}
        return Measurement("hedge", self.name, counts | self._suppressed)

    def snapshot(self) -> dict[str, Any]:
        """Return the counts and the median latency as plain data."""
        with self._lock:
            return {
                "calls": self._calls,
                "hedged": self._hedged,
                "hedges": self._hedges,
                "won": self._won,
                "suppressed": dict(self._suppressed),
                "samples": self._latencies.samples,
                "typical_latency": self._latencies.typical,
            }
