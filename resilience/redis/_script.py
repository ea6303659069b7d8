"""Lua scripts, run by hash. The text is sent only to a server that does not know it."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Final, TypeAlias

from resilience.redis._errors import raised
from resilience.redis._exchange import Reply, aexchange, exchange, packed

if TYPE_CHECKING:
    import redis
    from redis.asyncio.connection import AbstractConnection as AsyncConnection
    from redis.connection import AbstractConnection

    from resilience.redis._pool import ConnectionPool

__all__ = ("Argument", "AskingScript", "LuaScript", "ScriptCall", "diagnosis_key", "run_diagnosis")

_CACHED_FRAMES = 1024
_ASKING: Final = packed(b"ASKING")

Argument: TypeAlias = bytes | int | str

ScriptCall: TypeAlias = tuple[tuple[bytes, ...], Sequence[Argument]]
"""The keys of one run of a script, at least one, and its arguments. In a cluster the keys are in one hash slot."""


class LuaScript:
    """A script that is run by its hash.

    A server that was restarted or flushed (SCRIPT FLUSH) costs one more round trip, once.

    Args:
        text: The source of the script.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        self._text = text.encode()
        # SHA-1 is the protocol's name for the text, not a protection.
        self.sha1 = hashlib.sha1(self._text, usedforsecurity=False).hexdigest()
        self._sha1 = self.sha1.encode()
        self._frame = functools.lru_cache(_CACHED_FRAMES)(self._new_frame)

    def run(self, pool: ConnectionPool, keys: tuple[bytes, ...], arguments: Sequence[Argument]) -> Reply:
        """Return the script's reply, blocking.

        Args:
            pool: The connections to use: `RedisConnection.pool`.
            keys: The keys of the script, at least one.
            arguments: The arguments that follow them.

        Raises:
            Exception: redis-py's error for an error reply, for connecting or for the exchange.
            NotAskedError: No connection was free in time.
        """
        calls = ((keys, arguments),)
        return raised(pool.run(lambda connection: self.call(connection, calls))[0])

    def call(self, connection: AbstractConnection, calls: Sequence[ScriptCall]) -> list[Reply]:
        """Return the reply to each of `calls`, blocking: one round trip, or two if the server lacks the script."""
        replies = exchange(connection, self.by_hash(calls))
        if unknown := _unknown_to_server(replies):
            _replace(replies, unknown, exchange(connection, self.by_text([calls[number] for number in unknown])))
        return replies

    async def acall(self, connection: AsyncConnection, calls: Sequence[ScriptCall]) -> list[Reply]:
        """Return the reply to each of `calls`, suspending this task. Otherwise like `call`."""
        replies = await aexchange(connection, self.by_hash(calls))
        if unknown := _unknown_to_server(replies):
            _replace(replies, unknown, await aexchange(connection, self.by_text([calls[number] for number in unknown])))
        return replies

    def by_hash(self, calls: Iterable[ScriptCall]) -> list[bytes]:
        """Return the commands that name the script by its hash."""
        return [self._packed(keys, arguments) for keys, arguments in calls]

    def by_text(self, calls: Sequence[ScriptCall]) -> list[bytes]:
        """Return the same commands, but the first one contains the script: the server knows it from then on."""
        keys, arguments = calls[0]
        first = packed(b"EVAL", self._text, b"%d" % len(keys), *keys, *_encoded(arguments))
        return [first, *self.by_hash(calls[1:])]

    def _packed(self, keys: tuple[bytes, ...], arguments: Sequence[Argument]) -> bytes:
        if len(keys) != 1:
            return packed(b"EVALSHA", self._sha1, b"%d" % len(keys), *keys, *_encoded(arguments))
        before, after = self._frame(tuple(arguments))
        key = keys[0]
        return b"%b$%d\r\n%b\r\n%b" % (before, len(key), key, after)

    def _new_frame(self, arguments: tuple[Argument, ...]) -> tuple[bytes, bytes]:
        """Return the packed command before and after its only key: the keys of one limit share the rest."""
        around = packed(b"EVALSHA", self._sha1, b"1", b"", *_encoded(arguments))
        before, after = around.split(b"$0\r\n\r\n", 1)
        return before, after


class AskingScript(LuaScript):
    """A script for a node of a cluster that is about to get the slot of the keys: each call says that it knows that."""

    def call(self, connection: AbstractConnection, calls: Sequence[ScriptCall]) -> list[Reply]:
        """Return the reply to each of `calls`, blocking."""
        replies = exchange(connection, _asking(self.by_hash(calls)))[1::2]
        if unknown := _unknown_to_server(replies):
            again = self.by_text([calls[number] for number in unknown])
            _replace(replies, unknown, exchange(connection, _asking(again))[1::2])
        return replies

    async def acall(self, connection: AsyncConnection, calls: Sequence[ScriptCall]) -> list[Reply]:
        """Return the reply to each of `calls`, suspending this task."""
        replies = (await aexchange(connection, _asking(self.by_hash(calls))))[1::2]
        if unknown := _unknown_to_server(replies):
            again = self.by_text([calls[number] for number in unknown])
            _replace(replies, unknown, (await aexchange(connection, _asking(again)))[1::2])
        return replies


def _asking(commands: Iterable[bytes]) -> list[bytes]:
    return [each for command in commands for each in (_ASKING, command)]


def _unknown_to_server(replies: Iterable[Reply]) -> list[int]:
    """Return the numbers of the calls that the server could not run because it does not know the script."""
    errors = [(number, reply) for number, reply in enumerate(replies) if isinstance(reply, Exception)]
    if not errors:
        return []
    from redis.exceptions import NoScriptError  # noqa: PLC0415 - an extra

    return [number for number, error in errors if isinstance(error, NoScriptError)]


def _replace(replies: list[Reply], numbers: Sequence[int], others: Sequence[Reply]) -> None:
    for number, reply in zip(numbers, others, strict=True):
        replies[number] = reply


def _encoded(arguments: Iterable[Argument]) -> list[bytes]:
    return [
        b"%d" % each if isinstance(each, int) else each if isinstance(each, bytes) else each.encode()
        for each in arguments
    ]


# The commands of resilience/ratelimit/on_redis/token_bucket.lua, in its order: a test compares the two.
_DIAGNOSIS: Final = LuaScript("""
local time = redis.call('TIME')
redis.call('GET', KEYS[1])
redis.call('SET', KEYS[1], time[1], 'PX', 1000)
return 1
""")


def diagnosis_key(prefix: str, tag: str = "") -> bytes:
    """Return a key of no limiter. In a cluster, `tag` moves it to another slot."""
    return f"{{{prefix}:ratelimit:.probe:{tag}}}".encode()


def run_diagnosis(client: redis.Redis, key: bytes) -> None:
    """Run the commands that limiters need, on a key of no limiter, which lives for a second.

    PING says less: a read-only replica answers it, and so does a server whose memory is full, or whose ACL forbids
    scripts.

    Args:
        client: The blocking client to use.
        key: A key of no limiter.

    Raises:
        Exception: redis-py's error if the server does not answer, or cannot serve limiters.
    """
    from redis.exceptions import NoScriptError  # noqa: PLC0415 - an extra

    run = client.execute_command
    try:
        run("EVALSHA", _DIAGNOSIS.sha1, 1, key)  # type: ignore[no-untyped-call]  # redis-py leaves it untyped
    except NoScriptError:
        run("EVAL", _DIAGNOSIS.text, 1, key)  # type: ignore[no-untyped-call]  # redis-py leaves it untyped
