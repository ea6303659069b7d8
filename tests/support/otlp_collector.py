"""A collector of OTLP over gRPC that decodes and keeps what it gets."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import grpc
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
    ExportMetricsServiceResponse,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.metrics.v1.metrics_pb2 import Metric
from opentelemetry.proto.trace.v1.trace_pb2 import Span

__all__ = ("Collector", "collecting", "plain")


class Collector:
    """The spans and metrics that services have exported.

    Args:
        pause: Seconds that each export takes.
    """

    def __init__(self, pause: float = 0.0) -> None:
        self.address = ""
        self.spans: list[tuple[str, Span]] = []
        """Each span with the name of its service."""
        self.metrics: dict[tuple[str, str], Metric] = {}
        """The latest data of each metric by the names of service and metric."""
        self._pause = pause

    def take_spans(self, request: ExportTraceServiceRequest, _context: object) -> ExportTraceServiceResponse:
        """Keep the spans of a request."""
        time.sleep(self._pause)
        for each in request.resource_spans:
            service = str(plain(each.resource.attributes).get("service.name"))
            self.spans += [(service, span) for scope in each.scope_spans for span in scope.spans]
        return ExportTraceServiceResponse()

    def take_metrics(self, request: ExportMetricsServiceRequest, _context: object) -> ExportMetricsServiceResponse:
        """Keep the metrics of a request."""
        time.sleep(self._pause)
        for each in request.resource_metrics:
            service = str(plain(each.resource.attributes).get("service.name"))
            self.metrics |= {(service, metric.name): metric for scope in each.scope_metrics for metric in scope.metrics}
        return ExportMetricsServiceResponse()

    def wait(self, has_all: Callable[[], bool], patience: float = 30.0) -> None:
        """Wait until `has_all` is true."""
        end = time.monotonic() + patience
        while not has_all():
            assert time.monotonic() < end, (
                sorted({(name, span.name) for name, span in self.spans}),
                list(self.metrics),
            )
            time.sleep(0.05)


def plain(attributes: Any) -> dict[str, object]:
    """Return attributes of OTLP as plain values."""
    return {each.key: getattr(each.value, each.value.WhichOneof("value")) for each in attributes}


def _serialized(message: Any) -> bytes:
    return bytes(message.SerializeToString())


@contextmanager
def collecting(pause: float = 0.0) -> Iterator[Collector]:
    """Serve a collector at a free port."""
    collector = Collector(pause)
    with ThreadPoolExecutor(4) as threads:
        server = grpc.server(threads)
        services: tuple[tuple[str, Any, Any], ...] = (
            ("trace.v1.TraceService", collector.take_spans, ExportTraceServiceRequest),
            ("metrics.v1.MetricsService", collector.take_metrics, ExportMetricsServiceRequest),
        )
        for service, method, request in services:
            handler: Any = grpc.unary_unary_rpc_method_handler(method, request.FromString, _serialized)
            name = f"opentelemetry.proto.collector.{service}"
            server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(name, {"Export": handler}),))
        collector.address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
        server.start()
        try:
            yield collector
        finally:
            server.stop(None).wait()
