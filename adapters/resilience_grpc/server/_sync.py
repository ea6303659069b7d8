"""Methods served by threads.

A thread cannot be stopped. One that works beyond its deadline, or for a client that has gone, keeps its place in the
bulkhead and in the count of requests under way until it returns; a stream ends at its next message.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator
from contextvars import Context, copy_context
from typing import Any, NoReturn

import grpc

from resilience import Resilience
from resilience.errors import ConfigurationError
from resilience.server import RequestContext
from resilience_grpc._method_names import is_untouched
from resilience_grpc.server._handlers import Method, Methods, parts_of, rebuilt
from resilience_grpc.server._rpc import Guard, abort_in, late

__all__ = ("server_interceptors",)

_END = object()


def server_interceptors(
    resilience: Resilience | None = None,
    *,
    authenticate: Callable[[grpc.ServicerContext], Any] | None = None,
    validate: Callable[[Any], Any] | None = None,
    key: Callable[[grpc.ServicerContext], str] | None = None,
) -> list[grpc.ServerInterceptor]:
    """Return what guards every RPC of a `grpc.server(..., interceptors=...)`; put it before all others.

    `authenticate` runs first and says who calls: None, or an exception, is `UNAUTHENTICATED`, and an `AppError` is
    answered as it is. `validate` looks at every request message and returns or raises what is wrong with it. `key`
    computes whose quota an RPC is charged to, where the `rate_limit_key` setting says too little.
    Without a `resilience` it is `Resilience.from_env()`. Raises `ConfigurationError` for a setting or a hook that
    cannot work.
    """
    for name, hook in (("authenticate", authenticate), ("validate", validate), ("key", key)):
        if inspect.iscoroutinefunction(hook):
            raise ConfigurationError(f"{name} is a coroutine function: only aio_server_interceptors can await it")
    return [_Interceptor(Guard(resilience, authenticate, validate, key))]


class _Interceptor(grpc.ServerInterceptor):
    def __init__(self, guard: Guard) -> None:
        self._guard = guard
        self._methods = Methods(self._build)

    def intercept_service(self, continuation: Callable[[Any], Any], handler_call_details: Any) -> Any:
        """Return the handler of this call with our work around it; health, reflection and the unknown as they are."""
        handler = continuation(handler_call_details)
        name = handler_call_details.method
        return handler if handler is None or is_untouched(name) else self._methods.of(name, handler)

    def _build(self, name: str, handler: Any) -> Any:
        method = parts_of(name, handler)
        behaviour = _Threaded(self._guard, method).behaviour()
        return rebuilt(method, behaviour, handler.request_deserializer, handler.response_serializer)


def _plain(value: Any) -> Any:
    if inspect.isawaitable(value):
        if inspect.iscoroutine(value):
            value.close()
        raise TypeError("a hook returned something to await: only aio_server_interceptors can")
    return value


class _Threaded:
    """One method with our work around it."""

    def __init__(self, guard: Guard, method: Method) -> None:
        self._guard = guard
        self._method = method

    def behaviour(self) -> Callable[..., Any]:
        """Return the function grpcio is to call; whatever grpcio looks for on the service's own stays on it."""
        if self._method.gives_stream and getattr(self._method.behaviour, "experimental_non_blocking", False):
            serve: Callable[..., Any] = self._push
        else:
            serve = self._stream if self._method.gives_stream else self._unary

        @functools.wraps(self._method.behaviour)
        def behaviour(message: Any, servicer: Any, *more: Any) -> Any:
            return serve(message, servicer, *more)

        return behaviour

    def _unary(self, message: Any, servicer: Any) -> Any:
        request = self._guard.receive(self._method.name, servicer)
        with request:
            try:
                self._admit(request, servicer)
                answer = self._method.behaviour(self._checked(message), servicer)
                self._guard.complete(request, servicer)
            except (Exception, SystemExit, BaseExceptionGroup) as error:  # noqa: BLE001 - a thread that exits would leave its client waiting
                self._end(error, request, servicer)
            else:
                return answer
            finally:
                self._guard.leave(request)

    def _stream(self, message: Any, servicer: Any) -> Iterator[Any]:
        """Yield the answers, every step in one context: a stream left half-way may be closed in any other."""
        request, inside = self._guard.receive(self._method.name, servicer), copy_context()
        inside.run(request.__enter__)
        try:
            inside.run(self._admit, request, servicer)
            yield from self._steps(request, message, servicer, inside)
            self._guard.complete(request, servicer)
        except (Exception, SystemExit, BaseExceptionGroup) as error:  # noqa: BLE001 - as above
            inside.run(self._end, error, request, servicer)
        finally:
            inside.run(request.__exit__, None, None, None)
            self._guard.leave(request)

    def _steps(self, request: RequestContext, message: Any, servicer: Any, inside: Context) -> Iterator[Any]:
        answers = inside.run(self._begin, message, servicer)
        try:
            while (answer := inside.run(next, answers, _END)) is not _END:
                yield answer
                if request.deadline is not None and request.deadline.expired:
                    raise late()
        finally:
            close = getattr(answers, "close", None)
            if close is not None:
                inside.run(close)

    def _begin(self, message: Any, servicer: Any) -> Iterator[Any]:
        return iter(self._method.behaviour(self._checked(message), servicer))

    def _push(self, message: Any, servicer: Any, send: Callable[[Any], None]) -> None:
        """Serve a stream whose answers may come from any thread, at any time: it is over when grpcio says so."""
        request, inside = self._guard.receive(self._method.name, servicer), copy_context()

        def deliver(answer: Any) -> None:
            if answer is None:  # the end of the stream, as grpcio has it
                servicer.set_trailing_metadata(self._guard.kept(request, servicer))
            send(answer)

        inside.run(request.__enter__)
        try:
            inside.run(self._admit, request, servicer)
            inside.run(lambda: self._method.behaviour(self._checked(message), servicer, deliver))
        except (Exception, SystemExit, BaseExceptionGroup) as error:  # noqa: BLE001 - as above
            self._guard.leave(request)
            self._end(error, request, servicer)
        if not servicer.add_callback(functools.partial(self._guard.leave, request)):
            self._guard.leave(request)

    def _admit(self, request: RequestContext, servicer: Any) -> None:
        guard = self._guard
        if guard.authenticate is not None:
            guard.gate.enter(request, takes_place=False)  # a drain waits for those who are being recognised, too
            self._identify(request, servicer)
        quota = guard.gate.admit(request)
        if quota is not None:
            guard.gate.charge(request, quota)

    def _identify(self, request: RequestContext, servicer: Any) -> None:
        assert self._guard.authenticate is not None  # noqa: S101 - seen by the caller
        try:
            identity = _plain(self._guard.authenticate(servicer))
        except Exception as error:
            if abort_in(error, servicer) is not None:
                raise
            raise self._guard.unidentified(error, request) from None
        self._guard.identified(request, identity)

    def _checked(self, message: Any) -> Any:
        """Return the message, or the messages, once they are valid."""
        if self._guard.validate is None:
            return message
        if self._method.takes_stream:
            return map(self._valid, message)
        return self._valid(message)

    def _valid(self, message: Any) -> Any:
        assert self._guard.validate is not None  # noqa: S101 - seen by the caller
        try:
            found = _plain(self._guard.validate(message))
        except Exception as error:  # noqa: BLE001 - what is not a verdict is raised again by `invalid`
            found = error
        refusal = self._guard.invalid(found)
        if refusal is not None:
            raise refusal
        return message

    def _end(self, error: BaseException, request: RequestContext, servicer: Any) -> NoReturn:
        """End the RPC: by what the handler said where it has, in silence where nobody listens, else by the envelope."""
        abort = abort_in(error, servicer)
        if abort is not None:
            self._guard.outlived(error, abort, request, self._method.name)
            self._confirm(request, servicer)
        if type(error) is grpc.RpcError and not servicer.is_active():  # the client has gone, says the request stream
            raise error
        code, message, trailers = self._guard.told(error, request, servicer, self._method.name)
        servicer.set_trailing_metadata(trailers)
        servicer.abort(code, message)
        raise AssertionError  # abort() raises

    def _confirm(self, request: RequestContext, servicer: Any) -> NoReturn:
        """Abort once more, with the same words: whatever was raised on top of them stays here (L16)."""
        servicer.set_trailing_metadata(self._guard.kept(request, servicer))
        servicer.abort(servicer.code(), (servicer.details() or b"").decode("utf-8", "replace"))
        raise AssertionError  # abort() raises
