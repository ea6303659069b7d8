"""Commands and their replies on one connection of redis-py.

`Redis.execute_command` does the same and more (timing, reshaping of replies, commands with a state of their own). That
takes longer than the server takes for a limiter's script.

`exchange` blocks and `aexchange` awaits. The texts of these two, and of `LuaScript.call` and `acall`, stay apart: one
generator for both colours, with two drivers, took 10 % more processor time for a blocking decision.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeAlias

from resilience.redis._errors import MALFORMED, unreadable

if TYPE_CHECKING:
    import socket

    from redis.asyncio.connection import AbstractConnection as AsyncConnection
    from redis.connection import AbstractConnection

__all__ = ("Reply", "aexchange", "exchange", "limit", "packed")

Reply: TypeAlias = object
"""A reply as redis-py reads it: bytes, an integer, a list, None, or an exception for an error reply."""


def packed(*parts: bytes) -> bytes:
    """Return a command as it is sent: an array of bulk strings (RESP)."""
    return b"*%d\r\n" % len(parts) + b"".join([b"$%d\r\n%b\r\n" % (len(part), part) for part in parts])


def exchange(connection: AbstractConnection, commands: Sequence[bytes]) -> list[Reply]:
    """Return the reply to each packed command, blocking. An error reply is returned, not raised.

    Raises:
        ConnectionError: Of redis-py, as `TimeoutError` and `InvalidResponse`. Replies are then outstanding.
    """
    from redis.exceptions import ResponseError  # noqa: PLC0415 - an extra

    connection.send_packed_command(commands)  # type: ignore[no-untyped-call]  # redis-py leaves it untyped
    replies: list[Reply] = []
    for _ in commands:
        try:
            replies.append(connection.read_response())
        except ResponseError as error:
            replies.append(error)
        except MALFORMED as error:
            raise unreadable(error) from error
    return replies


async def aexchange(connection: AsyncConnection, commands: Sequence[bytes]) -> list[Reply]:
    """Return the reply to each packed command, suspending this task. Otherwise like `exchange`."""
    from redis.exceptions import ResponseError  # noqa: PLC0415 - an extra

    await connection.send_packed_command(commands, check_health=False)
    replies: list[Reply] = []
    for _ in commands:
        try:
            replies.append(await connection.read_response())
        except ResponseError as error:
            replies.append(error)
        except MALFORMED as error:
            raise unreadable(error) from error
    return replies


def limit(connection: AbstractConnection, seconds: float) -> None:
    """Bound each wait of `connection` for the server."""
    connected: socket.socket | None = connection._sock  # noqa: SLF001 - redis-py has no public name for it
    if connected is not None:
        connected.settimeout(seconds)
