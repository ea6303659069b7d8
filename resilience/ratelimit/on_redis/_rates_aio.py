"""Script calls of tasks that end also if the task is cancelled meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextvars import Context
from typing import TYPE_CHECKING

from resilience.running import running_loop

if TYPE_CHECKING:
    from redis.asyncio.connection import AbstractConnection

    from resilience.redis import LuaScript, RedisConnection
    from resilience.redis._exchange import Reply
    from resilience.redis._script import ScriptCall

__all__ = ("ShieldedCalls",)


class ShieldedCalls:
    """Runs each call in a task of its own: the answer is wanted also if the caller has gone.

    Args:
        connection: Gives the connections.
    """

    def __init__(self, connection: RedisConnection) -> None:
        self._connection = connection
        self._running: set[asyncio.Task[Reply]] = set()  # a loop keeps no task alive by itself

    async def run(self, script: LuaScript, call: ScriptCall, orphaned: Callable[[Reply], None] | None = None) -> Reply:
        """Return the reply to `call`, suspending this task.

        Args:
            script: The script to run.
            call: The key and the arguments.
            orphaned: Called with the reply if this task is cancelled before it has come.
        """
        # Not by the loop's task factory, and not in the context of the caller: see `TaskBatch`.
        asked = asyncio.Task(self._ask(script, call), loop=running_loop("a rate limit on Redis"), context=Context())
        self._running.add(asked)
        asked.add_done_callback(self._running.discard)
        try:
            return await asyncio.shield(asked)
        except asyncio.CancelledError:
            asked.add_done_callback(lambda done: _hand_on(done, orphaned))
            raise

    async def _ask(self, script: LuaScript, call: ScriptCall) -> Reply:
        async def ask(connection: AbstractConnection) -> list[Reply]:
            return await script.acall(connection, (call,))

        replies: list[Reply] = await self._connection.aio_pool.run(ask)
        return replies[0]


def _hand_on(done: asyncio.Task[Reply], orphaned: Callable[[Reply], None] | None) -> None:
    if not done.cancelled() and done.exception() is None and orphaned is not None:
        orphaned(done.result())
