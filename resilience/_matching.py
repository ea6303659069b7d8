"""Which errors an option `on` speaks of: classes, predicates, or several of either."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

from resilience.errors import ConfigurationError, Problem
from resilience.options import is_plain_callable

__all__ = ("Errors", "Kind", "Kinds")

Kind: TypeAlias = type[Exception] | Callable[[Exception], bool]
Kinds: TypeAlias = Kind | tuple[Kind, ...]
_EXPECTED = "an Exception class, a predicate over the error (not a coroutine function), or a tuple of them"


class Errors:
    """Answers whether an error is one of those an option names. Whatever is no `Exception` never is."""

    __slots__ = ("_classes", "_given", "_predicates")

    def __init__(self, kinds: Kinds, option: str = "on") -> None:
        given: tuple[Any, ...] = kinds if isinstance(kinds, tuple) else (kinds,)
        for each in given:
            fits = issubclass(each, Exception) if isinstance(each, type) else is_plain_callable(each)
            if not fits:
                raise ConfigurationError([Problem(option, each, _EXPECTED)])
        if not given:
            raise ConfigurationError([Problem(option, kinds, _EXPECTED)])
        self._given = given
        self._classes = tuple(each for each in given if isinstance(each, type))
        self._predicates = tuple(each for each in given if not isinstance(each, type))

    def __contains__(self, error: Exception) -> bool:
        return isinstance(error, self._classes) or any(accepts(error) for accepts in self._predicates)

    @property
    def names(self) -> list[str]:
        """The classes and predicates by name, in the order given."""
        return [getattr(each, "__qualname__", repr(each)) for each in self._given]
