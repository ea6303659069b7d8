"""Exceptions as responses: an envelope, unless the application has a handler of its own."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, TypeAlias, cast

from flask import Flask, Response, current_app, got_request_exception, request
from werkzeug.exceptions import HTTPException, InternalServerError

from resilience.envelope import ANSWERS, Envelope, envelope_of, envelope_of_group, http_envelope, split_detail, worst_of
from resilience.errors import ResilienceError, one_line
from resilience.server import envelope_ids, render_error
from resilience_flask._flask_internals import app_handlers, handler_for, has_own_body

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment

__all__ = ("CONTEXT", "HeaderList", "add_handlers", "path_of", "stream_error")

HeaderList: TypeAlias = "list[tuple[str, str]]"

CONTEXT = "resilience.context"
"""The key of the `RequestContext` in the WSGI environ."""

_FIRST_ERROR_STATUS = 400


def _ids() -> dict[str, str]:
    return envelope_ids(request.environ.get(CONTEXT))


def _render(environ: WSGIEnvironment, envelope: Envelope) -> tuple[bytes, dict[str, str]]:
    accept, accept_language = environ.get("HTTP_ACCEPT"), environ.get("HTTP_ACCEPT_LANGUAGE")
    return render_error(environ.get(CONTEXT), envelope, accept=accept, accept_language=accept_language)


def _make_response(envelope: Envelope, kept: Iterable[tuple[str, str]] = ()) -> Response:
    """Return the response for `envelope`. Headers in `kept` replace those of the envelope."""
    body, headers = _render(request.environ, envelope)
    response = current_app.response_class(body, envelope.http_status, headers)
    given = list(kept)
    for name, _ in given:
        response.headers.remove(name)
    for name, value in given:
        response.headers.add(name, value)
    response.vary.add("Accept")
    return response


def add_handlers(app: Flask) -> None:
    """Register our handlers if the application has none. A handler that it registers later takes their place."""
    known = app_handlers(app)
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
    if error.code is None or error.code < _FIRST_ERROR_STATUS or has_own_body(error):
        return error
    handled = _call_catch_all(error)
    if handled is not None:
        return handled
    headers = [line for line in error.get_headers(request.environ) if line[0].lower() != "content-type"]
    message, details = split_detail(_own_description(error))
    envelope = http_envelope(error.code, message=message, details=details, headers=dict(headers), **_ids())
    return _make_response(envelope, headers)


def _is_trapped(error: HTTPException) -> bool:
    """Return whether the application wants this error to be unhandled (`TRAP_HTTP_EXCEPTIONS`)."""
    is_last_resort = isinstance(error, InternalServerError) and error.original_exception is not None
    return not is_last_resort and current_app.trap_http_exception(error)


def _call_catch_all(error: Exception) -> Any:
    """Return the answer of the application's handler for all exceptions, which ours must not hide; None without it."""
    handler = app_handlers(current_app).get(Exception)
    return None if handler is None else current_app.ensure_sync(handler)(error)


def _own_description(error: HTTPException) -> object:
    """Return the description that the developer wrote; None if it is the standard text of the error's class."""
    standard = {
        getattr(kind, "description", None) for kind in type(error).__mro__ if kind.__module__.startswith("werkzeug")
    }
    try:
        return None if error.description in standard else error.description
    except TypeError:  # a description that is not hashable is no attribute of a class
        return error.description


def _on_our_error(error: ResilienceError) -> Any:
    if isinstance(error, ANSWERS):
        return _make_response(envelope_of(error, **_ids()))
    handled = _call_catch_all(error)
    if handled is None:
        raise error
    return handled


def _on_group(group: ExceptionGroup[Exception]) -> Any:
    """Answer an exception group as the worst error in it. If that error is unhandled, so is the group."""
    worst = worst_of(group, _status_of)
    handler, kind = handler_for(worst)
    if isinstance(worst, ANSWERS) and handler in {None, _on_our_error}:
        return _make_response(envelope_of_group(group, worst, **_ids()))
    if isinstance(worst, HTTPException) or (kind is not None and kind is not Exception):
        return current_app.handle_user_exception(cast("Exception", worst))
    if handler is None:
        raise group
    return current_app.ensure_sync(handler)(group)


def _status_of(error: object) -> int | None:
    return error.code if isinstance(error, HTTPException) else None


_BODY_HEADERS = frozenset(
    {
        "accept-ranges",
        "cache-control",
        "content-digest",
        "content-disposition",
        "content-encoding",
        "content-language",
        "content-length",
        "content-location",
        "content-md5",
        "content-range",
        "content-type",
        "digest",
        "etag",
        "expires",
        "last-modified",
        "repr-digest",
        "retry-after",
    }
)
"""The headers that describe the body. A list, because not all names that begin with `content-` do: see
`Content-Security-Policy`."""


def stream_error(
    app: Flask, environ: WSGIEnvironment, error: Exception, given: HeaderList
) -> tuple[bytes, tuple[str, HeaderList]]:
    """Return body, status and headers for a stream that has failed before any part of it was sent.

    Flask has finished the request by then, so this function acts as Flask does for an unhandled error. It keeps
    the `given` headers that do not describe the body: CORS, cookies, ids.
    """
    if not isinstance(worst_of(error), ANSWERS):
        _report(app, environ, error)
    envelope = envelope_of(error, **envelope_ids(environ.get(CONTEXT)))
    body, own = _render(environ, envelope)
    own["Content-Length"] = str(len(body))
    dropped = _BODY_HEADERS.union(name.lower() for name in own) - {"vary"}
    kept = [(name, value) for name, value in given if name.lower() not in dropped]
    status = f"{envelope.http_status} {_reason(envelope.http_status)}"
    return body, (status, [*kept, *own.items(), ("Vary", "Accept")])


def _report(app: Flask, environ: WSGIEnvironment, error: Exception) -> None:
    got_request_exception.send(app, _async_wrapper=app.ensure_sync, exception=error)
    propagates = app.config["PROPAGATE_EXCEPTIONS"]
    if propagates or (propagates is None and (app.testing or app.debug)):
        raise error
    method, path = environ["REQUEST_METHOD"], path_of(environ)
    app.logger.error("Exception on %s [%s], in the body", one_line(path), one_line(method), exc_info=sys.exc_info())


def _reason(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Unknown"


def path_of(environ: WSGIEnvironment) -> str:
    """Return the path of a request as text: PEP 3333 passes its bytes as if they were latin-1."""
    path: str = environ.get("PATH_INFO", "")
    return path if path.isascii() else path.encode("latin-1").decode("utf-8", "replace")
