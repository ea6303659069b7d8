"""The awaiting shell of the fallback."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

if TYPE_CHECKING:
    from resilience.fallback._policy import Fallback

__all__ = ("around_async",)

P = ParamSpec("P")
R = TypeVar("R")


def around_async(fallback: Fallback, inner: Callable[P, Awaitable[R]]) -> Callable[P, Coroutine[Any, Any, R]]:
    """Return `inner` with its errors replaced."""
    on, instead_of = fallback.on, fallback.instead_of

    async def call(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return await inner(*args, **kwargs)
        except on as error:
            instead = instead_of(error)
            if hasattr(type(instead), "__await__"):
                instead = await instead
            value: R = instead
            return value

    return call
