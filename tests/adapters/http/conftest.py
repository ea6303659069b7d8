from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from http_callers import AsyncCaller, RequestsCaller, SyncCaller
from http_upstreams import Breaking, Upstream, running, serving

from resilience import Resilience


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


@pytest.fixture(params=[SyncCaller, AsyncCaller, RequestsCaller], ids=["httpx", "httpx-async", "requests"])
def caller(request: pytest.FixtureRequest) -> Iterator[Callable[..., SyncCaller]]:
    """Make clients of each library and colour."""
    with contextlib.ExitStack() as clients:

        def make(resilience: Resilience | None = None, **options: Any) -> SyncCaller:
            client: SyncCaller = request.param(resilience, **options)
            clients.callback(client.close)
            return client

        yield make


@pytest.fixture
def toolkit() -> Callable[..., Resilience]:
    """Build a toolkit as if by environment."""

    def build(**settings: str) -> Resilience:
        return Resilience.from_env({f"RESILIENCE_{name.upper()}": value for name, value in settings.items()})

    return build
