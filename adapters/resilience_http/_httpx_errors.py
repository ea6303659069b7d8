"""The error of a request that the deadline in force left no time."""

from __future__ import annotations

import httpx

from resilience import DeadlineExceededError

__all__ = ("LateError",)


class LateError(DeadlineExceededError, httpx.TimeoutException):
    """The deadline in force, rather than a timeout of the client, left no time; for handlers of either kind."""

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
        self.retryable = retryable  # only where it was one attempt's time, and the caller has more of it
