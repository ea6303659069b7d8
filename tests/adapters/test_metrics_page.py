"""`/metrics` in each adapter: closed unless opened, never refused, and right with several processes."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path

import httpx2
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from flask import Flask
from prometheus_client import CollectorRegistry
from prometheus_client.multiprocess import MultiProcessCollector
from server_process import ServerProcess, started

from resilience import Resilience
from resilience.prometheus._opening import OPEN_PAGE
from resilience_fastapi import ResilienceMiddleware, health_router, install
from resilience_flask import FlaskResilience, health_blueprint

ClientOf = Callable[[dict[str, str]], httpx2.Client]
OPEN = {"RESILIENCE_METRICS__ENDPOINT": "true"}
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"


def fastapi_client(settings: dict[str, str]) -> httpx2.Client:
    app = FastAPI()

    @app.get("/orders/{order}")
    async def order(order: str) -> str:
        return order

    install(app, Resilience.from_env(settings))
    return TestClient(app, raise_server_exceptions=False)


def flask_client(settings: dict[str, str]) -> httpx2.Client:
    app = Flask(__name__)

    @app.get("/orders/<order>")
    def order(order: str) -> str:
        return order

    FlaskResilience(app, Resilience.from_env(settings))
    return httpx2.Client(transport=httpx2.WSGITransport(app=app), base_url="http://shop.example")


CLIENTS = pytest.mark.parametrize("client_of", [fastapi_client, flask_client])


@CLIENTS
def test_the_page_is_closed_unless_opened(client_of: ClientOf) -> None:
    """Without the setting `/metrics` is a path like any other."""
    with client_of({}) as client:
        assert client.get("/metrics").status_code == 404
        assert client.get("/orders/1").status_code == 200


@CLIENTS
def test_the_page_is_not_limited_and_has_the_requests(client_of: ClientOf) -> None:
    """A client over its limit can still scrape; the series have the template of the route and the status."""
    with client_of({**OPEN, "RESILIENCE_SERVER__RATE_LIMIT": "1/hour"}) as client:
        statuses = [client.get(f"/orders/{number}").status_code for number in range(2)]
        page = client.get("/metrics")
        assert statuses == [200, 429]
        assert page.status_code == 200
        assert page.headers["content-type"].startswith("text/plain")
        series = re.findall(
            r'request_duration_seconds_count\{method="GET",route="(.*?)",status="(\d+)"\} 1\.0', page.text
        )
        assert {status for _, status in series} == {"200", "429"}
        assert {route for route, _ in series} <= {"/orders/{order}", "/orders/<order>", "(no route)"}
        assert "/metrics" not in {route for route, _ in series}


@CLIENTS
def test_a_recorded_trace_is_an_exemplar(client_of: ClientOf) -> None:
    """OpenMetrics has the trace of a request whose `traceparent` is recorded."""
    with client_of(OPEN) as client:
        client.get("/orders/1", headers={"traceparent": f"00-{TRACE}-00f067aa0ba902b7-01"})
        time.sleep(0.6)  # a text may be used again for half a second
        page = client.get("/metrics", headers={"accept": "application/openmetrics-text"})
        assert f'trace_id="{TRACE}"' in page.text
        assert page.text.endswith("# EOF\n")


def router_client(settings: dict[str, str]) -> httpx2.Client:
    app = FastAPI()
    toolkit = Resilience.from_env(settings)
    app.add_middleware(ResilienceMiddleware, resilience=toolkit)
    app.include_router(health_router(toolkit, prefix="/internal"))
    return TestClient(app, raise_server_exceptions=False)


def blueprint_client(settings: dict[str, str]) -> httpx2.Client:
    app = Flask(__name__)
    toolkit = Resilience.from_env(settings)
    FlaskResilience(app, toolkit)
    app.register_blueprint(health_blueprint(toolkit, url_prefix="/internal"))
    return httpx2.Client(transport=httpx2.WSGITransport(app=app), base_url="http://shop.example")


@pytest.mark.parametrize("client_of", [router_client, blueprint_client])
def test_routes_of_your_own_have_the_page_if_it_is_open(client_of: ClientOf) -> None:
    """Where the application mounts the probes itself, the page stands beside them, and only if it is open."""
    with client_of(OPEN) as client:
        assert "resilience_" in client.get("/internal/metrics").text
        assert client.get("/internal/livez").status_code == 200
    with client_of({}) as client:
        assert client.get("/internal/metrics").status_code == 404


def test_the_loop_is_watched_from_the_first_request_on() -> None:
    """The page of an asyncio service has the lag of its loop and the number of its tasks."""
    with fastapi_client(OPEN) as client:
        client.get("/orders/1")
        time.sleep(0.6)  # a text may be used again for half a second
        assert "resilience_process_loop_lag_seconds_total " in client.get("/metrics").text


def test_a_port_of_its_own() -> None:
    """The port answers the page and nothing else, for gRPC and for services that open no path."""
    OPEN_PAGE.close()
    toolkit = Resilience.from_env({"RESILIENCE_METRICS__PORT": "0"})
    assert toolkit.metrics is not None
    try:
        (port,) = OPEN_PAGE.ports()
        assert "resilience_" in httpx2.get(f"http://127.0.0.1:{port}/metrics").text
        assert httpx2.get(f"http://127.0.0.1:{port}/readyz").status_code == 404
    finally:
        OPEN_PAGE.close()


APP = """
import os
from fastapi import FastAPI
from flask import Flask
from resilience import CircuitBreaker, Pipeline
from resilience_fastapi import install
from resilience_flask import FlaskResilience

