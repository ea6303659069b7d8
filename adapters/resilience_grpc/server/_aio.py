"""The interceptor of a server on an event loop."""

from __future__ import annotations

import asyncio
import functools
import inspect
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Coroutine
from concurrent.futures import Executor
from contextlib import aclosing
from typing import Any, NoReturn, TypeAlias, cast

import grpc
import grpc.aio

from resilience import Deadline, Resilience
from resilience.errors import leaves
from resilience.server import RequestContext
from resilience_grpc._colour_checks import refuse_blocking_server
from resilience_grpc._grpcio_internals import abort_behind
from resilience_grpc._method_names import is_infrastructure
from resilience_grpc._types import Codec
from resilience_grpc.server._aio_context import (
    AioContext,
    ContextProxy,
    DeadlineContext,
    IdentifiedContext,
    ValidatingContext,
)
from resilience_grpc.server._aio_deadline import WRITE_PATIENCE, TaskDeadlines
from resilience_grpc.server._aio_threads import in_threads
from resilience_grpc.server._handlers import Handler, HandlerCache, RpcMethod, handler_for, rpc_method
from resilience_grpc.server._rpc import RpcGuard, deadline_exceeded

__all__ = ("aio_server_interceptors",)

_CANCELLATION_DELAY = 0.05
"""Seconds by which grpc.aio may cancel the task of an RPC after a write that failed because the client has gone."""
_MALFORMED = object()
"""Stands in for a message whose bytes cannot be decoded."""

_GivenContext: TypeAlias = "AioContext | ContextProxy"


def aio_server_interceptors(
    resilience: Resilience | None = None,
    *,
    authenticate: Callable[[Any], object] | None = None,
    validate: Callable[[Any], object] | None = None,
    key: Callable[[Any], str | None] | None = None,
    migration_thread_pool: Executor | None = None,
) -> list[grpc.aio.ServerInterceptor]:
    """Return the interceptors that guard every RPC of a `grpc.aio.server(interceptors=...)`.

    Put them before all others. They guard as `server_interceptors` does for a server on threads.

    Args:
        resilience: The toolkit of the service. Default: `Resilience.from_env()`.
        authenticate: Takes the context of an RPC and returns who calls, as in `server_interceptors`. It may be a
            coroutine function.
        validate: Checks each request message, as in `server_interceptors`.
            It may be a coroutine function.
        key: Takes the context of an RPC and returns the key of its quota. Default: the `rate_limit_key` setting, also
            for an RPC for which it returns None or "".
        migration_thread_pool: The threads for methods that are plain functions. Pass the pool of the server if it has
            one. Default: the threads of the loop.

    Raises:
        ConfigurationError: A setting is wrong.

    Example:
        >>> interceptors = aio_server_interceptors(Resilience())  # for grpc.aio.server(interceptors=interceptors)
    """
    return [_LoopInterceptor(RpcGuard(resilience, authenticate, validate, key), migration_thread_pool)]


