"""The error answers of an application, for its OpenAPI document."""

from __future__ import annotations

from typing import Any

from resilience import Resilience
from resilience.config import load
from resilience.envelope import ENVELOPE_SCHEMA, JSON_TYPE, PROBLEM_SCHEMA, PROBLEM_TYPE, title_of

__all__ = ("error_responses",)

_DOCUMENTED = (400, 422, 429, 500, 503, 504)
_REFUSALS = (429, 503, 504)
_INVALID, _FAULT = 422, 500
_NATIVE_SCHEMA = {
    "title": "HTTPException",
    "type": "object",
    "properties": {"detail": {"title": "Detail"}},
    "required": ["detail"],
}


def error_responses(*statuses: int, resilience: Resilience | None = None) -> dict[int | str, dict[str, Any]]:
    """Return the `responses=` of an application, router or route: its error bodies in its OpenAPI document.

    They follow the setting `errors`. With `json` or `problem` the body is the envelope. With 422 among the statuses,
    FastAPI leaves out its own description of validation errors, which would be wrong. With `native` the body is that of
    FastAPI's `HTTPException`, and FastAPI's own description of 422 stays.

    Args:
        statuses: The statuses to document, 400 to 599. By default 400, 422, 429, 500, 503 and 504; with `native` 429,
            503 and 504, which are the statuses of the toolkit's refusals.
        resilience: The toolkit whose setting counts; None for the environment.

    Raises:
        ConfigurationError: A status is no error, or the configuration is wrong.

    Example:
        >>> error_responses(429)[429]["description"]
        'Too Many Requests'
    """
    config = load() if resilience is None else Resilience.of(resilience).config
    if config.server.errors == "native":
        wanted = [status for status in statuses or _REFUSALS if status != _INVALID]
        return {status: {"description": title_of(status), "content": _native_content(status)} for status in wanted}
    content = {JSON_TYPE: {"schema": ENVELOPE_SCHEMA}, PROBLEM_TYPE: {"schema": PROBLEM_SCHEMA}}
    return {status: {"description": title_of(status), "content": content} for status in statuses or _DOCUMENTED}


def _native_content(status: int) -> dict[str, Any]:
    """Return the content of an answer of FastAPI itself: text for an unhandled error, else the `detail`."""
    return (
        {"text/plain": {"schema": {"type": "string"}}} if status == _FAULT else {JSON_TYPE: {"schema": _NATIVE_SCHEMA}}
    )
