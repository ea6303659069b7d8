"""Exceptions as responses: the handlers of the application are asked first, then ours.

The order is Starlette's, with our handlers behind all handlers of the application: the handler for the status of an
`HTTPException`, then the handler for the nearest class of the error. So an error that is ours and also another
library's goes to the application's handler for the class of that library. A handler for `Exception` or 500 is the last
resort, as it is without us: it gets the errors that no other handler answers, and no refusals.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, cast

from fastapi.exception_handlers import (
    http_exception_handler,
    request_validation_exception_handler,
    websocket_request_validation_exception_handler,
)
from fastapi.exceptions import HTTPException as FastAPIHTTPException
from fastapi.exceptions import RequestValidationError, WebSocketRequestValidationError
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection, Request
from starlette.responses import PlainTextResponse, Response
from starlette.status import WS_1008_POLICY_VIOLATION, WS_1011_INTERNAL_ERROR, WS_1013_TRY_AGAIN_LATER
from starlette.types import Scope
from starlette.websockets import WebSocket, WebSocketState

from resilience import AppError, Resilience
from resilience.envelope import (
    ANSWERS,
    Envelope,
    envelope_of,
    envelope_of_group,
    http_envelope,
    is_header,
    split_detail,
    validation_envelope,
    violations_of,
    worst_of,
)
from resilience.errors import ResilienceError
from resilience.server import envelope_ids, render_error, sent_envelope
from resilience_fastapi._exchange import SCOPE_KEY
from resilience_fastapi._framework_internals import error_layer_of

__all__ = ("ErrorHandlers", "adopt_error_handler", "ids_of")

Handler = Callable[[Any, Any], Awaitable[Response | None]]

_FIRST_ERROR_STATUS, _UNPROCESSABLE, _FAULT = 400, 422, 500
_MAX_REASON = 120


def ids_of(scope: Scope) -> dict[str, str]:
    """Return the ids of an envelope, as keyword arguments."""
    return envelope_ids(scope.get(SCOPE_KEY))


def _make_response(scope: Scope, envelope: Envelope, kept: Mapping[str, str] | None = None) -> Response:
    """Return the response for `envelope`. Headers in `kept` replace those of the envelope."""
    headers = Headers(scope=scope)
    accept, accept_language = ", ".join(headers.getlist("accept")), ", ".join(headers.getlist("accept-language"))
    body, own = render_error(scope.get(SCOPE_KEY), envelope, accept=accept, accept_language=accept_language)
    content_type = own.pop("Content-Type")
    response = Response(body, envelope.http_status, own)
    for name, value in (kept or {}).items():
        response.headers[name] = value
    response.headers["Content-Type"] = content_type
    response.headers.add_vary_header("Accept")
    return response


async def _on_http_exception(request: Request, error: HTTPException) -> Response:
    if error.status_code < _FIRST_ERROR_STATUS:  # a redirect raised as an exception, or 304: not an error
        return await http_exception_handler(request, error)
    headers = error.headers or {}
    message, details = split_detail(error.detail)
    envelope = http_envelope(
        error.status_code, message=message, details=details, headers=headers, **ids_of(request.scope)
    )
    # A wait that the application states itself stands: it may be a date, and on any status.
    kept = {name: text for name, text in headers.items() if name.lower() == "retry-after" and is_header(name, text)}
    return _make_response(request.scope, envelope, kept)


async def _on_invalid_request(request: Request, error: RequestValidationError) -> Response:
    return _make_response(request.scope, validation_envelope(violations_of(error.errors()), **ids_of(request.scope)))


async def _on_invalid_websocket(websocket: WebSocket, _error: WebSocketRequestValidationError) -> None:
    # FastAPI's own handler puts the inputs into the reason.
    await websocket.close(WS_1008_POLICY_VIOLATION, "invalid request")


_REPLACED: dict[type[Exception], tuple[Any, Handler]] = {
    HTTPException: (http_exception_handler, _on_http_exception),
    RequestValidationError: (request_validation_exception_handler, _on_invalid_request),
    WebSocketRequestValidationError: (websocket_request_validation_exception_handler, _on_invalid_websocket),
}
"""For each exception that FastAPI handles by default: its handler, and ours."""


class ErrorHandlers:
    """The handlers of one application: its own, and ours for the errors that it has none for.

    Args:
        app: The application; None, or one of another framework, has no handlers.
        resilience: The toolkit. Its setting `errors` decides the shape of our answers.
    """

    def __init__(self, app: object, resilience: Resilience) -> None:
        self._known: dict[Any, Any] = getattr(app, "exception_handlers", {})
        self._is_native = resilience.config.server.errors == "native"

    def register(self) -> None:
        """Register our handlers for all exceptions that the application has no handler of its own for."""
        known = self._known
        if not self._is_native:
            for kind, (default, ours) in _REPLACED.items():
                if known.get(kind, default) is default:
                    known[kind] = ours
        for kind in (*ANSWERS, ExceptionGroup):
            known.setdefault(kind, self._on_error)

    async def respond(self, connection: HTTPConnection, error: Exception) -> Response:
        """Return the response to any error that has left the application."""
        found = self._find(error)
        if found is not None:
            handler, handled = found
            response: Response = await _call_handler(handler, connection, handled)
            return response
        if self._is_native:  # as Starlette's own
            return PlainTextResponse("Internal Server Error", _FAULT)
        return _make_response(connection.scope, envelope_of(error, **ids_of(connection.scope)))

    async def _on_error(self, connection: HTTPConnection, error: Exception) -> Response | None:
        """Answer one of our errors, or an exception group as the worst error in it."""
        found = self._find(error)
        if found is None:
            raise error
        handler, handled = found
        response: Response | None = await _call_handler(handler, connection, handled)
        return response

    def _find(self, error: Exception) -> tuple[Handler, BaseException] | None:
        """Return the handler for an error, and the error to give to it: `error`, or the worst error of a group.

        None if the error is unhandled.
        """
        worst = _answering(error)
        for each in (error,) if worst is error else (error, worst):
            own = self._own_handler(each)
            if own is not None:
                return own, each
        if isinstance(worst, ANSWERS):
            return self._send, error
        default = [self._known[kind] for kind in _REPLACED if isinstance(worst, kind) and kind in self._known]
        return (default[0], worst) if default else None

    def _own_handler(self, error: BaseException) -> Handler | None:
        """Return the application's own handler for the status of an error, or for its nearest class, if it has one."""
        status = error.status_code if isinstance(error, HTTPException) else None
        for kind in (status, *type(error).__mro__):
            handler: Any = None if kind is Exception else self._known.get(kind)
            if handler is not None and not _is_default(handler):
                return cast("Handler", handler)
        return None

    async def _send(self, connection: HTTPConnection, error: Exception) -> Response | None:
        """Answer an error that is ours to answer."""
        worst = cast("ResilienceError", _answering(error))
        if isinstance(connection, WebSocket) and not _can_deny(connection):
            code = WS_1013_TRY_AGAIN_LATER if worst.retryable else WS_1011_INTERNAL_ERROR
            await connection.close(code, worst.code[:_MAX_REASON])
            return None
        ids = ids_of(connection.scope)
        if isinstance(error, ExceptionGroup):
            envelope = envelope_of_group(error, worst, **ids)
        else:
            envelope = envelope_of(error, **ids)
        if self._is_native and not isinstance(worst, AppError):
            return await self._send_native(connection, envelope)
        return _make_response(connection.scope, envelope)

    async def _send_native(self, connection: HTTPConnection, envelope: Envelope) -> Response | None:
        """Answer as if the application had raised an `HTTPException`."""
        languages = ", ".join(connection.headers.getlist("accept-language"))
        sent = sent_envelope(connection.scope.get(SCOPE_KEY), envelope, languages)
        refusal = FastAPIHTTPException(sent.http_status, sent.message, sent.response_headers())
        handler = self._own_handler(refusal) or http_exception_handler
        response: Response | None = await _call_handler(handler, connection, refusal)
        return response


