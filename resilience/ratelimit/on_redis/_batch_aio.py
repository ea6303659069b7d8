"""Tasks that share one round trip to Redis: all that ask in one turn of their event loop, for whichever buckets.

A busy server has several requests in hand in each turn, and a round trip costs its process more than the rest of a
limiter does. No caller waits for others to come: the batch of one turn is sent in the next. If no connection is free
then, the batch waits for one, and more callers may join it.
"""

from __future__ import annotations

import asyncio
from contextvars import Context
from typing import TYPE_CHECKING

from resilience.ratelimit.on_redis._batch import ScriptBatch
from resilience.redis._outage import OutageGuard, RedisAttempt
from resilience.running import needs_asyncio

if TYPE_CHECKING:
    from redis.asyncio.connection import AbstractConnection

    from resilience.ratelimit._decision import Decision
    from resilience.ratelimit.on_redis._codec import BucketCall, BucketCodec
    from resilience.redis import LuaScript, RedisConnection
    from resilience.redis._exchange import Reply
    from resilience.redis._machine import OutagePermit

__all__ = ("TaskBatches",)


class TaskBatches:
    """The batches of the tasks of all event loops: at most one of each loop is open for more callers.

    Args:
        connection: Gives the connections.
        script: The script to run.
        outage: Records whether Redis answered.
    """

    def __init__(self, connection: RedisConnection, script: LuaScript, outage: OutageGuard) -> None:
        self.connection = connection
        self.script = script
        self.outage = outage
        self._open: dict[asyncio.AbstractEventLoop, TaskBatch] = {}

    def __len__(self) -> int:
        return len(self._open)

    def running_loop(self, user: str) -> asyncio.AbstractEventLoop:
        """Return the running loop. Raises `ConfigurationError` that names `user` if asyncio runs none."""
        try:  # `resilience.running.running_loop`, written out for the usual case
            return asyncio.get_running_loop()
        except RuntimeError:
            raise needs_asyncio(f"RateLimit {user!r} on a RedisStore") from None

    def batch_of(self, loop: asyncio.AbstractEventLoop, permit: OutagePermit) -> TaskBatch:
        """Return the batch that the next caller of `loop` joins. The caller keeps it: a loop keeps no task alive."""
        batch = self._open.get(loop)
        if batch is None or batch.permit is not permit or batch.is_full:
            for closed in [known for known in tuple(self._open) if known.is_closed()]:
                self._open.pop(closed, None)
            batch = self._open[loop] = TaskBatch(self, permit, loop)
        return batch

    def close(self, loop: asyncio.AbstractEventLoop, batch: TaskBatch) -> None:
        """Let no other task of `loop` join `batch`."""
        if self._open.get(loop) is batch:
            del self._open[loop]


class TaskBatch(ScriptBatch):
    """A batch that a task of its own takes to Redis."""

    __slots__ = ("_batches", "_loop", "_task")

    def __init__(self, batches: TaskBatches, permit: OutagePermit, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(permit, batches.connection)
        self._batches = batches
        self._loop = loop
        # Not by the loop's task factory: an eager one would send the batch at once, without a caller. And the context
        # of the first caller must not matter to the others: its deadline, request and span do not go along (L19).
        self._task = asyncio.Task(self._run(), loop=loop, context=Context())
        self._task.add_done_callback(self._settle)

    def join(self, codec: BucketCodec, call: BucketCall, cost: int) -> asyncio.Future[Decision | None]:
        """Return a future of the decision, or of None if Redis does not answer.

        Args:
            codec: Decodes the reply.
            call: The bucket, and the arguments of the script.
            cost: Tokens that the caller wants.
        """
        caller: asyncio.Future[Decision | None] = self._loop.create_future()
        self.add(codec, call, cost, caller)
        return caller

    async def _run(self) -> None:
        """Ask for all callers that have joined. `_settle` wakes the callers that get no answer."""
        with RedisAttempt(self._batches.outage, self.permit):
            self.answer(await self._batches.connection.aio_pool.run(self._ask))

    async def _ask(self, connection: AbstractConnection) -> list[Reply]:
        self._batches.close(self._loop, self)
        if not (calls := self.script_calls()):
            return []
        replies = await self._batches.script.acall(connection, calls)
        if self.is_split(replies):
            replies = await self._batches.script.acall(connection, self.script_calls())
        return replies

    def _settle(self, _task: asyncio.Task[None]) -> None:
        """Wake the callers without an answer: Redis gave none, or the task was cancelled, perhaps before it began."""
        self._batches.close(self._loop, self)
        self.settle_rest()
