"""Adapters that get the wrong object: each is refused where it is given, with the line to write."""

from __future__ import annotations

import asyncio
import importlib
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, cast

import grpc
import grpc.aio
import httpx
import pytest
from fastapi import APIRouter, Depends, FastAPI
from flask import Blueprint, Flask
from starlette.applications import Starlette

from resilience import ConfigurationError, Pipeline, Resilience
from resilience_fastapi import install, rate_limit
from resilience_flask import FlaskResilience
from resilience_grpc import (
    add_health,
    adrain,
    aio_client_interceptors,
    aio_server_interceptors,
    client_interceptors,
    drain,
    server_interceptors,
)
from resilience_http import AsyncResilienceTransport, ResilienceAdapter, ResilienceTransport


def threaded_server() -> grpc.Server:
    return grpc.server(ThreadPoolExecutor(1))


async def drain_of_loop() -> None:
    drain(grpc.aio.server(), Resilience())  # type: ignore[arg-type]  # the mistake


GIVEN: dict[str, tuple[Callable[[Any], Any], object, str]] = {
    "router": (install, APIRouter(), "guard the application that includes the router: install(app)"),
    "Flask in FastAPI": (install, Flask("shop"), "for Flask, write FlaskResilience(app)"),
    "Starlette": (install, Starlette(), "for Starlette, write app.add_middleware(ResilienceMiddleware)"),
    "FastAPI class": (install, FastAPI, "give an instance: install(FastAPI())"),
    "swapped": (install, Resilience(), "the application comes first: install(app, resilience)"),
    "no application": (install, None, "app=None: expected a FastAPI application"),
    "FastAPI in Flask": (FlaskResilience, FastAPI(), "for FastAPI, write install(app)"),
    "blueprint": (FlaskResilience, Blueprint("a", "a"), "guard the application that registers the blueprint"),
    "Flask class": (FlaskResilience, Flask, "give an instance: FlaskResilience(Flask(__name__))"),
    "Flask swapped": (FlaskResilience, Resilience(), "the application comes first: FlaskResilience(app, resilience)"),
    "module name": (FlaskResilience, __name__, "expected a Flask application"),
    "health": (add_health, Resilience(), "add_health(server)="),
    "drain": (lambda _: asyncio.run(drain_of_loop()), None, "write await adrain(server)"),
    "adrain": (lambda server: asyncio.run(adrain(server)), threaded_server(), "write drain(server)"),
}


@pytest.mark.parametrize("mistake", GIVEN)
def test_a_wrong_application_or_server_is_refused(mistake: str) -> None:
    """Each object that is no application or server of this adapter is refused, with the line to write."""
    take, given, text = GIVEN[mistake]
    with pytest.raises(ConfigurationError, match=re.escape(text)):
        take(given)


SYNC, AWAITING = ResilienceTransport, AsyncResilienceTransport
TRANSPORTS: dict[str, tuple[Callable[[], Any], str]] = {
    "toolkit": (lambda: SYNC(cast(Any, Resilience())), "write ResilienceTransport(resilience=toolkit)"),
    "toolkit, async": (lambda: AWAITING(cast(Any, Resilience())), "AsyncResilienceTransport(resilience=toolkit)"),
    "pipeline": (lambda: SYNC(cast(Any, Pipeline("p"))), "write ResilienceTransport(pipeline=pipeline)"),
    "name": (lambda: SYNC(cast(Any, "stock")), "write ResilienceTransport(pipeline='stock')"),
    "name of a pipeline as toolkit": (
        lambda: ResilienceAdapter(cast(Any, "stock")),
        "resilience='stock': expected a Resilience, or None (for the pipeline of this name write pipeline='stock')",
    ),
    "class": (lambda: SYNC(cast(Any, httpx.HTTPTransport)), "ResilienceTransport(HTTPTransport())"),
    "client": (lambda: SYNC(cast(Any, httpx.Client())), "a transport with the method handle_request"),
    "async inside": (lambda: SYNC(cast(Any, httpx.AsyncHTTPTransport())), "one is for blocking clients"),
    "sync inside": (lambda: AWAITING(cast(Any, httpx.HTTPTransport())), "one is for blocking clients"),
    "sync in AsyncClient": (
        lambda: httpx.AsyncClient(transport=cast(Any, SYNC(resilience=Resilience()))),
        "is not for httpx.AsyncClient: write httpx.AsyncClient(transport=AsyncResilienceTransport())",
    ),
    "async in Client": (
        lambda: httpx.Client(transport=cast(Any, AWAITING(resilience=Resilience()))),
        "AsyncResilienceTransport is not for httpx.Client: write httpx.Client(transport=ResilienceTransport())",
    ),
    "mounted": (
        lambda: httpx.AsyncClient(mounts={"https://": cast(Any, SYNC(resilience=Resilience()))}),
        "ResilienceTransport is not for httpx.AsyncClient",
    ),
}


