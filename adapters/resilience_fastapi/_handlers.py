"""Exceptions as envelopes, for an application that has not said otherwise: its own handlers stand."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from fastapi import FastAPI
from fastapi.exception_handlers import (
    http_exception_handler,
    request_validation_exception_handler,
    websocket_request_validation_exception_handler,
)
from fastapi.exceptions import RequestValidationError, WebSocketRequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection, Request
from starlette.responses import Response
from starlette.status import WS_1008_POLICY_VIOLATION, WS_1011_INTERNAL_ERROR, WS_1013_TRY_AGAIN_LATER
from starlette.websockets import WebSocket, WebSocketState

from resilience.envelope import (
    ANSWERS,
    Envelope,
    envelope_of,
    envelope_of_group,
    http_envelope,
    is_header,
    told,
    validation_envelope,
    violations_of,
    worst_of,
)
from resilience.errors import ResilienceError
from resilience_fastapi._answers import ids_of, respond
from resilience_fastapi._faults import call

__all__ = ("add_handlers", "own_handler", "own_handler_within")

Answerer = Callable[[Any, Any], Awaitable[Response | None]]

_FIRST_ERROR_STATUS, _UNPROCESSABLE = 400, 422


async def _on_http_exception(request: Request, error: HTTPException) -> Response:
    if error.status_code < _FIRST_ERROR_STATUS:  # a redirect raised as an exception, or 304: not an error
        return await http_exception_handler(request, error)
    headers = error.headers or {}
    message, details = told(error.detail)
    envelope = http_envelope(
        error.status_code, message=message, details=details, headers=headers, **ids_of(request.scope)
    )
    return respond(request.scope, envelope, _kept(headers))


def _kept(headers: Mapping[str, str]) -> dict[str, str]:
    """Return a wait the application stated itself: it may be a date, and on any status."""
    return {name: value for name, value in headers.items() if name.lower() == "retry-after" and is_header(name, value)}


async def _on_invalid_request(request: Request, error: RequestValidationError) -> Response:
    return respond(request.scope, validation_envelope(violations_of(error.errors()), **ids_of(request.scope)))


async def _on_invalid_websocket(websocket: WebSocket, _error: WebSocketRequestValidationError) -> None:
    # FastAPI's own handler puts the inputs into the reason.
    await websocket.close(WS_1008_POLICY_VIOLATION, "invalid request")


async def _on_answered(connection: HTTPConnection, error: ResilienceError) -> Response | None:
    return await _answered(connection, error, envelope_of(error, **ids_of(connection.scope)))


async def _answered(connection: HTTPConnection, error: ResilienceError, envelope: Envelope) -> Response | None:
    if isinstance(connection, WebSocket) and not _can_deny(connection):
        await connection.close(WS_1013_TRY_AGAIN_LATER if error.retryable else WS_1011_INTERNAL_ERROR, error.code[:120])
        return None
    return respond(connection.scope, envelope)


async def _on_group(connection: HTTPConnection, group: ExceptionGroup[Any]) -> Response | None:
    """Answer an exception group as the worst error in it; an unhandled error among them leaves it unhandled."""
    worst = worst_of(group, _status_of)
    handler = own_handler(connection.scope.get("app"), worst)
    if handler is not None:
        answer: Response | None = await call(handler, connection, worst)
        return answer
    if isinstance(worst, ANSWERS):
        envelope = envelope_of_group(group, worst, **ids_of(connection.scope))
        return await _answered(connection, worst, envelope)
    raise group


def _status_of(error: Any) -> int | None:
    if isinstance(error, HTTPException):
        return error.status_code
    return _UNPROCESSABLE if isinstance(error, RequestValidationError | WebSocketRequestValidationError) else None


def _can_deny(websocket: WebSocket) -> bool:
    """Whether the handshake can still be answered with an HTTP response."""
    is_open = websocket.application_state is not WebSocketState.CONNECTING
    return not is_open and "websocket.http.response" in websocket.scope.get("extensions", {})


_REPLACED: dict[type[Exception], tuple[Any, Answerer]] = {
    HTTPException: (http_exception_handler, _on_http_exception),
    RequestValidationError: (request_validation_exception_handler, _on_invalid_request),
    WebSocketRequestValidationError: (websocket_request_validation_exception_handler, _on_invalid_websocket),
}
"""For each exception FastAPI handles by default: its handler, and ours."""


def add_handlers(app: FastAPI) -> None:
    """Answer with envelopes wherever the application still has FastAPI's own handler, or none."""
    known: dict[Any, Any] = app.exception_handlers
    for kind, (default, ours) in _REPLACED.items():
        if known.get(kind, default) is default:
            known[kind] = ours
    for kind in ANSWERS:
        known.setdefault(kind, _on_answered)
    known.setdefault(ExceptionGroup, _on_group)


def own_handler(app: Any, error: BaseException) -> Any:
    """Return the handler the application registered for `error`, or for a class above it; None where it did not."""
    known = getattr(app, "exception_handlers", {})
    kinds = type(error).__mro__[: -len(Exception.__mro__)]
    handler = next((known[kind] for kind in kinds if kind in known), None)
    return None if handler is _on_answered or handler is _on_group else handler


def own_handler_within(app: Any, error: Exception) -> tuple[Any, Any]:
    """Return the application's handler and the error it takes: `error` itself, or the worst one of a group."""
    handler, worst = own_handler(app, error), worst_of(error)
    if handler is not None or worst is error:
        return handler, error
    return own_handler(app, worst), worst
