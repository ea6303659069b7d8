"""One anonymous client that waits for less than a healthy upstream takes, against services on real servers."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx2
import pytest
import requests
from fastapi import FastAPI, Request
from flask import Flask
from http_upstreams import Upstream
from impatient_callers import HEADER, attack, until_answer_is, until_open
from werkzeug.serving import make_server

from resilience import Resilience
from resilience_fastapi import install
from resilience_flask import FlaskResilience
from resilience_http import ResilienceAdapter
from resilience_http.httpx2 import AsyncResilienceTransport, ResilienceTransport

pytestmark = pytest.mark.realtime
ALLOWED = 2.0
"""Seconds that the service itself allows the upstream: the timeout of its client."""
SETTINGS = {"RESILIENCE_LIFECYCLE__SIGNALS": "false"}


def breaker_of(guard: Any) -> Any:
    """Return the breaker of each host."""
    return next(policy for policy in guard.pipeline.policies if policy.name == "http.breaker")


class Service:
    """A service that asks the upstream for each of its own answers; `breaker` is what guards that."""

    def __init__(self, url: str, guard: Any, events: list[str]) -> None:
        self.url, self.guard, self.events = url, guard, events
        self._local = threading.local()
        self._clients: list[httpx2.Client] = []

    def ask(self, is_impatient: bool) -> bool:  # noqa: FBT001 - what `attack` calls
        """Make one request; return whether it was answered."""
        return self.send("GET", headers=HEADER if is_impatient else None)

    def send(self, method: str, **options: Any) -> bool:
        """Make one request, on a connection of the thread's own; return whether it was answered."""
        if not hasattr(self._local, "client"):
            self._local.client = httpx2.Client(timeout=10)
            self._clients.append(self._local.client)
        return bool(self._local.client.request(method, self.url, **options).is_success)

    def close(self) -> None:
        """Close the connections."""
        for client in self._clients:
            client.close()

    @property
    def state(self) -> str:
        """The state of the upstream's circuit."""
        return "".join(str(circuit["state"]) for circuit in breaker_of(self.guard).snapshot()["each"].values())


def _awaiting_fastapi(serve: Callable[[Any], str], upstream: Upstream) -> tuple[str, Any]:
    app, toolkit = FastAPI(), Resilience.from_env(SETTINGS)
    install(app, toolkit)
    inner = httpx2.AsyncHTTPTransport(limits=httpx2.Limits(max_keepalive_connections=0))  # none is left to be closed
    guard = AsyncResilienceTransport(inner, toolkit)
    client = httpx2.AsyncClient(transport=guard, timeout=ALLOWED)

    @app.get("/")
    async def index() -> str:
        return (await client.get(upstream.url)).raise_for_status().text

    return serve(app), guard


def _blocking_fastapi(serve: Callable[[Any], str], stack: contextlib.ExitStack, upstream: Upstream) -> tuple[str, Any]:
    app, toolkit = FastAPI(), Resilience.from_env(SETTINGS)
    install(app, toolkit)
    guard = ResilienceTransport(resilience=toolkit)
    client = stack.enter_context(httpx2.Client(transport=guard, timeout=ALLOWED))

    @app.get("/")
    def index() -> str:
        return client.get(upstream.url).raise_for_status().text

    return serve(app), guard


def _flask(stack: contextlib.ExitStack, upstream: Upstream) -> tuple[str, Any]:
    app, toolkit = Flask("shop"), Resilience.from_env(SETTINGS)
    FlaskResilience(app, toolkit)
    guard = ResilienceAdapter(toolkit, pool_maxsize=20)
    session = stack.enter_context(requests.Session())
    session.mount("http://", guard)

    @app.get("/")
    def index() -> str:
        answer = session.get(upstream.url, timeout=ALLOWED)
        answer.raise_for_status()
        return answer.text

    server = make_server("127.0.0.1", 0, app, threaded=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    stack.callback(thread.join, 10)
    stack.callback(server.shutdown)
    return f"http://127.0.0.1:{server.server_port}", guard


@pytest.fixture(params=["fastapi-httpx2-async", "fastapi-httpx2", "flask-requests"])
def service(request: pytest.FixtureRequest, serve: Callable[[Any], str], upstream: Upstream) -> Iterator[Service]:
    """Start a service of each framework, with the default pipeline of its HTTP client."""
    events: list[str] = []
    with contextlib.ExitStack() as stack:
        if request.param == "flask-requests":
            url, guard = _flask(stack, upstream)
        elif request.param == "fastapi-httpx2":
            url, guard = _blocking_fastapi(serve, stack, upstream)
        else:
            url, guard = _awaiting_fastapi(serve, upstream)
        breaker_of(guard).events.subscribe(lambda event: events.append(event.kind))
        asked = Service(url, guard, events)
        stack.callback(asked.close)
        yield asked


def test_an_impatient_client_costs_no_other_user_a_request(service: Service, upstream: Upstream) -> None:
    """Law: five connections that wait for 20 ms of an upstream's 50 ms fail alone; the circuit stays closed."""
    upstream.delay = 0.05
    losses = attack(service.ask)
    assert losses.impatient > losses.asked / 4
    assert losses.lost == 0
    assert service.state == "closed"
    assert "breaker.opened" not in service.events


def test_a_hanging_upstream_is_found_out_by_impatient_clients_alone(service: Service, upstream: Upstream) -> None:
    """Law: if nobody is answered for as long as the service allows, the circuit opens, for callers as impatient."""
    upstream.delay = 30
    assert until_open(service.ask, lambda: service.state)

    def answer() -> tuple[int, str]:
        refusal = httpx2.get(service.url, headers=HEADER)
        return refusal.status_code, refusal.json()["code"]

    assert until_answer_is((503, "CIRCUIT_OPEN"), answer) == (503, "CIRCUIT_OPEN")
    upstream.delay = 0
    assert service.ask(False)
    assert service.state in {"open", "closed"}
    service.ask(True)
    assert service.state == "closed"


def test_a_client_that_sends_its_body_slowly_costs_no_other_user_a_request(
    serve: Callable[[Any], str], upstream: Upstream
) -> None:
    """Law: a client that uses up the service's own deadline before the call is made fails alone as well."""
    app, toolkit = FastAPI(), Resilience.from_env({**SETTINGS, "RESILIENCE_SERVER__DEADLINE": "1s"})
    install(app, toolkit)
    inner = httpx2.AsyncHTTPTransport(limits=httpx2.Limits(max_keepalive_connections=0))
    guard = AsyncResilienceTransport(inner, toolkit)
    client = httpx2.AsyncClient(transport=guard)

    @app.post("/")
    async def index(request: Request) -> str:
        await request.body()
        return (await client.get(upstream.url)).raise_for_status().text

    service = Service(serve(app), guard, [])
    upstream.delay = 0.45

    def slow_body() -> Iterator[bytes]:
        yield b"a"
        time.sleep(0.65)
        yield b"b"

    def ask(is_slow: bool) -> bool:  # noqa: FBT001 - what `attack` calls
        return service.send("POST", content=slow_body() if is_slow else b"ab")

    with contextlib.closing(service):
        losses = attack(ask)
    assert losses.lost == 0
    assert service.state == "closed"
    (circuit,) = breaker_of(guard).snapshot()["each"].values()
    assert circuit["failures"] < losses.impatient / 2
