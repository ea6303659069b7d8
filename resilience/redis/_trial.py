"""Asks a Redis that was down whether it serves callers again, through the connections that callers will use.

A trial runs a script of callers, on a key of no caller. A server can answer PING and refuse callers: a read-only
replica does, and so does a server whose memory is full. And the trial sends the script to a server that has lost it.

The blocking pool is asked in the thread of the trial, and the pool of each running event loop by a task in its loop. So
each pool has a connection when callers come back, and no caller has to wait for connecting. If there is neither a
blocking pool nor a running loop, the trial makes a connection of its own and closes it.
"""

from __future__ import annotations

import contextlib
import queue
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from resilience.redis._errors import raised
from resilience.redis._pool_machine import NotAskedError

if TYPE_CHECKING:
    from redis.asyncio.connection import AbstractConnection as AsyncConnection
    from redis.connection import AbstractConnection

    from resilience.redis._connection import RedisConnection
    from resilience.redis._exchange import Reply
    from resilience.redis._pool import ConnectionPool
    from resilience.redis._pool_aio import AsyncConnectionPool
    from resilience.redis._script import LuaScript, ScriptCall

__all__ = ("ScriptTrial",)

_STEPS = 4
"""A new connection takes about so many steps (TCP, TLS, password, database), each with a bound of its own."""


class ScriptTrial:
    """Runs a script once through each pool of `connection` that is in use. For `OutageGuard`.

    Args:
        connection: The Redis to ask.
        script: A script that callers run.
        call: Returns a key of no caller, and the arguments of the script.
    """

    def __init__(self, connection: RedisConnection, script: LuaScript, call: Callable[[], ScriptCall]) -> None:
        self._connection = connection
        self._script = script
        self._call = call
        options = connection.options
        self._patience = _STEPS * options.connect_timeout
        self._patience_with_loops = options.connect_timeout + _STEPS * options.timeout

    def __call__(self) -> bool:
        """Return True if Redis answers, and False if the connection was closed. Blocks for seconds at most.

        Raises:
            Exception: Redis does not answer, or refuses the script.
        """
        pools = self._connection.pools_in_use
        if pools is None:
            return False
        calls = (self._call(),)
        blocking, awaiting = pools
        if blocking is not None:
            self._ask(blocking, calls)
        is_answered = self._ask_loops(awaiting, calls)
        if blocking is None and not is_answered:
            with contextlib.closing(self._connection.new_pool()) as own:
                self._ask(own, calls)
        return True

    def _ask(self, pool: ConnectionPool, calls: Sequence[ScriptCall]) -> None:
        def use(connection: AbstractConnection) -> list[Reply]:
            return self._script.call(connection, calls)

        raised(pool.run(use, self._patience)[0])

    def _ask_loops(self, pools: Sequence[AsyncConnectionPool], calls: Sequence[ScriptCall]) -> bool:
        """Return whether a loop has got an answer. Raises the error of a loop that Redis does not serve."""

        async def use(connection: AsyncConnection) -> list[Reply]:
            replies = await self._script.acall(connection, calls)
            raised(replies[0])
            return replies

        answers: queue.SimpleQueue[BaseException | None] = queue.SimpleQueue()
        asked = sum(pool.ask_soon(use, self._patience, answers.put) for pool in pools)
        is_answered, until = False, time.monotonic() + self._patience_with_loops
        for _ in range(asked):
            try:
                error = answers.get(timeout=max(0.0, until - time.monotonic()))
            except queue.Empty:  # a loop that stands still or has stopped says nothing about Redis
                break
            if error is None:
                is_answered = True
            elif not isinstance(error, NotAskedError):
                raise error
        return is_answered
