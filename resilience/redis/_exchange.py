"""One command and its reply, blocking, on a connection of redis-py's pool.

`Redis.execute_command` does the same and more - timing, reshaping of replies, commands with a state of their own - and
takes longer for it than the server takes for a limiter's script.
"""

from __future__ import annotations

import functools
import inspect
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from redis import ConnectionPool, Redis
    from redis.connection import AbstractConnection

__all__ = ("ask", "packed")


def packed(*parts: bytes) -> bytes:
    """Return a command as it is sent: an array of bulk strings (RESP)."""
    return b"*%d\r\n" % len(parts) + b"".join([b"$%d\r\n%b\r\n" % (len(part), part) for part in parts])


def ask(client: Redis, command: bytes) -> Any:
    """Return the reply to a packed command. A connection that went stale in the pool is replaced, once.

    Raises what redis-py raises: `ResponseError` for a reply that is an error, `ConnectionError`, `TimeoutError`.
    """
    pool = client.connection_pool
    connection = pool.get_connection(*_introduction(type(pool)))
    try:
        # What fails was disconnected already, and connects anew when it is tried once more.
        return connection.retry.call_with_retry(lambda: _exchange(connection, command), lambda _error: None)
    finally:
        pool.release(connection)


def _exchange(connection: AbstractConnection, command: bytes) -> Any:
    from redis.exceptions import ResponseError  # noqa: PLC0415 - an extra

    is_in_step = False
    try:
        connection.send_packed_command([command])  # type: ignore[no-untyped-call]  # redis-py leaves it untyped
        reply = connection.read_response()
        is_in_step = True
    except ResponseError:
        is_in_step = True
        raise
    finally:
        if not is_in_step:  # a reply that is still to come must not be the next caller's
            connection.disconnect()  # type: ignore[no-untyped-call]  # redis-py leaves it untyped
    return reply


@functools.cache
def _introduction(pool: type[ConnectionPool]) -> tuple[str, ...]:
    """Return what a pool wants to be told: before redis-py 5.3 the name of the command, from then on nothing."""
    wanted = inspect.signature(pool.get_connection).parameters.get("command_name")
    return ("EVALSHA",) if wanted is not None and wanted.default is inspect.Parameter.empty else ()
