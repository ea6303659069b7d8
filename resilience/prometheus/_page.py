"""The page `/metrics`: the text that Prometheus reads."""

from __future__ import annotations

import os
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

from prometheus_client import REGISTRY, exposition
from prometheus_client.registry import CollectorRegistry

from resilience._support.fork import renew_after_fork
from resilience.errors import ConfigurationError, Problem
from resilience.health import Reply
from resilience.prometheus._collector import PrometheusCollector
from resilience.prometheus._durations import RequestDurations
from resilience.prometheus._failures import report
from resilience.telemetry import Readings

if TYPE_CHECKING:
    from resilience.prometheus._shared import SharedNumbers

__all__ = ("METRICS_PATH", "MetricsPage")

METRICS_PATH = "/metrics"
_DIRECTORY = "PROMETHEUS_MULTIPROC_DIR"
_KEPT_FOR = 0.5
"""Seconds for which a text is used again: fifty clients at once cost one reading."""


class MetricsPage:
    """Answers scrapes of this process: all metrics of the default registry, with those of the toolkit among them.

    With `PROMETHEUS_MULTIPROC_DIR` the page has the sums of all processes that use the directory.

    Args:
        flush_interval: Seconds between two writes of a worker, with several processes.
        requests: Whether the durations of requests are observed.
        registry: The registry of the page. Default: that of prometheus-client.
        readings: The values. Default: those of all policies and toolkits of this process.

    Raises:
        ConfigurationError: The directory of several processes is missing, or cannot be written.

    Example:
        >>> from prometheus_client import CollectorRegistry
        >>> page = MetricsPage(registry=CollectorRegistry())
        >>> reply = page.handle("/metrics", "", "text/plain")
        >>> reply.status, reply.headers["Content-Type"].split(";")[0]
        (200, 'text/plain')
    """

    def __init__(
        self,
        flush_interval: float = 1.0,
        *,
        requests: bool = True,
        registry: CollectorRegistry = REGISTRY,
        readings: Readings | None = None,
    ) -> None:
        directory = os.environ.get(_DIRECTORY) or None
        self._registry = registry
        self.has_served = False
        """Whether this process has served a request."""
        self._shared: SharedNumbers | None = None
        if directory is None:
            registry.register(PrometheusCollector(readings))
        else:
            _check(directory)
            from resilience.prometheus._shared import SharedNumbers  # noqa: PLC0415 - with several processes alone

            self._shared = SharedNumbers(readings or Readings(), directory, flush_interval)
        self.durations = RequestDurations(registry if directory is None else None) if requests else None
        """Takes the duration of each request; None if durations are not observed."""
        self.after_fork()
        renew_after_fork(self)

    def after_fork(self) -> None:
        """Forget the text of the parent."""
        self._lock = threading.Lock()  # of the scrapes alone
        self._kept: dict[str, tuple[float, bytes]] = {}

    def request_ended(
        self, method: str, route: str | None, status: int | str | None, seconds: float, trace_id: str
    ) -> None:
        """Count a request that has ended. It never raises. For the arguments see `RequestDurations.observe`."""
        try:
            if not self.has_served:
                self.has_served = True
                _watch_loop()
            if self._shared is not None:
                self._shared.ensure_running()
            if self.durations is not None:
                self.durations.observe(method, route, status, seconds, trace_id)
        except Exception as error:  # noqa: BLE001 - such as a full disk; the request is answered all the same
            report("a request was not counted", error)

    def handle(self, path: str, _query: object = "", accept: str | None = None) -> Reply:
        """Answer a scrape. It blocks for the time of one reading at most.

        Args:
            path: "/metrics"; any other path is a 404.
            accept: The header `Accept`, which chooses between the text format and OpenMetrics.
        """
        if path != METRICS_PATH:
            return _plain(404)
        encode, content_type = exposition.choose_encoder(accept or "")
        with self._lock:
            made_at, text = self._kept.get(content_type, (0.0, b""))
            if time.monotonic() - made_at > _KEPT_FOR or not text:
                try:
                    text = encode(self._registry if self._shared is None else self._shared.registry())
                except Exception as error:  # noqa: BLE001 - of a collector of the application, or a full disk
                    report("the page could not be made", error)
                    return _plain(500)
                self._kept[content_type] = (time.monotonic(), text)
        headers = {
            "Content-Type": content_type,
            "Cache-Control": "no-store",
            "X-Content-Type-Options": "nosniff",
            "Content-Length": str(len(text)),
        }
        return Reply(200, headers, text)

    async def ahandle(self, path: str, query: object = "", accept: str | None = None) -> Reply:
        """Answer a scrape without blocking the event loop. For the arguments see `handle`."""
        import asyncio  # noqa: PLC0415 - blocking code needs none

        _watch_loop()
        return await asyncio.to_thread(self.handle, path, query, accept)

    def close(self) -> None:
        """Write the numbers of this moment, with several processes: it may be the last one. The page goes on."""
        if self._shared is not None:
            self._shared.try_to_write()

    async def aclose(self) -> None:
        """Write the numbers as `close` does. It waits for nothing."""
        self.close()


def _plain(status: int) -> Reply:
    return Reply(status, {"Content-Type": "text/plain; charset=utf-8", "Content-Length": "0"}, b"")


def _watch_loop() -> None:
    """Measure how late the event loop is that runs here, if one does."""
    asyncio = sys.modules.get("asyncio")
    try:
        running = None if asyncio is None else asyncio.get_running_loop()
    except RuntimeError:
        return
    if running is not None:
        from resilience.telemetry._loop_watch_aio import watch_loop  # noqa: PLC0415 - blocking code needs none

        watch_loop()


def _check(directory: str) -> None:
    if not Path(directory).is_dir() or not os.access(directory, os.W_OK | os.X_OK):
        raise ConfigurationError(
            [Problem(_DIRECTORY, directory, "a directory that exists and that this process can write")]
        )
