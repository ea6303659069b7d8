"""The transport of `httpx.AsyncClient`: `_httpx.py` with `await` where the network is."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterable, Mapping
from types import TracebackType
from typing import Any

import httpx

from resilience import ErrorCatalog, Pipeline, Resilience, idempotent
from resilience.running import running_loop
from resilience_http._envelope import LARGEST
from resilience_http._exchange import Exchange
from resilience_http._httpx_async_body import AsyncBegun, AsyncBody, in_background
from resilience_http._httpx_options import Connections, hand_over_options
from resilience_http._httpx_parts import FailedResponse, TransportParts
from resilience_http._time import StepTimeouts

__all__ = ("AsyncResilienceTransport",)

_PATIENCE = 1.0
"""Seconds to wait until answers that nobody wants are closed; then that goes on by itself."""


class AsyncResilienceTransport(httpx.AsyncBaseTransport):
    """Guards every request of a `httpx.AsyncClient`, as `ResilienceTransport` does for a `httpx.Client`.

    Takes the same arguments; `inner` is by default a `httpx.AsyncHTTPTransport`.

    Needs asyncio: a request that another async library runs (trio) raises `ConfigurationError` and is not sent.
    """

    def __init__(
        self,
        inner: httpx.AsyncBaseTransport | None = None,
        resilience: Resilience | None = None,
        *,
        pipeline: Pipeline | str | None = None,
        sends_context: bool = True,
        reads_bodies: bool = False,
        raises_envelopes: bool = False,
        catalog: ErrorCatalog | None = None,
    ) -> None:
        self._parts = TransportParts(
            resilience,
            pipeline,
            sends_context=sends_context,
            reads_bodies=reads_bodies,
            raises_envelopes=raises_envelopes,
            catalog=catalog,
        )
        self._connections: Connections[httpx.AsyncBaseTransport] = Connections(inner, AsyncRoutes)

    @property
    def inner(self) -> httpx.AsyncBaseTransport:
        """The transport that makes the requests."""
        return self._connections.inner

    @property
    def pipeline(self) -> Pipeline:
        """What guards requests that may be repeated; others go through the same policies less those that repeat."""
        return self._parts.guards.repeating

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request, through the policies, as often as they say."""
        running_loop("AsyncResilienceTransport")  # before a policy has counted the request
        exchange = self._parts.exchange_for(request)
        try:
            answer = await self._guarded(exchange, request)
            await _close(exchange.ended(answer))
        except BaseException:
            await _close(exchange.ended(None))
            raise
        return answer

    async def _guarded(self, exchange: Exchange[httpx.Response], request: httpx.Request) -> httpx.Response:
        parts, call = self._parts, _Call(self.inner, self._parts, exchange)
        guards = parts.guards
        answer: httpx.Response
        try:
            if exchange.repeats:
                answer = await guards.repeating.acall(call.again, request)
            else:
                answer = await guards.once.acall(call.once, request)
        except FailedResponse as failed:
            answer = failed.response
        if parts.may_hold_envelope(answer) and (raw := await _read(answer, LARGEST)) is not None:
            parts.raise_envelope(answer, raw)
        return answer

    async def aclose(self) -> None:
        """Close the connections."""
        if self._connections.is_built:
            await self.inner.aclose()

    async def __aenter__(self) -> AsyncResilienceTransport:  # noqa: PYI034 - as httpx's own transports
        await self.inner.__aenter__()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None = None,
        exc_value: BaseException | None = None,
        traceback: TracebackType | None = None,
    ) -> None:
        await self.inner.__aexit__(exc_type, exc_value, traceback)


class AsyncRoutes(httpx.AsyncBaseTransport):
    """The connections that a client builds for its options and environment: direct, or through a proxy."""

    def __init__(self, options: dict[str, Any]) -> None:
        self._client = httpx.AsyncClient(**options)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request the way its host and the proxy settings ask for."""
        route = self._client._transport_for_url(request.url)  # noqa: SLF001 - see `_httpx_options.py`
        return await route.handle_async_request(request)

    async def aclose(self) -> None:
        """Close the connections."""
        await self._client.aclose()


class _Call:
    """One exchange, attempt by attempt."""

    __slots__ = ("_exchange", "_inner", "_parts")

    def __init__(
        self, inner: httpx.AsyncBaseTransport, parts: TransportParts, exchange: Exchange[httpx.Response]
    ) -> None:
        self._inner, self._parts, self._exchange = inner, parts, exchange

    async def once(self, request: httpx.Request) -> httpx.Response:
        parts, exchange = self._parts, self._exchange
        await _close(exchange.useless())
        sent, times = parts.addressed(request)
        snapshot = times.allowance.snapshot
        patience = asyncio.timeout(times.allowance.seconds)  # a head that trickles in keeps every read timeout
        try:
            async with patience:
                response = await self._answer(sent, request, times)
        except httpx.TimeoutException as error:
            if (late := parts.late(exchange, request, times)) is not None:
                raise late from error
            raise
        except TimeoutError as error:
            if patience.expired():
                times.allowance.snapshot = snapshot
                raise parts.too_late(exchange, request, times) from error
            raise
        return parts.judge(exchange, request, response, times)

    async def _answer(self, sent: httpx.Request, request: httpx.Request, times: StepTimeouts) -> httpx.Response:
        response = await self._inner.handle_async_request(sent)
        is_read = self._parts.begins(self._exchange, response, times)
        if not response.is_closed:  # as one of a mock is, which nobody will close
            response.stream = AsyncBody(response.stream, request, times)
        await _close(self._exchange.arrived(response))
        if is_read:
            await _read(response)
        return response

    @idempotent
    async def again(self, request: httpx.Request) -> httpx.Response:
        return await self.once(request)


async def _read(response: httpx.Response, most: float = math.inf) -> bytes | None:
    """Read a body as it comes, leave it to be read again, and free its connection.

    Of one with more than `most` bytes the rest stays where it is, and None is returned.
    """
    stream = response.stream
    assert isinstance(stream, httpx.AsyncByteStream)  # noqa: S101 - as httpx's client asserts
    parts, begun, size = aiter(stream), list[bytes](), 0
    try:
        async for part in parts:
            begun.append(part)
            size += len(part)
            if size > most:
                response.stream = AsyncBegun(begun, parts, stream)
                return None
    except BaseException:
        await stream.aclose()
        raise
    await stream.aclose()
    raw = b"".join(begun)
    response.stream = httpx.ByteStream(raw)
    return raw


async def _close(responses: Iterable[httpx.Response]) -> None:
    """Close them all; a cancellation does not stop that, and comes through once it is done, or has taken too long."""
    closing = [response.aclose() for response in responses]
    if not closing:
        return
    every = asyncio.gather(*closing, return_exceptions=True)  # nobody is left to be told
    in_background(every)
    try:
        await asyncio.wait([every], timeout=_PATIENCE)
    except asyncio.CancelledError:
        await asyncio.wait([every], timeout=_PATIENCE)
        raise


def _claim(transport: AsyncResilienceTransport, options: Mapping[str, Any]) -> None:
    transport._connections.claim(options)  # noqa: SLF001 - a class of this file


hand_over_options(httpx.AsyncClient, AsyncResilienceTransport, _claim)
