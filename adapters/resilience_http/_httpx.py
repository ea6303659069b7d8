"""The transport of `httpx.Client`."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable, Mapping
from types import TracebackType
from typing import Any

import httpx

from resilience import ErrorCatalog, Pipeline, Resilience, idempotent
from resilience_http._envelope import LARGEST
from resilience_http._exchange import Exchange
from resilience_http._httpx_body import Begun, Body
from resilience_http._httpx_options import Connections, hand_over_options
from resilience_http._httpx_parts import FailedResponse, TransportParts

__all__ = ("ResilienceTransport",)


class ResilienceTransport(httpx.BaseTransport):
    """Guards every request of a `httpx.Client`: `httpx.Client(transport=ResilienceTransport())`.

    `inner` makes the requests, by default a `httpx.HTTPTransport`. `pipeline` is a `Pipeline`, or the name of one that
    is configured: its breaker, limits and bulkhead are then one per host. Policies take an answer of 429, or of 500 and
    above, for a failure; the client still gets the last one as a response. Requests are repeated only where that does
    no harm (an idempotent method, or an `Idempotency-Key` header) and their body is bytes. A place in a bulkhead is
    held until the answer is closed.

    `sends_context=False` keeps request id, trace and deadline from a host that is none of ours. `reads_bodies` reads
    every body within the guarded call, so that one that breaks off is a failure too; not for streams.
    `raises_envelopes` raises an error answer with one of our envelopes as its `AppError`, with what `catalog` knows.

    Raises `RejectedError` where a policy refuses, and an error that is both a `DeadlineExceededError` and a
    `httpx.TimeoutException` where the deadline in force leaves no time.
    """

    def __init__(
        self,
        inner: httpx.BaseTransport | None = None,
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
        self._connections: Connections[httpx.BaseTransport] = Connections(inner, Routes)

    @property
    def inner(self) -> httpx.BaseTransport:
        """The transport that makes the requests."""
        return self._connections.inner

    @property
    def pipeline(self) -> Pipeline:
        """What guards requests that may be repeated; others go through the same policies less those that repeat."""
        return self._parts.guards.repeating

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request, through the policies, as often as they say."""
        exchange = self._parts.exchange_for(request)
        try:
            answer = self._guarded(exchange, request)
            _close(exchange.ended(answer))
        except BaseException:
            _close(exchange.ended(None))
            raise
        return answer

    def _guarded(self, exchange: Exchange[httpx.Response], request: httpx.Request) -> httpx.Response:
        parts, call = self._parts, _Call(self.inner, self._parts, exchange)
        guards = parts.guards
        answer: httpx.Response
        try:
            if exchange.repeats:
                answer = guards.repeating.call(call.again, request)
            else:
                answer = guards.once.call(call.once, request)
        except FailedResponse as failed:
            answer = failed.response
        if parts.may_hold_envelope(answer) and (raw := _read(answer, LARGEST)) is not None:
            parts.raise_envelope(answer, raw)
        return answer

    def close(self) -> None:
        """Close the connections."""
        if self._connections.is_built:
            self.inner.close()

    def __enter__(self) -> ResilienceTransport:  # noqa: PYI034 - as httpx's own transports
        self.inner.__enter__()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None = None,
        exc_value: BaseException | None = None,
        traceback: TracebackType | None = None,
    ) -> None:
        self.inner.__exit__(exc_type, exc_value, traceback)


class Routes(httpx.BaseTransport):
    """The connections that a client builds for its options and environment: direct, or through a proxy."""

    def __init__(self, options: dict[str, Any]) -> None:
        self._client = httpx.Client(**options)

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request the way its host and the proxy settings ask for."""
        route = self._client._transport_for_url(request.url)  # noqa: SLF001 - see `_httpx_options.py`
        return route.handle_request(request)

    def close(self) -> None:
        """Close the connections."""
        self._client.close()


class _Call:
    """One exchange, attempt by attempt."""

    __slots__ = ("_exchange", "_inner", "_parts")

    def __init__(self, inner: httpx.BaseTransport, parts: TransportParts, exchange: Exchange[httpx.Response]) -> None:
        self._inner, self._parts, self._exchange = inner, parts, exchange

    def once(self, request: httpx.Request) -> httpx.Response:
        parts, exchange = self._parts, self._exchange
        _close(exchange.useless())
        sent, times = parts.addressed(request)
        try:
            response = self._inner.handle_request(sent)
            is_read = parts.begins(exchange, response, times)
            if not response.is_closed:  # as one of a mock is, which nobody will close
                response.stream = Body(response.stream, request, times)
            _close(exchange.arrived(response))
            if is_read:
                _read(response)
        except httpx.TimeoutException as error:
            if (late := parts.late(exchange, request, times)) is not None:
                raise late from error
            raise
        return parts.judge(exchange, request, response, times)

    @idempotent
    def again(self, request: httpx.Request) -> httpx.Response:
        return self.once(request)


def _read(response: httpx.Response, most: float = math.inf) -> bytes | None:
    """Read a body as it comes, leave it to be read again, and free its connection.

    Of one with more than `most` bytes the rest stays where it is, and None is returned.
    """
    stream = response.stream
    assert isinstance(stream, httpx.SyncByteStream)  # noqa: S101 - as httpx's client asserts
    parts, begun, size = iter(stream), list[bytes](), 0
    try:
        for part in parts:
            begun.append(part)
            size += len(part)
            if size > most:
                response.stream = Begun(begun, parts, stream)
                return None
    except BaseException:
        stream.close()
        raise
    stream.close()
    raw = b"".join(begun)
    response.stream = httpx.ByteStream(raw)
    return raw


def _close(responses: Iterable[httpx.Response]) -> None:
    for response in responses:
        with contextlib.suppress(Exception):  # nobody is left to be told
            response.close()


def _claim(transport: ResilienceTransport, options: Mapping[str, Any]) -> None:
    transport._connections.claim(options)  # noqa: SLF001 - a class of this file


hand_over_options(httpx.Client, ResilienceTransport, _claim)
