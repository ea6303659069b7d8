"""The metrics of the process itself, such as its threads and its memory, and the duration of its requests."""

from __future__ import annotations

import gc
import os
import sys
import threading
import weakref
from pathlib import Path
from typing import Protocol

from resilience._support.fork import reset_after_test
from resilience._support.measured import Measured, Measurement
from resilience.telemetry._table import Metric, MetricKind, count, each, level, unnamed

__all__ = ("PROCESS", "PROCESS_METRICS", "REQUEST_DURATION", "ProcessFigures", "WatchedLoop")

_OF = ("process",)

PROCESS_METRICS = (
    Metric(
        "resilience.process.threads",
        MetricKind.GAUGE,
        "{thread}",
        "Threads of Python that are alive.",
        (),
        _OF,
        unnamed(level("threads")),
    ),
    Metric(
        "resilience.process.tasks",
        MetricKind.GAUGE,
        "{task}",
        "Tasks of the event loops that serve the metrics.",
        (),
        _OF,
        unnamed(level("tasks")),
    ),
    Metric(
        "resilience.process.loop_lag",
        MetricKind.COUNTER,
        "s",
        "Time by which event loops were late: the rate is the share of time for which code has blocked them.",
        (),
        _OF,
        unnamed(count("loop lag")),
    ),
    Metric(
        "resilience.process.memory",
        MetricKind.GAUGE,
        "By",
        "Memory of the process that is resident.",
        (),
        _OF,
        unnamed(level("memory")),
    ),
    Metric(
        "resilience.process.collections",
        MetricKind.COUNTER,
        "{collection}",
        "Runs of the garbage collector, by generation.",
        ("generation",),
        _OF,
        unnamed(each({"collected 0": "0", "collected 1": "1", "collected 2": "2"})),
    ),
)

REQUEST_DURATION = Metric(
    "resilience.server.request.duration",
    MetricKind.HISTOGRAM,
    "s",
    "Time from the arrival of a request to the end of its answer. For Prometheus alone: with OpenTelemetry, the "
    "instrumentation of the framework has it.",
    ("method", "route", "status"),
    buckets=(0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10),
)
"""The duration of requests, which only the page for Prometheus has."""

_STATM = Path("/proc/self/statm")


class WatchedLoop(Protocol):
    """An event loop that is watched."""

    def tasks(self) -> int:
        """Return the number of its tasks."""
        ...


class ProcessFigures(Measured):
    """Reads the figures of the process when a collector asks."""

    __slots__ = ("__weakref__", "_watches", "loop_lag")

    def __init__(self) -> None:
        self.loop_lag = 0.0
        """The seconds by which event loops were late so far, those that have ended included."""
        self._watches: weakref.WeakSet[WatchedLoop] = weakref.WeakSet()
        reset_after_test(self)

    def after_test(self) -> None:
        """Keep all: the figures are those of the process."""

    def add(self, watch: WatchedLoop) -> None:
        """Include an event loop."""
        self._watches.add(watch)

    def measure(self) -> Measurement:
        """Return the figures."""
        watches = list(self._watches)
        collected = {f"collected {each}": float(figures["collections"]) for each, figures in enumerate(gc.get_stats())}
        levels = {"threads": float(threading.active_count()), "memory": _memory()}
        if watches:
            levels["tasks"] = float(sum(watch.tasks() for watch in watches))
        return Measurement("process", "process figures", {**collected, "loop lag": self.loop_lag}, levels)


def _memory() -> float:
    """Return the resident memory in bytes; the largest so far where the system has no `/proc`."""
    try:
        return float(_STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError, ValueError):
        import resource  # noqa: PLC0415 - not on Windows

        unit = 1 if sys.platform == "darwin" else 1024
        return float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss) * unit


PROCESS = ProcessFigures()