class _LoopInterceptor(grpc.aio.ServerInterceptor):
    def __init__(self, guard: RpcGuard, executor: Executor | None) -> None:
        self._guard = guard
        self._executor = executor
        self._deadlines = TaskDeadlines()
        self._handlers = HandlerCache(self._build)

    def intercept_service(  # type: ignore[override]  # the stub says that any class of messages goes through
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Coroutine[Any, Any, Handler | None]:
        """Return the guarded handler of this call. Health, reflection and unknown methods are returned as they are."""
        refuse_blocking_server()
        return self._handler(continuation, handler_call_details)

    async def _handler(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler | None:
        handler = await continuation(handler_call_details)
        name = handler_call_details.method
        return handler if handler is None or is_infrastructure(name) else self._handlers.guarded(name, handler)

    def _build(self, name: str, handler: Handler) -> Handler:
        """Build the guarded handler.

        grpc.aio shows the text of an error of either codec to the client (L16), so the guarded method calls the codecs.
        """
        method, decode, encode = rpc_method(name, handler), handler.request_deserializer, handler.response_serializer
        if decode is not None:
            decode = _raising_decoder(self._guard, decode) if method.request_streaming else _marking_decoder(decode)
        served = _LoopMethod(self._guard, method, encode, self._executor, self._deadlines)
        return handler_for(method, served.behaviour(), decode, encode if method.response_streaming else None)


def _marking_decoder(decode: Codec) -> Codec:
    """Decode, or return `_MALFORMED`."""

    def attempt(data: bytes) -> object:
        try:
            return decode(data)
        except Exception:  # noqa: BLE001 - the client chooses the bytes
            return _MALFORMED

    return attempt


def _raising_decoder(guard: RpcGuard, decode: Codec) -> Codec:
    """Decode, or raise the refusal: the error reaches the handler, which is reading the stream."""

    def attempt(data: bytes) -> object:
        try:
            return decode(data)
        except Exception:  # noqa: BLE001 - the client chooses the bytes
            raise guard.malformed_message() from None

    return attempt


class _LoopMethod:
    """One method, guarded."""

    def __init__(
        self,
        guard: RpcGuard,
        method: RpcMethod,
        encode: Codec | None,
        executor: Executor | None,
        deadlines: TaskDeadlines,
    ) -> None:
        self._guard = guard
        self._handler = method.behaviour
        # By the rule of grpc.aio: a function of any other kind is called in a thread.
        self._is_plain = not (
            inspect.iscoroutinefunction(method.behaviour) or inspect.isasyncgenfunction(method.behaviour)
        )
        self._method = in_threads(method, executor) if self._is_plain else method
        self._encode = encode
        self._deadlines = deadlines
        self._behaviour, self._response_streaming = self._method.behaviour, method.response_streaming
        # A thread cannot be stopped, so a unary plain function has no deadline of the server. A write can be stopped.
        self._can_be_ended = self._response_streaming or not self._is_plain

    def behaviour(self) -> Callable[[object, AioContext], Coroutine[Any, Any, object]]:
        """Return the function that grpc.aio is to call.

        It writes the responses of a stream and does not yield them. So the whole RPC runs in one task and ends with
        that task, however the client leaves it.
        """

        @functools.wraps(self._handler)
        async def serve(message: object, context: AioContext) -> object:
            request = self._guard.receive(self._method.name, context)
            with request:
                try:
                    deadline = self._guard.own_deadline(request, context) if self._can_be_ended else None
                    if deadline is None:
                        return await self._perform(request, message, context, context)
                    return await self._perform_by(deadline, request, message, context)
                except (Exception, asyncio.CancelledError, BaseExceptionGroup) as error:  # noqa: BLE001 - answered, or raised again
                    await self._abort(error, request, context)
                finally:
                    self._guard.leave(request)

        return serve

    async def _perform_by(
        self, deadline: Deadline, request: RequestContext, message: object, context: AioContext
    ) -> object:
        give_up_place = functools.partial(self._guard.gate.leave, request)
        task_deadline = self._deadlines.start(deadline, give_up_place, is_of_thread=self._is_plain)
        try:
            response = await self._perform(request, message, context, DeadlineContext(context, task_deadline))
        except BaseException as error:
            if task_deadline.finish(error):
                raise deadline_exceeded() from None
            raise
        task_deadline.finish()
        return response

    async def _perform(
        self, request: RequestContext, message: object, context: AioContext, given: _GivenContext
    ) -> object:
        """Admit the RPC, call the handler and write its responses. The handler is `given` a context."""
        guard = self._guard
        if guard.authenticate is not None:
            await self._authenticate(request, context)
        quota = guard.gate.admit(request)
        if quota is not None:
            await guard.gate.acharge(request, quota)
        if guard.has_quota_trailers:
            guard.complete(request, context)  # now: an abort by the handler is sent at once
        if guard.validate is not None or message is _MALFORMED:
            message, given = await self._validated(message, given)
        response = self._behaviour(message, IdentifiedContext(given, guard, request))
        if not self._response_streaming:
            response = await response if self._encode is None else self._encode(await response)
        elif inspect.isasyncgen(response):
            await _write_all(cast("AsyncGenerator[object, None]", response), cast("AioContext", given))
            response = None
        else:
            response = await response  # the handler writes by itself
        guard.complete(request, context)
        return response

    async def _authenticate(self, request: RequestContext, context: AioContext) -> None:
        assert self._guard.authenticate is not None  # noqa: S101 - checked by the caller
        self._guard.gate.enter(request, takes_permit=False)  # a drain waits for RPCs that are being authenticated, too
        try:
            identity = self._guard.authenticate(IdentifiedContext(context, self._guard, request))
            if inspect.isawaitable(identity):
                identity = await identity
        except Exception as error:
            if abort_behind(error, context) is not None:
                raise
            raise self._guard.authentication_error(error, request) from None
        self._guard.set_identity(request, identity)

    async def _validated(self, message: object, given: _GivenContext) -> tuple[object, _GivenContext]:
        """Return the arguments of the handler: a valid message, or messages that are validated when they are read."""
        if message is _MALFORMED:
            raise self._guard.malformed_message()
        if self._method.request_streaming:
            messages = self._each_validated(cast("AsyncIterator[object]", message))
            return messages, ValidatingContext(given, self._check)
        return await self._check(message), given

    async def _each_validated(self, messages: AsyncIterator[object]) -> AsyncIterator[object]:
        async for message in messages:
            yield await self._check(message)

    async def _check(self, message: object) -> object:
        assert self._guard.validate is not None  # noqa: S101 - checked by the caller
        try:
            found = self._guard.validate(message)
            if inspect.isawaitable(found):
                found = await found
        except Exception as error:  # noqa: BLE001 - `check_message` raises it again if it is no violation
            found = error
        self._guard.check_message(found)
        return message

    async def _abort(self, error: BaseException, request: RequestContext, context: AioContext) -> NoReturn:
        """End the RPC with the abort of the handler if there was one, else with the envelope of `error`."""
        task = asyncio.current_task()
        if isinstance(error, asyncio.CancelledError) and (task is None or task.cancelling()):
            if request.record is not None:
                request.record.status = "CANCELLED"  # the context does not know yet
            raise error  # the client has gone, or the server stops; any other cancellation has to be answered
        abort = abort_behind(error, context)
        if abort is not None:
            self._guard.log_after_abort(error, abort, request, self._method.name)
            raise abort
        if any(isinstance(each, grpc.aio.InternalError) for each in leaves(error)):
            await self._await_cancellation()
        arguments = self._guard.abort_arguments(error, request, context, self._method.name)
        # The server does not wait for a client that does not read. The client gets the status when it reads.
        task_deadline = self._deadlines.start(Deadline.after(WRITE_PATIENCE))
        try:
            await context.abort(*arguments)
        except grpc.aio.UsageError:  # the handler's own abort was cut short: the client will get that abort
            raise asyncio.CancelledError from None
        finally:
            task_deadline.finish()

    async def _await_cancellation(self) -> None:
        """Return if a write failed because of its message. If the client has gone, grpc.aio soon cancels this task."""
        loop = asyncio.get_running_loop()
        task_deadline = self._deadlines.start(Deadline.after(_CANCELLATION_DELAY))
        try:
            await loop.create_future()
        except asyncio.CancelledError as error:
            if not task_deadline.finish(error):
                raise


async def _write_all(responses: AsyncGenerator[object, None], context: AioContext) -> None:
    async with aclosing(responses):
        async for response in responses:
            await context.write(response)
