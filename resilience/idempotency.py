"""Which functions may be called twice for one result.

Only whoever wrote a function knows. What repeats calls without having seen them fail (a hedge), or is told to be
careful (`Retry(idempotent_only=True)`), serves marked functions alone - decided once, when a pipeline is compiled.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar

from resilience.errors import ConfigurationError, Problem

__all__ = ("idempotent", "is_idempotent")

F = TypeVar("F", bound=Callable[..., Any])
_MARK = "__resilience_idempotent__"


def idempotent(function: F) -> F:
    """Mark `function` as safe to be called twice, even at the same time: a read, or a write that carries its own key.

    Put it below the pipeline (`@pipeline` above `@idempotent`). What cannot carry a mark, such as a bound method, is
    wrapped in a `functools.partial`. Raises `ConfigurationError` for what cannot be called.
    """
    marked: Any = function
    if isinstance(marked, staticmethod | classmethod):
        setattr(marked.__func__, _MARK, True)
        return function
    if not callable(marked):
        raise ConfigurationError([Problem("idempotent", function, "a function, method or other callable")])
    try:
        setattr(marked, _MARK, True)
    except AttributeError:
        marked = functools.partial(marked)
        setattr(marked, _MARK, True)
    return marked  # type: ignore[no-any-return]  # what was given, or what calls just like it


def is_idempotent(function: Any) -> bool:
    """Whether `function`, or the function a partial calls in the end, was marked."""
    while getattr(function, _MARK, False) is not True:  # a remote proxy has any attribute at all, each of them true
        if not isinstance(function, functools.partial):
            return False
        function = function.func
    return True
