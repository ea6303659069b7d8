"""The awaiting shell: each attempt runs in a task, in a copy of the context of the caller."""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections.abc import Awaitable, Callable
from typing import ParamSpec, TypeVar, cast

from resilience._support.awaiting import CoroutineFunction
from resilience.hedge._machine import Race
from resilience.hedge._races import Races
from resilience.policy import Named
from resilience.running import running_loop

__all__ = ("around_async",)

P = ParamSpec("P")
R = TypeVar("R")


def around_async(races: Races, hedge: Named, inner: Callable[P, Awaitable[R]]) -> CoroutineFunction[P, R]:
    """Return `inner` hedged. `hedge` is named in the error if no loop of asyncio runs."""

    async def call(*args: P.args, **kwargs: P.kwargs) -> R:
        # Also for a single attempt: else a hedge would work in another framework until it has learned its delay.
        loop = running_loop(hedge)
        race = races.begin()
        try:
            if race.is_single:
                return await _run_alone(races, race, inner(*args, **kwargs))
            await _TaskRace(races, race, functools.partial(inner, *args, **kwargs), loop).run()
        finally:
            races.end(race)
        return cast("R", races.outcome(race))

    return call


async def _run_alone(races: Races, race: Race, attempt: Awaitable[R]) -> R:
    """Await the only attempt in the task of the caller."""
    number = races.start_attempt(race)
    try:
        result = await attempt
    except BaseException as error:
        races.end_attempt(race, number, None, error)
        race.forget()
        raise
    races.end_attempt(race, number, result, None)
    return result


class _TaskRace:
    """The attempts of one call. Each attempt records its end; the task of the caller decides."""

    __slots__ = ("_call", "_ended", "_is_open", "_loop", "_race", "_races", "_running", "_signal")

    def __init__(
        self, races: Races, race: Race, call: Callable[[], Awaitable[object]], loop: asyncio.AbstractEventLoop
    ) -> None:
        self._races, self._race, self._call = races, race, call
        self._loop = loop
        self._running: dict[int, asyncio.Task[None]] = {}
        self._ended: list[tuple[int, object, BaseException | None]] = []
        self._signal: asyncio.Future[None] | None = None
        self._is_open = True  # whether the ends of attempts still count

    async def run(self) -> None:
        """Run the race to its end. Afterwards no attempt runs, unless it ignores its cancellation."""
        race = self._race
        try:
            while not race.is_over:
                if race.is_due:
                    self._start()
                else:
                    await self._wait()
                while self._ended and not race.is_over:
                    self._races.end_attempt(race, *self._ended.pop(0))
        except GeneratorExit:  # closed from outside after its loop has gone: awaiting is not possible any more
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
        races, race = self._races, self._race
        is_hedge = race.started > 0
        if is_hedge and not races.may_hedge(race):
            return
        number = race.started + 1
        attempt = self._attempt(number)
        try:
            task = self._loop.create_task(attempt)
        except BaseException:  # from a task factory of the application
            attempt.close()
            if is_hedge:
                races.release()
            raise
        if not task.done():  # an eager task may be
            self._running[number] = task
        task.add_done_callback(functools.partial(self._on_task_done, number))
        races.start_attempt(race)

    async def _attempt(self, number: int) -> None:
        # Recorded here and not in a callback of the task: the caller wakes one turn of the loop sooner.
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

    def _on_task_done(self, number: int, task: asyncio.Task[None]) -> None:
        """Record the end of a task. A task that was cancelled early may never have begun."""
        if number > 1:
            self._races.release()
        self._races.lingering.discard(task)
        error = asyncio.CancelledError() if task.cancelled() else task.exception()
        if self._running.pop(number, None) is not None:
            if self._is_open:
                self._ended.append((number, None, error))
            self._wake()

    async def _wait(self) -> None:
        """Wait until an attempt has ended or the next one is due."""
        seconds = self._race.wait(self._races.clock())
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
        """Cancel the attempts that run and wait for them, through a cancellation too, but at most `cancel_timeout`."""
        self._close()
        self._cancel()
        interruption: asyncio.CancelledError | None = None
        timer = self._loop.call_later(self._races.options.cancel_timeout, self._give_up)
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
        self._races.linger(list(self._running.values()))
        self._running.clear()
        self._wake()
