"""What frameworks' own errors and ours have in common, once they are to become envelopes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from resilience.errors import AppError, DeadlineExceededError, PoolError, RejectedError, ResilienceError

__all__ = ("ANSWERS", "told")

ANSWERS: tuple[type[ResilienceError], ...] = (AppError, DeadlineExceededError, PoolError, RejectedError)
"""Errors that are answers. The others (a bad configuration, a missing plugin) are faults: logged, and a 500."""


def told(detail: Any) -> tuple[str | None, Mapping[str, Any] | None]:
    """Return message and details for what a developer gave an HTTP error to say: anything JSON has a form for."""
    if detail is None or isinstance(detail, str):
        return detail, None
    return None, detail if isinstance(detail, Mapping) else {"detail": detail}
