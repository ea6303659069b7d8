"""The breaker's refusal."""

from __future__ import annotations

import pybreaker

from resilience.errors import RejectedError

__all__ = ("CircuitOpenError",)


class CircuitOpenError(RejectedError, pybreaker.CircuitBreakerError):
    """The circuit is open; `retry_after` seconds until a trial call may be admitted.

    Also a `pybreaker.CircuitBreakerError`, so existing `except` clauses keep working.
    """

    code = "CIRCUIT_OPEN"
