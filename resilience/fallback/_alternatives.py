"""What can stand in for a call: values, and functions of what it came to."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from resilience.errors import ConfigurationError, Problem, named, shown

__all__ = ("UNSET", "Alternative", "alternatives")

UNSET: Any = object()
_FUNCTION = "a function that takes the error"


class Alternative(NamedTuple):
    """One stand-in: `function` is None where `value` is the answer."""

    value: Any
    function: Callable[..., Any] | None

    @property
    def is_awaited(self) -> bool:
        """Whether the function is known to return an awaitable."""
        call = getattr(type(self.function), "__call__", None)  # noqa: B004 - the method is wanted
        return inspect.iscoroutinefunction(self.function) or inspect.iscoroutinefunction(call)

    @property
    def label(self) -> str:
        """The value, or the function's name."""
        if self.function is None:
            return shown(self.value)
        return named(self.function)


def alternatives(value: Any, function: Any, chain: Any) -> tuple[Alternative, ...]:
    """Return what to try, in order, from the three ways to say it; exactly one of them may be given."""
    if [value is not UNSET, function is not None, chain is not None].count(True) != 1:
        raise ConfigurationError("Fallback takes exactly one of value, function and chain")
    if chain is not None:
        return _chained(chain)
    if function is None:
        return (Alternative(value, None),)
    if not callable(function):
        raise ConfigurationError([Problem("function", function, _FUNCTION)])
    return (Alternative(None, function),)


def _chained(chain: Any) -> tuple[Alternative, ...]:
    if not isinstance(chain, Sequence) or isinstance(chain, str | bytes) or not chain:
        raise ConfigurationError([Problem("chain", chain, "a list of functions, and perhaps a value at its end")])
    found = tuple(Alternative(None, each) if callable(each) else Alternative(each, None) for each in chain)
    for early in found[:-1]:
        if early.function is None:
            reason = "functions, and a value only at the end: what stands after a value is never reached"
            raise ConfigurationError([Problem("chain", early.value, reason)])
    return found
