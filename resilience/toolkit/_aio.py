"""The awaiting half of the toolkit object: leaving without blocking the loop."""

from __future__ import annotations

import contextlib
from collections.abc import Coroutine, Iterable
from typing import Any, Protocol, TypeVar

__all__ = ("Closable", "close_all", "entered")

T = TypeVar("T")


class Closable(Protocol):
    """Something that holds connections or background work."""

    def close(self) -> None:
        """Let go of them. May be called twice."""
        ...

    def aclose(self) -> Coroutine[Any, Any, None]:
        """Do the same without blocking the event loop."""
        ...


async def close_all(parts: Iterable[Closable]) -> None:
    """Close every part, the last one built first; one that fails does not keep the others open."""
    async with contextlib.AsyncExitStack() as stack:
        for part in parts:
            stack.push_async_callback(part.aclose)


async def entered(thing: T) -> T:
    """Return `thing` to `async with`."""
    return thing
