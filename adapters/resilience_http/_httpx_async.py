"""The transport for `httpx.AsyncClient`, and the bodies of its responses: `_httpx.py` with `await`."""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import AsyncIterator, Iterable, Mapping
from types import TracebackType
from typing import Any

import httpx

from resilience import ErrorCatalog, Pipeline, Resilience, idempotent
from resilience.running import running_loop
from resilience_http._envelope import MAX_ENVELOPE
from resilience_http._errors import REFUSED_OR_LATE
from resilience_http._exchange import DRAIN_TIMEOUT, MAX_READ_AHEAD, ClientExchange, StepTimeouts
from resilience_http._httpx_bodies import ERRORS, TrackedBody
from resilience_http._httpx_internals import InnerTransport, hand_over_options
from resilience_http._httpx_parts import HTTPXFailedResponse, TransportParts

__all__ = ("AsyncResilienceTransport",)

_CLOSE_TIMEOUT = 1.0
"""Seconds to wait until unused responses are closed. After that they are closed in the background."""


class AsyncResilienceTransport(httpx.AsyncBaseTransport):
    """Guards every request of a `httpx.AsyncClient`, as `ResilienceTransport` does for a `httpx.Client`.

    It needs asyncio: under another async library (trio), a request raises `ConfigurationError` and is not sent.

    Args:
        inner: The transport that makes the requests; None for `httpx.AsyncHTTPTransport`, with the options of
            the client.
        resilience: The toolkit; None for `Resilience.from_env()`.
        pipeline: A `Pipeline`; or the name of a configured pipeline, whose breaker, limits and bulkhead become one per
            host. None for the pipeline named `http`, or for the default policies if none is configured.
        sends_context: Whether requests carry request id, trace and deadline. Use False for hosts that are not yours.
        reads_bodies: Whether every body is read within the guarded call, so that a body that breaks off is a failure
            too. Not for streams.
        raises_envelopes: Whether an error answer with one of our envelopes is raised as its `AppError`.
        catalog: The catalog that knows the codes of these errors.

    Raises:
        ConfigurationError: No pipeline has this name, or an argument is wrong.
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
        self._connections: InnerTransport[httpx.AsyncBaseTransport] = InnerTransport(inner, AsyncClientRoutes)

    @property
    def inner(self) -> httpx.AsyncBaseTransport:
        """The transport that makes the requests."""
        return self._connections.inner

    @property
    def pipeline(self) -> Pipeline:
        """The pipeline of requests that may be repeated. Other requests skip its policies that repeat."""
        return self._parts.pipelines.repeating

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request through the policies, which decide how many attempts are made."""
        running_loop("AsyncResilienceTransport")  # before a policy counts the request
        exchange = self._parts.exchange_for(request)
        try:
            answer = await self._guarded(exchange, request)
            await _close(exchange.finish(answer))
        except BaseException:
            await _close(exchange.finish(None))
            raise
        return answer

    async def _guarded(self, exchange: ClientExchange[httpx.Response], request: httpx.Request) -> httpx.Response:
        parts, call = self._parts, _AsyncHTTPXAttempts(self.inner, self._parts, exchange)
        pipelines = parts.pipelines
        answer: httpx.Response
        try:
            if exchange.repeats:
                answer = await pipelines.repeating.acall(call.send_idempotent, request)
            else:
                answer = await pipelines.sending_once.acall(call.send_once, request)
        except HTTPXFailedResponse as failed:
            answer = failed.response
        except REFUSED_OR_LATE as error:
            raise ERRORS.as_theirs(error, request) from error.__cause__
        if parts.may_hold_envelope(answer) and (raw := await _read(answer, MAX_ENVELOPE)) is not None:
            parts.raise_envelope(request, answer, raw)
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


