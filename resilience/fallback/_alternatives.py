"""The alternatives of a fallback, and the outcome that they replace."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from resilience.errors import ConfigurationError, Problem, named, shown

__all__ = ("UNSET", "Alternative", "ReplacedOutcome", "alternatives")

UNSET: Final[object] = object()
"""The default of an option for which None is a value."""
_FUNCTION = "a function that takes the error"


class Alternative(NamedTuple):
    """A value, or a function of the outcome: `function` is None if `value` is the answer."""

    value: object
    function: Callable[..., object] | None

    @property
    def is_awaited(self) -> bool:
        """Whether the function is known to return an awaitable."""
        call = getattr(type(self.function), "__call__", None)  # noqa: B004 - the method is wanted
        return inspect.iscoroutinefunction(self.function) or inspect.iscoroutinefunction(call)

    @property
    def label(self) -> str:
        """The value, or the name of the function."""
        return shown(self.value) if self.function is None else named(self.function)


def alternatives(value: object, function: object, chain: object) -> tuple[Alternative, ...]:
    """Return the alternatives in order, from the three options that name them. Exactly one may be given."""
    if [value is not UNSET, function is not None, chain is not None].count(True) != 1:
        raise ConfigurationError("Fallback takes exactly one of value, function and chain")
    if chain is not None:
        return _chained(chain)
    if function is None:
        return (Alternative(value, None),)
    if not callable(function):
        raise ConfigurationError([Problem("function", function, _FUNCTION)])
    return (Alternative(None, function),)


def _chained(chain: object) -> tuple[Alternative, ...]:
    if not isinstance(chain, Sequence) or isinstance(chain, str | bytes) or not chain:
        raise ConfigurationError([Problem("chain", chain, "a list of functions, and perhaps a value at its end")])
    found = tuple(Alternative(None, each) if callable(each) else Alternative(each, None) for each in chain)
    for early in found[:-1]:
        if early.function is None:
            reason = "functions, and a value only at the end: an element after a value is never reached"
            raise ConfigurationError([Problem("chain", early.value, reason)])
    return found


class ReplacedOutcome:
    """The error of a call, or its unacceptable result (then `error` is None), and the alternatives that failed."""

    __slots__ = ("error", "failures", "result")

    def __init__(self, error: Exception | None, result: object = None) -> None:
        self.error = error
        self.result = result
        self.failures: list[Exception] = []
        """The errors of the alternatives, in order."""

    @property
    def value(self) -> object:
        """The argument of the functions: the error or the result."""
        return self.result if self.error is None else self.error

    def is_translated_by(self, failure: Exception) -> bool:
        """Whether an alternative raised `failure` from the error of the call. If not, `failure` is recorded."""
        if self.error is not None and failure.__cause__ is self.error:
            return True
        self.failures.append(failure)
        return False

    @property
    def facts(self) -> dict[str, object]:
        """The facts of the events."""
        facts: dict[str, object] = {"error": self.error, "failures": tuple(self.failures)}
        return facts if self.error is not None else {**facts, "result": self.result}
