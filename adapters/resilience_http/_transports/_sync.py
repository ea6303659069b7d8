"""The transport for blocking clients.

`_aio.py` has the same attempts with `await`. About 40 lines of each file could share one generator, which would need
two drivers and a step object for each `await`; the public class and the routes would stay twins.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import ClassVar, Generic, Protocol, Self, TypeVar

from resilience import ErrorCatalog, Pipeline, Resilience, idempotent
from resilience.client import Destination
from resilience_http._envelope import MAX_ENVELOPE
from resilience_http._errors import REFUSED_OR_LATE
from resilience_http._exchange import ClientExchange
from resilience_http._pipeline import host_of
from resilience_http._transports._bodies import SyncBodies, close_all
from resilience_http._transports._internals import InnerTransport
from resilience_http._transports._library import Foreign, HTTPXLibrary, HTTPXRequest, HTTPXResponse
from resilience_http._transports._misuse import check_inner
from resilience_http._transports._parts import FailedResponseError, TransportParts

__all__ = ("ClientRoutes", "GuardedTransport")


class BlockingTransport(Protocol):
    """A transport of either library, for blocking clients."""

    def handle_request(self, request: Foreign, /) -> Foreign:
        """Send a request."""
        ...

    def close(self) -> None:
        """Close the connections."""
        ...

    def __enter__(self) -> Foreign: ...

    def __exit__(
        self,
        exc_type: type[BaseException] | None = None,
        exc_value: BaseException | None = None,
        traceback: TracebackType | None = None,
    ) -> None: ...


Q = TypeVar("Q", bound=HTTPXRequest)
A = TypeVar("A", bound=HTTPXResponse)
T = TypeVar("T", bound=BlockingTransport)


class GuardedTransport(Generic[Q, A, T]):
    """Guards every request of a blocking client. A subclass for each library derives from its `BaseTransport`, too."""

    library: ClassVar[HTTPXLibrary[Foreign, Foreign]]
    bodies: ClassVar[SyncBodies]
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
        check_inner(inner, "handle_request")
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

    def handle_request(self, request: Q) -> A:
        """Send a request through the policies, which decide how many attempts are made."""
        exchange = self._parts.exchange_for(request)
        try:
            answer = self._guarded(exchange, request)
            close_all(exchange.finish(answer))
        except BaseException:
            close_all(exchange.finish(None))
            raise
        return answer

    def _guarded(self, exchange: ClientExchange[A], request: Q) -> A:
        parts, call = self._parts, _TransportAttempts(self.inner, self._parts, exchange, self.bodies)
        pipelines = parts.pipelines
        answer: A
        try:
            with Destination(host_of, request):
                if exchange.repeats:
                    answer = pipelines.repeating.call(call.send_idempotent, request)
                else:
                    answer = pipelines.sending_once.call(call.send_once, request)
        except FailedResponseError as failed:
            answer = failed.response
        except REFUSED_OR_LATE as error:
            raise self.library.errors.as_theirs(error, request) from error.__cause__
        if parts.may_hold_envelope(answer) and (raw := self.bodies.read(answer, MAX_ENVELOPE)) is not None:
            parts.raise_envelope(request, answer, raw)
        return answer

    def claim(self, options: Mapping[str, object]) -> None:
        """Take the options of the client that uses this transport, which would not reach its connections otherwise."""
        self._connections.claim(options)

    def close(self) -> None:
        """Close the connections."""
        if self._connections.is_built:
            self.inner.close()

    def __enter__(self) -> Self:
        self.inner.__enter__()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None = None,
        exc_value: BaseException | None = None,
        traceback: TracebackType | None = None,
    ) -> None:
        self.inner.__exit__(exc_type, exc_value, traceback)


class ClientRoutes:
    """The connections that the library builds for a client's options and environment: direct, or through a proxy."""

    library: ClassVar[HTTPXLibrary[Foreign, Foreign]]

    def __init__(self, options: dict[str, Foreign]) -> None:
        self._client = self.library.client(**options)

    def handle_request(self, request: Foreign) -> Foreign:
        """Send a request directly or through a proxy, as its host and the proxy settings demand."""
        route = self._client._transport_for_url(request.url)  # noqa: SLF001 - see `_internals.py`
        return route.handle_request(request)

    def close(self) -> None:
        """Close the connections."""
        self._client.close()


class _TransportAttempts(Generic[Q, A]):
    """The attempts of one request."""

    __slots__ = ("_bodies", "_exchange", "_inner", "_parts")

    def __init__(
        self, inner: BlockingTransport, parts: TransportParts[Q, A], exchange: ClientExchange[A], bodies: SyncBodies
    ) -> None:
        self._inner, self._parts, self._exchange, self._bodies = inner, parts, exchange, bodies

    def send_once(self, request: Q) -> A:
        parts, exchange = self._parts, self._exchange
        close_all(exchange.take_failed())
        sent, times = parts.prepared(request)
        try:
            response: A = self._inner.handle_request(sent)
            is_read = parts.begins(exchange, response, times)
            if not response.is_closed:  # a mock's response is closed already
                self._bodies.track(response, request, times)
            close_all(exchange.add(response))
            if is_read:
                self._bodies.read(response)
        except parts.library.timeout_exception as error:
            if (late := parts.late(exchange, request, times)) is not None:
                raise late from error
            raise
        return parts.check_response(exchange, request, response, times)

    @idempotent
    def send_idempotent(self, request: Q) -> A:
        return self.send_once(request)
