"""Interceptors of a channel of `grpc.aio`."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterable
from typing import Any

import grpc.aio

from resilience import Resilience
from resilience import idempotent as may_repeat
from resilience.errors import ResilienceError
from resilience.policy import STARTED
from resilience_grpc.client._aio_answer import GivenCall, GuardedAnswer
from resilience_grpc.client._aio_calls import GuardedAnswers
from resilience_grpc.client._call import Outgoing
from resilience_grpc.client._errors import CallError, as_call_error
from resilience_grpc.client._options import CallOptions
from resilience_grpc.client._pipeline import Methods, Wanted

__all__ = ("aio_client_interceptors",)


def aio_client_interceptors(
    resilience: Resilience | None = None,
    *,
    pipeline: Wanted = None,
    idempotent: Iterable[str] = CallOptions.idempotent,
    retryable: Iterable[Any] = CallOptions.retryable,
) -> list[grpc.aio.ClientInterceptor]:
    """Return what guards every call made through `grpc.aio.insecure_channel(target, interceptors=...)`.

    Everything is as for `client_interceptors`, which says what the arguments mean.
    """
    methods = Methods(resilience, pipeline, idempotent, retryable, is_aio=True)
    # One class for each kind of call: grpc.aio takes an interceptor for the first kind it finds in it.
    return [_UnaryUnary(methods), _UnaryStream(methods), _StreamUnary(methods), _StreamStream(methods)]


class _UnaryUnary(grpc.aio.UnaryUnaryClientInterceptor):
    def __init__(self, methods: Methods) -> None:
        self._methods = methods

    async def intercept_unary_unary(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        """Guard a call of one message and one answer."""
        method = self._methods.of(client_call_details.method)
        if method is None:
            return await continuation(client_call_details, request)
        outgoing = method.outgoing(continuation, client_call_details, request)
        response = await _made(method.guarded(_attempt, repeats=True), outgoing)
        return outgoing.call_of(response) or GivenCall(response)


class _StreamUnary(grpc.aio.StreamUnaryClientInterceptor):
    def __init__(self, methods: Methods) -> None:
        self._methods = methods

    async def intercept_stream_unary(self, continuation: Any, client_call_details: Any, request_iterator: Any) -> Any:
        """Guard a call of many messages and one answer: what has been read of them cannot be sent again."""
        method = self._methods.of(client_call_details.method)
        if method is None:
            return await continuation(client_call_details, request_iterator)
        outgoing = method.outgoing(continuation, client_call_details, request_iterator)
        outgoing.begun = asyncio.get_running_loop().create_future()
        return await _begun(_made(method.guarded(_attempt_once, repeats=False), outgoing), outgoing)


class _UnaryStream(grpc.aio.UnaryStreamClientInterceptor):
    def __init__(self, methods: Methods) -> None:
        self._methods = methods

    async def intercept_unary_stream(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        """Guard a call of one message and many answers: it can be made again until the first one has come."""
        method = self._methods.of(client_call_details.method)
        if method is None:
            return await continuation(client_call_details, request)
        outgoing = method.outgoing(continuation, client_call_details, request, repeats=True)
        return await _opened(method.guarded(_stream_attempt, repeats=True, is_stream=True), outgoing)


class _StreamStream(grpc.aio.StreamStreamClientInterceptor):
    def __init__(self, methods: Methods) -> None:
        self._methods = methods

    async def intercept_stream_stream(self, continuation: Any, client_call_details: Any, request_iterator: Any) -> Any:
        """Guard a call of many messages and many answers."""
        method = self._methods.of(client_call_details.method)
        if method is None:
            return await continuation(client_call_details, request_iterator)
        outgoing = method.outgoing(continuation, client_call_details, request_iterator)
        return await _opened(method.guarded(_stream_attempt, repeats=False, is_stream=True), outgoing)


async def _made(guarded: Callable[[Outgoing], Coroutine[Any, Any, Any]], outgoing: Outgoing) -> Any:
    try:
        with outgoing.deadline or contextlib.nullcontext():
            return await guarded(outgoing)
    except CallError:
        raise
    except ResilienceError as error:
        raise as_call_error(error, is_aio=True) from error.__cause__


@may_repeat
async def _attempt(outgoing: Outgoing) -> Any:
    call = await _call(outgoing)
    return outgoing.landed(await _answer(call, outgoing), call)


async def _attempt_once(outgoing: Outgoing) -> Any:
    call = await _call(outgoing)
    if not outgoing.begun.done():
        outgoing.begun.set_result(call)
    return outgoing.landed(await _answer(call, outgoing), call)


async def _call(outgoing: Outgoing) -> Any:
    """Begin an attempt; an interceptor inside of ours may make all of it, and raise."""
    try:
        return await outgoing.attempt()
    except grpc.RpcError as error:
        raise outgoing.decode(error) from None


async def _answer(call: Any, outgoing: Outgoing) -> Any:
    try:
        return await call
    except grpc.RpcError as error:
        raise outgoing.decode(error) from None
    except BaseException:
        call.cancel()
        raise


async def _begun(making: Coroutine[Any, Any, Any], outgoing: Outgoing) -> Any:
    """Return as soon as the call is under way: only then are messages written, and the answer comes after them."""
    task = asyncio.ensure_future(making)
    task.add_done_callback(lambda _task: outgoing.begun.cancel())
    try:
        call = await asyncio.shield(outgoing.begun)
    except asyncio.CancelledError:
        if task.done() and not task.cancelled():
            return GivenCall(task.result())  # a policy stood in for the call, or refused it
        task.cancel()
        raise
    return GuardedAnswer(task, call)


@may_repeat
async def _stream_attempt(outgoing: Outgoing) -> AsyncGenerator[Any, None]:
    call = outgoing.begun = await _call(outgoing)
    try:
        yield STARTED
        async for answer in call:
            yield answer
    except grpc.RpcError as error:
        raise outgoing.decode(error) from None
    finally:
        if hasattr(call, "cancel"):  # an interceptor of somebody else's may have made a plain iterator of it
            call.cancel()


async def _opened(guarded: Callable[[Outgoing], AsyncGenerator[Any, None]], outgoing: Outgoing) -> GuardedAnswers:
    answers = guarded(outgoing)
    try:
        with outgoing.deadline or contextlib.nullcontext():
            await anext(answers)  # STARTED
    except CallError:
        raise
    except ResilienceError as error:
        raise as_call_error(error, is_aio=True) from error.__cause__
    return GuardedAnswers(answers, outgoing)
