"""Exceptions as responses: the handlers of the application are asked first, then ours.

The order is Flask's, with our handlers behind all handlers of the application: for the status (of the blueprint, then
of the application), then for the nearest class (in the same order). So an error that is ours and also another
library's goes to the application's handler for the class of that library. The application's handler for `Exception` is
the last resort: it gets the errors that no other handler answers, and no refusals.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from http import HTTPStatus
from typing import TYPE_CHECKING, TypeAlias

from flask import Flask, Response, current_app, got_request_exception, request
from flask.typing import ErrorHandlerCallable, ResponseReturnValue
from werkzeug.exceptions import HTTPException, InternalServerError

from resilience import AppError, Resilience
from resilience.envelope import ANSWERS, Envelope, envelope_of, envelope_of_group, http_envelope, split_detail, worst_of
from resilience.errors import ResilienceError, one_line
from resilience.server import envelope_ids, render_error, sent_envelope
from resilience_flask._flask_internals import app_handlers, handler_for, has_own_body, last_resort
from resilience_flask._native import native_response, refusal_of

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


def add_handlers(app: Flask, resilience: Resilience) -> None:
    """Register our handlers if the application has none. A handler that it registers later takes their place."""
    known = app_handlers(app)
    for kind, handler in _OURS.items():
        if kind not in known and (kind is not HTTPException or not _is_native(resilience)):
            app.register_error_handler(kind, handler)


def _is_native(resilience: Resilience) -> bool:
    """Return whether the bodies of Flask stay: refusals are HTTP errors of Werkzeug then."""
    return resilience.config.server.errors == "native"


def _on_http_exception(error: HTTPException) -> ResponseReturnValue:
    handler = _own_handler(error) or last_resort()
    if handler is not None:
        return _call(handler, error)
    if _is_trapped(error):
        raise error
    if error.code is None or error.code < _FIRST_ERROR_STATUS or has_own_body(error):
        return error
    headers = [line for line in error.get_headers(request.environ) if line[0].lower() != "content-type"]
    message, details = split_detail(_own_description(error))
    envelope = http_envelope(error.code, message=message, details=details, headers=dict(headers), **_ids())
    return _make_response(envelope, headers)


def _own_handler(error: BaseException) -> ErrorHandlerCallable | None:
    """Return the application's own handler for the nearest class of an error, below `Exception`; None without one."""
    return handler_for(error, _OURS.values())


def _call(handler: ErrorHandlerCallable, error: BaseException) -> ResponseReturnValue:
    """Call a handler of either colour, as Flask does."""
    answer: ResponseReturnValue = current_app.ensure_sync(handler)(error)
    return answer


def _is_trapped(error: HTTPException) -> bool:
    """Return whether the application wants this error to be unhandled (`TRAP_HTTP_EXCEPTIONS`)."""
    is_last_resort = isinstance(error, InternalServerError) and error.original_exception is not None
    return not is_last_resort and current_app.trap_http_exception(error)


def _own_description(error: HTTPException) -> object:
    """Return the description that the developer wrote; None if it is the standard text of the error's class."""
    standard = {
        getattr(kind, "description", None) for kind in type(error).__mro__ if kind.__module__.startswith("werkzeug")
    }
    try:
        return None if error.description in standard else error.description
    except TypeError:  # a description that is not hashable is no attribute of a class
        return error.description


def _on_our_error(error: ResilienceError) -> ResponseReturnValue:
    is_answer = isinstance(error, ANSWERS)
    handler = _own_handler(error) or (None if is_answer else last_resort())
    if handler is not None:
        return _call(handler, error)
    if not is_answer:
        raise error
    return _answer(error, envelope_of(error, **_ids()))


def _on_group(group: ExceptionGroup[Exception]) -> ResponseReturnValue:
    """Answer an exception group as the worst error in it. If that error is unhandled, so is the group."""
    worst = worst_of(group, _status_of)
    for error in (group, worst):
        handler = _own_handler(error)
        if handler is not None:
            return _call(handler, error)
    if isinstance(worst, HTTPException):
        return current_app.handle_user_exception(worst)
    if isinstance(worst, ANSWERS):
        return _answer(worst, envelope_of_group(group, worst, **_ids()))
    handler = last_resort()
    if handler is None:
        raise group
    return _call(handler, group)


_OURS: dict[type[Exception], ErrorHandlerCallable] = {
    HTTPException: _on_http_exception,
    ResilienceError: _on_our_error,
    ExceptionGroup: _on_group,
}
"""Our handlers, by the class that they are registered for."""


def _answer(error: ResilienceError, envelope: Envelope) -> ResponseReturnValue:
    """Return the answer to an error that is ours to answer."""
    if isinstance(error, AppError) or not _is_native(current_app.extensions["resilience"]):
        return _make_response(envelope)
    sent = _sent(request.environ, envelope)
    refusal = refusal_of(sent)
    handled = current_app.handle_http_exception(refusal)  # the application may have a handler for the status
    return native_response(refusal, sent, request.environ) if handled is refusal else handled


def _sent(environ: WSGIEnvironment, envelope: Envelope) -> Envelope:
    return sent_envelope(environ.get(CONTEXT), envelope, environ.get("HTTP_ACCEPT_LANGUAGE"))


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
    worst = worst_of(error)
    if not isinstance(worst, ANSWERS):
        _report(app, environ, error)
    envelope = envelope_of(error, **envelope_ids(environ.get(CONTEXT)))
    if _is_native(app.extensions["resilience"]) and not isinstance(worst, AppError):
        sent = _sent(environ, envelope)
        refusal = refusal_of(sent) if isinstance(worst, ANSWERS) else InternalServerError()
        response = native_response(refusal, sent, environ)
        body, own = response.get_data(), list(response.headers)
    else:
        body, headers = _render(environ, envelope)
        own = [*headers.items(), ("Content-Length", str(len(body))), ("Vary", "Accept")]
    dropped = _BODY_HEADERS.union(name.lower() for name, _ in own) - {"vary"}
    kept = [(name, value) for name, value in given if name.lower() not in dropped]
    return body, (f"{envelope.http_status} {_reason(envelope.http_status)}", [*kept, *own])


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
