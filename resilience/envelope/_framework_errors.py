"""Rules by which the errors of a framework and our own become envelopes."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from resilience.envelope._machine import is_error_status, is_retryable
from resilience.errors import AppError, DeadlineExceededError, PoolError, RejectedError, ResilienceError, leaves

__all__ = ("ANSWERS", "split_detail", "worst_of")

ANSWERS: tuple[type[ResilienceError], ...] = (AppError, DeadlineExceededError, PoolError, RejectedError)
"""Errors that a client gets as they are. Others (a bad configuration, a missing plugin) are logged and answered 500."""


def split_detail(detail: object) -> tuple[str | None, Mapping[str, object] | None]:
    """Return message and details for the detail of a framework's HTTP error, which can be any JSON value."""
    if detail is None or isinstance(detail, str):
        return detail, None
    return None, detail if isinstance(detail, Mapping) else {"detail": detail}


_SERVER_SIDE = 500


def worst_of(error: BaseException, status_of: Callable[[object], int | None] = lambda _: None) -> BaseException:
    """Return the error that answers for an exception group (PEP 654); any other error is returned as it is.

    An unhandled error is the worst. Then come server errors before client errors, errors that are not retryable before
    those that are, and the higher status before the lower; of equals, the first.

    Args:
        error: an error, or a group of any depth.
        status_of: returns the HTTP status of a framework's own error; None for an error that it does not know.
    """
    if not isinstance(error, BaseExceptionGroup):
        return error
    return max(leaves(error), key=lambda each: _rank(each, status_of))


def _rank(error: BaseException, status_of: Callable[[object], int | None]) -> tuple[int, bool, int]:
    if isinstance(error, ANSWERS):
        status = error.http_status if is_error_status(error.http_status) else _SERVER_SIDE
        return status // _SERVER_SIDE, not error.retryable, status
    known = status_of(error)
    return (2, False, 0) if known is None else (known // _SERVER_SIDE, not is_retryable(known), known)
