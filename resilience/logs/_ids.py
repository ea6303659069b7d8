"""The ids that connect a line with its request and its trace."""

from __future__ import annotations

import functools
import sys
from typing import NamedTuple

from resilience._support.printable import one_line
from resilience.server import current_request
from resilience.server._trace import TRACEPARENT, trace_of

__all__ = ("LineIds", "current_ids")

_LONGEST_ID = 128
_SAMPLED = 0x01
"""A bit of the trace flags. They are no number to compare: bit 1 says that the trace id is random."""

_known_trace = functools.lru_cache(maxsize=256)(trace_of)  # a request writes several lines


class LineIds(NamedTuple):
    """The ids of the request that is served, and of the span that is open; "" if there is none."""

    request_id: str = ""
    trace_id: str = ""
    """32 hexadecimal characters."""
    span_id: str = ""
    """16 hexadecimal characters: the open span of OpenTelemetry, else the span of the client that sent the request."""
    is_sampled: bool | None = None
    """Whether the trace is recorded; None without a trace."""


def current_ids() -> LineIds:
    """Return the ids of the present context.

    The open span of OpenTelemetry has precedence, if the application uses OpenTelemetry. Without it, the trace is that
    of the `traceparent` header of the request.
    """
    context = current_request()
    request_id = "" if context is None else _safe(context.request_id)
    trace = sys.modules.get("opentelemetry.trace")
    if trace is not None:
        span = trace.get_current_span().get_span_context()
        if span.is_valid:
            is_sampled = bool(span.trace_flags & _SAMPLED)
            return LineIds(request_id, f"{span.trace_id:032x}", f"{span.span_id:016x}", is_sampled)
    if context is None:
        return _NO_IDS
    if not context.trace_id:
        return LineIds(request_id)
    found = _known_trace(context.headers.get(TRACEPARENT, ""))
    if found is None or found.trace_id != context.trace_id:
        return LineIds(request_id, _safe(context.trace_id))
    return LineIds(request_id, found.trace_id, found.parent_id, bool(found.flags & _SAMPLED))


_NO_IDS = LineIds()


def _safe(text: object) -> str:
    """Return an id as it is, if it is fit for a line: code of the service may have replaced it."""
    is_fit = type(text) is str and len(text) <= _LONGEST_ID and text.isprintable()
    return text if is_fit else one_line(text, _LONGEST_ID)  # type: ignore[return-value]  # narrowed by the condition
