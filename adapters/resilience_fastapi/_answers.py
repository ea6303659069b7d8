"""Errors as responses: an envelope in the shape the client asked for."""

from __future__ import annotations

from collections.abc import Mapping

from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import Scope

from resilience.envelope import Envelope, wants_problem
from resilience.server import RequestContext, ServerOptions
from resilience_fastapi._exchange import SCOPE_KEY

__all__ = ("context_of", "ids_of", "respond")

_DEFAULTS = ServerOptions()


def context_of(scope: Scope) -> RequestContext | None:
    """Return what the middleware knows about this request; None where it is not installed."""
    context: RequestContext | None = scope.get(SCOPE_KEY)
    return context


def ids_of(scope: Scope) -> dict[str, str]:
    """Return the ids an envelope carries."""
    context = context_of(scope)
    if context is None:
        return {"request_id": "", "trace_id": ""}
    return {"request_id": context.request_id, "trace_id": context.trace_id}


def respond(scope: Scope, envelope: Envelope, kept: Mapping[str, str] | None = None) -> Response:
    """Return the response for `envelope`; headers in `kept` stand as they are, whatever the envelope would say."""
    context, headers = context_of(scope), Headers(scope=scope)
    options = _DEFAULTS
    if context is not None and context.gate is not None:
        options = context.gate.options
        envelope = context.gate.localized(envelope, ", ".join(headers.getlist("accept-language")))
    envelope = envelope.bounded(options.retry_after_max)
    accept = ", ".join(headers.getlist("accept"))
    body, content_type = envelope.render(
        problem=wants_problem(accept, options.errors == "problem"), type_base=options.problem_type_base
    )
    response = Response(body, envelope.http_status, envelope.response_headers())
    for name, value in (kept or {}).items():
        response.headers[name] = value
    response.headers["Content-Type"] = content_type
    response.headers.add_vary_header("Accept")
    return response
