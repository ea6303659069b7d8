"""The transport for awaiting clients: `_sync.py` with `await`."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from types import TracebackType
from typing import ClassVar, Generic, Protocol, Self, TypeVar

from resilience import ErrorCatalog, Pipeline, Resilience, idempotent
from resilience.client import Destination
from resilience.running import running_loop
from resilience_http._envelope import MAX_ENVELOPE
from resilience_http._errors import REFUSED_OR_LATE
from resilience_http._exchange import ClientExchange, StepTimeouts
from resilience_http._pipeline import host_of
from resilience_http._transports._bodies_aio import AsyncBodies, aclose_all
from resilience_http._transports._internals import InnerTransport
from resilience_http._transports._library import Foreign, HTTPXLibrary, HTTPXRequest, HTTPXResponse
from resilience_http._transports._misuse import check_inner
from resilience_http._transports._parts import FailedResponseError, TransportParts

__all__ = ("AsyncClientRoutes", "AsyncGuardedTransport")


class AwaitingTransport(Protocol):
    """A transport of either library, for awaiting clients."""

    async def handle_async_request(self, request: Foreign, /) -> Foreign:
        """Send a request."""
        ...

    async def aclose(self) -> None:
        """Close the connections."""
        ...

    async def __aenter__(self) -> Foreign: ...

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None = None,
        exc_value: BaseException | None = None,
        traceback: TracebackType | None = None,
    ) -> None: ...


Q = TypeVar("Q", bound=HTTPXRequest)
A = TypeVar("A", bound=HTTPXResponse)
T = TypeVar("T", bound=AwaitingTransport)


class AsyncGuardedTransport(Generic[Q, A, T]):
    """Guards every request of an awaiting client, as `GuardedTransport` does for a blocking one.

    It needs asyncio: under another async library (trio), a request raises `ConfigurationError` and is not sent.
    """

    library: ClassVar[HTTPXLibrary[Foreign, Foreign]]
    bodies: ClassVar[AsyncBodies]
    routes: ClassVar[type[Foreign]]

    def __init__(
        self,
        inner: T | None = None,
        resilience: Resilience | None = None,
        *,
        pipeline: Pipeline | str | None = None,
        sends_context: bool = True,
        reads_bodies: bool = False,
        raises_envelopes: bool = False,
        catalog: ErrorCatalog | None = None,
    ) -> None:
        """Make a transport, for one client.

        Args:
            inner: The transport that makes the requests; None for the library's own transport, with the options of the
                client.
            resilience: The toolkit, which has the circuits, limits and bulkheads; None for `Resilience.default()`.
            pipeline: A `Pipeline`; or the name of a configured pipeline, whose breaker, limits and bulkhead become one
                per host. None for the pipeline named `http`. Every client has a retry and a breaker.
            sends_context: Whether requests carry request id, trace and deadline. Use False for hosts that are not
                yours.
            reads_bodies: Whether every body is read within the guarded call, so that a body that breaks off is a
                failure too. Not for streams.
            raises_envelopes: Whether an error answer with one of our envelopes is raised as its `AppError`.
            catalog: The catalog that knows the codes of these errors.

        Raises:
            ConfigurationError: No pipeline has this name, or an argument is wrong.
        """
        check_inner(inner, "handle_async_request")
        self._parts: TransportParts[Q, A] = TransportParts(
            self.library,
            resilience,
            pipeline,
            sends_context=sends_context,
            reads_bodies=reads_bodies,
            raises_envelopes=raises_envelopes,
            catalog=catalog,
        )
        self._connections: InnerTransport[T] = InnerTransport(inner, self.routes, self.library.client_defaults)

    @property
    def inner(self) -> T:
        """The transport that makes the requests."""
        return self._connections.inner

    @property
    def pipeline(self) -> Pipeline:
        """The pipeline of requests that may be repeated. Other requests skip its policies that repeat."""
        return self._parts.pipelines.repeating

    async def handle_async_request(self, request: Q) -> A:
        """Send a request through the policies, which decide how many attempts are made."""
        running_loop("AsyncResilienceTransport")  # before a policy counts the request
        exchange = self._parts.exchange_for(request)
        try:
            answer = await self._guarded(exchange, request)
            await aclose_all(exchange.finish(answer))
        except BaseException:
            await aclose_all(exchange.finish(None))
            raise
        return answer

    async def _guarded(self, exchange: ClientExchange[A], request: Q) -> A:
        parts, call = self._parts, _AsyncTransportAttempts(self.inner, self._parts, exchange, self.bodies)
        pipelines = parts.pipelines
        answer: A
        try:
            with Destination(host_of, request):
                if exchange.repeats:
                    answer = await pipelines.repeating.acall(call.send_idempotent, request)
                else:
                    answer = await pipelines.sending_once.acall(call.send_once, request)
        except FailedResponseError as failed:
            answer = failed.response
        except REFUSED_OR_LATE as error:
            raise self.library.errors.as_theirs(error, request) from error.__cause__
        if parts.may_hold_envelope(answer) and (raw := await self.bodies.read(answer, MAX_ENVELOPE)) is not None:
            parts.raise_envelope(request, answer, raw)
        return answer

    def claim(self, options: Mapping[str, object]) -> None:
        """Take the options of the client that uses this transport, which would not reach its connections otherwise."""
        self._connections.claim(options)

    async def aclose(self) -> None:
        """Close the connections."""
        if self._connections.is_built:
            await self.inner.aclose()

    async def __aenter__(self) -> Self:
        await self.inner.__aenter__()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None = None,
        exc_value: BaseException | None = None,
        traceback: TracebackType | None = None,
    ) -> None:
        await self.inner.__aexit__(exc_type, exc_value, traceback)


class AsyncClientRoutes:
    """The connections that the library builds for a client's options and environment: direct, or through a proxy."""

    library: ClassVar[HTTPXLibrary[Foreign, Foreign]]

    def __init__(self, options: dict[str, Foreign]) -> None:
        self._client = self.library.async_client(**options)

    async def handle_async_request(self, request: Foreign) -> Foreign:
        """Send a request directly or through a proxy, as its host and the proxy settings demand."""
        route = self._client._transport_for_url(request.url)  # noqa: SLF001 - see `_internals.py`
        return await route.handle_async_request(request)

    async def aclose(self) -> None:
        """Close the connections."""
        await self._client.aclose()


