"""The three example services under `opentelemetry-instrument`: one trace, and the metrics of each."""

from __future__ import annotations

import configparser
import os
import tomllib
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest
from example_modules import EXAMPLES
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from otlp_collector import Collector, collecting, plain
from shop_chain import Chain, running

pytestmark = pytest.mark.servers

LAUNCHER = ("-c", "from opentelemetry.instrumentation.auto_instrumentation import run; run()")
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
ORDER = "/parcels/6f1c1bb8-8f0c-4d0e-9c5e-0f5b1d2f3a4b"


def installed(folder: Path) -> Path:
    """Return a folder with the entry points of pyproject.toml: those that are installed may be older."""
    groups = tomllib.loads((EXAMPLES.parent / "pyproject.toml").read_text())["project"]["entry-points"]
    (dist := folder / "resilience_plugins-0.dist-info").mkdir(parents=True)
    (dist / "METADATA").write_text("Metadata-Version: 2.1\nName: resilience-plugins\nVersion: 0\n")
    listed = configparser.ConfigParser(delimiters=("=",))
    listed.read_dict(groups)
    with (dist / "entry_points.txt").open("w") as file:
        listed.write(file)
    return folder


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    with collecting() as made:
        yield made


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory, collector: Collector) -> Iterator[Chain]:
    folder = tmp_path_factory.mktemp("traced")
    paths = (str(installed(folder / "installed")), str(EXAMPLES.parent), os.environ.get("PYTHONPATH"))
    settings = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://{collector.address}",
        "OTEL_EXPORTER_OTLP_INSECURE": "true",
        "OTEL_TRACES_EXPORTER": "otlp_proto_grpc",
        "OTEL_METRICS_EXPORTER": "otlp_proto_grpc",
        "OTEL_LOGS_EXPORTER": "none",
        "OTEL_METRIC_EXPORT_INTERVAL": "500",
        "OTEL_BSP_SCHEDULE_DELAY": "100",
        "RESILIENCE_TELEMETRY__ATTEMPT_SPANS": "true",
        "RESILIENCE_SERVER__DEADLINE": "20s",
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
    }
    with running(folder, LAUNCHER, **settings) as chain:
        yield chain


def path_to(collector: Collector, service: str) -> list[str]:
    """Return the services on the way to the server span of a service, that service first."""
    spans = [(each, span) for each, span in collector.spans if span.trace_id.hex() == TRACE]
    by_id = {span.span_id: (each, span) for each, span in spans}
    found = next((span for each, span in spans if each == service and span.kind == Span.SPAN_KIND_SERVER), None)
    path: list[str] = [] if found is None else [service]
    while found is not None and found.parent_span_id in by_id:
        above, found = by_id[found.parent_span_id]
        path.append(above)
    return list(dict.fromkeys(path))


def counted(collector: Collector, service: str) -> set[object]:
    """Return the breakers of a service that have counted a call."""
    metric = collector.metrics.get((service, "resilience.breaker.calls"))
    points = [] if metric is None else [point for point in metric.sum.data_points if point.as_int]
    return {plain(point.attributes)["resilience.policy"] for point in points}


def test_one_order_is_one_trace_and_all_services_have_metrics(chain: Chain, collector: Collector) -> None:
    """An order goes through three services in one trace: each server span is below a span of its caller."""
    base = f"http://127.0.0.1:{chain.shop.port}"
    with httpx2.Client(base_url=base, timeout=30, trust_env=False) as http:
        sent = {"traceparent": f"00-{TRACE}-00f067aa0ba902b7-01"}
        response = http.put(ORDER, json={"item": "tea"}, headers=sent)
    assert response.status_code == 200, response.text

    # Each service exports by itself, one after the other.
    collector.wait(lambda: path_to(collector, "stock") == ["stock", "warehouse", "shop"])
    collector.wait(lambda: "warehouse.breaker" in counted(collector, "shop"))
    collector.wait(lambda: "shop.Stock.breaker" in counted(collector, "warehouse"))
    collector.wait(lambda: ("stock", "resilience.lifecycle.state") in collector.metrics)
