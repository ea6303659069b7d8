"""The breaker's refusal."""

from __future__ import annotations

import pybreaker

from resilience.errors import RejectedError

__all__ = ("CircuitOpenError", "circuit_open")


class CircuitOpenError(RejectedError, pybreaker.CircuitBreakerError):
    """The circuit is open; `retry_after` seconds until a call may be admitted, None where nobody knows.

    Also a `pybreaker.CircuitBreakerError`, so existing `except` clauses keep working.
    """

    code = "CIRCUIT_OPEN"


_new = CircuitOpenError.__new__


def circuit_open(message: str, policy: str, retry_after: float | None) -> CircuitOpenError:
    """Return the refusal, made without a call of `__init__`: refusing has to be cheap."""
    error = _new(CircuitOpenError, message)
    error.policy = policy
    error.retry_after = retry_after
    return error
