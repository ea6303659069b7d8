"""The operations of `Life` for async code: they suspend the caller and do not block its event loop."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import threading
import time
from collections.abc import Callable
from contextvars import copy_context
from typing import Any

from resilience.lifecycle._hooks import (
    POLL_INTERVAL,
    DependencyWait,
    HookOutcome,
    HookStage,
    never,
    report_failure,
)
from resilience.lifecycle._in_flight import InFlight
from resilience.lifecycle._life import Life
from resilience.lifecycle._machine import HookProgress
from resilience.lifecycle._signals import SIGNALS
from resilience.running import running_loop

__all__ = ("AsyncLife", "wait_until")

_USER = "Lifecycle"


class AsyncLife:
    """Acts on a `Life`. Each method has the behaviour of the `Life` method of the same name."""

    def __init__(self, life: Life) -> None:
        self._life = life

    async def prepare(self) -> None:
        """Wait for the dependencies, and run the start hooks. Raises `StartupError`."""
        life = self._life
        life.begin(running_loop(_USER))
        for dependency in tuple(life.hooks.dependencies):
            await wait_for(life.wait_on(dependency))
        await self._run_hooks(HookStage.START)

    async def start(self) -> None:
        """Prepare, and become ready."""
        await self.prepare()
        self._life.started()

    async def wait_drain_hooks(self) -> bool:
        """Suspend until no drain hook is running. Return whether that came within their timeouts."""
        return await wait_until(self._life.drain_hooks_done, self._life.drain_hooks_timeout)

    async def wait_drained(self, limit: float) -> bool:
        """Drain, and suspend until the last request has left."""
        running_loop(_USER)
        life = self._life
        life.drain()
        life.shutdown.is_observed = True
        await wait_until(lambda: SIGNALS.came_twice, life.options.drain_delay)
        await self.wait_drain_hooks()
        return await wait_idle(life.in_flight, limit)

    async def stop(self) -> None:
        """Run the stop hooks, once in a life."""
        running_loop(_USER)
        shutdown, is_first = self._life.begin_stop()
        if not is_first:
            await wait_until(lambda: shutdown.stop_hooks is HookProgress.DONE, self._life.stop_timeout)
            return
        try:
            await self.wait_drain_hooks()
            await self._run_hooks(HookStage.STOP)
        finally:
            self._life.end_stop(shutdown)

    async def enter_block(self) -> None:
        """Start, at the beginning of an `async with lifecycle:` block. If that fails, stop."""
        self._life.in_with_block = threading.current_thread() is threading.main_thread()
        try:
            await self.start()
        except BaseException:
            await self._stop_in_block()
            raise

    async def leave_block(self, *, has_failed: bool) -> None:
        """Drain and stop, at the end of the block."""
        life = self._life
        life.drain()
        life.shutdown.is_observed = True
        try:
            if not has_failed:
                await wait_idle(life.in_flight, life.options.drain_timeout)
        finally:
            await self._stop_in_block()

    async def _stop_in_block(self) -> None:
        try:
            await self.stop()
        finally:
            self._life.in_with_block = False

    async def _run_hooks(self, stage: HookStage) -> None:
        """Run the hooks of a stage, one after the other. Raises `StartupError` for a required hook.

        If this task is cancelled while stop hooks run, the hook under way ends and the others still run, because they
        close connections. The cancellation goes on after the last one.
        """
        cancelled: asyncio.CancelledError | None = None
        for hook in self._life.hooks.at(stage):
            try:
                outcome = await run_as_task(hook.arun, hook.timeout, f"{stage}-{hook.name}")
                report_failure(self._life.events, stage, hook, outcome)
            except asyncio.CancelledError as error:
                if stage is not HookStage.STOP:
                    raise
                cancelled = error
        if cancelled is not None:
            raise cancelled


async def wait_idle(in_flight: InFlight, limit: float) -> bool:
    """Suspend until no request is in flight, for at most `limit` seconds. The last one may leave in another thread."""
    loop = running_loop(_USER)
    idle = asyncio.Event()

    def wake() -> None:
        with contextlib.suppress(RuntimeError):  # the loop was closed meanwhile, so no task waits
            loop.call_soon_threadsafe(idle.set)

    if not in_flight.watch(wake):
        return True
    timeout = asyncio.timeout(limit)
    try:
        async with timeout:
            await idle.wait()
    except TimeoutError:
        if not timeout.expired():
            raise
    finally:
        in_flight.unwatch(wake)
    return idle.is_set()


async def wait_until(condition: Callable[[], bool], limit: float) -> bool:
    """Suspend until `condition()`, for at most `limit` seconds. Return whether it came true in time."""
    end = time.monotonic() + limit
    while not condition():
        left = end - time.monotonic()
        if left <= 0:
            return False
        running_loop(_USER)
        await asyncio.sleep(min(left, POLL_INTERVAL))
    return True


async def wait_for(wait: DependencyWait) -> None:
    """Suspend until a dependency is there. Raises `StartupError`."""
    name = f"waits-for-{wait.dependency.name}"
    while not wait.is_over(
        await run_as_task(wait.dependency.check, wait.time_left(), name, is_cancelled=wait.is_cancelled)
    ):
        await wait_until(wait.is_cancelled, wait.pause())


async def run_as_task(
    run: Callable[[], Any], limit: float, name: str, *, is_cancelled: Callable[[], bool] = never
) -> HookOutcome:
    """Run `run` in a task of its own and return its outcome, after at most `limit` seconds.

    A coroutine that takes longer is cancelled. A thread that takes longer is left behind.
    """
    task = asyncio.create_task(_outcome_of(run, name), name=f"resilience {name}")
    begun = time.monotonic()
    try:
        while not task.done() and (left := begun + limit - time.monotonic()) > 0 and not is_cancelled():
            await asyncio.wait({task}, timeout=min(left, POLL_INTERVAL))
    finally:
        is_late = not task.done()
        task.cancel()
    if is_late:
        lasted = time.monotonic() - begun
        await asyncio.wait(
            {task}, timeout=POLL_INTERVAL
        )  # its `finally` may await; if it does not end, leave it behind
        return HookOutcome(still_running_after=min(limit, lasted))
    return task.result()


async def _outcome_of(run: Callable[[], Any], name: str) -> HookOutcome:
    try:
        result = run() if inspect.iscoroutinefunction(run) else await _in_thread(run, name)
        return HookOutcome(await result if hasattr(type(result), "__await__") else result)
    except asyncio.CancelledError as error:
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise
        return HookOutcome(None, error)
    except (KeyboardInterrupt, GeneratorExit):
        raise
    except BaseException as error:  # noqa: BLE001 - any exception is this hook's failure, SystemExit too
        return HookOutcome(None, error)


async def _in_thread(run: Callable[[], Any], name: str) -> Any:
    """Call a plain function in a daemon thread. A thread of the loop's executor would delay the end of the process."""
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[HookOutcome] = loop.create_future()

    def settle(outcome: HookOutcome) -> None:
        if not answer.done():
            answer.set_result(outcome)

    def call() -> None:
        try:
            outcome = HookOutcome(run())
        except BaseException as error:  # noqa: BLE001 - any exception is this hook's failure, SystemExit too
            outcome = HookOutcome(None, error)
        with contextlib.suppress(RuntimeError):  # the loop was closed meanwhile
            loop.call_soon_threadsafe(settle, outcome)

    context = copy_context()
    try:
        threading.Thread(target=context.run, args=(call,), name=f"resilience-{name}", daemon=True).start()
    except RuntimeError:  # no more threads, or the interpreter is ending: run it in this thread, without a limit
        context.run(call)
    outcome = await answer
    if outcome.error is not None:
        raise outcome.error
    return outcome.result
