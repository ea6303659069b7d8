"""Classification of outcomes: a failure of the dependency, a success, a cut-off, or no evidence."""

from __future__ import annotations

import enum
import math
from collections.abc import Callable, Iterable
from datetime import timedelta
from typing import Any, NamedTuple, TypeAlias, TypeVar

from resilience._support.retry_after import in_seconds, longest
from resilience.breaker._cut_offs import CutOff
from resilience.errors import (
    REFUSALS,
    AppError,
    ConfigurationError,
    DeadlineExceededError,
    Problem,
    cut_off_by_caller,
    leaves,
    said_by,
)
from resilience.options import LONGEST, is_plain_callable
from resilience.timeout import caller_remaining, neutral_remaining

__all__ = ("Condition", "CountedFailure", "ErrorClass", "ErrorMatcher", "FailureRules", "Harmless", "listed")

Condition: TypeAlias = type[BaseException] | Callable[[Any], bool]
"""An exception class, or a predicate over the error."""
Conditions: TypeAlias = Iterable[Condition] | Condition | None
T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., object] | None)
AskedDelay: TypeAlias = Callable[[Any], float | timedelta | str | None]


class Harmless(enum.Enum):
    """An error that is no failure."""

    SUCCESS = enum.auto()
    """The dependency did its part; the error counts as a success."""
    IGNORED = enum.auto()
    """The error says nothing about the dependency; it does not count."""


class CountedFailure(NamedTuple):
    """The dependency failed, and asked to be left alone for `asked` seconds (0.0 if it did not ask)."""

    asked: float


_FAILED = CountedFailure(0.0)
ErrorClass: TypeAlias = CountedFailure | CutOff | Harmless


class FailureRules:
    """The options `exclude`, `ignore`, `record`, `record_result` and `retry_after` of a breaker.

    `slow_after` is the time in seconds that the service allows a call, if no deadline says so. It matters for cut-offs.
    """

    __slots__ = ("_retry_after", "_slow_after", "excluded", "overriding_rule", "record_result", "recorded")

    def __init__(
        self,
        *,
        exclude: Iterable[Condition] | None,
        ignore: Conditions,
        record: Conditions,
        record_result: Callable[[Any], bool] | None,
        retry_after: AskedDelay | None,
        slow_after: float,
    ) -> None:
        self.excluded = ErrorMatcher("exclude", listed("exclude", exclude))
        if ignore is not None:
            self.excluded.conditions += ErrorMatcher("ignore", ignore).conditions
        self.recorded = ErrorMatcher("record", record)
        self.record_result = _checked_function("record_result", record_result)
        self._retry_after = _checked_function("retry_after", retry_after)
        self._slow_after = slow_after
        self.overriding_rule: Callable[[BaseException], bool] | None = None
        """The `is_system_error` of a subclass of the breaker, used in place of `is_failure`."""

    def is_failure(self, error: BaseException) -> bool:
        """Return whether `error` is a failure of the dependency; a group is, if one of its errors is."""
        if self.excluded.conditions and self.excluded(error):
            return False
        if isinstance(error, BaseExceptionGroup) and not self.recorded(error):
            return any(map(self.overriding_rule or self.is_failure, leaves(error)))
        if self.recorded.conditions:
            return self.recorded(error)
        return said_by(error, "is_answer") is not True  # the dependency answered that the request is at fault

    def classify(self, error: Exception) -> ErrorClass:
        """Classify an error. A group is classified by the worst error in it: one failure makes it a failure."""
        if isinstance(error, BaseExceptionGroup):
            return self._classify_group(error)
        if _is_refusal(error):
            return Harmless.IGNORED
        cut_off = self._cut_off(error)
        if cut_off is not None:
            return cut_off
        if self.overriding_rule is None and not self.excluded.conditions and not self.recorded.conditions:
            is_failure = (
                said_by(error, "is_answer") is not True
            )  # as `is_failure` does: most breakers have no conditions
        else:
            is_failure = (self.overriding_rule or self.is_failure)(error)
        if not is_failure:
            return self._harmless(error)
        if self._retry_after is None and said_by(error, "retry_after") is None:  # as most errors
            return _FAILED
        return CountedFailure(self.asked_delay(error))

    def _classify_group(self, group: BaseExceptionGroup[BaseException]) -> ErrorClass:
        errors = [(error, self._cut_off(error)) for error in leaves(group) if not _is_refusal(error)]
        cut_offs = [cut_off for _, cut_off in errors if cut_off is not None]
        if len(cut_offs) == len(errors):
            return max(cut_offs) if cut_offs else Harmless.IGNORED
        if self.excluded(group):
            return Harmless.IGNORED
        others = [error for error, cut_off in errors if cut_off is None]
        has_failed = any(map(self.overriding_rule or self.is_failure, others))
        has_success = not has_failed and any(self._harmless(error) is Harmless.SUCCESS for error in others)
        if has_failed or (has_success and self.recorded(group)):
            return CountedFailure(self.asked_delay(group))
        return Harmless.SUCCESS if has_success else Harmless.IGNORED

    def _harmless(self, error: BaseException) -> Harmless:
        """Classify an error that is no failure."""
        is_success = self.recorded.conditions or said_by(error, "is_answer") is True
        return Harmless.SUCCESS if is_success and not self.excluded(error) else Harmless.IGNORED

    def _cut_off(self, error: BaseException) -> CutOff | None:
        """Return the facts of a call that its caller's deadline ended before the call had used its time.

        That is the time that its `Timeout` or the service's own deadline allows, or `slow_after` if there is neither.
        None for every other error. An error that says only that some time has run out, and nothing about deadlines, is
        a cut-off if the caller's deadline has all but passed.
        """
        source = cut_off_by_caller(error)
        if source is None:
            is_timeout = isinstance(error, TimeoutError) or (
                isinstance(error, AppError) and error.code == DeadlineExceededError.code
            )
            if not is_timeout or isinstance(error, DeadlineExceededError):  # the latter knows whose deadline it was
                return None
            return CutOff(0.0, 0.0, self._slow_after) if caller_remaining() <= _ALL_BUT_PASSED else None
        left = neutral_remaining()
        seconds, allowed = said_by(source, "seconds") or 0.0, said_by(source, "allowed")
        if allowed is None or allowed == math.inf:
            allowed = self._slow_after
            if seconds > allowed:
                return None
        return CutOff(seconds, seconds + (left if left < math.inf else 0.0), min(allowed, self._slow_after))

    def asked_delay(self, outcome: object) -> float:
        """Return for how many seconds the dependency asked to be left alone, 0.0 if it did not.

        The function `retry_after` takes the error or the result. Without that function, or if it returns no time, the
        attribute `retry_after` of an error counts.
        """
        asked = self._asked_by(outcome)
        return 0.0 if asked is None else min(LONGEST, max(0.0, asked))

    def _asked_by(self, outcome: object) -> float | None:
        if isinstance(outcome, BaseExceptionGroup):
            return longest(max(0.0, self._asked_by(each) or 0.0) for each in leaves(outcome))
        asked = None if self._retry_after is None else in_seconds(self._retry_after(outcome))
        if asked is None and isinstance(outcome, BaseException):
            said = said_by(outcome, "retry_after")
            asked = None if said is None else in_seconds(said)
        return asked


