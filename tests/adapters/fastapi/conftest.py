"""Applications under test: in process for most, on a real server for what only a server shows."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import httpx2
import pytest
import uvicorn
from fastapi import FastAPI

from resilience import Resilience

Browse = Callable[..., contextlib.AbstractAsyncContextManager[httpx2.AsyncClient]]


@pytest.fixture
def toolkit() -> Callable[..., Resilience]:
    """Build a toolkit as if by environment."""

    def build(**settings: str) -> Resilience:
        return Resilience.from_env({f"RESILIENCE_{name.upper()}": value for name, value in settings.items()})

    return build


@pytest.fixture
def browse() -> Browse:
    """Open a client of an application in this process; errors reach it as responses, as over a network."""

    @contextlib.asynccontextmanager
    async def open_client(app: Any, client: tuple[str, int] = ("203.0.113.9", 1)) -> AsyncIterator[httpx2.AsyncClient]:
        transport = httpx2.ASGITransport(app, raise_app_exceptions=False, client=client)
        async with httpx2.AsyncClient(transport=transport, base_url="http://shop.example") as browser:
            yield browser

    return open_client


@pytest.fixture
def serve() -> Iterator[Callable[[FastAPI], str]]:
    """Run applications on real uvicorns in threads, and return where."""
    with contextlib.ExitStack() as servers:
        yield lambda app: servers.enter_context(_running(app))


@contextlib.contextmanager
def _running(app: FastAPI) -> Iterator[str]:
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_config=None, timeout_graceful_shutdown=5))
    thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
    thread.start()
    patience = time.monotonic() + 10
    while not server.started and time.monotonic() < patience:
        time.sleep(0.01)
    assert server.started
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(10)
        listener.close()
        assert not thread.is_alive()
