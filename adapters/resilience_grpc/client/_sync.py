"""The interceptor of a channel of `grpc`."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar, cast

import grpc

from resilience import Resilience
from resilience import idempotent as idempotent_function
from resilience.errors import ResilienceError
from resilience_grpc._colour_checks import refuse_server
from resilience_grpc._grpcio_internals import cancellable_attempt, makes_future
from resilience_grpc.client._call import AttemptSuperseded
from resilience_grpc.client._errors import CallError, as_call_error
from resilience_grpc.client._options import CallOptions
from resilience_grpc.client._pipeline import MethodPipelines, PipelineChoice
from resilience_grpc.client._sync_calls import (
    CompletedCall,
    GuardedStream,
    SyncCall,
    SyncOutgoing,
    stream_attempt,
)
from resilience_grpc.client._sync_futures import future_attempt, start_future

if TYPE_CHECKING:
    from grpc import _CallFuture, _CallIterator

__all__ = ("client_interceptors",)

Request = TypeVar("Request")
Response = TypeVar("Response")


def client_interceptors(
    resilience: Resilience | None = None,
    *,
    pipeline: PipelineChoice = None,
    idempotent: Iterable[str] = CallOptions.idempotent,
    retryable: Iterable[grpc.StatusCode | str] = CallOptions.retryable,
    target: str = CallOptions.target,
) -> list[grpc.UnaryUnaryClientInterceptor]:
    """Return the interceptors that guard every call through `grpc.intercept_channel(channel, *interceptors)`.

    A failed call raises the error that it always raised. The error is also an `AppError`, a `DeadlineExceededError` or
    another error of this library. Calls of health and reflection are left alone.

    Args:
        resilience: The toolkit, which has the circuits, limits and bulkheads. Default: `Resilience.default()`.
        pipeline: The pipeline of all methods, its name, or a function that takes a method (`shop.Orders/Get`) and
            returns either. Default: the pipeline configured under the name of the method, else under the name of its
            service (`shop.Orders`), else three attempts and one circuit breaker for the service.
        idempotent: Methods that may be called twice, besides those in the `idempotent_methods` setting:
            `shop.Orders/Get`, `shop.Orders/*`, or `*`. Only they are retried and hedged, and only if their requests
            are not streamed. Default: none.
        retryable: Statuses after which such a call is worth another attempt. Default: UNAVAILABLE, DEADLINE_EXCEEDED
            and RESOURCE_EXHAUSTED.
        target: The target of the channel, such as `stock:50051`. Channels with one toolkit, pipeline and target share
            circuits, limits and bulkheads; channels without `target` share theirs. At most 1,000 characters.

    Raises:
        ConfigurationError: An argument or a setting is wrong, or no pipeline has the given name.

    Example:
        >>> guards = client_interceptors(Resilience(), idempotent=["shop.Orders/Get"])
        >>> channel = grpc.intercept_channel(grpc.insecure_channel("localhost:50051"), *guards)
    """
    return [_BlockingInterceptor(MethodPipelines(resilience, pipeline, idempotent, retryable, target, is_aio=False))]


class _BlockingInterceptor(
    grpc.UnaryUnaryClientInterceptor,
    grpc.UnaryStreamClientInterceptor,
    grpc.StreamUnaryClientInterceptor,
    grpc.StreamStreamClientInterceptor,
):
    def __init__(self, methods: MethodPipelines) -> None:
        self._methods = methods

    def intercept_unary_unary(
        self,
        continuation: Callable[[grpc.ClientCallDetails, Request], _CallFuture[Response]],
        client_call_details: grpc.ClientCallDetails,
        request: Request,
    ) -> _CallFuture[Response]:
        """Guard a call with one request and one response."""
        call = self._unary(continuation, client_call_details, request, is_resendable=True)
        return cast("_CallFuture[Response]", call)

    def intercept_stream_unary(
        self,
        continuation: Callable[[grpc.ClientCallDetails, Iterator[Request]], _CallFuture[Response]],
        client_call_details: grpc.ClientCallDetails,
        request_iterator: Iterator[Request],
    ) -> _CallFuture[Response]:
        """Guard a call with streamed requests and one response. Requests that were read cannot be sent again."""
        call = self._unary(continuation, client_call_details, request_iterator, is_resendable=False)
        return cast("_CallFuture[Response]", call)

    def intercept_unary_stream(
        self,
        continuation: Callable[[grpc.ClientCallDetails, Request], _CallIterator[Response]],
        client_call_details: grpc.ClientCallDetails,
        request: Request,
    ) -> _CallIterator[Response]:
        """Guard a call with one request and streamed responses. It can be repeated until the first response."""
        call = self._stream(continuation, client_call_details, request, is_resendable=True)
        return cast("_CallIterator[Response]", call)

    def intercept_stream_stream(
        self,
        continuation: Callable[[grpc.ClientCallDetails, Iterator[Request]], _CallIterator[Response]],
        client_call_details: grpc.ClientCallDetails,
        request_iterator: Iterator[Request],
    ) -> _CallIterator[Response]:
        """Guard a call with streamed requests and streamed responses."""
        call = self._stream(continuation, client_call_details, request_iterator, is_resendable=False)
        return cast("_CallIterator[Response]", call)

    def intercept_service(self, *_arguments: object) -> NoReturn:
        """Refuse a server, which accepts any interceptor and calls this method."""
        refuse_server()

    def _unary(
        self,
        continuation: Callable[[Any, Any], object],
        details: grpc.ClientCallDetails,
        request: object,
        *,
        is_resendable: bool,
    ) -> object:
        send = cast("Callable[[Any, Any], SyncCall]", continuation)
        method = self._methods.method(details.method)
        if method is None:
            return send(details, request)
        if makes_future(continuation):
            attempt_later = method.guarded(future_attempt, is_resendable=is_resendable)
            return start_future(attempt_later, method.outgoing(send, details, request))
        begin = cancellable_attempt(continuation) if is_resendable and method.has_races else None
        if begin is None:
            attempt = method.guarded(_attempt, is_resendable=is_resendable, is_blocking=True)
            return _call(attempt, method.outgoing(send, details, request))
        attempt = method.guarded(_attempt_in_race, is_resendable=True, is_blocking=True)
        return _call(attempt, method.outgoing(begin, details, request))

    def _stream(
        self,
        continuation: Callable[[Any, Any], object],
        details: grpc.ClientCallDetails,
        request: object,
        *,
        is_resendable: bool,
    ) -> object:
        send = cast("Callable[[Any, Any], SyncCall]", continuation)
        method = self._methods.method(details.method)
        if method is None:
            return send(details, request)
        attempt = method.guarded(stream_attempt, is_resendable=is_resendable, is_stream=True)
        return GuardedStream(attempt, method.outgoing(send, details, request, is_resendable=is_resendable))


def _call(attempt: Callable[[SyncOutgoing], object], outgoing: SyncOutgoing) -> SyncCall:
    """Make the call in the caller's thread, and return the call object that has brought the response."""
    try:
        with outgoing.deadline or contextlib.nullcontext():
            response = attempt(outgoing)
    except CallError:
        raise
    except ResilienceError as error:
        raise as_call_error(error, is_aio=False) from error.__cause__
    finally:
        outgoing.cancel_attempts()
    return outgoing.call_of(response) or CompletedCall(response)


@idempotent_function
def _attempt(outgoing: SyncOutgoing) -> object:
    call = outgoing.attempt()
    try:
        response = call.result()
    except grpc.RpcError as error:
        raise outgoing.decode(error) from None
    return outgoing.record_response(response, call)


@idempotent_function
def _attempt_in_race(outgoing: SyncOutgoing) -> object:
    """Make an attempt that is cancelled when another one has won."""
    call = outgoing.track(outgoing.attempt())
    try:
        response = call.result()
    except (grpc.RpcError, grpc.FutureCancelledError) as error:
        if outgoing.has_ended:
            raise AttemptSuperseded from None
        raise outgoing.decode(error) from None
    except BaseException:
        call.cancel()
        raise
    return outgoing.record_response(response, call)
