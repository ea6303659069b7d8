"""Lua scripts, run by hash and sent in full only to a server that does not know them."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from resilience.redis._exchange import exchange, packed

if TYPE_CHECKING:
    from redis.connection import AbstractConnection

    from resilience.redis._pool import ConnectionPool

__all__ = ("Question", "Script")

_FRAMES_AT_HAND = 1024

Question = tuple[bytes, Sequence[int]]
"""A script's key, and its arguments."""


class Script:
    """A script of one key and of whole numbers.

    A restarted or flushed server (SCRIPT FLUSH) costs one more round trip, once.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        # SHA-1 is the protocol's name for the text, not a protection.
        self._text = text.encode()
        self.sha1 = hashlib.sha1(self._text, usedforsecurity=False).hexdigest()
        self._sha1 = self.sha1.encode()
        self._frame = functools.lru_cache(_FRAMES_AT_HAND)(self._new_frame)

    def by_hash(self, questions: Iterable[Question]) -> list[bytes]:
        """Return the commands that name the script."""
        return [self._packed(key, arguments) for key, arguments in questions]

    def _packed(self, key: bytes, arguments: Sequence[int]) -> bytes:
        before, after = self._frame(tuple(arguments))
        return b"%b$%d\r\n%b\r\n%b" % (before, len(key), key, after)

    def _new_frame(self, arguments: tuple[int, ...]) -> tuple[bytes, bytes]:
        """Return the packed command without its key: the keys of one limit share the rest."""
        around = packed(b"EVALSHA", self._sha1, b"1", b"", *_numbers(arguments))
        before, after = around.split(b"$0\r\n\r\n", 1)
        return before, after

    def by_text(self, questions: Sequence[Question]) -> list[bytes]:
        """Return the same, the first of them with the script itself: the server knows it from then on."""
        key, arguments = questions[0]
        first = packed(b"EVAL", self._text, b"1", key, *_numbers(arguments))
        return [first, *self.by_hash(questions[1:])]

    def run(self, pool: ConnectionPool, key: bytes, arguments: Sequence[int]) -> Any:
        """Return the script's reply, blocking. Raises an error reply, the error of connecting, or `NotAskedError`."""
        reply = pool.ask(self.talk(((key, arguments),)))[0]
        if isinstance(reply, Exception):
            raise reply
        return reply

    def talk(self, questions: Sequence[Question]) -> Callable[[AbstractConnection], list[Any]]:
        """Return what asks all of `questions` on a connection, in one round trip, blocking."""

        def ask(connection: AbstractConnection) -> list[Any]:
            replies = exchange(connection, self.by_hash(questions))
            if unknown := unknown_to_server(replies):
                again = exchange(connection, self.by_text([questions[number] for number in unknown]))
                for number, reply in zip(unknown, again, strict=True):
                    replies[number] = reply
            return replies

        return ask


def unknown_to_server(replies: Iterable[Any]) -> list[int]:
    """Return the numbers of the questions that a server could not answer because it did not know the script."""
    errors = [(number, reply) for number, reply in enumerate(replies) if isinstance(reply, Exception)]
    if not errors:
        return []
    from redis.exceptions import NoScriptError  # noqa: PLC0415 - an extra

    return [number for number, error in errors if isinstance(error, NoScriptError)]


def _numbers(arguments: Sequence[int]) -> list[bytes]:
    return [b"%d" % argument for argument in arguments]
