"""JSON Schema of both bodies, and the titles of their statuses, for OpenAPI documents."""

from __future__ import annotations

from typing import Any

from resilience.envelope._machine import is_error_status, meaning_of
from resilience.errors import ConfigurationError, Problem

__all__ = ("ENVELOPE_SCHEMA", "PROBLEM_SCHEMA", "title_of")

_CODE = {
    "type": "string",
    "pattern": "^[A-Z][A-Z0-9_]*[A-Z0-9]$",
    "maxLength": 63,
    "description": "What happened, as a constant a program can rely on.",
}
_DETAILS = {"type": "object", "additionalProperties": True, "description": "Facts about this error."}
_REQUEST = {"type": "string", "description": "Names this request in the service's logs."}
_TRACE = {"type": "string", "description": "The distributed trace this request belongs to, or empty."}
_WAIT = {"type": "number", "minimum": 0, "description": "Seconds after which trying again makes sense."}

ENVELOPE_SCHEMA: dict[str, Any] = {
    "title": "Error",
    "type": "object",
    "required": ["code", "message", "details", "request_id", "trace_id", "retry_after"],
    "properties": {
        "code": _CODE,
        "message": {"type": "string", "description": "What happened, for people."},
        "details": _DETAILS,
        "request_id": _REQUEST,
        "trace_id": _TRACE,
        "retry_after": {**_WAIT, "type": ["number", "null"]},
    },
}
"""The default body, `application/json`. Copy it before changing it."""

PROBLEM_SCHEMA: dict[str, Any] = {
    "title": "Problem",
    "type": "object",
    "required": ["type", "title", "status", "detail", "code", "details", "request_id", "trace_id"],
    "properties": {
        "type": {"type": "string", "format": "uri-reference"},
        "title": {"type": "string"},
        "status": {"type": "integer", "minimum": 400, "maximum": 599},
        "detail": {"type": "string"},
        "instance": {"type": "string", "format": "uri-reference"},
        "code": _CODE,
        "details": _DETAILS,
        "request_id": _REQUEST,
        "trace_id": _TRACE,
        "retry_after": _WAIT,
    },
}
"""The RFC 9457 body, `application/problem+json`. Copy it before changing it."""


def title_of(status: int) -> str:
    """Return the title of a problem with this status. Raises `ConfigurationError` if it is not 400 to 599."""
    if not is_error_status(status):
        raise ConfigurationError([Problem("status", status, "a whole number from 400 to 599")])
    return meaning_of(status).title