def _answering(error: Exception) -> BaseException:
    """Return the error that decides the answer: the worst error of a group, any other error itself."""
    return worst_of(error, _status_of) if isinstance(error, ExceptionGroup) else error


def _is_default(handler: object) -> bool:
    """Return whether a handler is ours, or one that FastAPI itself has registered."""
    is_ours = isinstance(getattr(handler, "__self__", None), ErrorHandlers)
    return is_ours or any(handler is known for handlers in _REPLACED.values() for known in handlers)


def _can_deny(websocket: WebSocket) -> bool:
    """Return whether the handshake can still be answered with an HTTP response."""
    is_open = websocket.application_state is not WebSocketState.CONNECTING
    return not is_open and "websocket.http.response" in websocket.scope.get("extensions", {})


def _status_of(error: object) -> int | None:
    if isinstance(error, HTTPException):
        return error.status_code
    return _UNPROCESSABLE if isinstance(error, RequestValidationError | WebSocketRequestValidationError) else None


async def _call_handler(handler: Any, request: HTTPConnection, error: BaseException) -> Any:
    """Call an exception handler, which may be a coroutine function or not."""
    if inspect.iscoroutinefunction(handler) or inspect.iscoroutinefunction(getattr(handler, "__call__", None)):  # noqa: B004 - an object with an async __call__ is a handler too
        return await handler(request, error)
    return await run_in_threadpool(handler, request, error)


def adopt_error_handler(app: object) -> bool:
    """Return whether the application answers its unhandled errors itself, by a handler for 500 or by debug pages.

    Such a handler runs outside of all middleware, so it is wrapped here: its answers get the request id.
    """
    layer = error_layer_of(app)
    if layer is None:
        return False
    if layer.handler is not None:
        layer.handler = _HandlerWithRequestId(layer.handler)
    return layer.handler is not None or layer.debug


class _HandlerWithRequestId:
    """Calls the application's handler in the context of the request, and adds the request id to its answer."""

    def __init__(self, handler: object) -> None:
        self.handler = handler

    async def __call__(self, request: Request, error: Exception) -> Response:
        context = request.scope.get(SCOPE_KEY)
        if context is None:
            response: Response = await _call_handler(self.handler, request, error)
            return response
        with context:
            response = await _call_handler(self.handler, request, error)
        response.headers["X-Request-ID"] = context.request_id
        return response
