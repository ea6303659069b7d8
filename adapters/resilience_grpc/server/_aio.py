"""Methods served by an event loop."""

from __future__ import annotations

import asyncio
import functools
import inspect
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Coroutine
from concurrent.futures import Executor
from contextlib import aclosing
from typing import Any, NoReturn

import grpc
import grpc.aio

from resilience import Deadline, Resilience
from resilience.errors import leaves
from resilience.server import RequestContext
from resilience_grpc._method_names import is_untouched
from resilience_grpc.server._aio_context import Identified, Reading, Writing
from resilience_grpc.server._aio_deadline import PATIENCE, Alarms
from resilience_grpc.server._aio_threads import bridged
from resilience_grpc.server._handlers import Method, Methods, parts_of, rebuilt
from resilience_grpc.server._rpc import Guard, abort_in, late

__all__ = ("aio_server_interceptors",)

_Codec = Callable[[Any], Any]
_MOMENT = 0.05


class _Malformed:
    """Stands in for a message whose bytes could not be read."""


def aio_server_interceptors(
    resilience: Resilience | None = None,
    *,
    authenticate: Callable[[Any], Any] | None = None,
    validate: Callable[[Any], Any] | None = None,
    key: Callable[[Any], str] | None = None,
    migration_thread_pool: Executor | None = None,
) -> list[grpc.aio.ServerInterceptor]:
    """Return what guards every RPC of a `grpc.aio.server(interceptors=...)`; put it before all others.

    As `server_interceptors`, save that `authenticate` and `validate` may be coroutine functions. Methods that are plain
    functions run in `migration_thread_pool`: give the one the server has, if it has one.
    """
    return [_Interceptor(Guard(resilience, authenticate, validate, key), migration_thread_pool)]


class _Interceptor(grpc.aio.ServerInterceptor):
    def __init__(self, guard: Guard, executor: Executor | None) -> None:
        self._guard = guard
        self._executor = executor
        self._alarms = Alarms()
        self._methods = Methods(self._build)

    async def intercept_service(self, continuation: Callable[[Any], Awaitable[Any]], handler_call_details: Any) -> Any:
        """Return the handler of this call with our work around it; health, reflection and the unknown as they are."""
        handler = await continuation(handler_call_details)
        name = handler_call_details.method
        return handler if handler is None or is_untouched(name) else self._methods.of(name, handler)

    def _build(self, name: str, handler: Any) -> Any:
        """Rebuild a handler.

        What the two codecs raise is shown to the client by grpc.aio, text and all (L16), so they work where we see it.
        """
        method, decode, encode = parts_of(name, handler), handler.request_deserializer, handler.response_serializer
        decode = decode and (_decoding(self._guard, decode) if method.takes_stream else _attempting(decode))
        awaited = _Awaited(self._guard, method, encode, self._executor, self._alarms)
        return rebuilt(method, awaited.behaviour(), decode, encode if method.gives_stream else None)


def _is_async(behaviour: Any) -> bool:
    """Tell by which of its ways grpc.aio would call a function: its own rule."""
    return inspect.iscoroutinefunction(behaviour) or inspect.isasyncgenfunction(behaviour)


def _attempting(decode: _Codec) -> _Codec:
    def attempt(data: bytes) -> Any:
        try:
            return decode(data)
        except Exception:  # noqa: BLE001 - bytes are the client's to choose
            return _Malformed

    return attempt


def _decoding(guard: Guard, decode: _Codec) -> _Codec:
    """Decode where a failure reaches the handler, which is reading."""

    def attempt(data: bytes) -> Any:
        try:
            return decode(data)
        except Exception:  # noqa: BLE001 - as above
            raise guard.malformed() from None

    return attempt


