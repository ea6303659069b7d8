"""Lua scripts, run by hash and sent in full only to a server that does not know them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from resilience.redis._exchange import ask, packed

if TYPE_CHECKING:
    from redis import Redis

__all__ = ("Script", "unknown_script")


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

    def by_hash(self, key: bytes, arguments: Sequence[Any]) -> tuple[Any, ...]:
        """Return the command that names the script."""
        return ("EVALSHA", self.sha1, 1, key, *arguments)

    def by_text(self, key: bytes, arguments: Sequence[Any]) -> tuple[Any, ...]:
        """Return the command that carries the script."""
        return ("EVAL", self.text, 1, key, *arguments)

    def run(self, client: Redis, key: bytes, arguments: Sequence[int]) -> Any:
        """Return the script's reply, blocking."""
        numbers = [b"%d" % argument for argument in arguments]
        try:
            return ask(client, packed(b"EVALSHA", self._sha1, b"1", key, *numbers))
        except unknown_script():
            return ask(client, packed(b"EVAL", self._text, b"1", key, *numbers))


def unknown_script() -> type[Exception]:
    """Return the error of a server that does not know a hash; looked up only when some error has come."""
    from redis.exceptions import NoScriptError  # noqa: PLC0415 - an extra

    return NoScriptError
