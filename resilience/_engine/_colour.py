"""Which of the four kinds of function a callable is."""

from __future__ import annotations

import enum
import functools
import inspect
from types import CodeType
from typing import Any

__all__ = ("Colour", "code_of", "colour_of")


class Colour(enum.Enum):
    """How a function hands over what it produces."""

    SYNC = "function"
    ASYNC = "coroutine function"
    GENERATOR = "generator function"
    ASYNC_GENERATOR = "async generator function"


def colour_of(function: Any) -> Colour:
    """Look through partials and callable objects, but not through wrappers: what a wrapper returns is its own."""
    while isinstance(function, functools.partial):
        function = function.func
    candidates = (function, getattr(type(function), "__call__", None))  # noqa: B004 - we want the method, not a verdict
    for candidate in candidates:
        if inspect.iscoroutinefunction(candidate):
            return Colour.ASYNC
        if inspect.isasyncgenfunction(candidate):
            return Colour.ASYNC_GENERATOR
        if inspect.isgeneratorfunction(candidate):
            return Colour.GENERATOR
    return Colour.SYNC


def code_of(function: Any) -> CodeType:
    """Return the code that a call runs, looking as far as `colour_of`; that of `_plain` where it is not Python's.

    Its flags are a twentieth of the work, for those who are given another function at each call.
    """
    while isinstance(function, functools.partial):
        function = function.func
    for candidate in (function, getattr(type(function), "__call__", None)):  # noqa: B004 - as above
        code = getattr(candidate, "__code__", None)
        if type(code) is CodeType:  # a remote proxy has any attribute at all
            return code
    return _plain.__code__


def _plain() -> None: ...
