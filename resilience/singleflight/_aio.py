"""Callers in tasks of one event loop: the call runs in a task of its own, and all of them await that."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Hashable
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, cast

from resilience._sharing import Keys, unhashable
from resilience.policy import Substitute
from resilience.singleflight._machine import Flight
from resilience.singleflight._outcome import Outcome, Told, outcome_of
from resilience.singleflight._space import LoopSpace, under_way, waiting_for

if TYPE_CHECKING:
    from resilience.singleflight._policy import SingleFlight

__all__ = ("around_async",)

P = ParamSpec("P")
R = TypeVar("R")


async def _made(line: Flight[Any], call: Callable[..., Awaitable[R]], args: Any, kwargs: Any) -> R:
    # Knows the line alone: an error's traceback leads here, and from here must not lead back to the error.
    under_way.set((*under_way.get(), line))
    return await call(*args, **kwargs)


class _Shared:
    """One call under way. Whoever leaves it last takes it along: a call nobody waits for is cancelled."""

    def __init__(
        self,
        single: SingleFlight,
        flights: dict[Hashable, _Shared],
        key: Hashable,
        make: Callable[[Flight[Any]], Coroutine[Any, Any, Any]],
    ) -> None:
        self._single, self._flights, self._key = single, flights, key
        self.line: Flight[asyncio.Future[bool]] = Flight(single.epoch)
        self._told: Outcome | Told | None = None
        self._loop = asyncio.get_running_loop()
        self._leader = self._loop.create_future()
        flights[key] = self
        self._task: asyncio.Task[Any] | None = self._loop.create_task(make(self.line))
        self._task.add_done_callback(self._land)

    async def lead(self) -> Any:
        """Return what the call comes to, as the one who wanted it first."""
        await self._wait(self._leader)
        self._take_out()
        task, self._task = cast("asyncio.Task[Any]", self._task), None
        try:
            return task.result()
        finally:
            del task  # the error's traceback leads here: no cycle through the task

    async def follow(self) -> Outcome | Told:
        """Return what there is to tell once the call has ended; raise where the deadline in force comes first."""
        seconds = self._single.patience()
        if self.line.is_over:  # just now: the one who made it has not even heard
            return self._told or _told_of(cast("asyncio.Task[Any]", self._task))
        waiter: asyncio.Future[bool] = self._loop.create_future()
        timer = None if seconds is None else self._loop.call_later(seconds, _resolve, waiter, False)
        try:
            has_ended = await self._wait(waiter)
        finally:
            if timer is not None:
                timer.cancel()
        if not has_ended:
            await self._leave(waiter)
            raise self._single.exceeded(seconds)
        self._take_out()
        return self._told or Told.AGAIN

    async def _wait(self, waiter: asyncio.Future[bool]) -> bool:
        self.line.join(waiter)
        try:
            return await waiter
        except GeneratorExit:  # the loop is gone, or going: nothing can be awaited any more
            self._left(waiter)
            raise
        except BaseException:
            await self._leave(waiter)
            raise

    async def _leave(self, waiter: asyncio.Future[bool]) -> None:
        """Wait no longer; the last one to leave sees the call end, as if it had made it itself."""
        task, interrupted = self._left(waiter), False
        while task is not None and not task.done():
            try:
                await asyncio.wait((task,))
            except asyncio.CancelledError:
                interrupted = True
                task.cancel()
        if interrupted:
            raise asyncio.CancelledError

    def _left(self, waiter: asyncio.Future[bool]) -> asyncio.Task[Any] | None:
        """Take `waiter` out of the line; return the task where that was the last one, having cancelled it."""
        if not self.line.leave(waiter) or self.line.waiting:
            return None
        self._take_out()
        if self._loop.is_closed():  # the call will never go on, nor can it be told to end
            return None
        cast("asyncio.Task[Any]", self._task).cancel()
        return self._task

    def _land(self, task: asyncio.Task[Any]) -> None:
        if not task.cancelled():
            task.exception()  # asked for: it is nobody's fault if nobody is left to hear it
        waiters = self.line.land()
        if not waiters:
            self._take_out()
        if any(waiter is not self._leader for waiter in waiters):
            self._told = _told_of(task)
        for waiter in waiters:
            _resolve(waiter, True)

    def _take_out(self) -> None:
        # By whoever wakes up first, not on landing: a cache outside is filled in that same step, so that no caller can
        # come in between and find neither the call nor its result.
        if self._flights.get(self._key) is self:
            del self._flights[self._key]


def _resolve(waiter: asyncio.Future[bool], has_ended: bool) -> None:  # noqa: FBT001 - the value of a future
    if not waiter.done():
        waiter.set_result(has_ended)


def _told_of(task: asyncio.Task[Any]) -> Outcome | Told:
    """Return what the others are told; how a call was cancelled or interrupted is not theirs to share."""
    if task.cancelled():
        return Told.AGAIN
    error = task.exception()
    if error is None:
        return outcome_of(task.result())
    return outcome_of(None, error) if isinstance(error, Exception | Substitute) else Told.AGAIN


def around_async(
    single: SingleFlight, space: LoopSpace, keys: Keys, call: Callable[P, Awaitable[R]]
) -> Callable[P, Coroutine[Any, Any, R]]:
    """Return `call`, made once for callers in the same loop that come while it is under way."""

    def found(flights: dict[Hashable, _Shared], key: Hashable) -> _Shared | None:
        try:
            flight = flights.get(key)
        except TypeError as error:
            raise unhashable(single.name, key, error) from None
        return None if flight is None or flight.line.epoch != single.epoch else flight

    async def shared(*args: P.args, **kwargs: P.kwargs) -> R:
        key = keys(args, kwargs)
        while True:
            flights = space.flights_of(asyncio.get_running_loop())
            flight = found(flights, key)
            if flight is None:
                single.calls += 1
                flight = _Shared(single, flights, key, lambda line: _made(line, call, args, kwargs))
                return cast("R", await flight.lead())
            with waiting_for(flight.line) as is_ring:  # waiting would be waiting for itself
                told = Told.ALONE if is_ring else await flight.follow()
            if isinstance(told, Outcome):
                single.shared += 1
                return cast("R", told.deliver())
            if told is Told.ALONE:
                return await call(*args, **kwargs)

    return shared
