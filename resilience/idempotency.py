"""A mark for functions that can be called twice for one result.

Only the author of a function knows whether it can. A hedge, which repeats calls that have not failed, and
`Retry(idempotent_only=True)` apply to marked functions alone. A pipeline decides this once, when it is compiled.
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
    """Mark `function` as safe to be called twice, even at the same time: a read, or a write with an idempotency key.

    Write `@pipeline` above `@idempotent`. A callable that cannot have attributes, such as a bound method, is wrapped in
    a `functools.partial`.

    Raises:
        ConfigurationError: `function` cannot be called.

    Example:
        >>> @idempotent
        ... def price(item: str) -> float:
        ...     return 9.5
        >>> is_idempotent(price)
        True
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
    return marked  # type: ignore[no-any-return]  # `function`, or a partial of it


def is_idempotent(function: object) -> bool:
    """Whether `function`, or the function a partial calls in the end, was marked."""
    while getattr(function, _MARK, False) is not True:  # a remote proxy has any attribute at all, each of them true
        if not isinstance(function, functools.partial):
            return False
        function = function.func
    return True