class _AsyncTransportAttempts(Generic[Q, A]):
    """The attempts of one request."""

    __slots__ = ("_bodies", "_exchange", "_inner", "_parts")

    def __init__(
        self, inner: AwaitingTransport, parts: TransportParts[Q, A], exchange: ClientExchange[A], bodies: AsyncBodies
    ) -> None:
        self._inner, self._parts, self._exchange, self._bodies = inner, parts, exchange, bodies

    async def send_once(self, request: Q) -> A:
        parts, exchange = self._parts, self._exchange
        await aclose_all(exchange.take_failed())
        sent, times = parts.prepared(request)
        snapshot = times.allowance.snapshot
        limit = asyncio.timeout(times.allowance.seconds)  # a head that arrives byte by byte meets every read timeout
        try:
            async with limit:
                response = await self._answer(sent, request, times)
        except parts.library.timeout_exception as error:
            if (late := parts.late(exchange, request, times)) is not None:
                raise late from error
            raise
        except TimeoutError as error:
            if limit.expired():
                times.allowance.snapshot = snapshot
                raise parts.deadline_error(exchange, request, times) from error
            raise
        return parts.check_response(exchange, request, response, times)

    async def _answer(self, sent: Q, request: Q, times: StepTimeouts) -> A:
        response: A = await self._inner.handle_async_request(sent)
        is_read = self._parts.begins(self._exchange, response, times)
        if not response.is_closed:  # a mock's response is closed already
            self._bodies.track(response, request, times)
        await aclose_all(self._exchange.add(response))
        if is_read:
            await self._bodies.read(response)
        return response

    @idempotent
    async def send_idempotent(self, request: Q) -> A:
        return await self.send_once(request)
