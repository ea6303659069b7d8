"""The type of an awaited function, and the result of an awaitable for blocking code.

This module does not import asyncio when it is imported: blocking programs do not pay for it.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, ParamSpec, TypeAlias, TypeVar

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop
    from collections.abc import Awaitable

__all__ = ("CoroutineFunction", "resolve")

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")

CoroutineFunction: TypeAlias = Callable[P, Coroutine[Any, Any, R]]
"""A function whose calls are awaited."""


def resolve(awaitable: Awaitable[T], loop: AbstractEventLoop | None = None) -> T:
    """Block until `awaitable` ends, and return its result or raise its error.

    It runs in `loop`, whose clients it may hold, if another thread runs that loop now. Otherwise it runs in a new loop.
    """
    import asyncio  # noqa: PLC0415 - it costs 40 ms, and only async user code needs it here

    async def result() -> T:
        return await awaitable

    if loop is None or not loop.is_running():
        return asyncio.run(result())
    return asyncio.run_coroutine_threadsafe(result(), loop).result()
