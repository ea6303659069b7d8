"""Renewals of tasks: all that begin in one turn of an event loop share one round trip.

A task of its own asks, so that no caller that is cancelled takes the lease of the others along.
"""

from __future__ import annotations

import asyncio
from contextvars import Context
from typing import TYPE_CHECKING, Protocol

from resilience.redis._outage import OutageGuard, RedisAttempt
from resilience.running import running_loop

if TYPE_CHECKING:
    from redis.asyncio.connection import AbstractConnection

    from resilience.ratelimit.on_redis.leases._machine import LeaseRenewal
    from resilience.ratelimit.on_redis.leases._table import Renewing
    from resilience.redis import LuaScript, RedisConnection
    from resilience.redis._exchange import Reply
    from resilience.redis._machine import OutagePermit
    from resilience.redis._script import ScriptCall

    class RenewalCodec(Protocol):
        """Encodes renewals and takes their replies."""

        def encode(self, renewing: Renewing, /) -> ScriptCall: ...
        def settle(self, renewing: Renewing, reply: Reply, /) -> None: ...


__all__ = ("TaskRenewals",)


class TaskRenewals:
    """Asks for the leases of tasks.

    Args:
        connection: Gives the connections.
        script: The script to run.
        outage: Records whether Redis answered.
        codec: Encodes renewals and takes their replies.
    """

    def __init__(
        self, connection: RedisConnection, script: LuaScript, outage: OutageGuard, codec: RenewalCodec
    ) -> None:
        self._connection = connection
        self._script = script
        self._outage = outage
        self._codec = codec
        self._open: dict[asyncio.AbstractEventLoop, list[Renewing]] = {}
        self._tasks: set[asyncio.Task[None]] = set()  # a loop keeps no task alive by itself

    def require_loop(self, user: str) -> None:
        """Raise `ConfigurationError` that names `user` if asyncio runs no loop."""
        running_loop(f"RateLimit {user!r} on a RedisStore")

    def start(self, renewing: Renewing) -> None:
        """Ask for a lease in the next turn of the running loop."""
        loop = asyncio.get_running_loop()
        batch = self._open.get(loop)
        if batch is not None:
            batch.append(renewing)
            return
        permit = self._outage.admit()
        if permit is None:
            renewing.renewal.end()
            return
        for closed in [known for known in tuple(self._open) if known.is_closed()]:
            self._open.pop(closed, None)
        batch = self._open[loop] = [renewing]
        # Not by the loop's task factory, and not in the context of the caller: see `TaskBatch`.
        task = asyncio.Task(self._run(loop, batch, permit), loop=loop, context=Context())
        self._tasks.add(task)
        task.add_done_callback(lambda done: self._ended(done, loop, batch))

    async def _run(self, loop: asyncio.AbstractEventLoop, batch: list[Renewing], permit: OutagePermit) -> None:
        async def ask(connection: AbstractConnection) -> list[Reply]:
            self._close(loop, batch)
            return await self._script.acall(connection, [self._codec.encode(each) for each in batch])

        with RedisAttempt(self._outage, permit):
            replies = await self._connection.aio_pool.run(ask)
            for renewing, reply in zip(batch, replies, strict=True):
                if not isinstance(reply, Exception):
                    self._codec.settle(renewing, reply)
            for reply in replies:
                if isinstance(reply, Exception):
                    raise reply

    def _close(self, loop: asyncio.AbstractEventLoop, batch: list[Renewing]) -> None:
        if self._open.get(loop) is batch:
            del self._open[loop]

    def _ended(self, task: asyncio.Task[None], loop: asyncio.AbstractEventLoop, batch: list[Renewing]) -> None:
        """Wake the callers without an answer: Redis gave none, or the task was cancelled, perhaps before it began."""
        self._tasks.discard(task)
        self._close(loop, batch)
        for renewing in batch:
            renewing.renewal.end()

    async def wait(self, renewal: LeaseRenewal) -> None:
        """Wait for the end of a renewal, which may be that of another thread or loop, for the timeout at most."""
        if renewal.is_ended:
            return
        loop = asyncio.get_running_loop()
        arrived: asyncio.Future[None] = loop.create_future()
        renewal.notify(lambda: loop.call_soon_threadsafe(_arrive, arrived))
        timer = loop.call_later(self._connection.options.timeout * 2, _arrive, arrived)
        try:
            await arrived
        finally:
            timer.cancel()


def _arrive(arrived: asyncio.Future[None]) -> None:
    if not arrived.done():
        arrived.set_result(None)
