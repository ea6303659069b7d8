"""Exceptions as envelopes, for an application that has not said otherwise: its own handlers stand."""

from __future__ import annotations

from typing import Any, cast

from flask import Flask, current_app, request
from werkzeug.exceptions import HTTPException, InternalServerError

from resilience.envelope import ANSWERS, envelope_of, envelope_of_group, http_envelope, told, worst_of
from resilience.errors import ResilienceError
from resilience_flask._answers import ids_of, respond

__all__ = ("add_handlers",)

_FIRST_ERROR_STATUS = 400


def add_handlers(app: Flask) -> None:
    """Answer with envelopes wherever the application has no handler; one it registers later takes our place."""
    known = app.error_handler_spec[None][None]
    for kind, handler in (
        (HTTPException, _on_http_exception),
        (ResilienceError, _on_our_error),
        (ExceptionGroup, _on_group),
    ):
        if kind not in known:
            app.register_error_handler(kind, handler)


def _on_http_exception(error: HTTPException) -> Any:
    if _is_trapped(error):
        raise error
    if error.code is None or error.code < _FIRST_ERROR_STATUS or _has_own_look(error):
        return error
    answer = _caught_all(error)
    return _enveloped(error, error.code) if answer is None else answer


def _is_trapped(error: HTTPException) -> bool:
    """Whether the application wants to see this one unhandled, as `TRAP_HTTP_EXCEPTIONS` says."""
    is_last_resort = isinstance(error, InternalServerError) and error.original_exception is not None
    return not is_last_resort and current_app.trap_http_exception(error)


def _has_own_look(error: HTTPException) -> bool:
    """Whether the application says what this one looks like, by a response or by a class of its own."""
    kind, plain = type(error), HTTPException
    return (
        error.response is not None or kind.get_body is not plain.get_body or kind.get_response is not plain.get_response
    )


def _caught_all(error: Exception) -> Any:
    """Return what a catch-all handler says, which would have been asked if we were not here; None without one."""
    handler = current_app.error_handler_spec[None][None].get(Exception)
    return None if handler is None else current_app.ensure_sync(handler)(error)


def _enveloped(error: HTTPException, status: int) -> Any:
    headers = [line for line in error.get_headers(request.environ) if line[0].lower() != "content-type"]
    message, details = told(_said(error))
    envelope = http_envelope(status, message=message, details=details, headers=dict(headers), **ids_of(request.environ))
    return respond(envelope, headers)


def _said(error: HTTPException) -> Any:
    """Return what the developer said; None where it is only the sentence every error of its class has."""
    usual = {
        getattr(kind, "description", None) for kind in type(error).__mro__ if kind.__module__.startswith("werkzeug")
    }
    try:
        return None if error.description in usual else error.description
    except TypeError:  # a description that cannot be in a set is nobody's class attribute
        return error.description


def _on_our_error(error: ResilienceError) -> Any:
    if isinstance(error, ANSWERS):
        return respond(envelope_of(error, **ids_of(request.environ)))
    answer = _caught_all(error)
    if answer is None:
        raise error
    return answer


def _on_group(group: ExceptionGroup[Any]) -> Any:
    """Answer an exception group as the worst error in it; an unhandled error among them leaves it unhandled."""
    worst = worst_of(group, _status_of)
    handler, kind = _handler_of(worst)
    if isinstance(worst, ANSWERS) and handler in {None, _on_our_error}:
        return respond(envelope_of_group(group, worst, **ids_of(request.environ)))
    if isinstance(worst, HTTPException) or (kind is not None and kind is not Exception):
        return current_app.handle_user_exception(cast("Exception", worst))
    if handler is None:
        raise group
    return current_app.ensure_sync(handler)(group)


def _status_of(error: Any) -> int | None:
    return error.code if isinstance(error, HTTPException) else None


def _handler_of(error: BaseException) -> tuple[Any, type[BaseException] | None]:
    """Return the handler that Flask would call for an error that is no HTTP error, and the class that it stands for."""
    for name in (*request.blueprints, None):
        known = current_app.error_handler_spec[name][None]
        for kind in type(error).__mro__:
            if issubclass(kind, Exception) and kind in known:
                return known[kind], kind
    return None, None
