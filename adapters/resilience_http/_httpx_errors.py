"""The error of a request whose deadline has passed."""

from __future__ import annotations

import httpx

from resilience import DeadlineExceededError

__all__ = ("HTTPXDeadlineError",)


class HTTPXDeadlineError(DeadlineExceededError, httpx.TimeoutException):
    """The deadline in force has passed, not a timeout of the client. `except` clauses for either class catch it."""

    def __init__(
        self,
        message: str,
        *,
        request: httpx.Request,
        seconds: float | None = None,
        retryable: bool = False,
        allowed: float | None = None,
    ) -> None:
        DeadlineExceededError.__init__(self, message, policy="client", seconds=seconds, allowed=allowed)
        self.request = request
        self.retryable = retryable  # only if the time of one attempt is over and the caller has more
