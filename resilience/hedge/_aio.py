"""The awaiting shell: each attempt is a task, in a copy of the caller's context."""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections.abc import Awaitable, Callable, Coroutine
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, cast

from resilience.running import running_loop

if TYPE_CHECKING:
    from resilience.hedge._machine import Race
    from resilience.hedge._policy import Hedge

__all__ = ("around_async",)

P = ParamSpec("P")
R = TypeVar("R")


def around_async(hedge: Hedge, inner: Callable[P, Awaitable[R]]) -> Callable[P, Coroutine[Any, Any, R]]:
    """Return `inner` hedged."""

    async def call(*args: P.args, **kwargs: P.kwargs) -> R:
        # Also for a single attempt: a hedge that still learns would work elsewhere at first, and then fail.
        loop = running_loop(hedge)
        race = hedge.begin()
        try:
            if race.is_single:
                return await _alone(hedge, race, inner(*args, **kwargs))
            await _Tasks(hedge, race, functools.partial(inner, *args, **kwargs), loop).run()
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


class _Tasks:
    """The attempts of one call. What happens is noted where it happens; the caller's own task decides."""

    __slots__ = ("_call", "_ended", "_hedge", "_is_open", "_loop", "_race", "_running", "_signal")

    def __init__(
        self, hedge: Hedge, race: Race, call: Callable[[], Awaitable[Any]], loop: asyncio.AbstractEventLoop
    ) -> None:
        self._hedge, self._race, self._call = hedge, race, call
        self._loop = loop
        self._running: dict[int, asyncio.Task[None]] = {}
        self._ended: list[tuple[int, Any, BaseException | None]] = []
        self._signal: asyncio.Future[None] | None = None
        self._is_open = True  # whether it still matters how an attempt ends

    async def run(self) -> None:
        """Let the attempts race to the end; none is running afterwards, or it ignores that it was cancelled."""
        race = self._race
        try:
            while not race.is_over:
                if race.is_due:
                    self._start()
                else:
                    await self._wait()
                while self._ended and not race.is_over:
                    self._hedge.ended(race, *self._ended.pop(0))
        except GeneratorExit:  # closed from outside, by a loop that is gone: nothing can be awaited any more
            race.forget()
            self._close()
            self._cancel()
            raise
        except BaseException:
            race.forget()
            await self._settle()
            raise
        if self._running:
            await self._settle()
        else:
            self._close()

    def _close(self) -> None:
        self._is_open = False
        self._ended.clear()  # an error that refers to its own frames would be a cycle

    def _start(self) -> None:
        hedge, race = self._hedge, self._race
        is_hedge = race.started > 0
        if is_hedge and not hedge.allows(race):
            return
        number = race.started + 1
        attempt = self._attempt(number)
        try:
            task = self._loop.create_task(attempt)
        except BaseException:  # by a task factory of somebody else's
            attempt.close()
            if is_hedge:
                hedge.release()
            raise
        if not task.done():  # where tasks are eager it may be
            self._running[number] = task
        task.add_done_callback(functools.partial(self._gone, number))
        hedge.started(race)

    async def _attempt(self, number: int) -> None:
        # The outcome is noted here and not in a callback of the task: the caller is woken one turn of the loop sooner.
        result, failure = None, None
        try:
            result = await self._call()
        except (KeyboardInterrupt, SystemExit):  # they stop the loop
            raise
        except BaseException as error:  # noqa: BLE001 - it belongs to the caller, who is waiting for it
            failure = error
        self._running.pop(number, None)
        if self._is_open:
            self._ended.append((number, result, failure))
        self._wake()
        del failure  # its traceback refers to this frame: no cycle through it

    def _gone(self, number: int, task: asyncio.Task[None]) -> None:
        """Take note of the end of a task, which never began if it was cancelled soon enough."""
        if number > 1:
            self._hedge.release()
        self._hedge.lingering.discard(task)
        error = asyncio.CancelledError() if task.cancelled() else task.exception()
        if self._running.pop(number, None) is not None:
            if self._is_open:
                self._ended.append((number, None, error))
            self._wake()

    async def _wait(self) -> None:
        """Wait until an attempt has ended or the next one is due."""
        seconds = self._race.wait(self._hedge.clock())
        timer = None if seconds is None else self._loop.call_later(seconds, self._elapse)
        self._signal = self._loop.create_future()
        try:
            await self._signal
        finally:
            if timer is not None:
                timer.cancel()

    def _elapse(self) -> None:
        self._race.elapse()
        self._wake()

    def _wake(self) -> None:
        if self._signal is not None and not self._signal.done():
            self._signal.set_result(None)

    def _cancel(self) -> None:
        for task in list(self._running.values()):
            with contextlib.suppress(RuntimeError):  # its loop is closed: it will never run again
                task.cancel()

    async def _settle(self) -> None:
        """Cancel what is running and wait for it, even if told to stop meanwhile, but never longer than agreed."""
        self._close()
        self._cancel()
        interruption: asyncio.CancelledError | None = None
        timer = self._loop.call_later(self._hedge.options.cancel_timeout, self._give_up)
        while self._running:
            self._signal = self._loop.create_future()
            try:
                await self._signal
            except asyncio.CancelledError as error:
                interruption = error
        timer.cancel()
        if interruption is not None:
            try:
                raise interruption
            finally:
                del interruption  # its traceback refers to this frame: no cycle through it

    def _give_up(self) -> None:
        self._hedge.linger(list(self._running.values()))
        self._running.clear()
        self._wake()
