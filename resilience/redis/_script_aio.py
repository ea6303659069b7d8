"""Scripts in a task, one or many of them in one round trip."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from resilience.redis._script import Script, unknown_script

if TYPE_CHECKING:
    from redis.asyncio import Redis

__all__ = ("run_all_awaiting", "run_awaiting")

Question = tuple[bytes, Sequence[Any]]
"""A script's key, and its arguments."""


async def run_awaiting(script: Script, client: Redis, key: bytes, arguments: Sequence[Any]) -> Any:
    """Return the script's reply, suspending this task."""
    try:
        return await client.execute_command(*script.by_hash(key, arguments))  # type: ignore[no-untyped-call]  # redis-py leaves it untyped
    except unknown_script():
        return await client.execute_command(*script.by_text(key, arguments))  # type: ignore[no-untyped-call]  # see above


async def run_all_awaiting(script: Script, client: Redis, questions: Sequence[Question]) -> list[Any]:
    """Return the script's reply to each question. Raises the first error among them."""
    if len(questions) == 1:
        return [await run_awaiting(script, client, *questions[0])]
    replies = await _pipelined(client, [script.by_hash(*question) for question in questions])
    unknown = [number for number, reply in enumerate(replies) if isinstance(reply, unknown_script())]
    if unknown:
        again = await _pipelined(client, [script.by_text(*questions[number]) for number in unknown])
        for number, reply in zip(unknown, again, strict=True):
            replies[number] = reply
    for reply in replies:
        if isinstance(reply, Exception):
            raise reply
    return replies


async def _pipelined(client: Redis, commands: Sequence[tuple[Any, ...]]) -> list[Any]:
    async with client.pipeline(transaction=False) as pipeline:
        for command in commands:
            pipeline.execute_command(*command)
        return await pipeline.execute(raise_on_error=False)
