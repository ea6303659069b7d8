"""The interceptor of a server on threads.

A thread cannot be stopped. A method that works beyond its deadline, or for a client that has gone, keeps its place in
the bulkhead and in the count of requests in flight until it returns. A stream ends at its next message.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator
from contextvars import Context, copy_context
from typing import Any, NoReturn, Protocol, cast

import grpc

from resilience import Resilience
from resilience.errors import ConfigurationError
from resilience.server import RequestContext
from resilience_grpc._grpcio_internals import abort_behind, is_pushed
from resilience_grpc._method_names import is_infrastructure
from resilience_grpc._types import Behaviour
from resilience_grpc.server._handlers import Handler, HandlerCache, RpcMethod, handler_for, rpc_method
from resilience_grpc.server._rpc import RpcGuard, deadline_exceeded

__all__ = ("server_interceptors",)

_END = object()


def server_interceptors(
    resilience: Resilience | None = None,
    *,
    authenticate: Callable[[grpc.ServicerContext], object] | None = None,
    validate: Callable[[Any], object] | None = None,
    key: Callable[[grpc.ServicerContext], str | None] | None = None,
) -> list[grpc.ServerInterceptor]:
    """Return the interceptors that guard every RPC of a `grpc.server(..., interceptors=...)`.

    Put them before all others. They give each RPC a request id, the caller's deadline, the limits of the server
    section of the configuration, and one shape of errors. Health and reflection are left alone.

    Args:
        resilience: The toolkit of the service. Default: `Resilience.from_env()`.
        authenticate: Takes the context of an RPC and returns who calls. It runs first. If it returns None or raises an
            exception, the RPC ends with `UNAUTHENTICATED`; an `AppError` is answered as it is.
        validate: Takes each request message and returns or raises what is wrong with it. The RPC then ends with
            `INVALID_ARGUMENT` and BadRequest. None and True mean that the message is valid.
        key: Takes the context of an RPC and returns the key of its quota. Default: the `rate_limit_key` setting, also
            for an RPC for which it returns None or "".

    Raises:
        ConfigurationError: A setting is wrong, or a hook is a coroutine function.

    Example:
        >>> from concurrent.futures import ThreadPoolExecutor
        >>> server = grpc.server(ThreadPoolExecutor(8), interceptors=server_interceptors(Resilience()))
    """
    for name, hook in (("authenticate", authenticate), ("validate", validate), ("key", key)):
        if inspect.iscoroutinefunction(hook):
            raise ConfigurationError(f"{name} is a coroutine function: only aio_server_interceptors can await it")
    return [_ThreadInterceptor(RpcGuard(resilience, authenticate, validate, key))]


class _ThreadInterceptor(grpc.ServerInterceptor):
    def __init__(self, guard: RpcGuard) -> None:
        self._guard = guard
        self._handlers = HandlerCache(self._build)

    def intercept_service(  # type: ignore[override]  # the stub says that any class of messages goes through
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Handler | None],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler | None:
        """Return the guarded handler of this call. Health, reflection and unknown methods are returned as they are."""
        handler = continuation(handler_call_details)
        name = handler_call_details.method
        return handler if handler is None or is_infrastructure(name) else self._handlers.guarded(name, handler)

    def _build(self, name: str, handler: Handler) -> Handler:
        method = rpc_method(name, handler)
        behaviour = _ThreadedMethod(self._guard, method).behaviour()
        return handler_for(method, behaviour, handler.request_deserializer, handler.response_serializer)


class _EndedContext(Protocol):
    """Members of a context of `grpc` that its type stubs do not have."""

    def code(self) -> grpc.StatusCode: ...
    def details(self) -> bytes | None: ...


class _ThreadedMethod:
    """One method, guarded: each kind of method has a function of its own here."""

    def __init__(self, guard: RpcGuard, method: RpcMethod) -> None:
        self._guard = guard
        self._method = method

    def behaviour(self) -> Behaviour:
        """Return the function that grpcio is to call. It keeps the attributes of the service's own function."""
        serve: Behaviour = self._unary
        if self._method.response_streaming:
            serve = self._push if is_pushed(self._method.behaviour) else self._stream

        @functools.wraps(self._method.behaviour)
        def behaviour(message: object, context: grpc.ServicerContext, *send: Callable[[object], None]) -> object:
            return serve(message, context, *send)

        return behaviour

    def _unary(self, message: object, context: grpc.ServicerContext) -> object:
        request = self._guard.receive(self._method.name, context)
        with request:
            try:
                self._admit(request, context)
                response = self._method.behaviour(self._validated(message), context)
                self._guard.complete(request, context)
            except (Exception, SystemExit, BaseExceptionGroup) as error:  # noqa: BLE001 - a thread that exits would leave its client waiting
                self._abort(error, request, context)
            else:
                return response
            finally:
                self._guard.leave(request)

    def _stream(self, message: object, context: grpc.ServicerContext) -> Iterator[object]:
        """Yield the responses, every step in one context: a stream left half-way may be closed in any other."""
        request, inside = self._guard.receive(self._method.name, context), copy_context()
        inside.run(request.__enter__)
        try:
            inside.run(self._admit, request, context)
            yield from self._responses(request, message, context, inside)
            self._guard.complete(request, context)
        except (Exception, SystemExit, BaseExceptionGroup) as error:  # noqa: BLE001 - as in `_unary`
            inside.run(self._abort, error, request, context)
        finally:
            inside.run(request.__exit__, None, None, None)
            self._guard.leave(request)

    def _responses(
        self, request: RequestContext, message: object, context: grpc.ServicerContext, inside: Context
    ) -> Iterator[object]:
        responses: Iterator[object] = inside.run(
            lambda: iter(self._method.behaviour(self._validated(message), context))
        )
        try:
            while (response := inside.run(next, responses, _END)) is not _END:
                yield response
                if request.deadline is not None and request.deadline.expired:
                    raise deadline_exceeded()
        finally:
            close: Callable[[], object] | None = getattr(responses, "close", None)
            if close is not None:
                inside.run(close)

    def _push(self, message: object, context: grpc.ServicerContext, send: Callable[[object], None]) -> None:
        """Serve a stream whose responses may come from any thread, at any time. grpcio says when it has ended."""
        request, inside = self._guard.receive(self._method.name, context), copy_context()

        def deliver(response: object) -> None:
            if response is None:  # the end of the stream, in grpcio's terms
                context.set_trailing_metadata(self._guard.abort_trailers(request, context))
            send(response)

        inside.run(request.__enter__)
        try:
            inside.run(self._admit, request, context)
            inside.run(lambda: self._method.behaviour(self._validated(message), context, deliver))
        except (Exception, SystemExit, BaseExceptionGroup) as error:  # noqa: BLE001 - as in `_unary`
            self._guard.leave(request)
            self._abort(error, request, context)
        if not context.add_callback(functools.partial(self._guard.leave, request)):
            self._guard.leave(request)

    def _admit(self, request: RequestContext, context: grpc.ServicerContext) -> None:
        guard = self._guard
        if guard.authenticate is not None:
            guard.gate.enter(request, takes_permit=False)  # a drain waits for RPCs that are being authenticated, too
            try:
                identity = _refuse_awaitable(guard.authenticate(context))
            except Exception as error:
                if abort_behind(error, context) is not None:
                    raise
                raise guard.authentication_error(error, request) from None
            guard.set_identity(request, identity)
        quota = guard.gate.admit(request)
        if quota is not None:
            guard.gate.charge(request, quota)

    def _validated(self, message: object) -> object:
        """Return the message, or the iterator of messages, which raises a refusal at the first that is invalid."""
        if self._guard.validate is None:
            return message
        if self._method.request_streaming:
            return map(self._check, cast("Iterator[object]", message))
        return self._check(message)

    def _check(self, message: object) -> object:
        assert self._guard.validate is not None  # noqa: S101 - checked by the caller
        try:
            found = _refuse_awaitable(self._guard.validate(message))
        except Exception as error:  # noqa: BLE001 - `check_message` raises it again if it is no violation
            found = error
        self._guard.check_message(found)
        return message

    def _abort(self, error: BaseException, request: RequestContext, context: grpc.ServicerContext) -> NoReturn:
        """End the RPC with the abort of the handler if there was one, else with the envelope of `error`."""
        abort = abort_behind(error, context)
        if abort is not None:
            # Abort once more with the same arguments: the text of an error raised on top of them stays here (L16).
            self._guard.log_after_abort(error, abort, request, self._method.name)
            context.set_trailing_metadata(self._guard.abort_trailers(request, context))
            ended = cast("_EndedContext", context)
            context.abort(ended.code(), (ended.details() or b"").decode("utf-8", "replace"))
        if type(error) is grpc.RpcError and not context.is_active():  # by the request stream: the client has gone
            raise error
        code, message, trailers = self._guard.abort_arguments(error, request, context, self._method.name)
        context.set_trailing_metadata(trailers)
        context.abort(code, message)


def _refuse_awaitable(value: object) -> object:
    """Return the value that a hook has returned. Raise `TypeError` for an awaitable."""
    if inspect.isawaitable(value):
        if inspect.iscoroutine(value):
            value.close()
        raise TypeError("a hook returned something to await: only aio_server_interceptors can")
    return value
