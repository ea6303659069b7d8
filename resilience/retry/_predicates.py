"""Which errors are retried: the option `on`, and the rules that stand before it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any, TypeAlias

from resilience._support.matching import instead_of
from resilience._support.user_calls import UserCall, UserCalls
from resilience.errors import (
    REFUSALS,
    ConfigurationError,
    DeadlineExceededError,
    Problem,
    RejectedError,
    ResilienceError,
    cut_off_by_caller,
    leaves,
)
from resilience.errors import named as display_name
from resilience.options import is_plain_callable
from resilience.timeout import OF_A_CLIENT, Deadline

__all__ = ("On", "Predicate", "PredicateAnswer", "RetryAnswer", "RetryableErrors", "normalize")

_MARGIN = 0.05
"""Seconds. A client ends its request so long, at most, before the deadline that it keeps."""

RetryAnswer: TypeAlias = bool | float
"""Whether an outcome is worth another attempt. A number means yes, after this many seconds."""
PredicateAnswer: TypeAlias = RetryAnswer | timedelta
"""What a predicate may return: yes, no, or yes after this long (seconds or a timedelta)."""
Predicate: TypeAlias = Callable[[Any], PredicateAnswer | Awaitable[PredicateAnswer]]
"""A predicate over the result."""
On: TypeAlias = type[Exception] | Callable[[Exception], PredicateAnswer | Awaitable[PredicateAnswer]]
"""An exception class, or a predicate over the error."""


class RetryableErrors:
    """Decides whether an error is worth another attempt.

    Three kinds of error are retried only if a class in `on` (or in `named`) asks for them: refusals of our own policies
    (L4), errors that say they are not retryable, and an exception group that contains either. A call that the deadline
    of the caller cut off is never retried, because its caller no longer waits.

    An exception group is retried if every error in it is; the wait is then the longest that a predicate returns. A
    class in `on` may name the group itself. Predicates never see a group.

    A timeout inside the retry is part of each attempt: an attempt that it ended is retried if `on_timeout` is true, and
    not otherwise, whatever `on` is. Any other `DeadlineExceededError` is an error as any other: that of a function that
    a pipeline of its own guards, or of a remote service.

    Args:
        on: Classes and predicates.
        named: Classes that tenacity's strategies name.
        on_timeout: Whether an attempt that a timeout inside has ended is retried.
    """

    def __init__(self, on: On | tuple[On, ...], named: tuple[type, ...] = (), *, on_timeout: bool = True) -> None:
        given = on if isinstance(on, tuple) else (on,)
        for each in given:
            if not (issubclass(each, Exception) if isinstance(each, type) else callable(each)):
                expected = "an Exception class, a predicate, or a tuple of them"
                raise ConfigurationError([Problem("on", each, expected, instead_of("on", each))])
        if not given:
            raise ConfigurationError([Problem("on", on, "at least one Exception class or predicate")])
        self._classes = tuple(each for each in given if isinstance(each, type))
        self._predicates = tuple(each for each in given if not isinstance(each, type))
        self._named = tuple(each for each in (*self._classes, *named) if issubclass(each, ResilienceError))
        self._on_timeout = on_timeout
        self.inner_timeouts: frozenset[str] = frozenset()
        """The names of the timeouts that stand inside the retry, in all pipelines that hold it."""
        if not on_timeout and any(issubclass(DeadlineExceededError, each) for each in self._named):
            expected = "true if `on` names DeadlineExceededError, which a timeout raises"
            raise ConfigurationError([Problem("on_timeout", on_timeout, expected)])
        self.names = [getattr(each, "__name__", None) or display_name(each) for each in given]
        self.awaits = not all(map(is_plain_callable, self._predicates))
        """Whether a predicate is a coroutine function."""

    def by_class(self, error: Exception) -> bool | None:
        """Return whether errors of this class are retried, or None if a predicate has to decide."""
        if isinstance(error, RejectedError):
            return isinstance(error, self._named)
        if cut_off_by_caller(error) is not None:
            return False
        if isinstance(error, ResilienceError) and (answer := self._of_ours(error)) is not None:
            return answer
        if isinstance(error, BaseExceptionGroup):
            return self._group_by_class(leaves(error), is_named=isinstance(error, self._classes))
        if isinstance(error, self._classes):
            return True
        return None if self._predicates else False

    def _of_ours(self, error: ResilienceError) -> bool | None:
        if self.is_timeout_of_attempt(error):
            return self._on_timeout
        return None if error.retryable else isinstance(error, self._named)

    def is_timeout_of_attempt(self, error: BaseException | None) -> bool:
        """Return whether a timeout inside the retry has ended the attempt, in person or by the client that it limits.

        A client of ours in the guarded function ends its request a margin before the deadline that the timeout set.
        """
        if not self.inner_timeouts or not isinstance(error, DeadlineExceededError) or error.is_before_call:
            return False
        if error.policy in self.inner_timeouts:
            return error.retryable
        if error.policy != OF_A_CLIENT:
            return False
        deadline = Deadline.current()
        return error.retryable or deadline is None or deadline.remaining() > _MARGIN

    def is_unwanted_timeout(self, error: Exception | None) -> bool:
        """Return whether a timeout inside has ended the attempt, and such attempts are not retried."""
        return not self._on_timeout and self.is_timeout_of_attempt(error)

    def _group_by_class(self, errors: list[Any], *, is_named: bool) -> bool | None:
        if any(map(self._has_to_be_named, errors)):
            return False
        answers = {True} if is_named else {self.by_class(each) for each in errors}
        if False in answers:
            return False
        return None if None in answers else True

    def _has_to_be_named(self, error: BaseException) -> bool:
        """Whether a class must ask for this error, and none does."""
        if cut_off_by_caller(error) is not None:
            return True
        if not isinstance(error, ResilienceError) or isinstance(error, self._named):
            return False
        if self.is_timeout_of_attempt(error):
            return not self._on_timeout
        return isinstance(error, RejectedError) or not error.retryable

    def is_unnamed_refusal(self, error: Exception | None) -> bool:
        """Whether a policy of ours or the deadline of the caller ended the call, and no class asks for that."""
        return error is not None and any(map(self._is_refusal, leaves(error)))

    def _is_refusal(self, error: BaseException) -> bool:
        if cut_off_by_caller(error) is not None:
            return True
        return isinstance(error, REFUSALS) and not isinstance(error, self._named)

    def ask(self, error: Exception) -> UserCalls[RetryAnswer]:
        """Decide by class, or else by the predicates: the first that does not say no."""
        known = self.by_class(error)
        if known is not None:
            return known
        if isinstance(error, BaseExceptionGroup):
            return (yield from self._ask_for_each(leaves(error)))
        for predicate in self._predicates:
            answer = normalize((yield UserCall(predicate, error)))
            if answer is not False:
                return answer
        return False

    def _ask_for_each(self, errors: list[Any]) -> UserCalls[RetryAnswer]:
        waits: list[float] = []
        for each in errors:
            answer = yield from self.ask(each)
            if answer is False:
                return False
            if answer is not True:
                waits.append(answer)
        return max(waits, default=True)


def normalize(answer: object) -> RetryAnswer:
    """Return the answer of a predicate as a bool or as seconds. A negative wait means no, as in resilience4j."""
    if isinstance(answer, timedelta):
        answer = answer.total_seconds()
    if isinstance(answer, bool) or not isinstance(answer, int | float) or answer != answer:  # noqa: PLR0124 - NaN
        return bool(answer)
    return False if answer < 0 else answer
