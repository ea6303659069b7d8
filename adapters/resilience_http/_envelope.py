"""The error body of a remote service, as the `AppError` that the service raised."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from resilience.envelope import ErrorCatalog, read_envelope
from resilience.errors import joined_with, said_by

__all__ = ("MAX_ENVELOPE", "fits", "may_be_envelope", "raise_for_envelope")

R = TypeVar("R")
MAX_ENVELOPE = 1_048_576
"""Bytes of a body that are read to find an envelope."""
_IS_ERROR = 400
_JSON = "json"


def may_be_envelope(status: int, headers: Mapping[str, str]) -> bool:
    """Return whether a response with this status and these headers is an error that may hold an envelope."""
    is_json = _JSON in headers.get("Content-Type", "").lower()
    return status >= _IS_ERROR and is_json and fits(headers, MAX_ENVELOPE, unknown=True)


def fits(headers: Mapping[str, str], max_bytes: int, *, unknown: bool = False) -> bool:
    """Return whether a body has at most `max_bytes`; `unknown` if the headers do not state its length."""
    text = headers.get("Content-Length", "")
    return float(text) <= max_bytes if text.isascii() and text.isdecimal() else unknown


def raise_for_envelope(response: R, *, catalog: ErrorCatalog | None = None) -> R:
    """Return `response`, or raise if it is an error.

    Args:
        response: A response of httpx or requests. Read a streamed response of httpx first.
        catalog: The catalog that knows the codes of the remote service; None to take all facts from the envelope.

    Raises:
        AppError: The body is one of our envelopes. The error has the code, message and details that the service gave.
            It is also the error that `response.raise_for_status()` raises.
        Exception: Any other error, raised by `response.raise_for_status()`.
    """
    answer: Any = response
    if answer.status_code < _IS_ERROR:
        return response
    error = read_envelope(answer.status_code, answer.content, answer.headers, catalog=catalog)
    try:
        answer.raise_for_status()
    except Exception as theirs:
        if error is None:
            raise
        if said_by(theirs, "response") is not response:  # httpx: without a request there is no error of its status
            raise error from None
        facts = {"request": said_by(theirs, "request"), "response": response}
        raise joined_with(error, type(theirs), facts) from None
    if error is not None:
        raise error
    return response
