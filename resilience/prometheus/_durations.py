"""The duration of each request, as a histogram."""

from __future__ import annotations

from prometheus_client import Histogram
from prometheus_client.registry import CollectorRegistry

from resilience._support.fork import reset_after_test
from resilience.telemetry import REQUEST_DURATION

__all__ = ("RequestDurations",)

_OTHER = "(other)"
_MAX_SERIES = 1000
_METHODS = frozenset({"CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "TRACE"})


class RequestDurations:
    """Observes the requests of all adapters of this process.

    The label `route` is the template of the route, never the path. At most 1,000 combinations of labels get a series of
    their own; further ones are added up under the route `(other)`. The exemplar of a bucket is the trace of its last
    request, if the client sent a `traceparent` that is recorded; OpenMetrics shows it.

    Args:
        registry: The registry of the histogram; None for none, with files of several processes.
    """

    def __init__(self, registry: CollectorRegistry | None) -> None:
        metric = REQUEST_DURATION
        name = metric.family
        self._histogram = Histogram(name, metric.description, metric.labels, registry=registry, buckets=metric.buckets)
        self._children: dict[tuple[str, str, str], Histogram] = {}
        reset_after_test(self)

    def after_test(self) -> None:
        """Forget all requests."""
        self._histogram.clear()
        self._children = {}

    def observe(self, method: str, route: str | None, status: int | str | None, seconds: float, trace_id: str) -> None:
        """Add a request.

        Args:
            method: The HTTP method; "" for gRPC.
            route: The template of the route, or the gRPC method; None if no route has served the request.
            status: The HTTP status, or the name of a status of gRPC; None if no answer was sent.
            seconds: The duration.
            trace_id: The trace of the request, 32 hex digits; "" if it is not recorded.
        """
        method = method if method in _METHODS or not method else _OTHER
        key = (method or "gRPC", route or "(no route)", "no answer" if status is None else str(status))
        child = self._children.get(key)
        if child is None:
            child = self._new(key)
        child.observe(seconds, _exemplar(trace_id))

    def _new(self, key: tuple[str, str, str]) -> Histogram:
        if len(self._children) >= _MAX_SERIES:
            key = (_OTHER, _OTHER, key[2])
        child = self._histogram.labels(*key)
        self._children[key] = child
        return child


def _exemplar(trace_id: str) -> dict[str, str] | None:
    return {"trace_id": trace_id} if trace_id else None