app = Flask(__name__)
payments = Pipeline("payments", CircuitBreaker(fail_max=1000))

@app.get("/pay")
def pay():
    payments.call(str)
    return str(os.getpid())

FlaskResilience(app)

asgi = FastAPI()

@asgi.get("/pay")
async def pay_async():
    payments.call(str)

install(asgi)
"""


@pytest.mark.servers
def test_two_workers_show_one_sum(tmp_path: Path) -> None:
    """Whichever worker answers the scrape, it has the calls of both; a killed worker leaves its counters alone."""
    shared = tmp_path / "shared"
    shared.mkdir()
    with contextlib.closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    settings = {**OPEN, "PROMETHEUS_MULTIPROC_DIR": str(shared), "RESILIENCE_METRICS__FLUSH_INTERVAL": "50ms"}
    arguments = ["-m", "gunicorn", "-w", "2", "-k", "sync", "-b", f"127.0.0.1:{port}", "app:app"]
    with started(tmp_path, APP, arguments, port=port, environment=settings) as server:
        server.answers("/pay", 200)
        before = at_rest(server)
        workers = {server.ask("/pay", 60)[1] for _ in range(60)}
        made = before + 60
        while len(workers) < 2:
            workers.add(server.ask("/pay", 60)[1])
            made += 1
        assert at_rest(server) == made
        texts = [server.ask("/metrics")[1] for _ in range(4)]
        assert all(text.count("# TYPE resilience_breaker_calls_total counter") == 1 for text in texts)
        circuits = r'resilience_breaker_circuits\{policy="payments.breaker",state="closed"\} (\d+)'
        assert [re.findall(circuits, text) for text in texts] == [["2"]] * 4
        os.kill(int(next(iter(workers))), signal.SIGKILL)
        server.answers("/pay", 200)
        assert at_rest(server) > made


def at_rest(server: ServerProcess) -> float:
    """Return the sum of successful calls, once it has not changed for longer than a text is used again."""
    found, last, seen_at = -1.0, 0.0, time.monotonic()
    while time.monotonic() - seen_at < 1.2:
        text = server.ask("/metrics", 60)[1]
        match = re.search(r'resilience_breaker_calls_total\{outcome="success",policy="payments.breaker"\} (\S+)', text)
        last = float(match[1]) if match else 0.0
        if last != found:
            found, seen_at = last, time.monotonic()
        time.sleep(0.1)
    return found


@pytest.mark.servers
@pytest.mark.parametrize(
    ("application", "options"), [("app:app", ["-k", "sync"]), ("app:asgi", ["-k", "uvicorn_worker.UvicornWorker"])]
)
def test_a_worker_that_ends_writes_its_last_numbers(tmp_path: Path, application: str, options: list[str]) -> None:
    """After SIGTERM the files have every call, however long the interval is."""
    shared = tmp_path / "shared"
    shared.mkdir()
    with contextlib.closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    settings = {**OPEN, "PROMETHEUS_MULTIPROC_DIR": str(shared), "RESILIENCE_METRICS__FLUSH_INTERVAL": "60s"}
    arguments = ["-m", "gunicorn", "-w", "1", *options, "-b", f"127.0.0.1:{port}", application]
    with started(tmp_path, APP, arguments, port=port, environment=settings) as server:
        server.answers("/livez", 200)
        for _ in range(5):
            server.ask("/pay", 60)
        server.tell(signal.SIGTERM)
        server.ended()
    registry = CollectorRegistry()
    MultiProcessCollector(registry, str(shared))  # type: ignore[no-untyped-call]  # it has no annotations
    labels = {"outcome": "success", "policy": "payments.breaker"}
    assert registry.get_sample_value("resilience_breaker_calls_total", labels) == 5
