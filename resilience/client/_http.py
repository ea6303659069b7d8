"""What HTTP says about calling again. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from resilience._support.retry_after import asked_by as asked_wait

__all__ = ("IDEMPOTENT_METHODS", "asked_wait", "is_failure", "is_worth_repeating", "may_repeat")

IDEMPOTENT_METHODS = frozenset({"GET", "HEAD", "OPTIONS", "PUT", "DELETE", "TRACE"})
"""RFC 9110, 9.2.2: sent twice, they do what they do once."""

_TOO_MANY, _SERVER_SIDE = 429, 500
_PERMANENT = frozenset({501, 505, 506, 508, 510, 511})
"""The server cannot, rather than could not: the same request will fare no better."""


def may_repeat(method: str, headers: Mapping[str, str]) -> bool:
    """Whether a request does no harm when it arrives twice: an idempotent method, or an Idempotency-Key to know it by.

    `headers` has to find names in any case, as those of httpx and requests do.
    """
    return method.upper() in IDEMPOTENT_METHODS or bool(headers.get("Idempotency-Key"))


def is_failure(status: int) -> bool:
    """Whether an answer shows a dependency in trouble: 429, or 500 and above. Other refusals are the caller's doing."""
    return status == _TOO_MANY or status >= _SERVER_SIDE


def is_worth_repeating(status: int) -> bool:
    """Whether a failure may pass: all but such as 501, Not Implemented."""
    return is_failure(status) and status not in _PERMANENT
