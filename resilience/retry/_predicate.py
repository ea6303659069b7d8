"""Which errors are worth another attempt."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

from resilience.errors import ConfigurationError, Problem, RejectedError, ResilienceError
from resilience.options import is_plain_callable

__all__ = ("On", "Retryable")

On = type[Exception] | Callable[[Exception], "bool | float | timedelta"]
"""An exception class, or a predicate over the error that may answer with the wait it wants (seconds or timedelta)."""


class Retryable:
    """Answers whether an error is retried, and with which wait if a predicate names one.

    Our own refusals (L4) and errors that say they are not retryable need to be asked for by class.
    """

    def __init__(self, on: On | tuple[On, ...]) -> None:
        given: tuple[Any, ...] = on if isinstance(on, tuple) else (on,)
        for each in given:
            fits = issubclass(each, Exception) if isinstance(each, type) else is_plain_callable(each)
            if not fits:
                expected = "an Exception class, a predicate (not a coroutine function), or a tuple of them"
                raise ConfigurationError([Problem("on", each, expected)])
        if not given:
            raise ConfigurationError([Problem("on", on, "at least one Exception class or predicate")])
        self._classes = tuple(each for each in given if isinstance(each, type))
        self._asked_for = tuple(each for each in self._classes if issubclass(each, ResilienceError))
        self._predicates = tuple(each for each in given if not isinstance(each, type))

    def __call__(self, error: Exception) -> bool | float:
        """Return False, True, or the seconds to wait."""
        if isinstance(error, ResilienceError) and (isinstance(error, RejectedError) or not error.retryable):
            return isinstance(error, self._asked_for)
        if isinstance(error, self._classes):
            return True
        for predicate in self._predicates:
            answer = _understood(predicate(error))
            if answer is not False:
                return answer
        return False


def _understood(answer: object) -> bool | float:
    """Return a wait as seconds and anything else as yes or no, as `if` would take it."""
    if isinstance(answer, timedelta):
        return answer.total_seconds()
    return answer if isinstance(answer, bool | int | float) else bool(answer)
