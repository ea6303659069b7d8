"""Callers in tasks of one event loop: the call runs in a task of its own, and all of them await that."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Awaitable, Callable, Coroutine, Hashable
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, cast

from resilience._support.sharing import Keys, unhashable
from resilience.policy import Substitute
from resilience.running import running_loop
from resilience.singleflight._machine import Flight
from resilience.singleflight._outcome import Outcome, Told, outcome_of
from resilience.singleflight._space import LoopSpace, under_way, waiting_for
from resilience.singleflight._time import covers, deadline_for, in_force, is_last, join, ran_short
from resilience.timeout import Deadline, DeadlineTimer, DeadlineWait

if TYPE_CHECKING:
    from resilience.singleflight._policy import SingleFlight

__all__ = ("around_async",)

P = ParamSpec("P")
R = TypeVar("R")


async def _made(line: Flight[Any], call: Callable[..., Awaitable[R]], args: Any, kwargs: Any) -> R:
    # Knows the line alone: an error's traceback leads here, and from here must not lead back to the error.
    under_way.set((*under_way.get(), line))
    with in_force(line):
        return await call(*args, **kwargs)


class _Shared:
    """One call under way. Whoever leaves it last takes it along: a call nobody waits for is cancelled."""

    def __init__(
        self,
        single: SingleFlight,
        flights: dict[Hashable, _Shared],
        key: Hashable,
        make: Callable[[Flight[Any]], Coroutine[Any, Any, Any]],
        before: Flight[Any] | None,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self._single, self._flights, self._key = single, flights, key
        self._deadline = Deadline.current()
        """The first caller's own."""
        self._alarm: DeadlineTimer | None = None
        self.line: Flight[asyncio.Future[bool]] = Flight(single.epoch, deadline=deadline_for(self._deadline, before))
        self._told: Outcome | Told | None = None
        self._loop = loop
        self._leader = self._loop.create_future()
        flights[key] = self
        self._task: asyncio.Task[Any] | None = self._loop.create_task(make(self.line))
        self._task.add_done_callback(self._land)

    async def lead(self) -> Any:
        """Return what the call comes to, as the one who wanted it first; raise where its deadline comes first."""
        patience = DeadlineWait(self._deadline)
        if not is_last(self.line, self._deadline):
            self._watch_leader()
        try:
            has_ended = await self._wait(self._leader)
        finally:
            if self._alarm is not None:
                self._alarm.cancel()
        if not has_ended:
            await self._leave(self._leader)
            raise self._single.exceeded(patience.seconds)
        self._take_out()
        task, self._task = cast("asyncio.Task[Any]", self._task), None
        try:
            return task.result()
        finally:
            del task  # the error's traceback leads here: no cycle through the task

    async def follow(self) -> Outcome | Told:
        """Return what there is to tell once the call has ended; raise where the deadline in force comes first."""
        deadline = Deadline.current()
        patience = self._single.patience(deadline)
        if self.line.is_over:  # just now: the one who made it has not even heard
            return self._heard(deadline, self._told or _told_of(cast("asyncio.Task[Any]", self._task)))
        if join(self.line, deadline):
            self._watch_leader()
        waiter: asyncio.Future[bool] = self._loop.create_future()
        alarm = DeadlineTimer(self._loop, patience, functools.partial(_resolve, waiter, False))
        try:
            has_ended = await self._wait(waiter)
        finally:
            alarm.cancel()
        if not has_ended:
            await self._leave(waiter)
            raise self._single.exceeded(patience.seconds)
        self._take_out()
        return self._heard(deadline, self._told or Told.AGAIN)

    def _heard(self, deadline: Deadline | None, told: Outcome | Told) -> Outcome | Told:
        is_too_short = self.line.ran_short and isinstance(told, Outcome) and not covers(self.line, deadline)
        return Told.TOO_SHORT if is_too_short else told

    def _watch_leader(self) -> None:
        """See that the first caller is answered in time: the call itself goes on for others, with a later deadline."""
        if self._alarm is None:
            self._alarm = DeadlineTimer(
                self._loop, DeadlineWait(self._deadline), functools.partial(_resolve, self._leader, False)
            )

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
        has_landed = not self.line.leave(waiter)
        if not has_landed and self.line.waiting:
            return None
        self._take_out()  # after landing too: nobody else may come to do it
        if has_landed:
            return None
        if self._loop.is_closed():  # the call will never go on, nor can it be told to end
            return None
        cast("asyncio.Task[Any]", self._task).cancel()
        return self._task

    def _land(self, task: asyncio.Task[Any]) -> None:
        if not task.cancelled():
            task.exception()  # asked for: it is nobody's fault if nobody is left to hear it
        self.line.ran_short = _ran_short(self.line, task)
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


def _ran_short(line: Flight[Any], task: asyncio.Task[Any]) -> bool:
    if line.deadline is None or task.cancelled():
        return False
    error = task.exception()
    return ran_short(line.deadline, None if error is not None else task.result(), error)


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

    def found(flights: dict[Hashable, _Shared], key: Hashable, *, is_second: bool) -> _Shared | None:
        # For the second time a caller joins only a call that began with all the time that this caller has.
        try:
            flight = flights.get(key)
        except TypeError as error:
            raise unhashable(single.name, key, error) from None
        if flight is None or flight.line.epoch != single.epoch:
            return None
        return None if is_second and not covers(flight.line, Deadline.current()) else flight

    async def shared(*args: P.args, **kwargs: P.kwargs) -> R:
        loop, key = running_loop(single), keys(args, kwargs)
        before: Flight[Any] | None = None  # the flight that had too little time for this caller
        while True:
            flights = space.flights_of(loop)
            flight = found(flights, key, is_second=before is not None)
            if flight is None:
                single.calls += 1
                flight = _Shared(single, flights, key, lambda line: _made(line, call, args, kwargs), before, loop)
                return cast("R", await flight.lead())
            with waiting_for(flight.line) as is_ring:  # waiting would be waiting for itself
                told = Told.ALONE if is_ring else await flight.follow()
            if isinstance(told, Outcome):
                single.shared += 1
                return cast("R", told.deliver())
            if told is Told.TOO_SHORT:
                before = flight.line
            if told is Told.ALONE:
                return await call(*args, **kwargs)

    return shared
