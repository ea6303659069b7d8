"""Refusals as HTTP errors of Werkzeug, for applications that keep the bodies of Flask (`errors=native`)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from werkzeug.exceptions import HTTPException, ServiceUnavailable, TooManyRequests, default_exceptions

from resilience.envelope import Envelope

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment
    from werkzeug.wrappers import Response

__all__ = ("native_response", "refusal_of")


def refusal_of(sent: Envelope) -> HTTPException:
    """Return the HTTP error with the status, the message and the wait of a refusal."""
    error = default_exceptions.get(sent.http_status, HTTPException)(description=sent.message)
    error.code = sent.http_status  # Werkzeug has no class for some statuses, such as 499
    wait = sent.response_headers().get("Retry-After")
    if wait is not None and isinstance(error, TooManyRequests | ServiceUnavailable):
        error.retry_after = int(wait)
    return error


def native_response(error: HTTPException, sent: Envelope, environ: WSGIEnvironment) -> Response:
    """Return the response of Werkzeug itself to `error`, with the headers of the refusal."""
    response = error.get_response(environ)
    response.headers.update(sent.response_headers())
    return response
