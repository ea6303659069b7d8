"""The instrumentation beside those of other packages: each request is counted and traced once."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from typing import Any

import fastapi
import flask
import grpc
import httpx
import pytest
from fastapi import FastAPI
from grpc_health.v1.health_pb2 import HealthCheckRequest
from grpc_health.v1.health_pb2_grpc import HealthStub
from opentelemetry.instrumentation.fastapi import FastAPIInstrumentor
from opentelemetry.instrumentation.flask import FlaskInstrumentor
from opentelemetry.instrumentation.grpc import client_interceptor, server_interceptor
from opentelemetry.instrumentation.grpc.filters import negate, service_name
from opentelemetry.instrumentation.grpc.grpcext import intercept_channel
from opentelemetry.instrumentation.httpx import HTTPXClientInstrumentor
from opentelemetry.instrumentation.redis import RedisInstrumentor
from opentelemetry.trace import SpanKind
from redis_process import RedisProcess
from telemetry_sdk import Telemetry, events_of, parent_of, span_id_of

from resilience import CircuitBreaker, CircuitOpenError, Pipeline, RateLimit, Resilience
from resilience.ratelimit import RedisStore
from resilience.redis import RedisConnection, RedisOptions
from resilience_fastapi import install
from resilience_flask import FlaskResilience
from resilience_grpc import add_health, client_interceptors, server_interceptors
from resilience_http import ResilienceTransport

TOOLKIT = {"RESILIENCE_PIPELINE__UPSTREAM__RETRY__ATTEMPTS": "3", "RESILIENCE_PIPELINE__UPSTREAM__RETRY__WAIT_MAX": "0"}


@pytest.fixture
def opened() -> Pipeline:
    """Return a pipeline whose circuit is open."""
    breaker = CircuitBreaker(fail_max=1)
    breaker.open()
    return Pipeline("beside", breaker)


def of_kind(telemetry: Telemetry, kind: SpanKind) -> list[str]:
    return [span.name for span in telemetry.exporter.get_finished_spans() if span.kind is kind]


def metric_names(telemetry: Telemetry) -> dict[str, list[str]]:
    """Return the names of the metrics by the scope that emits them."""
    data = telemetry.reader.get_metrics_data()
    assert data is not None
    scopes = [scope for each in data.resource_metrics for scope in each.scope_metrics]
    return {scope.scope.name: [metric.name for metric in scope.metrics] for scope in scopes}


async def test_fastapi(telemetry: Telemetry, opened: Pipeline) -> None:
    """A request to FastAPI has one server span, with our events, and is counted once, by the other package alone."""
    telemetry.instrument()
    app = FastAPI()

    @app.get("/orders")
    def orders() -> dict[str, str]:
        with pytest.raises(CircuitOpenError):
            opened.call(int)
        return {}

    with Resilience.from_env({}) as toolkit:
        install(app, toolkit)
        FastAPIInstrumentor.instrument_app(
            app, tracer_provider=telemetry.tracers, meter_provider=telemetry.meters, exclude_spans=["receive", "send"]
        )
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://shop") as client:
            assert (await client.get("/orders")).status_code == 200
    assert of_kind(telemetry, SpanKind.SERVER) == ["GET /orders"]
    (span,) = telemetry.spans("GET /orders")
    assert list(events_of(span)) == ["resilience.breaker.rejected"]
    names = metric_names(telemetry)
    assert all(name.startswith("resilience.") for name in names["resilience"])
    assert sum("duration" in name for scope in names.values() for name in scope) == 1


async def test_the_telemetry_of_fastapi_itself(telemetry: Telemetry, opened: Pipeline) -> None:
    """Without another instrumentation, FastAPI makes the server span, and our events are in a span of the request."""
    if not hasattr(fastapi, "telemetry") and find_spec("fastapi.telemetry") is None:
        pytest.skip("this FastAPI has no telemetry")
    telemetry.instrument()
    providers = {"tracer_provider": telemetry.tracers, "meter_provider": telemetry.meters}
    options: dict[str, Any] = {"telemetry": providers}
    app = FastAPI(**options)

    @app.get("/orders")
    async def orders() -> dict[str, str]:
        with pytest.raises(CircuitOpenError):
            opened.call(int)
        return {}

    with Resilience.from_env({}) as toolkit:
        install(app, toolkit)
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://shop") as client:
            assert (await client.get("/orders")).status_code == 200
    assert of_kind(telemetry, SpanKind.SERVER) == ["GET /orders"]
    events = [event.name for span in telemetry.exporter.get_finished_spans() for event in span.events]
    assert events.count("resilience.breaker.rejected") == 1
    names = metric_names(telemetry)
    assert sum("request.duration" in name for scope in names.values() for name in scope) == 1


def test_flask(telemetry: Telemetry, opened: Pipeline) -> None:
    """A request to Flask has one server span, with our events."""
    telemetry.instrument()
    app = flask.Flask("beside")

    @app.get("/orders")
    def orders() -> dict[str, str]:
        with pytest.raises(CircuitOpenError):
            opened.call(int)
        return {}

    with Resilience.from_env({}) as toolkit:
        FlaskResilience(app, toolkit)
        FlaskInstrumentor().instrument_app(app, tracer_provider=telemetry.tracers, meter_provider=telemetry.meters)
        try:
            assert app.test_client().get("/orders").status_code == 200
        finally:
            FlaskInstrumentor().uninstrument_app(app)
    assert of_kind(telemetry, SpanKind.SERVER) == ["GET /orders"]
    assert list(events_of(telemetry.spans("GET /orders")[0])) == ["resilience.breaker.rejected"]


@pytest.mark.servers
def test_grpc(telemetry: Telemetry, opened: Pipeline) -> None:
    """A call through both sides of gRPC has one client span, and below it one server span with our events."""
    telemetry.instrument()

    def answer(_request: bytes, _context: grpc.ServicerContext) -> bytes:
        with pytest.raises(CircuitOpenError):
            opened.call(int)
        return b""

    with Resilience.from_env({}) as toolkit, ThreadPoolExecutor(2) as threads:
        theirs = server_interceptor(tracer_provider=telemetry.tracers)
        server = grpc.server(threads, interceptors=[theirs, *server_interceptors(toolkit)])
        handler: Any = grpc.unary_unary_rpc_method_handler(answer)
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("shop.Stock", {"Book": handler}),))
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        try:
            with grpc.insecure_channel(f"127.0.0.1:{port}") as plain:
                traced = intercept_channel(plain, client_interceptor(tracer_provider=telemetry.tracers))
                channel: Any = grpc.intercept_channel(traced, *client_interceptors(toolkit))
                channel.unary_unary("/shop.Stock/Book")(b"")
        finally:
            server.stop(None).wait()
    (client,) = [span for span in telemetry.exporter.get_finished_spans() if span.kind is SpanKind.CLIENT]
    (served,) = [span for span in telemetry.exporter.get_finished_spans() if span.kind is SpanKind.SERVER]
    assert parent_of(served) == span_id_of(client)
    assert list(events_of(served)) == ["resilience.breaker.rejected"]


@pytest.mark.servers
@pytest.mark.parametrize("is_excluded", [False, True])
def test_health_of_grpc(
    telemetry: Telemetry,
    is_excluded: bool,  # noqa: FBT001 - a case
    caplog: pytest.LogCaptureFixture,
) -> None:
    """An interceptor around the health service costs its streams and no thread of the server, and a warning says so."""
    filter_ = negate(service_name("grpc.health.v1.Health")) if is_excluded else None
    theirs = server_interceptor(tracer_provider=telemetry.tracers, filter_=filter_)
    with Resilience.from_env({}) as toolkit, ThreadPoolExecutor(1) as threads:
        server = grpc.server(threads, interceptors=[theirs])
        add_health(server, toolkit)
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        toolkit.lifecycle.started()
        try:
            with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
                health: Any = HealthStub(channel)
                streams = [health.Watch(HealthCheckRequest()) for _ in range(3)]
                if is_excluded:
                    assert [next(stream).status for stream in streams] == [1, 1, 1]
                else:
                    for stream in streams:
                        with pytest.raises(grpc.RpcError) as refused:
                            next(stream)
                        assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED
                assert health.Check(HealthCheckRequest(), timeout=10).status == 1
        finally:
            server.stop(None).wait()
    assert caplog.text.count("OTEL_PYTHON_GRPC_EXCLUDED_SERVICES") == (0 if is_excluded else 1)


def test_httpx(telemetry: Telemetry) -> None:
    """A request has one client span, outside our transport, and the attempts inside are its events."""
    telemetry.instrument()
    codes = iter([503, 503, 200])
    with Resilience.from_env(TOOLKIT) as toolkit:
        inner = httpx.MockTransport(lambda _request: httpx.Response(next(codes)))
        client = httpx.Client(transport=ResilienceTransport(inner, toolkit, pipeline="upstream"))
        HTTPXClientInstrumentor().instrument_client(client, tracer_provider=telemetry.tracers)
        with client, telemetry.tracer.start_as_current_span("request"):
            assert client.get("http://upstream.example/").status_code == 200
    clients = of_kind(telemetry, SpanKind.CLIENT)
    assert clients == ["GET"]
    events = [event.name for event in telemetry.spans("GET")[0].events]
    assert events == ["resilience.retry.scheduled", "resilience.retry.scheduled"]


@pytest.fixture
def traced_redis(telemetry: Telemetry) -> Iterator[None]:
    RedisInstrumentor().instrument(tracer_provider=telemetry.tracers)
    yield
    RedisInstrumentor().uninstrument()


@pytest.mark.usefixtures("traced_redis")
def test_redis(telemetry: Telemetry, redis_server: RedisProcess) -> None:
    """Decisions of a shared limiter are counted by us, and make no second span or metric of Redis."""
    telemetry.instrument()
    connection = RedisConnection(RedisOptions(url=redis_server.url))
    limit = RateLimit("5/hour", store=RedisStore(connection), name="beside-redis")
    pipeline = Pipeline("beside-redis", limit)
    with telemetry.tracer.start_as_current_span("request"):
        for _ in range(3):
            pipeline.call(int)
    connection.close()
    assert telemetry.points("resilience.ratelimit.decisions", "beside-redis") == {("allowed",): 3}
    assert len(of_kind(telemetry, SpanKind.CLIENT)) <= 3
