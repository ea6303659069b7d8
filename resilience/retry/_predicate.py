"""Which errors are worth another attempt."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any, TypeAlias

from resilience import errors
from resilience.errors import (
    REFUSALS,
    ConfigurationError,
    Problem,
    RejectedError,
    ResilienceError,
    cut_off_by_caller,
    leaves,
)
from resilience.options import is_plain_callable
from resilience.retry._asking import Asking

__all__ = ("Answer", "On", "Predicate", "Retryable", "Wanted", "understood")

Wanted: TypeAlias = bool | float
"""Whether an outcome is worth another attempt; a number names the wait."""
Answer: TypeAlias = Wanted | timedelta
"""Yes, no, or yes after this long (seconds or timedelta)."""
Predicate = Callable[[Any], Answer | Awaitable[Answer]]
On = type[Exception] | Callable[[Exception], Answer | Awaitable[Answer]]
"""An exception class, or a predicate over the error that may answer with the wait it wants."""


class Retryable:
    """Answers whether an error is retried, and with which wait if a predicate names one.

    Our own refusals (L4) and errors that say they are not retryable need to be asked for by class: one of `on`, or of
    those `named` by a strategy that decides in its place.

    An exception group is retried if every error in it is; the wait is then the longest that a predicate names. A class
    may name the group itself; a refusal in the group still has to be asked for. Predicates never see a group.
    """

    def __init__(self, on: On | tuple[On, ...], named: tuple[type, ...] = ()) -> None:
        given: tuple[Any, ...] = on if isinstance(on, tuple) else (on,)
        for each in given:
            if not (issubclass(each, Exception) if isinstance(each, type) else callable(each)):
                raise ConfigurationError([Problem("on", each, "an Exception class, a predicate, or a tuple of them")])
        if not given:
            raise ConfigurationError([Problem("on", on, "at least one Exception class or predicate")])
        self._classes = tuple(each for each in given if isinstance(each, type))
        self._asked_for = tuple(each for each in (*self._classes, *named) if issubclass(each, ResilienceError))
        self._predicates = tuple(each for each in given if not isinstance(each, type))
        self.names = [getattr(each, "__name__", None) or errors.named(each) for each in given]

    @property
    def awaits(self) -> bool:
        """Whether a predicate is a coroutine function."""
        return not all(map(is_plain_callable, self._predicates))

    def is_unasked_refusal(self, error: Exception | None) -> bool:
        """Whether the error is never retried unasked: a part of our own ended the call (L4), or its caller left."""
        return error is not None and any(map(self._is_refusal, leaves(error)))

    def _is_refusal(self, error: BaseException) -> bool:
        if cut_off_by_caller(error) is not None:
            return True
        return isinstance(error, REFUSALS) and not isinstance(error, self._asked_for)

    def by_class(self, error: Exception) -> bool | None:
        """Return whether an error of this class is retried, None where a predicate has to be asked."""
        if isinstance(error, RejectedError):
            return isinstance(error, self._asked_for)
        if cut_off_by_caller(error) is not None:  # the caller waits for no other attempt
            return False
        if isinstance(error, ResilienceError) and not error.retryable:
            return isinstance(error, self._asked_for)
        if isinstance(error, BaseExceptionGroup):
            return self._group_by_class(leaves(error), is_named=isinstance(error, self._classes))
        if isinstance(error, self._classes):
            return True
        return None if self._predicates else False

    def _group_by_class(self, errors: list[Any], *, is_named: bool) -> bool | None:
        if any(map(self._has_to_be_named, errors)):
            return False
        answers = {True} if is_named else {self.by_class(each) for each in errors}
        if False in answers:
            return False
        return None if None in answers else True

    def _has_to_be_named(self, error: Any) -> bool:
        """Whether `error` is a refusal, a cut-off or not retryable, and no class in `on` names it."""
        if cut_off_by_caller(error) is not None:
            return True
        if not isinstance(error, ResilienceError) or isinstance(error, self._asked_for):
            return False
        return isinstance(error, RejectedError) or not error.retryable

    def asked(self, error: Exception) -> Asking[Wanted]:
        """Return False, True, or the seconds to wait."""
        known = self.by_class(error)
        if known is not None:
            return known
        if isinstance(error, BaseExceptionGroup):
            return (yield from self._each_asked(leaves(error)))
        for predicate in self._predicates:
            answer = understood((yield predicate, error))
            if answer is not False:
                return answer
        return False

    def _each_asked(self, errors: list[Any]) -> Asking[Wanted]:
        waits: list[float] = []
        for each in errors:
            answer = yield from self.asked(each)
            if answer is False:
                return False
            if answer is not True:
                waits.append(answer)
        return max(waits, default=True)


def understood(answer: object) -> Wanted:
    """Return a wait as seconds, a negative one as no (as in resilience4j), anything else as `if` would take it."""
    if isinstance(answer, timedelta):
        answer = answer.total_seconds()
    if isinstance(answer, bool) or not isinstance(answer, int | float) or answer != answer:  # noqa: PLR0124 - NaN
        return bool(answer)
    return False if answer < 0 else answer
