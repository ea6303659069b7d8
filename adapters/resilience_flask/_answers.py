"""Errors as responses: an envelope in the shape the client asked for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from flask import Response, current_app, request

from resilience.envelope import Envelope, wants_problem
from resilience.server import RequestContext, ServerOptions

__all__ = ("CONTEXT", "context_of", "ids_of", "rendered", "respond")

CONTEXT = "resilience.context"
"""Where the request's `RequestContext` stands in the WSGI environ."""

_DEFAULTS = ServerOptions()


def context_of(environ: Mapping[str, Any]) -> RequestContext | None:
    """Return what the layer knows about this request; None where it is not installed."""
    context: RequestContext | None = environ.get(CONTEXT)
    return context


def ids_of(environ: Mapping[str, Any]) -> dict[str, str]:
    """Return the ids an envelope carries."""
    context = context_of(environ)
    if context is None:
        return {"request_id": "", "trace_id": ""}
    return {"request_id": context.request_id, "trace_id": context.trace_id}


def rendered(environ: Mapping[str, Any], envelope: Envelope) -> tuple[bytes, dict[str, str]]:
    """Return the body, in the shape and language this client wants, and the headers that belong to it."""
    context, options = context_of(environ), _DEFAULTS
    if context is not None and context.gate is not None:
        options = context.gate.options
        envelope = context.gate.localized(envelope, environ.get("HTTP_ACCEPT_LANGUAGE"))
    envelope = envelope.bounded(options.retry_after_max)
    is_problem = wants_problem(environ.get("HTTP_ACCEPT"), options.errors == "problem")
    body, content_type = envelope.render(problem=is_problem, type_base=options.problem_type_base)
    return body, {**envelope.response_headers(), "Content-Type": content_type}


def respond(envelope: Envelope, kept: Iterable[tuple[str, str]] = ()) -> Response:
    """Return the response for `envelope`; headers in `kept` stand as they are, whatever the envelope would say."""
    body, headers = rendered(request.environ, envelope)
    response = current_app.response_class(body, envelope.http_status, headers)
    given = list(kept)
    for name, _ in given:
        response.headers.remove(name)
    for name, value in given:
        response.headers.add(name, value)
    response.vary.add("Accept")
    return response