_ALL_BUT_PASSED = 0.05
"""Seconds left of the caller's deadline at which a timeout is a cut-off."""


def _is_refusal(error: BaseException) -> bool:
    """Return whether a part of this library ended the call, so that the dependency was not asked (L4)."""
    return isinstance(error, REFUSALS) or (isinstance(error, DeadlineExceededError) and error.is_before_call)


class ErrorMatcher:
    """Exception classes and predicates; an error matches if one of them does.

    An exception group matches a class only if the group itself is an instance. Predicates never get a group: they get
    the errors in it.
    """

    __slots__ = ("_option", "conditions")

    def __init__(self, option: str, conditions: Conditions) -> None:
        self._option = option
        self.conditions: list[Condition] = []
        if conditions is not None:  # most breakers have none, and each key of a `Keyed` has three matchers
            for condition in _one_or_more(option, conditions):
                self.add(condition)

    def add(self, condition: Condition) -> None:
        """Add a condition."""
        if not (issubclass(condition, BaseException) if isinstance(condition, type) else is_plain_callable(condition)):
            expected = "an exception class or a predicate over the error (not a coroutine function)"
            raise ConfigurationError([Problem(self._option, condition, expected)])
        self.conditions.append(condition)

    def __call__(self, error: BaseException) -> bool:
        """Return whether `error` matches."""
        for condition in self.conditions:
            # pybreaker checks `type(exclusion) is type`, and so takes a class with a metaclass for a predicate.
            if isinstance(condition, type):
                if isinstance(error, condition):
                    return True
            elif not isinstance(error, BaseExceptionGroup) and condition(error):
                return True
        return False


def listed(option: str, values: Iterable[T] | None) -> Iterable[T]:
    """Return the values of an option that takes a list or None."""
    if values is None:
        return ()
    if type(values) is tuple:
        return values
    if isinstance(values, str | bytes) or not isinstance(values, Iterable):
        raise ConfigurationError([Problem(option, values, "a list, or None")])
    return values


def _one_or_more(option: str, values: Iterable[Condition] | Condition) -> Iterable[Condition]:
    """Return the values of an option that takes a list, one exception class, one function, or None."""
    if isinstance(values, tuple):
        return values
    if isinstance(values, type) or (callable(values) and not isinstance(values, Iterable)):
        return (values,)
    return listed(option, values)


def _checked_function(option: str, function: F) -> F:
    """Return `function`, which is None or can be called."""
    if function is not None and (isinstance(function, type) or not is_plain_callable(function)):
        raise ConfigurationError([Problem(option, function, "a function (not a coroutine function), or None")])
    return function
