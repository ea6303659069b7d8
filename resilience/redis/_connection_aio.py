"""Things that belong to one event loop each, closed when the loop is."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from resilience.redis._pool_aio import AsyncConnectionPool
from resilience.running import needs_asyncio

if TYPE_CHECKING:
    from redis.asyncio.connection import AbstractConnection

    from resilience.redis._options import RedisOptions

__all__ = ("close", "of_loop", "pool")


class Closing(Protocol):
    """Something that is closed by awaiting."""

    async def aclose(self) -> None:
        """Close it."""
        ...


T = TypeVar("T", bound=Closing)


def of_loop(
    loops: dict[Any, tuple[T, AsyncGenerator[None, None]]], lock: AbstractContextManager[Any], build: Callable[[], T]
) -> T:
    """Return what `build` has made for the running loop. Raises `ConfigurationError` if none is running."""
    try:
        loop = asyncio.get_running_loop()  # without a task: a callback of the loop may ask for its client
    except RuntimeError:
        raise needs_asyncio("an awaiting client of Redis") from None
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


async def _kept_open(made: Closing) -> AsyncGenerator[None, None]:
    """Close `made` when this generator is: event loops close the ones still open when they end."""
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


async def close(*kinds: dict[Any, tuple[Any, AsyncGenerator[None, None]]]) -> None:
    """Close everything that belongs to the running loop; nothing does if asyncio runs none."""
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        return
    for loops in kinds:
        if (kept := loops.pop(loop, None)) is not None:
            await kept[1].aclose()


def pool(options: RedisOptions, settings: dict[str, Any]) -> AsyncConnectionPool:
    """Return the running loop's connections, made with redis-py's `settings`."""
    named = dict(settings)
    kind: type[AbstractConnection] = named.pop("connection_class")

    async def connect() -> AbstractConnection:
        connection = kind(**named)
        try:
            await connection.connect()  # type: ignore[no-untyped-call]  # redis-py leaves it untyped
        except BaseException:
            await connection.disconnect(nowait=True)
            raise
        return connection

    return AsyncConnectionPool(options, connect, asyncio.get_running_loop())
