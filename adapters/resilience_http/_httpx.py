"""The transport for `httpx.Client`.

`_httpx_async.py` has the same attempts with `await`. About 40 lines of each file could share one generator, which would
need two drivers and a step object for each `await`; the public class, the routes and `_read` would stay twins.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable, Mapping
from types import TracebackType
from typing import Any

import httpx

from resilience import ErrorCatalog, Pipeline, Resilience, idempotent
from resilience_http._envelope import MAX_ENVELOPE
from resilience_http._errors import REFUSED_OR_LATE
from resilience_http._exchange import ClientExchange
from resilience_http._httpx_bodies import ERRORS, PartlyReadBody, SyncTrackedBody
from resilience_http._httpx_internals import InnerTransport, hand_over_options
from resilience_http._httpx_parts import HTTPXFailedResponse, TransportParts

__all__ = ("ResilienceTransport",)


class ResilienceTransport(httpx.BaseTransport):
    """Guards every request of a `httpx.Client`: `httpx.Client(transport=ResilienceTransport())`.

    For policies, a response with status 429, or 500 and above, is a failure. The client still gets the last response. A
    request is repeated only if that does no harm (an idempotent method, or an `Idempotency-Key` header) and its body is
    bytes. A bulkhead holds its permit until the response is closed.

    If a policy refuses a request, the error is a `RejectedError` and a `httpx.ConnectError` (a `BulkheadFullError` and
    a `httpx.PoolTimeout` if a bulkhead is full). If the time has passed, the error is a `DeadlineExceededError` and a
    `httpx.TimeoutException`. An `AppError` raised for an answer is a `httpx.HTTPStatusError`, too.

    Args:
        inner: The transport that makes the requests; None for `httpx.HTTPTransport` with the options of the client.
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
        self._connections: InnerTransport[httpx.BaseTransport] = InnerTransport(inner, ClientRoutes)

    @property
    def inner(self) -> httpx.BaseTransport:
        """The transport that makes the requests."""
        return self._connections.inner

    @property
    def pipeline(self) -> Pipeline:
        """The pipeline of requests that may be repeated. Other requests skip its policies that repeat."""
        return self._parts.pipelines.repeating

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request through the policies, which decide how many attempts are made."""
        exchange = self._parts.exchange_for(request)
        try:
            answer = self._guarded(exchange, request)
            _close(exchange.finish(answer))
        except BaseException:
            _close(exchange.finish(None))
            raise
        return answer

    def _guarded(self, exchange: ClientExchange[httpx.Response], request: httpx.Request) -> httpx.Response:
        parts, call = self._parts, _HTTPXAttempts(self.inner, self._parts, exchange)
        pipelines = parts.pipelines
        answer: httpx.Response
        try:
            if exchange.repeats:
                answer = pipelines.repeating.call(call.send_idempotent, request)
            else:
                answer = pipelines.sending_once.call(call.send_once, request)
        except HTTPXFailedResponse as failed:
            answer = failed.response
        except REFUSED_OR_LATE as error:
            raise ERRORS.as_theirs(error, request) from error.__cause__
        if parts.may_hold_envelope(answer) and (raw := _read(answer, MAX_ENVELOPE)) is not None:
            parts.raise_envelope(request, answer, raw)
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


class ClientRoutes(httpx.BaseTransport):
    """The connections that httpx builds for a client's options and environment: direct, or through a proxy."""

    def __init__(self, options: dict[str, Any]) -> None:
        self._client = httpx.Client(**options)

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request directly or through a proxy, as its host and the proxy settings demand."""
        route = self._client._transport_for_url(request.url)  # noqa: SLF001 - see `_httpx_internals.py`
        return route.handle_request(request)

    def close(self) -> None:
        """Close the connections."""
        self._client.close()


class _HTTPXAttempts:
    """The attempts of one request."""

    __slots__ = ("_exchange", "_inner", "_parts")

    def __init__(
        self, inner: httpx.BaseTransport, parts: TransportParts, exchange: ClientExchange[httpx.Response]
    ) -> None:
        self._inner, self._parts, self._exchange = inner, parts, exchange

    def send_once(self, request: httpx.Request) -> httpx.Response:
        parts, exchange = self._parts, self._exchange
        _close(exchange.take_failed())
        sent, times = parts.prepared(request)
        try:
            response = self._inner.handle_request(sent)
            is_read = parts.begins(exchange, response, times)
            if not response.is_closed:  # a mock's response is closed already
                response.stream = SyncTrackedBody(response.stream, request, times)
            _close(exchange.add(response))
            if is_read:
                _read(response)
        except httpx.TimeoutException as error:
            if (late := parts.late(exchange, request, times)) is not None:
                raise late from error
            raise
        return parts.check_response(exchange, request, response, times)

    @idempotent
    def send_idempotent(self, request: httpx.Request) -> httpx.Response:
        return self.send_once(request)


def _read(response: httpx.Response, max_bytes: float = math.inf) -> bytes | None:
    """Read a body, keep it to be read again, and free its connection.

    Of a body with more than `max_bytes`, the rest is left unread, and None is returned.
    """
    stream = response.stream
    assert isinstance(stream, httpx.SyncByteStream)  # noqa: S101 - as httpx's client asserts
    parts, read, size = iter(stream), list[bytes](), 0
    try:
        for part in parts:
            read.append(part)
            size += len(part)
            if size > max_bytes:
                response.stream = PartlyReadBody(read, parts, stream)
                return None
    except BaseException:
        stream.close()
        raise
    stream.close()
    raw = b"".join(read)
    response.stream = httpx.ByteStream(raw)
    return raw


def _close(responses: Iterable[httpx.Response]) -> None:
    for response in responses:
        with contextlib.suppress(Exception):  # no caller is left to get the error
            response.close()


def _claim(transport: ResilienceTransport, options: Mapping[str, object]) -> None:
    transport._connections.claim(options)  # noqa: SLF001 - a class of this file


hand_over_options(httpx.Client, ResilienceTransport, _claim)
