"""The colour of a function: which of four kinds it is, and what happens if a plain function returns an awaitable."""

from __future__ import annotations

import enum
import functools
import inspect
from collections.abc import Callable
from types import CodeType
from typing import Any

__all__ = ("Colour", "Defer", "ReturnedAwaitable", "code_of", "colour_of")

Defer = Callable[[Any], tuple[Callable[..., Any], Callable[..., Any] | None]]
"""Takes the awaitable that a plain function returned. Returns the call that ends this one, and the one for all later
calls; None if the next call may be of another function."""


class ReturnedAwaitable(BaseException):
    """A plain function returned an awaitable: the call has not happened yet, so no policy may score it."""

    def __init__(self, awaitable: object) -> None:
        self.awaitable = awaitable


class Colour(enum.Enum):
    """How a function hands over its results."""

    SYNC = "function"
    ASYNC = "coroutine function"
    GENERATOR = "generator function"
    ASYNC_GENERATOR = "async generator function"


def colour_of(function: object) -> Colour:
    """Return the colour of a callable. Partials and callable objects are looked into, decorators are not.

    A decorator may change the colour: the function that it returned decides.
    """
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


def code_of(function: object) -> CodeType:
    """Return the code that a call of `function` runs, found as in `colour_of`; for a builtin, that of `_plain`.

    The flags of the code give the colour in a twentieth of the time, for callers that get another function each time.
    """
    while isinstance(function, functools.partial):
        function = function.func
    for candidate in (function, getattr(type(function), "__call__", None)):  # noqa: B004 - the method, see `colour_of`
        code = getattr(candidate, "__code__", None)
        if type(code) is CodeType:  # a remote proxy has any attribute at all
            return code
    return _plain.__code__


def _plain() -> None: ...
