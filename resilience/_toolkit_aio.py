"""The awaiting half of the toolkit object: leaving without blocking the loop."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from typing import Any, TypeVar

__all__ = ("close_all", "entered")

T = TypeVar("T")


async def close_all(parts: Iterable[Any]) -> None:
    """Close every part, the last one built first; one that fails does not keep the others open."""
    async with contextlib.AsyncExitStack() as stack:
        for part in parts:
            if (aclose := getattr(part, "aclose", None)) is not None:
                stack.push_async_callback(aclose)
            elif (close := getattr(part, "close", None)) is not None:
                stack.callback(close)


async def entered(thing: T) -> T:
    """Return `thing` to `async with`."""
    return thing