class AsyncClientRoutes(httpx.AsyncBaseTransport):
    """The connections that httpx builds for a client's options and environment: direct, or through a proxy."""

    def __init__(self, options: dict[str, Any]) -> None:
        self._client = httpx.AsyncClient(**options)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request directly or through a proxy, as its host and the proxy settings demand."""
        route = self._client._transport_for_url(request.url)  # noqa: SLF001 - see `_httpx_internals.py`
        return await route.handle_async_request(request)

    async def aclose(self) -> None:
        """Close the connections."""
        await self._client.aclose()


class _AsyncHTTPXAttempts:
    """The attempts of one request."""

    __slots__ = ("_exchange", "_inner", "_parts")

    def __init__(
        self, inner: httpx.AsyncBaseTransport, parts: TransportParts, exchange: ClientExchange[httpx.Response]
    ) -> None:
        self._inner, self._parts, self._exchange = inner, parts, exchange

    async def send_once(self, request: httpx.Request) -> httpx.Response:
        parts, exchange = self._parts, self._exchange
        await _close(exchange.take_failed())
        sent, times = parts.prepared(request)
        snapshot = times.allowance.snapshot
        limit = asyncio.timeout(times.allowance.seconds)  # a head that arrives byte by byte meets every read timeout
        try:
            async with limit:
                response = await self._answer(sent, request, times)
        except httpx.TimeoutException as error:
            if (late := parts.late(exchange, request, times)) is not None:
                raise late from error
            raise
        except TimeoutError as error:
            if limit.expired():
                times.allowance.snapshot = snapshot
                raise parts.deadline_error(exchange, request, times) from error
            raise
        return parts.check_response(exchange, request, response, times)

    async def _answer(self, sent: httpx.Request, request: httpx.Request, times: StepTimeouts) -> httpx.Response:
        response = await self._inner.handle_async_request(sent)
        is_read = self._parts.begins(self._exchange, response, times)
        if not response.is_closed:  # a mock's response is closed already
            response.stream = AsyncTrackedBody(response.stream, request, times)
        await _close(self._exchange.add(response))
        if is_read:
            await _read(response)
        return response

    @idempotent
    async def send_idempotent(self, request: httpx.Request) -> httpx.Response:
        return await self.send_once(request)


_tasks: set[asyncio.Future[object]] = set()
"""Tasks that close responses: an event loop keeps no task alive itself."""


def keep_alive(closing: asyncio.Future[Any]) -> None:
    """Keep a task alive until it is done."""
    _tasks.add(closing)
    closing.add_done_callback(_tasks.discard)


class AsyncTrackedBody(TrackedBody, httpx.AsyncByteStream):
    """The body of a response, read in a task."""

    _discarding: asyncio.Task[None] | None = None

    async def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            async for part in self.stream:
                self.check()
                yield part
        except httpx.TimeoutException:
            self.check()
            raise

    def discard(self) -> None:
        if not self.is_closed:
            self._discarding = asyncio.ensure_future(self._discarded())
            keep_alive(self._discarding)

    async def _discarded(self) -> None:
        self.limit_rest()
        try:
            with contextlib.suppress(Exception):  # the response is not used, whatever its body is
                async with asyncio.timeout(DRAIN_TIMEOUT):
                    await self._drained()
        finally:
            with contextlib.suppress(Exception):
                await self.aclose()

    async def _drained(self) -> None:
        left = MAX_READ_AHEAD
        async for part in self.stream:
            left -= len(part)
            if left < 0:
                return

    async def aclose(self) -> None:
        if self.is_closed:  # or closed soon, by `discard`
            if self._discarding is not None and self._discarding is not asyncio.current_task():
                await asyncio.wait([self._discarding])
            return
        self.is_closed = True
        try:
            await self.stream.aclose()
        finally:
            self.settle()


class AsyncPartlyReadBody(httpx.AsyncByteStream):
    """A body that was read in part. Its reader gets all of it."""

    def __init__(self, begun: list[bytes], rest: AsyncIterator[bytes], stream: httpx.AsyncByteStream) -> None:
        self._begun, self._rest, self._stream = begun, rest, stream

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for part in self._begun:
            yield part
        async for part in self._rest:
            yield part

    async def aclose(self) -> None:
        await self._stream.aclose()


async def _read(response: httpx.Response, max_bytes: float = math.inf) -> bytes | None:
    """Read a body, keep it to be read again, and free its connection.

    Of a body with more than `max_bytes`, the rest is left unread, and None is returned.
    """
    stream = response.stream
    assert isinstance(stream, httpx.AsyncByteStream)  # noqa: S101 - as httpx's client asserts
    parts, read, size = aiter(stream), list[bytes](), 0
    try:
        async for part in parts:
            read.append(part)
            size += len(part)
            if size > max_bytes:
                response.stream = AsyncPartlyReadBody(read, parts, stream)
                return None
    except BaseException:
        await stream.aclose()
        raise
    await stream.aclose()
    raw = b"".join(read)
    response.stream = httpx.ByteStream(raw)
    return raw


async def _close(responses: Iterable[httpx.Response]) -> None:
    """Close responses. A cancellation does not stop that: it is raised when they are closed, or after a second."""
    closing = [response.aclose() for response in responses]
    if not closing:
        return
    every = asyncio.gather(*closing, return_exceptions=True)  # no caller is left to get the error
    keep_alive(every)
    try:
        await asyncio.wait([every], timeout=_CLOSE_TIMEOUT)
    except asyncio.CancelledError:
        await asyncio.wait([every], timeout=_CLOSE_TIMEOUT)
        raise


def _claim(transport: AsyncResilienceTransport, options: Mapping[str, object]) -> None:
    transport._connections.claim(options)  # noqa: SLF001 - a class of this file


hand_over_options(httpx.AsyncClient, AsyncResilienceTransport, _claim)
