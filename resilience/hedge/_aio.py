"""The awaiting shell: each attempt is a task, in a copy of the caller's context."""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections.abc import Awaitable, Callable, Coroutine
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, cast

if TYPE_CHECKING:
    from resilience.hedge._machine import Race
    from resilience.hedge._policy import Hedge

__all__ = ("around_async",)

P = ParamSpec("P")
R = TypeVar("R")


def around_async(hedge: Hedge, inner: Callable[P, Awaitable[R]]) -> Callable[P, Coroutine[Any, Any, R]]:
    """Return `inner` hedged."""

    async def call(*args: P.args, **kwargs: P.kwargs) -> R:
        race = hedge.begin()
        try:
            if race.is_single:
                return await _alone(hedge, race, inner(*args, **kwargs))
            await _Tasks(hedge, race, functools.partial(inner, *args, **kwargs)).run()
        finally:
            hedge.leave(race)
        return cast("R", hedge.handed_on(race))

    return call


async def _alone(hedge: Hedge, race: Race, attempt: Awaitable[R]) -> R:
    """Await the only attempt in the caller's own task: there is nothing to race with."""
    number = hedge.started(race)
    try:
        result = await attempt
    except BaseException as error:
        hedge.ended(race, number, None, error)
        race.forget()
        raise
    hedge.ended(race, number, result, None)
    return result


async def _made(call: Callable[[], Awaitable[R]]) -> R:
    return await call()


class _Tasks:
    """The attempts of one call. Everything here happens in the caller's task, except what the two callbacks note."""

    __slots__ = ("_call", "_ended", "_hedge", "_loop", "_race", "_running", "_signal")

    def __init__(self, hedge: Hedge, race: Race, call: Callable[[], Awaitable[Any]]) -> None:
        self._hedge, self._race, self._call = hedge, race, call
        self._loop = asyncio.get_running_loop()
        self._running: dict[asyncio.Task[Any], int] = {}
        self._ended: list[tuple[int, asyncio.Task[Any]]] = []
        self._signal: asyncio.Future[None] | None = None

    async def run(self) -> None:
        """Let the attempts race to the end; none is running afterwards, or it ignores that it was cancelled."""
        race = self._race
        try:
            while not race.is_over:
                if race.is_due:
                    self._start()
                else:
                    await self._wait()
                self._judge()
        except GeneratorExit:  # closed from outside, by a loop that is gone: nothing can be awaited any more
            self._cancel()
            raise
        except BaseException:
            await self._settle()
            raise
        if self._running:
            await self._settle()

    def _start(self) -> None:
        hedge, race = self._hedge, self._race
        is_hedge = race.started > 0
        if is_hedge and not hedge.allows(race):
            return
        attempt = _made(self._call)
        try:
            task = self._loop.create_task(attempt)
        except BaseException:  # a task factory of somebody else's
            attempt.close()
            if is_hedge:
                hedge.release()
            raise
        self._running[task] = race.started + 1
        task.add_done_callback(self._note_hedge if is_hedge else self._note)
        hedge.started(race)

    def _note_hedge(self, task: asyncio.Task[Any]) -> None:
        self._hedge.release()
        self._note(task)

    def _note(self, task: asyncio.Task[Any]) -> None:
        if not task.cancelled():
            task.exception()  # asked for, so that nobody is told it was never retrieved
        number = self._running.pop(task, None)
        if number is None:
            self._hedge.lingering.discard(task)
            return
        self._ended.append((number, task))
        self._wake()

    def _judge(self) -> None:
        while self._ended and not self._race.is_over:
            number, task = self._ended.pop(0)
            if task.cancelled():
                self._hedge.ended(self._race, number, None, asyncio.CancelledError())
            elif (error := task.exception()) is not None:
                self._hedge.ended(self._race, number, None, error)
                del error  # this frame must not be what keeps it
            else:
                self._hedge.ended(self._race, number, task.result(), None)

    async def _wait(self) -> None:
        """Wait until an attempt has ended or the next one is due."""
        seconds = self._race.wait(self._hedge.clock())
        timer = None if seconds is None else self._loop.call_later(seconds, self._elapse)
        try:
            await self._woken()
        finally:
            if timer is not None:
                timer.cancel()

    async def _woken(self) -> None:
        self._signal = self._loop.create_future()
        await self._signal

    def _elapse(self) -> None:
        self._race.elapse()
        self._wake()

    def _wake(self) -> None:
        if self._signal is not None and not self._signal.done():
            self._signal.set_result(None)

    def _cancel(self) -> None:
        for task in list(self._running):
            with contextlib.suppress(RuntimeError):  # its loop is closed: it will never run again
                task.cancel()

    async def _settle(self) -> None:
        """Cancel what is running and wait for it, even if told to stop meanwhile, but never longer than agreed."""
        self._cancel()
        interruption: asyncio.CancelledError | None = None
        timer = self._loop.call_later(self._hedge.options.cancel_timeout, self._give_up)
        while self._running:
            try:
                await self._woken()
            except asyncio.CancelledError as error:
                interruption = error
        timer.cancel()
        if interruption is not None:
            try:
                raise interruption
            finally:
                del interruption  # its traceback refers to this frame: no cycle through it

    def _give_up(self) -> None:
        tasks = list(self._running)
        self._running.clear()
        self._hedge.linger(tasks)
        self._wake()
