"""Interceptors of a channel of `grpc`."""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from typing import Any

import grpc

from resilience import BulkheadFullError, Resilience
from resilience import idempotent as may_repeat
from resilience.errors import ResilienceError
from resilience_grpc.client._call import Lost, Outgoing
from resilience_grpc.client._errors import CallError, as_call_error
from resilience_grpc.client._options import CallOptions
from resilience_grpc.client._outcome import Given, Promised
from resilience_grpc.client._pipeline import Methods, Wanted
from resilience_grpc.client._sync_calls import GuardedStream, stream_attempt
from resilience_grpc.client._sync_futures import submit

__all__ = ("client_interceptors",)


def client_interceptors(
    resilience: Resilience | None = None,
    *,
    pipeline: Wanted = None,
    idempotent: Iterable[str] = CallOptions.idempotent,
    retryable: Iterable[Any] = CallOptions.retryable,
) -> list[grpc.UnaryUnaryClientInterceptor]:
    """Return what guards every call made through `grpc.intercept_channel(channel, *interceptors)`.

    Each method has the pipeline configured under its own name (`shop.Orders/Get`), else under that of its service
    (`shop.Orders`), else up to three attempts and a breaker for the service; `pipeline` is another one, or its name, or
    a function from method to either. Retries and hedges are made only of methods listed in `idempotent`
    (`shop.Orders/Get`, `shop.Orders/*`, `*`) or in the `idempotent_methods` setting, after statuses in `retryable`, and
    not of streamed requests.

    A failed call raises what it always did, which is an `AppError`, `DeadlineExceededError` or other error of ours as
    well. Without a `resilience` it is `Resilience.from_env()`. Raises `ConfigurationError` for arguments that make no
    sense.
    """
    return [_Interceptor(Methods(resilience, pipeline, idempotent, retryable, is_aio=False))]


class _Interceptor(
    grpc.UnaryUnaryClientInterceptor,
    grpc.UnaryStreamClientInterceptor,
    grpc.StreamUnaryClientInterceptor,
    grpc.StreamStreamClientInterceptor,
):
    def __init__(self, methods: Methods) -> None:
        self._methods = methods

    def intercept_unary_unary(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        """Guard a call of one message and one answer."""
        return self._unary(continuation, client_call_details, request, repeats=True)

    def intercept_stream_unary(self, continuation: Any, client_call_details: Any, request_iterator: Any) -> Any:
        """Guard a call of many messages and one answer: what has been read of them cannot be sent again."""
        return self._unary(continuation, client_call_details, request_iterator, repeats=False)

    def intercept_unary_stream(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        """Guard a call of one message and many answers: it can be made again until the first one has come."""
        return self._stream(continuation, client_call_details, request, repeats=True)

    def intercept_stream_stream(self, continuation: Any, client_call_details: Any, request_iterator: Any) -> Any:
        """Guard a call of many messages and many answers."""
        return self._stream(continuation, client_call_details, request_iterator, repeats=False)

    def _unary(self, continuation: Any, details: Any, request: Any, *, repeats: bool) -> Any:
        method = self._methods.of(details.method)
        if method is None:
            return continuation(details, request)
        if _is_of_future(continuation):
            return _promised(
                method.guarded(_attempt_later, repeats=repeats), method.outgoing(continuation, details, request)
            )
        begin = _beginning(continuation) if repeats and method.races else None
        if begin is None:
            guarded = method.guarded(_attempt, repeats=repeats, blocks=True)
            return _made(guarded, method.outgoing(continuation, details, request))
        guarded = method.guarded(_attempt_in_race, repeats=True, blocks=True)
        return _made(guarded, method.outgoing(begin, details, request))

    def _stream(self, continuation: Any, details: Any, request: Any, *, repeats: bool) -> Any:
        method = self._methods.of(details.method)
        if method is None:
            return continuation(details, request)
        guarded = method.guarded(stream_attempt, repeats=repeats, is_stream=True)
        return GuardedStream(guarded, method.outgoing(continuation, details, request, repeats=repeats))


# grpcio does not tell an interceptor whether its caller waits. Its continuations do, to who looks closely; where one
# looks different some day, a future is made by a call that blocks, and an attempt that lost runs on to its own end.


def _is_of_future(continuation: Any) -> bool:
    return str(getattr(continuation, "__qualname__", "")).endswith(".future.<locals>.continuation")


def _beginning(continuation: Any) -> Callable[[Any, Any], Any] | None:
    """Return what `continuation` does, without the wait: an attempt that can be cancelled."""
    names = getattr(getattr(continuation, "__code__", None), "co_freevars", ())
    if "self" not in names:
        return None
    thunk = getattr(continuation.__closure__[names.index("self")].cell_contents, "_thunk", None)
    return None if thunk is None else functools.partial(_begin, thunk)


def _begin(thunk: Callable[[Any], Any], details: Any, request: Any) -> Any:
    return thunk(details.method).future(
        request,
        timeout=details.timeout,
        metadata=details.metadata,
        credentials=details.credentials,
        wait_for_ready=details.wait_for_ready,
        compression=details.compression,
    )


def _made(guarded: Callable[[Outgoing], Any], outgoing: Outgoing) -> Any:
    """Make the call here and now; return the call object of the response."""
    try:
        with outgoing.deadline or contextlib.nullcontext():
            response = guarded(outgoing)
    except CallError:
        raise
    except ResilienceError as error:
        raise as_call_error(error, is_aio=False) from error.__cause__
    finally:
        outgoing.over()
    return outgoing.call_of(response) or Given(response)


@may_repeat
def _attempt(outgoing: Outgoing) -> Any:
    call = outgoing.attempt()
    try:
        response = call.result()
    except grpc.RpcError as error:
        raise outgoing.decode(error) from None
    return outgoing.landed(response, call)


@may_repeat
def _attempt_in_race(outgoing: Outgoing) -> Any:
    call = outgoing.stoppable(outgoing.attempt())
    try:
        response = call.result()
    except (grpc.RpcError, grpc.FutureCancelledError) as error:
        if outgoing.is_over:
            raise Lost from None
        raise outgoing.decode(error) from None
    except BaseException:
        call.cancel()
        raise
    return outgoing.landed(response, call)


def _promised(guarded: Callable[[Outgoing], Any], outgoing: Outgoing) -> Promised:
    """Have the call made elsewhere, and return its call object."""

    async def make() -> Any:
        try:
            with outgoing.deadline or contextlib.nullcontext():
                return await guarded(outgoing)
        except CallError:
            raise
        except ResilienceError as error:
            raise as_call_error(error, is_aio=False) from error.__cause__

    try:
        return Promised(submit(make), outgoing)
    except BulkheadFullError as error:
        refused: Future[Any] = Future()
        refused.set_exception(as_call_error(error, is_aio=False))
        return Promised(refused, outgoing)


@may_repeat
async def _attempt_later(outgoing: Outgoing) -> Any:
    call = outgoing.attempt()
    loop = asyncio.get_running_loop()
    ended = loop.create_future()
    call.add_done_callback(lambda _call: loop.call_soon_threadsafe(_wake, ended))
    try:
        await ended
    except BaseException:
        call.cancel()
        raise
    try:
        response = call.result()
    except grpc.RpcError as error:
        raise outgoing.decode(error) from None
    return outgoing.landed(response, call)


def _wake(ended: asyncio.Future[None]) -> None:
    if not ended.done():
        ended.set_result(None)
