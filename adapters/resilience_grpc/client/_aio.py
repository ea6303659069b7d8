"""The interceptors of a channel of `grpc.aio`."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Awaitable, Callable, Coroutine, Iterable
from typing import Any, TypeVar, cast

import grpc.aio

from resilience import Resilience
from resilience import idempotent as idempotent_function
from resilience.errors import ResilienceError
from resilience.policy import STARTED
from resilience_grpc.client._aio_calls import (
    AioCall,
    AioOutgoing,
    GuardedStreamCall,
    GuardedStreamUnaryCall,
)
from resilience_grpc.client._aio_ended import CompletedAioCall, FailedAioCall, FailedAioStream
from resilience_grpc.client._errors import CallError, as_call_error
from resilience_grpc.client._options import CallOptions
from resilience_grpc.client._pipeline import MethodPipelines, PipelineChoice

__all__ = ("aio_client_interceptors",)

Request = TypeVar("Request")
Response = TypeVar("Response")


def aio_client_interceptors(
    resilience: Resilience | None = None,
    *,
    pipeline: PipelineChoice = None,
    idempotent: Iterable[str] = CallOptions.idempotent,
    retryable: Iterable[grpc.StatusCode | str] = CallOptions.retryable,
    target: str = CallOptions.target,
) -> list[grpc.aio.ClientInterceptor]:
    """Return the interceptors that guard every call of `grpc.aio.insecure_channel(target, interceptors=...)`.

    They do what `client_interceptors` does for a channel of `grpc`.

    Args:
        resilience: The toolkit, which has the circuits, limits and bulkheads. Default: `Resilience.default()`.
        pipeline: The pipeline of all methods, its name, or a function from method to either, as in
            `client_interceptors`.
        idempotent: Methods that may be called twice. Default: none but those of the `idempotent_methods` setting.
        retryable: Statuses after which such a call is worth another attempt. Default: UNAVAILABLE, DEADLINE_EXCEEDED
            and RESOURCE_EXHAUSTED.
        target: The target of the channel, such as `stock:50051`. Channels with one toolkit, pipeline and target share
            circuits, limits and bulkheads; channels without `target` share theirs. At most 1,000 characters.

    Raises:
        ConfigurationError: An argument or a setting is wrong, or no pipeline has the given name.

    Example:
        >>> guards = aio_client_interceptors(Resilience())  # for grpc.aio.insecure_channel(target, interceptors=guards)
    """
    methods = MethodPipelines(resilience, pipeline, idempotent, retryable, target, is_aio=True)
    # One class for each kind of call: grpc.aio uses an interceptor for the first kind that it finds in it, only.
    return [_UnaryUnary(methods), _UnaryStream(methods), _StreamUnary(methods), _StreamStream(methods)]


class _UnaryUnary(grpc.aio.UnaryUnaryClientInterceptor):
    def __init__(self, methods: MethodPipelines) -> None:
        self._methods = methods

    async def intercept_unary_unary(
        self,
        continuation: Callable[
            [grpc.aio.ClientCallDetails, Request], Awaitable[grpc.aio.UnaryUnaryCall[Request, Response]]
        ],
        client_call_details: grpc.aio.ClientCallDetails,
        request: Request,
    ) -> Response | grpc.aio.UnaryUnaryCall[Request, Response]:
        """Guard a call with one request and one response."""
        method = self._methods.method(client_call_details.method)
        if method is None:
            return await continuation(client_call_details, request)
        outgoing: AioOutgoing = method.outgoing(_sender(continuation), client_call_details, request)
        call: object
        try:
            response = await _call(method.guarded(_attempt, is_resendable=True), outgoing)
        except CallError as error:  # an interceptor outside of ours expects a call object, as without ours
            call = FailedAioCall(error)
        else:
            call = outgoing.call_of(response) or CompletedAioCall(response)
        return cast("grpc.aio.UnaryUnaryCall[Request, Response]", call)


class _StreamUnary(grpc.aio.StreamUnaryClientInterceptor):
    def __init__(self, methods: MethodPipelines) -> None:
        self._methods = methods

    async def intercept_stream_unary(
        self,
        continuation: Callable[
            [grpc.aio.ClientCallDetails, AsyncIterable[Request] | Iterable[Request]],
            Awaitable[grpc.aio.StreamUnaryCall[Request, Response]],
        ],
        client_call_details: grpc.aio.ClientCallDetails,
        request_iterator: AsyncIterable[Request] | Iterable[Request],
    ) -> Response | grpc.aio.StreamUnaryCall[Request, Response]:
        """Guard a call with streamed requests and one response. Requests that were read cannot be sent again."""
        method = self._methods.method(client_call_details.method)
        if method is None:
            return await continuation(client_call_details, request_iterator)
        outgoing: AioOutgoing = method.outgoing(_sender(continuation), client_call_details, request_iterator)
        call = await _begin_writing(method.guarded(_attempt, is_resendable=False), outgoing)
        return cast("grpc.aio.StreamUnaryCall[Request, Response]", call)


class _UnaryStream(grpc.aio.UnaryStreamClientInterceptor):
    def __init__(self, methods: MethodPipelines) -> None:
        self._methods = methods

    async def intercept_unary_stream(
        self,
        continuation: Callable[
            [grpc.aio.ClientCallDetails, Request], Awaitable[grpc.aio.UnaryStreamCall[Request, Response]]
        ],
        client_call_details: grpc.aio.ClientCallDetails,
        request: Request,
    ) -> AsyncIterator[Response] | grpc.aio.UnaryStreamCall[Request, Response]:
        """Guard a call with one request and streamed responses. It can be repeated until the first response."""
        method = self._methods.method(client_call_details.method)
        if method is None:
            return await continuation(client_call_details, request)
        outgoing: AioOutgoing = method.outgoing(_sender(continuation), client_call_details, request, is_resendable=True)
        return await _begin_reading(method.guarded(_stream_attempt, is_resendable=True, is_stream=True), outgoing)


class _StreamStream(grpc.aio.StreamStreamClientInterceptor):
    def __init__(self, methods: MethodPipelines) -> None:
        self._methods = methods

    async def intercept_stream_stream(
        self,
        continuation: Callable[
            [grpc.aio.ClientCallDetails, AsyncIterable[Request] | Iterable[Request]],
            Awaitable[grpc.aio.StreamStreamCall[Request, Response]],
        ],
        client_call_details: grpc.aio.ClientCallDetails,
        request_iterator: AsyncIterable[Request] | Iterable[Request],
    ) -> AsyncIterator[Response] | grpc.aio.StreamStreamCall[Request, Response]:
        """Guard a call with streamed requests and streamed responses."""
        method = self._methods.method(client_call_details.method)
        if method is None:
            return await continuation(client_call_details, request_iterator)
        outgoing: AioOutgoing = method.outgoing(_sender(continuation), client_call_details, request_iterator)
        return await _begin_reading(method.guarded(_stream_attempt, is_resendable=False, is_stream=True), outgoing)


def _sender(continuation: Callable[[Any, Any], object]) -> Callable[[Any, Any], Awaitable[AioCall]]:
    """Return the continuation of any kind of call, typed as a function that sends one attempt."""
    return cast("Callable[[Any, Any], Awaitable[AioCall]]", continuation)


async def _call(attempt: Callable[[AioOutgoing], Coroutine[Any, Any, object]], outgoing: AioOutgoing) -> object:
    """Make the call, and return its response."""
    try:
        with outgoing.deadline or contextlib.nullcontext():
            return await attempt(outgoing)
    except CallError:
        raise
    except ResilienceError as error:
        raise as_call_error(error, is_aio=True) from error.__cause__


@idempotent_function
async def _attempt(outgoing: AioOutgoing) -> object:
    call = await _begin(outgoing)
    try:
        response = await call
    except grpc.RpcError as error:
        raise outgoing.decode(error) from None
    except BaseException:
        call.cancel()
        raise
    return outgoing.record_response(response, call)


async def _begin(outgoing: AioOutgoing) -> AioCall:
    """Begin an attempt. An interceptor inside of ours may make the whole attempt here, and raise."""
    try:
        call = await outgoing.attempt()
    except grpc.RpcError as error:
        raise outgoing.decode(error) from None
    return outgoing.begun(call)


async def _begin_writing(
    attempt: Callable[[AioOutgoing], Coroutine[Any, Any, object]], outgoing: AioOutgoing
) -> GuardedStreamUnaryCall | CompletedAioCall:
    """Return as soon as the attempt has begun: the caller writes its requests then, and the response comes last."""
    begun: asyncio.Future[AioCall] = asyncio.get_running_loop().create_future()
    outgoing.on_begun = lambda call: None if begun.done() else begun.set_result(call)
    task = asyncio.ensure_future(_call(attempt, outgoing))
    task.add_done_callback(lambda _task: begun.cancel())
    try:
        call = await asyncio.shield(begun)
    except asyncio.CancelledError:
        if task.done() and not task.cancelled():
            try:
                return CompletedAioCall(task.result())  # a policy has given the response
            except CallError as error:  # a policy has refused the call
                return FailedAioCall(error)
        task.cancel()
        raise
    return GuardedStreamUnaryCall(task, call)


@idempotent_function
async def _stream_attempt(outgoing: AioOutgoing) -> AsyncGenerator[object, None]:
    call = await _begin(outgoing)
    try:
        yield STARTED
        async for response in call:
            yield response
    except grpc.RpcError as error:
        raise outgoing.decode(error) from None
    finally:
        if hasattr(call, "cancel"):  # an interceptor of the user may have made a plain iterator of it
            call.cancel()


async def _begin_reading(
    attempt: Callable[[AioOutgoing], AsyncGenerator[object, None]], outgoing: AioOutgoing
) -> GuardedStreamCall | FailedAioStream:
    """Return as soon as the first attempt has begun."""
    responses = attempt(outgoing)
    try:
        with outgoing.deadline or contextlib.nullcontext():
            await anext(responses)  # STARTED
    except CallError as error:
        return FailedAioStream(error)
    except ResilienceError as error:
        failed = as_call_error(error, is_aio=True)
        failed.__cause__ = error.__cause__
        return FailedAioStream(failed)
    return GuardedStreamCall(responses, outgoing)
