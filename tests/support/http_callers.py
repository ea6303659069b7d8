"""Three HTTP clients, each guarded by its transport or adapter, under one interface."""

from __future__ import annotations

import asyncio
import contextvars
from typing import Any, NamedTuple

import httpx
import requests

from resilience import Resilience
from resilience_http import AsyncResilienceTransport, ResilienceAdapter, ResilienceTransport


class Got(NamedTuple):
    """An answer, read."""

    status: int
    content: bytes
    response: Any


class SyncCaller:
    """`httpx.Client`."""

    refused: type[Exception] = httpx.ConnectError
    broken: type[Exception] = httpx.TransportError
    timed_out: type[Exception] = httpx.TimeoutException
    failed: type[Exception] = httpx.HTTPStatusError
    full: type[Exception] = httpx.PoolTimeout
    any_error: type[Exception] = httpx.HTTPError

    def __init__(self, resilience: Resilience | None = None, connections: int = 10, **options: Any) -> None:
        inner = httpx.HTTPTransport(limits=httpx.Limits(max_connections=connections))
        self.guard: Any = ResilienceTransport(inner, Resilience() if resilience is None else resilience, **options)
        self.client: Any = httpx.Client(transport=self.guard, timeout=httpx.Timeout(5, pool=0.5))

    def request(self, method: str, url: str, body: Any = None, **options: Any) -> Got:
        response = self.client.request(method, url, content=body, **options)
        return Got(response.status_code, response.content, response)

    def get(self, url: str, **options: Any) -> Got:
        return self.request("GET", url, **options)

    def close(self) -> None:
        self.client.close()


class AsyncCaller(SyncCaller):
    """`httpx.AsyncClient`, in an event loop of its own."""

    def __init__(self, resilience: Resilience | None = None, connections: int = 10, **options: Any) -> None:
        inner = httpx.AsyncHTTPTransport(limits=httpx.Limits(max_connections=connections))
        toolkit = Resilience() if resilience is None else resilience
        self.guard = AsyncResilienceTransport(inner, toolkit, **options)
        self.client = httpx.AsyncClient(transport=self.guard, timeout=httpx.Timeout(5, pool=0.5))
        self.runner = asyncio.Runner()

    def request(self, method: str, url: str, body: Any = None, **options: Any) -> Got:
        call = self.client.request(method, url, content=body, **options)
        response = self.runner.run(call, context=contextvars.copy_context())
        return Got(response.status_code, response.content, response)

    def close(self) -> None:
        self.runner.run(self.client.aclose())
        self.runner.close()


class RequestsCaller(SyncCaller):
    """`requests.Session`."""

    refused = requests.ConnectionError
    broken = requests.RequestException
    timed_out = requests.Timeout
    failed = requests.HTTPError
    full = requests.ConnectionError
    any_error = requests.RequestException

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
