"""Waiting for a place in a task, of whichever event loop."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from resilience.bulkhead._machine import Arrival

if TYPE_CHECKING:
    from resilience.bulkhead._policy import Bulkhead
    from resilience.bulkhead._queue import Queue

__all__ = ("admit",)


class _TaskWaiter:
    __slots__ = ("_future", "_loop")

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._future: asyncio.Future[bool] = self._loop.create_future()

    def wake(self) -> None:
        # May run in any thread; a closed loop raises RuntimeError, and the place goes to the next in line.
        self._loop.call_soon_threadsafe(self._resolve, True)

    async def wait(self, seconds: float) -> bool:
        timer = self._loop.call_later(seconds, self._resolve, False)
        try:
            return await self._future
        finally:
            timer.cancel()

    def _resolve(self, handed: bool) -> None:  # noqa: FBT001 - the value of a future
        if not self._future.done():
            self._future.set_result(handed)


async def _enter(queue: Queue, seconds: float) -> Arrival:
    waiter = _TaskWaiter()
    arrival = queue.arrive(waiter)
    if arrival is not Arrival.QUEUED:
        return arrival
    try:
        handed = await waiter.wait(seconds)
    except BaseException:
        queue.abandon(waiter)
        raise
    return Arrival.ADMITTED if handed or not queue.withdraw(waiter) else Arrival.QUEUED


async def admit(bulkhead: Bulkhead, queue: Queue) -> Any:
    """Return a permit, suspending this task for at most the bulkhead's `max_wait`."""
    return bulkhead.judge(await _enter(queue, bulkhead.options.max_wait))
