"""The numbers of several worker processes, through the files of prometheus-client in `PROMETHEUS_MULTIPROC_DIR`.

prometheus-client adds up the files of all processes of the directory. A collector of values that are read at a scrape
has no file. So each worker writes its readings into counters and gauges of prometheus-client: at each interval, and
before it answers a scrape itself. The numbers of the other workers are as old as the interval at most.

The gauges of a process that has ended must go, also if it was killed: a scrape removes the files of gauges whose
process is gone. Its counters stay, or the sum would fall.
"""

from __future__ import annotations

import contextlib
import os
import re
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from typing import TypeVar

from prometheus_client import CollectorRegistry, Counter, Gauge
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

from resilience._support.fork import renew_after_fork
from resilience.prometheus._failures import report
from resilience.telemetry import Family, MetricKind, Readings

__all__ = ("SharedNumbers",)

M = TypeVar("M", Counter, Gauge)
_FILE_OF_GAUGES = re.compile(r"gauge_live.*_(\d+)\.db")


class SharedNumbers:
    """Writes the readings of this process, and reads the sums of all processes.

    Args:
        readings: The values of this process.
        directory: The directory of the files.
        interval: The seconds between two writes.
    """

    def __init__(self, readings: Readings, directory: str, interval: float) -> None:
        self._readings, self._directory, self._interval = readings, directory, interval
        # They belong to no registry: the collector of the files yields them.
        self._counters: dict[str, Counter] = {}
        self._gauges: dict[str, Gauge] = {}
        self.after_fork()
        renew_after_fork(self)

    def after_fork(self) -> None:
        """Begin anew: the parent's numbers are in the parent's files, and its thread is not here."""
        self._lock = threading.Lock()
        self._written: dict[tuple[str, tuple[str, ...]], float] = {}
        self._levels: set[tuple[str, tuple[str, ...]]] = set()
        self._is_running = False

    def ensure_running(self) -> None:
        """Begin to write at each interval, in this process. Without a free thread, the next call tries again."""
        if self._is_running:
            return
        with self._lock:
            if not self._is_running:
                thread = threading.Thread(target=self._run, name="resilience-metrics", daemon=True)
                with contextlib.suppress(RuntimeError):
                    thread.start()
                    self._is_running = True

    def _run(self) -> None:
        while True:  # a daemon: it ends with the process
            time.sleep(self._interval)
            self.try_to_write()

    def try_to_write(self) -> None:
        """Write the numbers, or log why that is not possible."""
        try:
            self.write()
        except Exception as error:  # noqa: BLE001 - such as a full disk, or a directory that was removed
            report("the numbers of this process were not written", error)

    def write(self) -> None:
        """Write the numbers of this moment."""
        with self._lock:
            seen = set()
            for family in self._readings.collect():
                if family.metric.kind is MetricKind.COUNTER:
                    self._count(family)
                else:
                    seen |= self._set(family)
            for name, labels in self._levels - seen:  # such as the circuits of a policy that was dropped
                _child(self._gauges[name], labels).set(0)
            self._levels = seen

    def _count(self, family: Family) -> None:
        metric, name = family.metric, family.metric.family
        counter = self._counters.get(name)
        if counter is None:
            counter = self._counters[name] = Counter(name, metric.description, metric.labels, registry=None)
        for labels, value in family.points:
            grown = value - self._written.get((name, labels), 0)
            if grown > 0 or (name, labels) not in self._written:
                _child(counter, labels).inc(max(0.0, grown))
                self._written[name, labels] = value

    def _set(self, family: Family) -> set[tuple[str, tuple[str, ...]]]:
        metric, name = family.metric, family.metric.family
        gauge = self._gauges.get(name)
        if gauge is None:
            gauge = self._gauges[name] = Gauge(
                name, metric.description, metric.labels, registry=None, multiprocess_mode="livesum"
            )
        for labels, value in family.points:
            _child(gauge, labels).set(value)
        return {(name, labels) for labels, _ in family.points}

    def registry(self) -> CollectorRegistry:
        """Return a registry with the sums of all processes, those of the application's own metrics too."""
        self.write()
        for process in _ended(Path(self._directory)):
            mark_process_dead(process, self._directory)  # type: ignore[no-untyped-call]  # it has no annotations
        registry = CollectorRegistry()
        MultiProcessCollector(registry, self._directory)  # type: ignore[no-untyped-call]  # as above
        return registry


def _child(metric: M, labels: tuple[str, ...]) -> M:
    return metric.labels(*labels) if labels else metric


def _ended(directory: Path) -> Iterable[int]:
    """Return the processes that have files of gauges and are gone."""
    found = {int(match[1]) for file in directory.iterdir() if (match := _FILE_OF_GAUGES.fullmatch(file.name))}
    return [process for process in found if not _is_alive(process)]


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # of another user
        return True
    return True
