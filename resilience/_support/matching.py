"""Match errors with an option `on`: classes, predicates, or several of both; and check the results of predicates."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any, NoReturn, TypeAlias, TypeVar, cast

from resilience.errors import ConfigurationError, Problem, leaves, named
from resilience.options import is_plain_callable

__all__ = ("Errors", "Kind", "Kinds", "instead_of", "known", "refuse_awaitable")

T = TypeVar("T")
Kind: TypeAlias = type[Exception] | Callable[[Exception], bool]
Kinds: TypeAlias = Kind | tuple[Kind, ...]
_EXPECTED = "an Exception class, a predicate over the error (not a coroutine function), or a tuple of them"


class Errors:
    """Answers whether an error is one of those an option names. Only an `Exception` can be.

    An exception group matches if all errors in it do. A class may name the group itself; predicates never see a group.
    """

    __slots__ = ("_classes", "_given", "_predicates")

    def __init__(self, kinds: Kinds, option: str = "on") -> None:
        given: tuple[Any, ...] = kinds if isinstance(kinds, tuple) else (kinds,)
        for each in given:
            fits = issubclass(each, Exception) if isinstance(each, type) else is_plain_callable(each)
            if not fits:
                raise ConfigurationError([Problem(option, each, _EXPECTED, instead_of(option, each))])
        if not given:
            raise ConfigurationError([Problem(option, kinds, _EXPECTED)])
        self._given = given
        self._classes = tuple(each for each in given if isinstance(each, type))
        self._predicates = tuple(each for each in given if not isinstance(each, type))

    def __contains__(self, error: BaseException) -> bool:
        if isinstance(error, self._classes):
            return True
        if isinstance(error, BaseExceptionGroup):
            return all(each in self for each in leaves(error))
        return any(known(accepts, accepts(cast("Exception", error))) for accepts in self._predicates)

    @property
    def names(self) -> list[str]:
        """The classes and predicates by name, in the order given."""
        return [named(each) for each in self._given]


def instead_of(option: str, given: object) -> str:
    """Return the remark for a value that names no errors: the line to write instead, or "" if that is not clear."""
    if isinstance(given, str):
        return f"give the class, without quotes: {option}={given}" if given.isidentifier() else ""
    if isinstance(given, list | set | frozenset) and all(isinstance(each, type) for each in given):
        return f"give a tuple: {option}=({', '.join(sorted(each.__name__ for each in given))})"
    if isinstance(given, Exception):
        return f"give the class: {option}={type(given).__name__}"
    if isinstance(given, type) and issubclass(given, BaseException):
        return f"{given.__name__} is not an Exception: a cancellation or an interrupt ends the call"
    return ""


def known(ask: object, answer: T, advice: str = "give a function that answers at once") -> T:
    """Return the result of `ask`. Raise if it is an awaitable: that would count as true without an answer."""
    if hasattr(type(answer), "__await__"):
        refuse_awaitable(ask, answer, advice)
    return answer


def refuse_awaitable(ask: object, answer: Any, advice: str) -> NoReturn:
    """Raise `ConfigurationError` for a function that has to answer at once."""
    with contextlib.suppress(Exception):
        answer.close()  # a coroutine that is never awaited warns
    raise ConfigurationError(f"{named(ask)} has to answer at once, but it returned an awaitable; {advice}")
