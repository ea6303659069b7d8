"""Commands and their replies in a task, on one connection of redis-py."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any

from resilience.redis._errors import MALFORMED, unreadable
from resilience.redis._script import Question, Script, unknown_to_server

if TYPE_CHECKING:
    from redis.asyncio.connection import AbstractConnection

__all__ = ("exchange_awaiting", "talk_awaiting")


async def exchange_awaiting(connection: AbstractConnection, commands: Sequence[bytes]) -> list[Any]:
    """Return the reply to each packed command. A reply that is an error is returned, not raised.

    Raises an error of redis-py. Replies are then outstanding.
    """
    from redis.exceptions import ResponseError  # noqa: PLC0415 - an extra

    await connection.send_packed_command(commands, check_health=False)
    replies: list[Any] = []
    for _ in commands:
        try:
            replies.append(await connection.read_response())
        except ResponseError as error:
            replies.append(error)
        except MALFORMED as error:
            raise unreadable(error) from error
    return replies


def talk_awaiting(
    script: Script, questions: Sequence[Question]
) -> Callable[[AbstractConnection], Awaitable[list[Any]]]:
    """Return what asks all of `questions` on a connection, in one round trip."""

    async def ask(connection: AbstractConnection) -> list[Any]:
        replies = await exchange_awaiting(connection, script.by_hash(questions))
        if unknown := unknown_to_server(replies):
            texts = script.by_text([questions[number] for number in unknown])
            for number, reply in zip(unknown, await exchange_awaiting(connection, texts), strict=True):
                replies[number] = reply
        return replies

    return ask
