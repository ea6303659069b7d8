"""The envelope in OpenAPI documents."""

from __future__ import annotations

from typing import Any

from resilience.envelope import ENVELOPE_SCHEMA, JSON_TYPE, PROBLEM_SCHEMA, PROBLEM_TYPE, title_of

__all__ = ("error_responses",)

_USUAL = (400, 422, 429, 500, 503, 504)


def error_responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return what `responses=` of an app, router or route wants, for `statuses` (default 400, 422, 429, 500, 503, 504).

    With 422 in it, FastAPI leaves out its own description of validation errors, which would be wrong. Raises
    `ConfigurationError` for a status that is no error, 400 to 599.
    """
    return {status: _described(status) for status in statuses or _USUAL}


def _described(status: int) -> dict[str, Any]:
    content = {JSON_TYPE: {"schema": ENVELOPE_SCHEMA}, PROBLEM_TYPE: {"schema": PROBLEM_SCHEMA}}
    return {"description": title_of(status), "content": content}
