"""The rules of HTTP for repeated requests. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from resilience._support.retry_after import asked_by as asked_wait

__all__ = ("IDEMPOTENT_METHODS", "asked_wait", "is_failure", "is_worth_repeating", "may_repeat")

IDEMPOTENT_METHODS = frozenset({"GET", "HEAD", "OPTIONS", "PUT", "DELETE", "TRACE", "QUERY"})
"""Methods whose requests have the same effect if they arrive twice (RFC 9110, 9.2.2; QUERY: RFC 10008)."""

_TOO_MANY, _SERVER_SIDE = 429, 500
_PERMANENT = frozenset({501, 505, 506, 508, 510, 511})
"""The server will never fulfil such a request, so the same request will fail again."""


def may_repeat(method: str, headers: Mapping[str, str]) -> bool:
    """Return whether a request does no harm if it arrives twice: its method is idempotent, or it has a key.

    Args:
        method: The method.
        headers: The headers, which must find names in any case, as those of httpx and requests do. The key is
            `Idempotency-Key`.
    """
    return method.upper() in IDEMPOTENT_METHODS or bool(headers.get("Idempotency-Key"))


def is_failure(status: int) -> bool:
    """Return whether a status shows a dependency in trouble: 429, or 500 and above. Others are the caller's errors."""
    return status == _TOO_MANY or status >= _SERVER_SIDE


def is_worth_repeating(status: int) -> bool:
    """Return whether another attempt may succeed after this status: not after such as 501, Not Implemented."""
    return is_failure(status) and status not in _PERMANENT
