"""The errors of an engine pool, as an application of SQLAlchemy catches them.

- No connection in time: our `PoolTimeoutError`, which is a `sqlalchemy.exc.TimeoutError` as well.
- The database cannot be reached: the error of its driver, of which SQLAlchemy makes a
  `sqlalchemy.exc.OperationalError`.
"""

from __future__ import annotations

import copy
from typing import NoReturn

from sqlalchemy import exc

from resilience.errors import PoolError, RejectedError, joined_with, shown

__all__ = ("UnreachableError", "raise_refusal")

_PAUSE = 0.5


class UnreachableError(RejectedError):
    """The pool could not connect, and does not try again for half a second.

    It never leaves the pool. As a refusal, it ends the wait of all borrowers at once if the pool has no connection
    that could come back: they would wait for a database that is down. `original` is the error of the driver.
    """

    original: Exception

    @classmethod
    def because_of(cls, original: Exception) -> UnreachableError:
        """Return the refusal that stands for an error of connecting."""
        error = cls(f"{type(original).__name__}: {shown(original)}", retry_after=_PAUSE)
        error.original = original
        return error


class EngineTimeoutError(exc.TimeoutError):
    """SQLAlchemy's class, whose text is the message alone: SQLAlchemy's links to its page on `code`, which is ours."""

    __str__ = Exception.__str__


def raise_refusal(error: PoolError | RejectedError) -> NoReturn:
    """Raise the error of a borrower that got no connection."""
    if isinstance(error, UnreachableError):
        raise _own_copy(error.original) from error.original.__cause__
    if isinstance(error, PoolError):
        raise joined_with(error, EngineTimeoutError) from error.__cause__
    raise error


def _own_copy(original: Exception) -> Exception:
    """Return the error for one borrower: the traceback of a shared one would grow with each."""
    try:
        copied = copy.copy(original)
    except Exception:  # noqa: BLE001 - an error class of a driver with a constructor of its own
        return original
    return copied if type(copied) is type(original) else original
