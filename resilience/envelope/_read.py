"""The way back: a remote service's error body becomes the `AppError` it was made from."""

from __future__ import annotations

import json
from collections.abc import Mapping

from resilience.envelope._catalog import ErrorCatalog
from resilience.envelope._machine import (
    category_for,
    grpc_status_for,
    is_code,
    is_error_status,
    is_retryable,
    seconds_known,
)
from resilience.errors import AppError

__all__ = ("read_envelope",)

_LARGEST = 1_048_576
"""Bytes of a body that are looked at; an error larger than this is not one of ours."""
_LONGEST_MESSAGE = 4096
_LONGEST_ID = 128
_OURS = ErrorCatalog()


def read_envelope(
    status: int, body: bytes | Mapping[str, object], headers: Mapping[str, str], *, catalog: ErrorCatalog | None = None
) -> AppError | None:
    """Return the error in a response, in either of our two formats, or None if the response has none. Never raises.

    `retry_after` comes from the body, else from the `Retry-After` header. A date in it counts from the `Date` of the
    response, so that no two clocks are compared. `remote_request_id` is the id in the body, else in `X-Request-ID`.

    Args:
        status: The HTTP status of the response.
        body: Its body, or the parsed JSON object.
        headers: Its headers, in any case.
        catalog: The codes that this service knows. gRPC status, category and `retryable` come from the catalogue if it
            has the code, else from the status: HTTP does not transport them.
    """
    members = _members(body)
    if not is_error_status(status) or members is None or not is_code(code := members.get("code")):
        return None
    message, details = members.get("message", members.get("detail")), members.get("details")
    if not isinstance(message, str):
        return None
    error = _saying(message[:_LONGEST_MESSAGE], status, code, catalog)
    error.details = dict(details) if isinstance(details, Mapping) else {}
    stated = seconds_known(members.get("retry_after"))
    lowered = {str(name).lower(): str(value).strip() for name, value in headers.items()}
    error.retry_after = _from_header(lowered) if stated is None else stated
    error.is_remote = True
    error.remote_request_id = _request_id(members.get("request_id"), lowered)
    return error


def _request_id(stated: object, headers: Mapping[str, str]) -> str:
    """Return the id of the request at the other side. Text that could forge a log line is no id."""
    text = stated if isinstance(stated, str) and stated else headers.get("x-request-id", "")
    return text if len(text) <= _LONGEST_ID and text.isascii() and text.isprintable() else ""


def _saying(message: str, status: int, code: str, catalog: ErrorCatalog | None) -> AppError:
    """Return the error with all that is known of its code; only the catalogue's own sentence is translated."""
    for known in (catalog, _OURS):
        if known is not None and code in known and (meant := known.get(code)).http_status == status:
            return meant(None if message == meant.message else message)
    grpc, category, retryable = grpc_status_for(status), category_for(status), is_retryable(status)
    return AppError(code, message, http_status=status, grpc_status=grpc, category=category, retryable=retryable)


def _members(body: object) -> Mapping[str, object] | None:
    if isinstance(body, Mapping):
        return body
    if not isinstance(body, bytes | bytearray) or len(body) > _LARGEST:
        return None
    try:
        members = json.loads(body)
    except (ValueError, RecursionError):
        return None
    return members if isinstance(members, dict) else None


def _from_header(lowered: Mapping[str, str]) -> float | None:
    text = lowered.get("retry-after", "")
    if text.isascii() and text.isdecimal():
        return seconds_known(float(text))
    if not text:
        return None
    from email.utils import parsedate_to_datetime  # noqa: PLC0415 - 15 ms of imports for a form few servers send

    try:
        wait = parsedate_to_datetime(text) - parsedate_to_datetime(lowered.get("date", ""))
    except (TypeError, ValueError, OverflowError):  # no date, or one of a year that no calendar has
        return None
    return seconds_known(max(0.0, wait.total_seconds()))
