"""Exceptions as responses: an envelope, unless the application has a handler of its own."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from fastapi import FastAPI
from fastapi.exception_handlers import (
    http_exception_handler,
    request_validation_exception_handler,
    websocket_request_validation_exception_handler,
)
from fastapi.exceptions import RequestValidationError, WebSocketRequestValidationError
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection, Request
from starlette.responses import Response
from starlette.status import WS_1008_POLICY_VIOLATION, WS_1011_INTERNAL_ERROR, WS_1013_TRY_AGAIN_LATER
from starlette.types import Scope
from starlette.websockets import WebSocket, WebSocketState

from resilience.envelope import (
    ANSWERS,
    ENVELOPE_SCHEMA,
    JSON_TYPE,
    PROBLEM_SCHEMA,
    PROBLEM_TYPE,
    Envelope,
    envelope_of,
    envelope_of_group,
    http_envelope,
    is_header,
    split_detail,
    title_of,
    validation_envelope,
    violations_of,
    worst_of,
)
from resilience.errors import ResilienceError
from resilience.server import envelope_ids, render_error
from resilience_fastapi._exchange import SCOPE_KEY
from resilience_fastapi._framework_internals import error_layer_of

__all__ = (
    "add_handlers",
    "adopt_error_handler",
    "call_handler",
    "error_responses",
    "find_handler",
    "ids_of",
    "make_response",
)

Handler = Callable[[Any, Any], Awaitable[Response | None]]

_FIRST_ERROR_STATUS, _UNPROCESSABLE = 400, 422
_MAX_REASON = 120


def ids_of(scope: Scope) -> dict[str, str]:
    """Return the ids of an envelope, as keyword arguments."""
    return envelope_ids(scope.get(SCOPE_KEY))


def make_response(scope: Scope, envelope: Envelope, kept: Mapping[str, str] | None = None) -> Response:
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
    return make_response(request.scope, envelope, kept)


async def _on_invalid_request(request: Request, error: RequestValidationError) -> Response:
    return make_response(request.scope, validation_envelope(violations_of(error.errors()), **ids_of(request.scope)))


async def _on_invalid_websocket(websocket: WebSocket, _error: WebSocketRequestValidationError) -> None:
    # FastAPI's own handler puts the inputs into the reason.
    await websocket.close(WS_1008_POLICY_VIOLATION, "invalid request")


async def _on_our_error(connection: HTTPConnection, error: ResilienceError) -> Response | None:
    return await _send_envelope(connection, error, envelope_of(error, **ids_of(connection.scope)))


async def _send_envelope(connection: HTTPConnection, error: ResilienceError, envelope: Envelope) -> Response | None:
    if isinstance(connection, WebSocket) and not _can_deny(connection):
        code = WS_1013_TRY_AGAIN_LATER if error.retryable else WS_1011_INTERNAL_ERROR
        await connection.close(code, error.code[:_MAX_REASON])
        return None
    return make_response(connection.scope, envelope)


def _can_deny(websocket: WebSocket) -> bool:
    """Return whether the handshake can still be answered with an HTTP response."""
    is_open = websocket.application_state is not WebSocketState.CONNECTING
    return not is_open and "websocket.http.response" in websocket.scope.get("extensions", {})


async def _on_group(connection: HTTPConnection, group: ExceptionGroup[Exception]) -> Response | None:
    """Answer an exception group as the worst error in it. If that error is unhandled, so is the group."""
    worst = worst_of(group, _status_of)
    handler = _own_handler(connection.scope.get("app"), worst)
    if handler is not None:
        response: Response | None = await call_handler(handler, connection, worst)
        return response
    if isinstance(worst, ANSWERS):
        envelope = envelope_of_group(group, worst, **ids_of(connection.scope))
        return await _send_envelope(connection, worst, envelope)
    raise group


def _status_of(error: object) -> int | None:
    if isinstance(error, HTTPException):
        return error.status_code
    return _UNPROCESSABLE if isinstance(error, RequestValidationError | WebSocketRequestValidationError) else None


_REPLACED: dict[type[Exception], tuple[Any, Handler]] = {
    HTTPException: (http_exception_handler, _on_http_exception),
    RequestValidationError: (request_validation_exception_handler, _on_invalid_request),
    WebSocketRequestValidationError: (websocket_request_validation_exception_handler, _on_invalid_websocket),
}
"""For each exception that FastAPI handles by default: its handler, and ours."""


def add_handlers(app: FastAPI) -> None:
    """Register our handlers for all exceptions that the application has no handler of its own for."""
    known: dict[Any, Any] = app.exception_handlers
    for kind, (default, ours) in _REPLACED.items():
        if known.get(kind, default) is default:
            known[kind] = ours
    for kind in ANSWERS:
        known.setdefault(kind, _on_our_error)
    known.setdefault(ExceptionGroup, _on_group)


def find_handler(app: object, error: Exception) -> tuple[Any, BaseException]:
    """Return the application's own handler and the error to give it: `error`, or the worst error of a group.

    The handler is None if the application has none.
    """
    handler, worst = _own_handler(app, error), worst_of(error)
    if handler is not None or worst is error:
        return handler, error
    return _own_handler(app, worst), worst


def _own_handler(app: object, error: BaseException) -> Any:
    known = getattr(app, "exception_handlers", {})
    kinds = type(error).__mro__[: -len(Exception.__mro__)]
    handler = next((known[kind] for kind in kinds if kind in known), None)
    return None if handler is _on_our_error or handler is _on_group else handler


async def call_handler(handler: Any, request: HTTPConnection, error: BaseException) -> Any:
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
            response: Response = await call_handler(self.handler, request, error)
            return response
        with context:
            response = await call_handler(self.handler, request, error)
        response.headers["X-Request-ID"] = context.request_id
        return response


_DOCUMENTED = (400, 422, 429, 500, 503, 504)


def error_responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return the `responses=` of an application, router or route: the envelope in its OpenAPI document.

    With 422 among them, FastAPI leaves out its own description of validation errors, which would be wrong.

    Args:
        statuses: The statuses to document, 400 to 599; by default 400, 422, 429, 500, 503 and 504.

    Raises:
        ConfigurationError: A status is no error.

    Example:
        >>> error_responses(429)[429]["description"]
        'Too Many Requests'
    """
    content = {JSON_TYPE: {"schema": ENVELOPE_SCHEMA}, PROBLEM_TYPE: {"schema": PROBLEM_SCHEMA}}
    return {status: {"description": title_of(status), "content": content} for status in statuses or _DOCUMENTED}
