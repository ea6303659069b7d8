"""Connections of redis-py's for event loops, that an outage makes new."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from resilience.redis._generation import Age, Generation

if TYPE_CHECKING:
    from redis.asyncio.connection import AbstractConnection as _Base
else:
    _Base = object

__all__ = ("bounded_awaiting",)


class _Bounded(_Base):
    """What is added to a kind of connection (TCP, TLS, Unix socket)."""

    def __init__(self, *args: Any, generation: Generation, **settings: Any) -> None:
        self._generation = generation
        self._age: Age | None = None
        super().__init__(*args, **settings)

    async def connect(self) -> None:
        """Connect where there is no connection, or one of a past generation. The pool calls it before each use."""
        current = self._generation.current
        if self._age is not current:
            await self.disconnect(nowait=True)
            self._age = current
        await super().connect()  # type: ignore[no-untyped-call]  # redis-py leaves it untyped
        if not current.is_server_asked and self._generation.claim_question():
            await self._ask_server()

    async def _ask_server(self) -> None:
        from redis.exceptions import ResponseError  # noqa: PLC0415 - an extra

        try:
            await self.send_command("HELLO", 2)
            self._generation.note_server(await self.read_response())
        except ResponseError:  # a proxy may not know it, and an ACL forbid it
            return


def bounded_awaiting(kind: type[Any]) -> type[Any]:
    """Return redis-py's `kind` of awaiting connection with what this module adds."""
    return type(f"Bounded{kind.__name__}", (_Bounded, kind), {})
