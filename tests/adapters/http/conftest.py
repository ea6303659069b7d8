from __future__ import annotations

import contextlib
import importlib
import socket
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from http_callers import AsyncCaller, OldAsyncCaller, OldSyncCaller, RequestsCaller, SyncCaller
from http_upstreams import Breaking, Upstream, running, serving

from resilience import Pipeline, Resilience


@pytest.fixture(scope="module")
def _upstreams() -> Iterator[list[Upstream]]:
    with running(Upstream()) as first, running(Upstream()) as second:
        yield [first, second]


@pytest.fixture
def upstream(_upstreams: list[Upstream]) -> Iterator[Upstream]:
    """Give an upstream on a real uvicorn in a thread."""
    yield _upstreams[0]
    _upstreams[0].reset()


@pytest.fixture
def other_upstream(_upstreams: list[Upstream]) -> Iterator[Upstream]:
    """Give a second one, which is another host: the port is part of it."""
    yield _upstreams[1]
    _upstreams[1].reset()


@pytest.fixture
def serve() -> Iterator[Callable[[Any], str]]:
    """Run applications on real uvicorns in threads, and return where."""
    with contextlib.ExitStack() as servers:
        yield lambda app: servers.enter_context(serving(app))


@pytest.fixture
def refused_url() -> str:
    """Name a port nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return f"http://127.0.0.1:{listener.getsockname()[1]}"


@pytest.fixture
def breaking() -> Iterator[Callable[..., Breaking]]:
    """Start servers that reset connections."""
    with contextlib.ExitStack() as servers:

        def start(first: bytes = b"", times: int = 1) -> Breaking:
            server = Breaking(first, times)
            servers.callback(server.close)
            return server

        yield start


CALLERS: dict[str, type[SyncCaller]] = {
    "httpx2": SyncCaller,
    "httpx2-async": AsyncCaller,
    "httpx": OldSyncCaller,
    "httpx-async": OldAsyncCaller,
    "requests": RequestsCaller,
}


@pytest.fixture(params=CALLERS)
def caller(request: pytest.FixtureRequest) -> Iterator[Callable[..., SyncCaller]]:
    """Make clients of each library and colour."""
    with contextlib.ExitStack() as clients:

        def make(resilience: Resilience | None = None, **options: Any) -> SyncCaller:
            client = CALLERS[request.param](resilience, **options)
            clients.callback(client.close)
            return client

        yield make


@pytest.fixture(params=["httpx2", "httpx"])
def guards(request: pytest.FixtureRequest) -> Any:
    """Give the package of each library's transports."""
    return importlib.import_module(f"resilience_http.{request.param}")


@pytest.fixture
def httpx(guards: Any) -> Any:
    """Give the library itself: `httpx2`, or `httpx`, in the tests of which nothing else differs."""
    return importlib.import_module(guards.__name__.removeprefix("resilience_http."))


@pytest.fixture
def transport(guards: Any, httpx: Any) -> Callable[..., Any]:
    """Make transports for awaiting clients from policies."""

    def make(*policies: Any, connections: int = 10, **options: Any) -> Any:
        inner = httpx.AsyncHTTPTransport(limits=httpx.Limits(max_connections=connections))
        return guards.AsyncResilienceTransport(inner, Resilience(), pipeline=Pipeline("p", *policies), **options)

    return make


@pytest.fixture
def toolkit() -> Callable[..., Resilience]:
    """Build a toolkit as if by environment."""

    def build(**settings: str) -> Resilience:
        return Resilience.from_env({f"RESILIENCE_{name.upper()}": value for name, value in settings.items()})

    return build
