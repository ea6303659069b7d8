"""Waiting for a place in a task, of whichever event loop."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from resilience.bulkhead._machine import Arrival
from resilience.bulkhead._queue import Waiter
from resilience.running import running_loop

if TYPE_CHECKING:
    from resilience.bulkhead._admission import Admission
    from resilience.bulkhead._machine import Places
    from resilience.bulkhead._queue import Permit, Queue

__all__ = ("enter",)


class _TaskWaiter(Waiter):
    __slots__ = ("_future", "_loop")

    def __init__(self, places: Places[Any], loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(places)
        self._loop = loop
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


async def enter(admission: Admission, queue: Queue) -> Permit:
    """Return a permit, suspending this task for as long as the admission allows."""
    permit = queue.take()
    if permit is not None:
        return permit
    waiter, patience = _TaskWaiter(queue.places, running_loop(admission)), admission.patience()
    try:
        arrival = queue.arrive(waiter, patience)
        if arrival is Arrival.QUEUED and (await waiter.wait(patience) or not queue.withdraw(waiter)):
            arrival = Arrival.ADMITTED
        return admission.judge(arrival, waiter, patience)
    except BaseException:
        queue.abandon(waiter)
        raise
