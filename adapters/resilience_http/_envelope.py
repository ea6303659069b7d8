"""A remote service's error body as the `AppError` it was made from."""

from __future__ import annotations

from typing import Any, TypeVar

from resilience.envelope import ErrorCatalog, read_envelope

__all__ = ("IS_ERROR", "raise_for_envelope")

R = TypeVar("R")
IS_ERROR = 400


def raise_for_envelope(response: R, *, catalog: ErrorCatalog | None = None) -> R:
    """Return `response` (of httpx or requests) unless it is an error.

    An error with one of our envelopes is raised as the `AppError` it was made from, with what `catalog` knows of its
    code; any other one as `response.raise_for_status()` would. Read a streamed response of httpx first.
    """
    answer: Any = response
    if answer.status_code < IS_ERROR:
        return response
    error = read_envelope(answer.status_code, answer.content, answer.headers, catalog=catalog)
    if error is not None:
        raise error
    answer.raise_for_status()
    return response
