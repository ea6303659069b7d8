"""The exceptions of a client's library, by their meaning; and our errors as exceptions of that library.

`except httpx.HTTPError: return cached` must keep working during an outage, when our policies end the requests. So
every error that a guarded client raises in place of an answer is of two classes: of ours, and of the class that the
library itself raises in such a case.
"""

from __future__ import annotations

from typing import NamedTuple

from resilience import AppError, BulkheadFullError, DeadlineExceededError, RejectedError
from resilience.errors import ResilienceError, joined_with

__all__ = ("REFUSED_OR_LATE", "Counterparts", "ErrorKinds")

REFUSED_OR_LATE = (RejectedError, DeadlineExceededError)
"""The errors of policies that a client raises in place of an answer."""


class Counterparts(NamedTuple):
    """The classes of a library that our errors are joined with."""

    late: type[Exception]
    """The time for a request has passed."""
    full: type[Exception]
    """The client itself has no place for another request: a bulkhead is full."""
    refused: type[Exception]
    """No request was sent: a circuit is open, or a limit is reached."""
    status: type[Exception]
    """The answer was an error, which the client raises."""

    def of(self, error: ResilienceError) -> type[Exception]:
        """Return the class for an error."""
        if isinstance(error, DeadlineExceededError):
            return self.late
        if isinstance(error, AppError):
            return self.status
        return self.full if isinstance(error, BulkheadFullError) else self.refused


class ErrorKinds(NamedTuple):
    """The exceptions of a library, by their meaning."""

    transient: tuple[type[Exception], ...]
    """Another attempt may succeed."""
    permanent: tuple[type[Exception], ...]
    """Of these classes, those after which another attempt will fail as well."""
    ours: tuple[type[Exception], ...]
    """They say nothing about the host: no request was sent."""
    counterparts: Counterparts

    def is_transient(self, error: Exception) -> bool:
        """Return whether another attempt may succeed."""
        if isinstance(error, DeadlineExceededError):
            return error.retryable and not error.is_before_call
        return isinstance(error, self.transient) and not isinstance(error, self.permanent)

    def as_theirs(self, error: ResilienceError, request: object, response: object = None) -> Exception:
        """Return one of our errors as an exception of the library, too.

        An error that is an exception of the library already is returned as it is. So is an error of a third party
        whose class Python cannot join with one of the library.
        """
        counterpart = self.counterparts.of(error)
        if isinstance(error, counterpart):
            return error
        try:
            return joined_with(error, counterpart, {"request": request, "response": response})
        except TypeError:
            return error

    def deadline_error(
        self,
        message: str,
        request: object,
        *,
        seconds: float | None = None,
        allowed: float | None = None,
        retryable: bool = False,
    ) -> Exception:
        """Return the error of a deadline that has passed, which was not a timeout of the client.

        Args:
            message: The text of the error.
            request: The request of the library.
            seconds: The time that the attempt had.
            allowed: The seconds that this service allows an attempt, if its caller's deadline was sooner.
            retryable: Whether only the time of one attempt is over, and the caller has more.
        """
        error = DeadlineExceededError(message, policy="client", seconds=seconds, allowed=allowed)
        error.retryable = retryable
        return self.as_theirs(error, request)
