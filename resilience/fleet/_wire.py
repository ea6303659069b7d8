"""The connection on which an instance makes its rounds: one for each fleet, of no pool.

A round must not wait for a pool that the calls of a busy service have emptied, and its patience is longer than that of
a call: a server that answers after 200 ms is too slow for limiters, but it can count the instances.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from resilience.fleet._partner import FleetCall
from resilience.redis._errors import MALFORMED, is_of_redis, unreadable
from resilience.redis._exchange import Reply, exchange, limit, packed

if TYPE_CHECKING:
    from redis.connection import AbstractConnection

    from resilience.redis import RedisConnection

__all__ = ("PATIENCE", "Wire", "channel_of", "disconnect")

PATIENCE: Final = 1.0
"""The shortest time, in seconds, for which a round waits for each reply."""


def channel_of(connection: RedisConnection, name: str) -> str:
    """Return the full name of a channel. Redis has one set of channels for all its databases, so it has the number."""
    return f"{connection.options.prefix}:fleet:{connection.database}:{name}"


class Wire:
    """Sends the commands of a round and returns the replies. Used by one thread at a time."""

    def __init__(self) -> None:
        self._link: AbstractConnection | None = None

    def run(
        self,
        connection: RedisConnection,
        calls: Sequence[FleetCall],
        messages: Sequence[tuple[str, bytes]],
        patience: float,
    ) -> list[Reply]:
        """Return the reply to each of `calls`: one round trip, or two if the server lacks a script.

        Args:
            connection: Where to connect.
            calls: The script calls.
            messages: What to publish: full names of channels, and messages.
            patience: How many seconds to wait for each reply.

        Raises:
            Exception: An error of redis-py, or an `OSError`: Redis did not answer.
        """
        try:
            link = self._connected(connection)
            limit(link, patience)
            commands = [_packed(call, b"EVALSHA", call.script.sha1.encode()) for call in calls]
            commands += [packed(b"PUBLISH", channel.encode(), message) for channel, message in messages]
            replies = exchange(link, commands)[: len(calls)]
            if missing := _without_script(replies):
                again = [_packed(calls[number], b"EVAL", calls[number].script.text.encode()) for number in missing]
                for number, reply in zip(missing, exchange(link, again), strict=True):
                    replies[number] = reply
        except BaseException as error:
            self.close()  # replies may be outstanding
            if isinstance(error, MALFORMED) and not is_of_redis(error):
                raise unreadable(error) from error
            raise
        return replies

    def _connected(self, connection: RedisConnection) -> AbstractConnection:
        link = self._link
        if link is None:
            link = self._link = connection.new_connection()
        else:
            link.connect()  # type: ignore[no-untyped-call]  # redis-py leaves it untyped; replaces a stale connection
        return link

    def close(self) -> None:
        """Close the connection; the next round opens a new one."""
        link, self._link = self._link, None
        if link is not None:
            disconnect(link)


def disconnect(link: AbstractConnection) -> None:
    """Close `link`. An error says only that it is gone already."""
    with contextlib.suppress(Exception):
        link.disconnect()  # type: ignore[no-untyped-call]  # redis-py leaves it untyped


def _packed(call: FleetCall, verb: bytes, script: bytes) -> bytes:
    return packed(verb, script, b"%d" % len(call.keys), *call.keys, *map(_argument, call.arguments))


def _argument(value: bytes | int | str) -> bytes:
    return value if isinstance(value, bytes) else str(value).encode("utf-8", "surrogatepass")


def _without_script(replies: Sequence[Reply]) -> list[int]:
    """Return the numbers of the calls whose script the server does not know."""
    errors = [(number, reply) for number, reply in enumerate(replies) if isinstance(reply, Exception)]
    if not errors:
        return []
    from redis.exceptions import NoScriptError  # noqa: PLC0415 - an extra

    return [number for number, error in errors if isinstance(error, NoScriptError)]
