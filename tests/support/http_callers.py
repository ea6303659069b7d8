"""Three HTTP clients, each guarded by its transport or adapter, under one interface."""

from __future__ import annotations

import asyncio
import contextvars
from typing import Any, NamedTuple

import httpx
import httpx2
import requests

import resilience_http.httpx
import resilience_http.httpx2
from resilience import Resilience
from resilience_http import ResilienceAdapter


class Got(NamedTuple):
    """An answer, read."""

    status: int
    content: bytes
    response: Any


class SyncCaller:
    """`httpx2.Client`."""

    library: Any = httpx2
    guards: Any = resilience_http.httpx2

    def __init__(self, resilience: Resilience | None = None, connections: int = 10, **options: Any) -> None:
        library, toolkit = self.library, Resilience() if resilience is None else resilience
        inner = library.HTTPTransport(limits=library.Limits(max_connections=connections))
        self.guard: Any = self.guards.ResilienceTransport(inner, toolkit, **options)
        self.client: Any = library.Client(transport=self.guard, timeout=library.Timeout(5, pool=0.5))

    @property
    def refused(self) -> type[Exception]:
        """The error of a connection that cannot be made."""
        return self.library.ConnectError  # type: ignore[no-any-return]  # of any library

    @property
    def broken(self) -> type[Exception]:
        """The error of a connection that breaks off."""
        return self.library.TransportError  # type: ignore[no-any-return]  # of any library

    @property
    def timed_out(self) -> type[Exception]:
        """The error of a timeout."""
        return self.library.TimeoutException  # type: ignore[no-any-return]  # of any library

    @property
    def failed(self) -> type[Exception]:
        """The error of `raise_for_status`."""
        return self.library.HTTPStatusError  # type: ignore[no-any-return]  # of any library

    @property
    def full(self) -> type[Exception]:
        """The error of a client without a free connection."""
        return self.library.PoolTimeout  # type: ignore[no-any-return]  # of any library

    @property
    def any_error(self) -> type[Exception]:
        """The class of all errors."""
        return self.library.HTTPError  # type: ignore[no-any-return]  # of any library

    def request(self, method: str, url: str, body: Any = None, **options: Any) -> Got:
        response = self.client.request(method, url, content=body, **options)
        return Got(response.status_code, response.content, response)

    def get(self, url: str, **options: Any) -> Got:
        return self.request("GET", url, **options)

    def close(self) -> None:
        self.client.close()


class AsyncCaller(SyncCaller):
    """`httpx2.AsyncClient`, in an event loop of its own."""

    def __init__(self, resilience: Resilience | None = None, connections: int = 10, **options: Any) -> None:
        library, toolkit = self.library, Resilience() if resilience is None else resilience
        inner = library.AsyncHTTPTransport(limits=library.Limits(max_connections=connections))
        self.guard = self.guards.AsyncResilienceTransport(inner, toolkit, **options)
        self.client = library.AsyncClient(transport=self.guard, timeout=library.Timeout(5, pool=0.5))
        self.runner = asyncio.Runner()

    def request(self, method: str, url: str, body: Any = None, **options: Any) -> Got:
        call = self.client.request(method, url, content=body, **options)
        response = self.runner.run(call, context=contextvars.copy_context())
        return Got(response.status_code, response.content, response)

    def close(self) -> None:
        self.runner.run(self.client.aclose())
        self.runner.close()


class OldSyncCaller(SyncCaller):
    """`httpx.Client`."""

    library = httpx
    guards = resilience_http.httpx


class OldAsyncCaller(AsyncCaller):
    """`httpx.AsyncClient`, in an event loop of its own."""

    library = httpx
    guards = resilience_http.httpx


class RequestsCaller(SyncCaller):
    """`requests.Session`."""

    refused: Any = requests.ConnectionError
    broken: Any = requests.RequestException
    timed_out: Any = requests.Timeout
    failed: Any = requests.HTTPError
    full: Any = requests.ConnectionError
    any_error: Any = requests.RequestException

    def __init__(self, resilience: Resilience | None = None, connections: int = 10, **options: Any) -> None:
        toolkit = Resilience() if resilience is None else resilience
        self.guard = ResilienceAdapter(toolkit, pool_maxsize=connections, pool_block=True, **options)
        self.session = requests.Session()
        self.session.mount("http://", self.guard)

    def request(self, method: str, url: str, body: Any = None, **options: Any) -> Got:
        follow = options.pop("follow_redirects", False)
        response = self.session.request(
            method, url, data=body, allow_redirects=follow, timeout=options.pop("timeout", 5), **options
        )
        return Got(response.status_code, response.content, response)

    def close(self) -> None:
        self.session.close()
