"""What the outcome of a call says about the dependency."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

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

__all__ = ("Matcher", "checked_predicate", "cut_off_of", "is_answer", "is_refusal", "listed", "requested_delay")

Condition = type[BaseException] | Callable[[Any], bool]


def is_refusal(error: BaseException) -> bool:
    """Whether a part of our own ended the call, so that the error says nothing about the dependency (L4)."""
    if isinstance(error, BaseExceptionGroup):
        return all(map(is_refusal, leaves(error)))
    return isinstance(error, REFUSALS) or (isinstance(error, DeadlineExceededError) and error.is_before_call)


def cut_off_of(error: BaseException, slow_after: float) -> CutOff | None:
    """Return the facts of a call that its caller's deadline ended before the call had used what the service allows it.

    That is what its `Timeout` or the service's own deadline allow, or `slow_after` if there is neither. None for any
    other error. An error that says nothing about deadlines, but that some time has run out, counts as a cut-off if the
    caller's deadline has all but passed. An exception group is a cut-off if nothing else but refusals is in it.
    """
    if isinstance(error, BaseExceptionGroup):
        others = [each for each in leaves(error) if not is_refusal(each)]
        found = [each for each in (cut_off_of(other, slow_after) for other in others) if each is not None]
        return max(found) if found and len(found) == len(others) else None
    source = cut_off_by_caller(error)
    if source is None:
        is_late = _is_about_time(error) and caller_remaining() <= _ALL_BUT_PASSED
        return CutOff(0.0, 0.0, slow_after) if is_late else None
    left = neutral_remaining()
    seconds, allowed = said_by(source, "seconds") or 0.0, said_by(source, "allowed")
    if allowed is None or allowed == math.inf:
        allowed = slow_after
        if seconds > slow_after:
            return None
    return CutOff(seconds, seconds + (left if left < math.inf else 0.0), min(allowed, slow_after))


_ALL_BUT_PASSED = 0.05
_DEADLINE_EXCEEDED = DeadlineExceededError.code


def _is_about_time(error: BaseException) -> bool:
    if isinstance(error, DeadlineExceededError):  # it knows whose time it was
        return False
    return isinstance(error, TimeoutError) or (isinstance(error, AppError) and error.code == _DEADLINE_EXCEEDED)


def is_answer(error: BaseException) -> bool:
    """Whether the dependency did its part and says, as `error.is_answer`, that the request is at fault."""
    return said_by(error, "is_answer") is True


class Matcher:
    """Exception classes and predicates over the error; an error matches where any of them does.

    An exception group matches if a class is its own. Predicates never see a group: they judge the errors in it.
    """

    def __init__(self, option: str, conditions: Iterable[Condition] | Condition | None) -> None:
        self._option = option
        self.conditions: list[Any] = []
        if conditions is not None:  # most breakers have none, and each new key of a keyed one has three matchers
            for condition in _one_or_more(option, conditions):
                self.add(condition)

    def add(self, condition: Any) -> None:
        """Match `condition` as well."""
        is_class = isinstance(condition, type)
        if not (issubclass(condition, BaseException) if is_class else is_plain_callable(condition)):
            expected = "an exception class or a predicate over the error (not a coroutine function)"
            raise ConfigurationError([Problem(self._option, condition, expected)])
        self.conditions.append(condition)

    def also(self, other: Matcher) -> Matcher:
        """Match what `other` matches as well."""
        self.conditions += other.conditions
        return self

    def __call__(self, error: BaseException) -> bool:
        """Whether `error` matches."""
        for condition in self.conditions:
            # pybreaker asks `type(exclusion) is type`, which takes a class with a metaclass for a predicate
            if isinstance(error, condition) if isinstance(condition, type) else self._accepts(condition, error):
                return True
        return False

    def _accepts(self, predicate: Callable[[Any], object], error: BaseException) -> bool:
        return not isinstance(error, BaseExceptionGroup) and bool(predicate(error))


def listed(option: str, values: Any) -> Iterable[Any]:
    """Return the values of an option that takes a list, or None."""
    if values is None:
        return ()
    if type(values) is tuple:
        return values
    if isinstance(values, str | bytes) or not isinstance(values, Iterable):
        raise ConfigurationError([Problem(option, values, "a list, or None")])
    return values


def _one_or_more(option: str, values: Any) -> Iterable[Any]:
    """Return the values of an option that takes a list, one exception class, one function, or None."""
    if type(values) is tuple:
        return values
    is_one = isinstance(values, type) or (callable(values) and not isinstance(values, Iterable))
    return (values,) if is_one else listed(option, values)


def checked_predicate(option: str, predicate: Any) -> Any:
    """Return `predicate` where it is None or can be asked."""
    if predicate is not None and (isinstance(predicate, type) or not is_plain_callable(predicate)):
        raise ConfigurationError([Problem(option, predicate, "a function (not a coroutine function), or None")])
    return predicate


def requested_delay(outcome: Any, ask: Callable[[Any], Any] | None) -> float:
    """Return for how many seconds the dependency asked to be left alone; 0.0 where it did not.

    `ask` takes the error or the result. Without it, or where it answers no time, the `retry_after` of an error counts.
    """
    wanted = _asked(outcome, ask)
    return 0.0 if wanted is None else min(LONGEST, max(0.0, wanted))


def _asked(outcome: Any, ask: Callable[[Any], Any] | None) -> float | None:
    if isinstance(outcome, BaseExceptionGroup):
        return longest(max(0.0, _asked(each, ask) or 0.0) for each in leaves(outcome))
    wanted = None if ask is None else in_seconds(ask(outcome))
    if wanted is None and isinstance(outcome, BaseException):
        wanted = in_seconds(said_by(outcome, "retry_after"))
    return wanted
