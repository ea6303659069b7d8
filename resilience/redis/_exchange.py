"""Commands and their replies, blocking, on one connection of redis-py.

`Redis.execute_command` does the same and more - timing, reshaping of replies, commands with a state of their own - and
takes longer for it than the server takes for a limiter's script.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from resilience.redis._errors import MALFORMED, unreadable
from resilience.redis._places import Link, NotAskedError

if TYPE_CHECKING:
    import socket

    from redis.connection import AbstractConnection

__all__ = ("Failure", "exchange", "limit", "packed", "was_closed")


def packed(*parts: bytes) -> bytes:
    """Return a command as it is sent: an array of bulk strings (RESP)."""
    return b"*%d\r\n" % len(parts) + b"".join([b"$%d\r\n%b\r\n" % (len(part), part) for part in parts])


def exchange(connection: AbstractConnection, commands: Sequence[bytes]) -> list[Any]:
    """Return the reply to each packed command. A reply that is an error is returned, not raised.

    Raises `ConnectionError`, `TimeoutError` or `InvalidResponse` of redis-py. Replies are then outstanding.
    """
    from redis.exceptions import ResponseError  # noqa: PLC0415 - an extra

    connection.send_packed_command(commands)  # type: ignore[no-untyped-call]  # redis-py leaves it untyped
    replies: list[Any] = []
    for _ in commands:
        try:
            replies.append(connection.read_response())
        except ResponseError as error:
            replies.append(error)
        except MALFORMED as error:
            raise unreadable(error) from error
    return replies


class Failure(enum.Enum):
    """Why an exchange has no replies."""

    CLOSED = "the server has closed the connection"
    LATE = "no reply in time"
    OTHER = "the replies cannot be read"


def was_closed(link: Link[Any], error: Exception, waited: float) -> bool:
    """Whether the server had closed `link` before the exchange that ended with `error`.

    Raises `NotAskedError` if the answer was late because the caller had `waited` for the link.
    """
    if link.is_new:
        return False
    kind = kind_of(error)
    if kind is Failure.LATE and waited:
        raise NotAskedError("the wait for a connection left too little time for an answer") from error
    return kind is Failure.CLOSED


def kind_of(error: Exception) -> Failure:
    """Return what the error of an exchange means."""
    from redis.exceptions import ConnectionError as NotConnected  # noqa: PLC0415 - an extra
    from redis.exceptions import TimeoutError as NotInTime  # noqa: PLC0415 - an extra

    if isinstance(error, NotConnected):
        return Failure.CLOSED
    return Failure.LATE if isinstance(error, NotInTime | TimeoutError) else Failure.OTHER


def limit(connection: AbstractConnection, seconds: float) -> None:
    """Bound each wait of `connection` for the server."""
    connected: socket.socket | None = connection._sock  # noqa: SLF001 - redis-py has no public name for it
    if connected is not None:
        connected.settimeout(seconds)
