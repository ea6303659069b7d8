"""A remote service's error body as the `AppError` it was made from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from resilience.envelope import ErrorCatalog, read_envelope

__all__ = ("LARGEST", "fits", "may_be_envelope", "raise_for_envelope")

R = TypeVar("R")
LARGEST = 1_048_576
"""Bytes of a body that are read in search of an envelope."""
_IS_ERROR = 400
_JSON = "json"


def may_be_envelope(status: int, headers: Mapping[str, str]) -> bool:
    """Whether an answer with such a head is an error that may hold an envelope; names are found in any case."""
    is_json = _JSON in headers.get("Content-Type", "").lower()
    return status >= _IS_ERROR and is_json and fits(headers, LARGEST, unknown=True)


def fits(headers: Mapping[str, str], most: int, *, unknown: bool = False) -> bool:
    """Whether a body has no more than `most` bytes; `unknown` is the answer where its head does not say."""
    text = headers.get("Content-Length", "")
    return float(text) <= most if text.isascii() and text.isdecimal() else unknown


def raise_for_envelope(response: R, *, catalog: ErrorCatalog | None = None) -> R:
    """Return `response` (of httpx or requests) unless it is an error.

    An error with one of our envelopes is raised as the `AppError` it was made from, with what `catalog` knows of its
    code; any other one as `response.raise_for_status()` would. Read a streamed response of httpx first.
    """
    answer: Any = response
    if answer.status_code < _IS_ERROR:
        return response
    error = read_envelope(answer.status_code, answer.content, answer.headers, catalog=catalog)
    if error is not None:
        raise error
    answer.raise_for_status()
    return response
