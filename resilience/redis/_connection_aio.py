"""One client per event loop, closed when the loop is."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import threading

    from redis.asyncio import Redis

    Kept = tuple[Redis, AsyncGenerator[None, None]]

__all__ = ("client", "close")


def client(loops: dict[Any, Kept], lock: threading.Lock, build: Callable[[], Redis]) -> Redis:
    """Return the running loop's client."""
    loop = asyncio.get_running_loop()
    if (kept := loops.get(loop)) is not None:
        return kept[0]
    with lock:
        for gone in [known for known in loops if known.is_closed()]:
            del loops[gone]
        made = build()
        keeper = _kept_open(made)
        _start(keeper)
        loops[loop] = (made, keeper)
    return made


async def _kept_open(made: Redis) -> AsyncGenerator[None, None]:
    """Close the client when this generator is: event loops close the ones still open when they end."""
    try:
        yield
    finally:
        await made.aclose()


def _start(keeper: AsyncGenerator[None, None]) -> None:
    # Its first step suspends nowhere, so it can be taken without awaiting; that registers it with the loop.
    try:
        keeper.asend(None).send(None)
    except StopIteration:
        return


async def close(loops: dict[Any, Kept]) -> None:
    """Close the running loop's client."""
    kept = loops.pop(asyncio.get_running_loop(), None)
    if kept is not None:
        await kept[1].aclose()