@pytest.mark.parametrize("mistake", TRANSPORTS)
def test_a_transport_in_the_wrong_place_is_refused(mistake: str) -> None:
    """A transport refuses the wrong object inside, and a client the transport of the other colour, when it is made."""
    make, text = TRANSPORTS[mistake]
    with pytest.raises(ConfigurationError, match=re.escape(text)):
        make()


def test_the_clients_of_httpx2_refuse_the_same() -> None:
    """The transports of httpx2 are refused in the same places, by the names of httpx2."""
    httpx2 = pytest.importorskip("httpx2")
    ours: Any = importlib.import_module("resilience_http.httpx2")
    with pytest.raises(
        ConfigurationError, match=r"is not for httpx2\.AsyncClient: write httpx2\.AsyncClient\(transport=AsyncR"
    ):
        httpx2.AsyncClient(transport=ours.ResilienceTransport(resilience=Resilience()))
    with pytest.raises(ConfigurationError, match=r"is not for httpx2\.Client: write httpx2\.Client"):
        httpx2.Client(transport=ours.AsyncResilienceTransport(resilience=Resilience()))
    with pytest.raises(ConfigurationError, match="resilience=toolkit"):
        ours.ResilienceTransport(Resilience())


def test_a_rate_limit_is_no_decorator() -> None:
    """FastAPI's `rate_limit` above an endpoint is refused at once, above and below the route."""
    limit: Any = rate_limit("5/minute")

    def endpoint() -> int:
        return 1

    text = '@app.get("/path", dependencies=[rate_limit("5/minute")])'
    for decorated in (endpoint, FastAPI().get("/")(endpoint)):
        with pytest.raises(ConfigurationError, match=re.escape(text)) as caught:
            limit(decorated)
        assert "not a decorator of" in str(caught.value)


@pytest.mark.filterwarnings("error")
async def test_a_rate_limit_is_a_dependency_in_each_form() -> None:
    """In a list, in `Depends` and as the default of a parameter, the limit is charged."""
    app, limit = FastAPI(), rate_limit("1/hour")
    install(app, Resilience())
    app.get("/list", dependencies=[limit])(lambda: 1)
    app.get("/depends", dependencies=[Depends(limit)])(lambda: 1)

    @app.get("/default")
    def default(_: None = limit) -> int:  # type: ignore[assignment]  # FastAPI reads the dependency
        return 1

    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
        for path in ("/list", "/depends", "/default"):
            assert [(await client.get(path)).status_code for _ in range(2)] == [200, 429], path


def test_grpcio_refuses_interceptors_of_the_other_colour() -> None:
    """Where grpcio looks at its interceptors, those of the other colour or side are refused when they are given."""
    channel = grpc.insecure_channel("localhost:1")

    async def aio_server() -> None:
        grpc.aio.server(interceptors=server_interceptors(Resilience()))  # type: ignore[arg-type]  # the mistake

    async def aio_channel() -> None:
        guards: Any = client_interceptors(Resilience())
        grpc.aio.insecure_channel("localhost:1", interceptors=guards)

    with pytest.raises(ValueError, match="must be ServerInterceptor"):
        asyncio.run(aio_server())
    with pytest.raises(ValueError, match="must be UnaryUnaryClientInterceptor"):
        asyncio.run(aio_channel())
    wrong: list[Any] = [aio_client_interceptors(Resilience()), server_interceptors(Resilience())]
    for guards in wrong:
        with pytest.raises(TypeError, match="must be"):
            grpc.intercept_channel(channel, *guards)
    channel.close()


@pytest.mark.parametrize(
    ("guards", "text"),
    [
        (lambda: aio_server_interceptors(Resilience()), "write server_interceptors() for grpc.server"),
        (lambda: client_interceptors(Resilience()), "client_interceptors are for channels"),
    ],
    ids=["aio", "client"],
)
@pytest.mark.filterwarnings("error")
def test_a_server_of_threads_says_at_the_first_call(
    guards: Callable[[], Any], text: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A server of `grpc` takes any interceptor; at the first call the log has the line to write."""
    server = grpc.server(ThreadPoolExecutor(1), interceptors=guards())
    add_health(server, Resilience())
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        call: Any = channel.unary_unary("/grpc.health.v1.Health/Check")
        with pytest.raises(grpc.RpcError) as caught:
            call(b"", timeout=10)
        assert cast(Any, caught.value).code() is grpc.StatusCode.UNKNOWN
    server.stop(0).wait()
    assert text in caplog.text


async def awaited_key(*_request: object) -> str:
    return "client"


@pytest.mark.parametrize(
    "give",
    [
        lambda key: install(FastAPI(), Resilience(), key=key),
        lambda key: FlaskResilience(Flask("shop"), Resilience(), key=key),
    ],
    ids=["fastapi", "flask"],
)
@pytest.mark.parametrize("key", [awaited_key, "ip"])
def test_the_key_of_a_server_is_a_plain_function(give: Callable[[Any], object], key: Any) -> None:
    """A coroutine is another object for each request, so each request would have a bucket of its own."""
    with pytest.raises(ConfigurationError, match=r"key=.*a function that returns a key \(not a coroutine function\)"):
        give(key)
