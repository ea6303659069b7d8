"""The answer to an error, for any web framework: the error as this client reads it best, and the body for it."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

from resilience.envelope import wants_problem
from resilience.server._options import ServerOptions

if TYPE_CHECKING:
    from resilience.envelope import Envelope
    from resilience.server._context import RequestContext

__all__ = ("envelope_ids", "render_error", "sent_envelope")

_DEFAULTS = ServerOptions()
_MAX_CACHED_HEADER = 256


def envelope_ids(context: RequestContext | None) -> dict[str, str]:
    """Return the ids of an envelope, as keyword arguments; empty without a context."""
    if context is None:
        return {"request_id": "", "trace_id": ""}
    return {"request_id": context.request_id, "trace_id": context.trace_id}


def sent_envelope(context: RequestContext | None, envelope: Envelope, accept_language: str | None) -> Envelope:
    """Return an error as its client gets it: in its language, with a bounded wait.

    Args:
        context: The request; None if no gate has received it, so that default options apply.
        envelope: The error.
        accept_language: The `Accept-Language` header: it decides the language of the message.
    """
    gate = None if context is None else context.gate
    if gate is None:
        return envelope.bounded(_DEFAULTS.retry_after_max)
    return gate.localized(envelope, accept_language).bounded(gate.options.retry_after_max)


def render_error(
    context: RequestContext | None, envelope: Envelope, *, accept: str | None, accept_language: str | None
) -> tuple[bytes, dict[str, str]]:
    """Return the body of an error, and the headers that belong to the body.

    Args:
        context: The request; None if no gate has received it, so that default options apply.
        envelope: The error.
        accept: The `Accept` header: it decides between an envelope and `application/problem+json`.
        accept_language: The `Accept-Language` header: it decides the language of the message.
    """
    gate = None if context is None else context.gate
    options = _DEFAULTS if gate is None else gate.options
    envelope = sent_envelope(context, envelope, accept_language)
    prefers = wants_problem if accept is None or len(accept) > _MAX_CACHED_HEADER else _cached_wants_problem
    body, content_type = envelope.render(
        problem=prefers(accept, options.errors == "problem"), type_base=options.problem_type_base
    )
    return body, {**envelope.response_headers(), "Content-Type": content_type}


_cached_wants_problem = lru_cache(maxsize=256)(wants_problem)