class _Awaited:
    """One method with our work around it."""

    def __init__(
        self, guard: Guard, method: Method, encode: _Codec | None, executor: Executor | None, alarms: Alarms
    ) -> None:
        self._guard = guard
        self._handler = method.behaviour
        self._is_plain = not _is_async(method.behaviour)
        self._method = bridged(method, executor) if self._is_plain else method
        self._encode = encode
        self._alarms = alarms
        self._behaviour, self._gives_stream = self._method.behaviour, method.gives_stream
        self._has_own_end = self._gives_stream or not self._is_plain  # a thread cannot be stopped, a write can

    def behaviour(self) -> Callable[[Any, Any], Coroutine[Any, Any, Any]]:
        """Return the function grpc.aio is to call.

        A stream is written here and not yielded: so all of it happens in one task, and ends when that ends, however
        the client leaves it.
        """

        @functools.wraps(self._handler)
        async def serve(message: Any, servicer: Any) -> Any:
            request = self._guard.receive(self._method.name, servicer)
            with request:
                try:
                    deadline = self._guard.own_deadline(request, servicer) if self._has_own_end else None
                    if deadline is None:
                        return await self._perform(request, message, servicer, servicer)
                    return await self._perform_by(deadline, request, message, servicer)
                except (Exception, asyncio.CancelledError, BaseExceptionGroup) as error:  # noqa: BLE001 - answered, or raised again
                    await self._end(error, request, servicer)
                finally:
                    self._guard.leave(request)

        return serve

    async def _perform_by(self, deadline: Deadline, request: RequestContext, message: Any, servicer: Any) -> Any:
        overdue = functools.partial(self._guard.gate.leave, request)
        alarm = self._alarms.watch(deadline, overdue, is_of_thread=self._is_plain)
        try:
            answer = await self._perform(request, message, servicer, Writing(servicer, alarm))
        except BaseException as error:
            if alarm.ends(error):
                raise late() from None
            raise
        alarm.ends()
        return answer

    async def _perform(self, request: RequestContext, message: Any, servicer: Any, context: Any) -> Any:
        """Do what the RPC asks for; the handler sees its servicer as `context`."""
        guard = self._guard
        if guard.authenticate is not None:
            await self._identify(request, servicer)
        quota = guard.gate.admit(request)
        if quota is not None:
            await guard.gate.acharge(request, quota)
        if guard.shows_quotas:
            guard.complete(request, servicer)  # already: an abort of the handler's own is sent at once
        if guard.validate is not None or message is _Malformed:
            message, context = await self._checked(message, context)
        answer = self._behaviour(message, Identified(context, guard, request))
        if not self._gives_stream:
            answer = await answer if self._encode is None else self._encode(await answer)
        elif inspect.isasyncgen(answer):
            await _written(answer, context)
            answer = None
        else:
            answer = await answer  # it writes by itself
        guard.complete(request, servicer)
        return answer

    async def _identify(self, request: RequestContext, servicer: Any) -> None:
        assert self._guard.authenticate is not None  # noqa: S101 - seen by the caller
        self._guard.gate.enter(request, takes_place=False)  # a drain waits for who is being recognised, too
        try:
            identity = self._guard.authenticate(Identified(servicer, self._guard, request))
            if inspect.isawaitable(identity):
                identity = await identity
        except Exception as error:
            if abort_in(error, servicer) is not None:
                raise
            raise self._guard.unidentified(error, request) from None
        self._guard.identified(request, identity)

    async def _checked(self, message: Any, context: Any) -> tuple[Any, Any]:
        """Return what the handler is called with, once it is valid: a message, or messages that will be."""
        if message is _Malformed:
            raise self._guard.malformed()
        if self._method.takes_stream:
            return self._valid_ones(message), Reading(context, self._valid)
        return await self._valid(message), context

    async def _valid_ones(self, messages: AsyncIterator[Any]) -> AsyncIterator[Any]:
        async for message in messages:
            yield await self._valid(message)

    async def _valid(self, message: Any) -> Any:
        assert self._guard.validate is not None  # noqa: S101 - seen by the caller
        try:
            found = self._guard.validate(message)
            if inspect.isawaitable(found):
                found = await found
        except Exception as error:  # noqa: BLE001 - what is not a verdict is raised again by `invalid`
            found = error
        refusal = self._guard.invalid(found)
        if refusal is not None:
            raise refusal
        return message

    async def _end(self, error: BaseException, request: RequestContext, servicer: Any) -> NoReturn:
        """End the RPC: by what the handler said where it has, else by the envelope."""
        task = asyncio.current_task()
        if isinstance(error, asyncio.CancelledError) and (task is None or task.cancelling()):
            raise error  # the client has gone, or the server stops; of any other cancellation it would never hear
        abort = abort_in(error, servicer)
        if abort is not None:
            self._guard.outlived(error, abort, request, self._method.name)
            raise abort
        if any(isinstance(each, grpc.aio.InternalError) for each in leaves(error)):
            await self._outlive()
        told = self._guard.told(error, request, servicer, self._method.name)
        # A client that does not read is not waited for: it will be told once it does.
        alarm = self._alarms.watch(Deadline.after(PATIENCE))
        try:
            await servicer.abort(*told)
        except grpc.aio.UsageError:  # the handler's own abort was cut short: the client will be told that
            raise asyncio.CancelledError from None
        finally:
            alarm.ends()
        raise AssertionError  # abort() raises

    async def _outlive(self) -> None:
        """Return if a write failed for what it was; where its client has gone we are cancelled, if a little later."""
        loop, alarm = asyncio.get_running_loop(), self._alarms.watch(Deadline.after(_MOMENT))
        try:
            await loop.create_future()
        except asyncio.CancelledError as error:
            if not alarm.ends(error):
                raise


async def _written(answers: AsyncGenerator[Any, Any], context: Any) -> None:
    async with aclosing(answers):
        async for answer in answers:
            await context.write(answer)
