"""One anonymous client that waits for less than a healthy upstream takes, against services on real servers."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
import requests
from fastapi import FastAPI
from flask import Flask
from http_upstreams import Upstream
from impatient_callers import HEADER, attack
from werkzeug.serving import make_server

from resilience import Resilience
from resilience_fastapi import install
from resilience_flask import FlaskResilience
from resilience_http import AsyncResilienceTransport, ResilienceAdapter, ResilienceTransport

pytestmark = pytest.mark.realtime
SETTINGS = {"RESILIENCE_LIFECYCLE__SIGNALS": "false"}


class Service:
    """A service that asks the upstream for each of its own answers; `breaker` is what guards that."""

    def __init__(self, url: str, guard: Any, events: list[str]) -> None:
        self.url, self.guard, self.events = url, guard, events
        self._local = threading.local()
        self._clients: list[httpx.Client] = []

    def ask(self, is_impatient: bool) -> bool:  # noqa: FBT001 - what `attack` calls
        """Make one request, on a connection of the thread's own; return whether it was answered."""
        if not hasattr(self._local, "client"):
            self._local.client = httpx.Client(timeout=10)
            self._clients.append(self._local.client)
        return bool(self._local.client.get(self.url, headers=HEADER if is_impatient else None).is_success)

    def close(self) -> None:
        """Close the connections."""
        for client in self._clients:
            client.close()

    @property
    def state(self) -> str:
        """The state of the upstream's circuit."""
        keyed = next(policy for policy in self.guard.pipeline.policies if policy.name == "http.breaker")
        (circuit,) = keyed.snapshot()["each"].values()
        return str(circuit["state"])


def _awaiting_fastapi(serve: Callable[[Any], str], upstream: Upstream) -> tuple[str, Any]:
    app, toolkit = FastAPI(), Resilience.from_env(SETTINGS)
    install(app, toolkit)
    inner = httpx.AsyncHTTPTransport(limits=httpx.Limits(max_keepalive_connections=0))  # none is left to be closed
    guard = AsyncResilienceTransport(inner, toolkit)
    client = httpx.AsyncClient(transport=guard)

    @app.get("/")
    async def index() -> str:
        return (await client.get(upstream.url)).raise_for_status().text

    return serve(app), guard


def _blocking_fastapi(serve: Callable[[Any], str], stack: contextlib.ExitStack, upstream: Upstream) -> tuple[str, Any]:
    app, toolkit = FastAPI(), Resilience.from_env(SETTINGS)
    install(app, toolkit)
    guard = ResilienceTransport(resilience=toolkit)
    client = stack.enter_context(httpx.Client(transport=guard))

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
        answer = session.get(upstream.url, timeout=5)
        answer.raise_for_status()
        return answer.text

    server = make_server("127.0.0.1", 0, app, threaded=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    stack.callback(thread.join, 10)
    stack.callback(server.shutdown)
    return f"http://127.0.0.1:{server.server_port}", guard


@pytest.fixture(params=["fastapi-httpx-async", "fastapi-httpx", "flask-requests"])
def service(request: pytest.FixtureRequest, serve: Callable[[Any], str], upstream: Upstream) -> Iterator[Service]:
    """Start a service of each framework, with the default pipeline of its HTTP client."""
    events: list[str] = []
    with contextlib.ExitStack() as stack:
        if request.param == "flask-requests":
            url, guard = _flask(stack, upstream)
        elif request.param == "fastapi-httpx":
            url, guard = _blocking_fastapi(serve, stack, upstream)
        else:
            url, guard = _awaiting_fastapi(serve, upstream)
        keyed = next(policy for policy in guard.pipeline.policies if policy.name == "http.breaker")
        keyed.events.subscribe(lambda event: events.append(event.kind))
        asked = Service(url, guard, events)
        stack.callback(asked.close)
        yield asked


def test_an_impatient_client_costs_no_other_user_a_request(service: Service, upstream: Upstream) -> None:
    """Law: five connections that wait for 20 ms of an upstream's 50 ms fail alone; the circuit stays closed."""
    upstream.delay = 0.05
    losses = attack(service.ask)
    assert losses.impatient > 20
    assert losses.asked > 20
    assert losses.lost == 0
    assert service.state == "closed"
    assert "breaker.opened" not in service.events
