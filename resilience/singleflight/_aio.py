"""Callers in tasks of one event loop: the call runs in a task of its own, and all callers await that task."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Awaitable, Callable, Coroutine, Hashable
from typing import Any, ParamSpec, TypeAlias, TypeVar, cast

from resilience._support.awaiting import CoroutineFunction
from resilience._support.sharing import Keys, unhashable
from resilience.policy import Substitute
from resilience.running import running_loop
from resilience.singleflight._flights import FlightGroup, LoopFlights, current_flights, waiting_for
from resilience.singleflight._machine import Flight
from resilience.singleflight._outcome import FollowerSignal, SharedOutcome, outcome_of
from resilience.singleflight._shared_deadline import covers, extend, in_force, is_last, new_deadline, ran_short
from resilience.timeout import Deadline, DeadlineTimer, DeadlineWait, LatestDeadline

__all__ = ("around_async",)

P = ParamSpec("P")
R = TypeVar("R")
_CallFlight: TypeAlias = Flight[asyncio.Future[bool]]
"""Each follower waits for a future of its own, which says whether the call has ended."""


async def _make_call(
    flight: _CallFlight, call: Callable[..., Awaitable[R]], args: tuple[object, ...], kwargs: dict[str, object]
) -> R:
    # This frame holds the flight alone, not the task: an error's traceback holds the frame, and the task the error.
    current_flights.set((*current_flights.get(), flight))
    with in_force(flight.deadline):
        return await call(*args, **kwargs)


class _TaskFlight:
    """One call in flight in a task. If the last caller leaves, the task is cancelled."""

    def __init__(
        self,
        group: FlightGroup,
        in_flight: dict[Hashable, _TaskFlight],
        key: Hashable,
        make: Callable[[_CallFlight], Coroutine[Any, Any, object]],
        before: LatestDeadline | None,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self._group, self._in_flight, self._key = group, in_flight, key
        self._deadline = Deadline.current()
        """The deadline of the first caller."""
        self._timer: DeadlineTimer | None = None
        self.flight: _CallFlight = Flight(group.epoch, deadline=new_deadline(self._deadline, before))
        self._signal: SharedOutcome | FollowerSignal | None = None
        self._loop = loop
        self._leader = self._loop.create_future()
        in_flight[key] = self
        self._task: asyncio.Task[object] | None = self._loop.create_task(make(self.flight))
        self._task.add_done_callback(self._finish)

    async def lead(self) -> object:
        """Return the result of the call, as its first caller; raise if the deadline of that caller comes first."""
        wait = DeadlineWait(self._deadline)
        if not is_last(self.flight.deadline, self._deadline):
            self._watch_leader()
        try:
            has_ended = await self._wait(self._leader)
        finally:
            if self._timer is not None:
                self._timer.cancel()
        if not has_ended:
            await self._leave(self._leader)
            raise self._group.exceeded(wait.seconds)
        self._remove()
        task, self._task = cast("asyncio.Task[object]", self._task), None
        try:
            return task.result()
        finally:
            del task  # the error's traceback holds this frame: no cycle through the task

    async def follow(self) -> SharedOutcome | FollowerSignal:
        """Return the outcome once the call has ended; raise if the deadline in force comes first."""
        deadline = Deadline.current()
        wait = self._group.wait(deadline)
        if self.flight.is_over:  # a moment ago: its leader has not run since
            return self._checked(deadline, self._signal or _signal_of(cast("asyncio.Task[object]", self._task)))
        if extend(self.flight.deadline, deadline):
            self._watch_leader()
        follower: asyncio.Future[bool] = self._loop.create_future()
        timer = DeadlineTimer(self._loop, wait, functools.partial(_resolve, follower, False))
        try:
            has_ended = await self._wait(follower)
        finally:
            timer.cancel()
        if not has_ended:
            await self._leave(follower)
            raise self._group.exceeded(wait.seconds)
        self._remove()
        return self._checked(deadline, self._signal or FollowerSignal.LOOK_AGAIN)

    def _checked(
        self, deadline: Deadline | None, signal: SharedOutcome | FollowerSignal
    ) -> SharedOutcome | FollowerSignal:
        """Return `signal`, or TOO_SHORT if the call had less time than a caller with this `deadline` has."""
        is_too_short = (
            self.flight.ran_short and isinstance(signal, SharedOutcome) and not covers(self.flight.deadline, deadline)
        )
        return FollowerSignal.TOO_SHORT if is_too_short else signal

    def _watch_leader(self) -> None:
        """Answer the first caller at its own deadline, although the call itself goes on for others."""
        if self._timer is None:
            on_expired = functools.partial(_resolve, self._leader, False)
            self._timer = DeadlineTimer(self._loop, DeadlineWait(self._deadline), on_expired)

    async def _wait(self, follower: asyncio.Future[bool]) -> bool:
        self.flight.join(follower)
        try:
            return await follower
        except GeneratorExit:  # the loop is closed or closing: nothing can be awaited any more
            self._left(follower)
            raise
        except BaseException:
            await self._leave(follower)
            raise

    async def _leave(self, follower: asyncio.Future[bool]) -> None:
        """Wait no longer; the last caller to leave waits for the end of the call, as if it had made the call itself."""
        task, is_interrupted = self._left(follower), False
        while task is not None and not task.done():
            try:
                await asyncio.wait((task,))
            except asyncio.CancelledError:
                is_interrupted = True
                task.cancel()
        if is_interrupted:
            raise asyncio.CancelledError

    def _left(self, follower: asyncio.Future[bool]) -> asyncio.Task[object] | None:
        """Take `follower` out of the flight. If it was the last one, cancel the task and return it."""
        has_ended = not self.flight.leave(follower)
        if not has_ended and self.flight.waiting:
            return None
        self._remove()  # after the end as well: there may be no other caller to do it
        if has_ended:
            return None
        if self._loop.is_closed():  # the call never goes on, and its task cannot be cancelled
            return None
        cast("asyncio.Task[object]", self._task).cancel()
        return self._task

    def _finish(self, task: asyncio.Task[object]) -> None:
        if not task.cancelled():
            task.exception()  # retrieved, or asyncio would log an error that has no caller left
        self.flight.ran_short = _ran_short(self.flight, task)
        followers = self.flight.finish()
        if not followers:
            self._remove()
        if any(follower is not self._leader for follower in followers):
            self._signal = _signal_of(task)
        for follower in followers:
            _resolve(follower, True)

    def _remove(self) -> None:
        # By the first caller that wakes up, not at the end of the call: a cache outside keeps the result in that same
        # step, so no caller can come in between and find neither the call nor its result.
        if self._in_flight.get(self._key) is self:
            del self._in_flight[self._key]


def _resolve(future: asyncio.Future[bool], has_ended: bool) -> None:  # noqa: FBT001 - the value of a future
    if not future.done():
        future.set_result(has_ended)


def _ran_short(flight: _CallFlight, task: asyncio.Task[object]) -> bool:
    if flight.deadline is None or task.cancelled():
        return False
    error = task.exception()
    return ran_short(flight.deadline, None if error is not None else task.result(), error)


def _signal_of(task: asyncio.Task[object]) -> SharedOutcome | FollowerSignal:
    """Return what the followers get. They do not share how the task was cancelled or interrupted."""
    if task.cancelled():
        return FollowerSignal.LOOK_AGAIN
    error = task.exception()
    if error is None:
        return outcome_of(task.result())
    return outcome_of(None, error) if isinstance(error, Exception | Substitute) else FollowerSignal.LOOK_AGAIN


def around_async(
    group: FlightGroup, flights: LoopFlights, keys: Keys, call: Callable[P, Awaitable[R]]
) -> CoroutineFunction[P, R]:
    """Return `call`, made once for callers in the same loop that come while it is in flight."""

    def find(in_flight: dict[Hashable, _TaskFlight], key: Hashable, *, is_second: bool) -> _TaskFlight | None:
        # The second time, a caller joins only a call that began with all the time that the caller has.
        try:
            found = in_flight.get(key)
        except TypeError as error:
            raise unhashable(group.name, key, error) from None
        if found is None or found.flight.epoch != group.epoch:
            return None
        return None if is_second and not covers(found.flight.deadline, Deadline.current()) else found

    async def shared(*args: P.args, **kwargs: P.kwargs) -> R:
        loop, key = running_loop(f"SingleFlight {group.name!r}"), keys(args, kwargs)
        before: LatestDeadline | None = None  # that of a call with too little time for this caller
        while True:
            in_flight = flights.of_loop(loop)
            found = find(in_flight, key, is_second=before is not None)
            if found is None:
                group.calls += 1
                found = _TaskFlight(
                    group, in_flight, key, lambda own: _make_call(own, call, args, kwargs), before, loop
                )
                return cast("R", await found.lead())
            with waiting_for(found.flight) as is_circular:
                signal = FollowerSignal.CALL_ALONE if is_circular else await found.follow()
            if isinstance(signal, SharedOutcome):
                group.shared += 1
                return cast("R", signal.deliver())
            if signal is FollowerSignal.TOO_SHORT:
                before = found.flight.deadline
            if signal is FollowerSignal.CALL_ALONE:
                return await call(*args, **kwargs)

    return shared
