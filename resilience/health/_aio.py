"""Checks in async code: a run is a task of the loop that asks, and waiting for it does not block the loop.

The task belongs to the check, not to the probe: if a probe is cancelled, the task goes on for the next one. It starts
in an empty context, so that it inherits no deadline and no trace of a request (L19).
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import inspect
from collections.abc import Awaitable, Callable
from contextvars import Context
from typing import Any

from resilience.health._check import Check, Launch, RunHost, failure_of_error, failure_of_result
from resilience.health._machine import CheckOutcome, CheckRun
from resilience.health._schedule import launch_in_thread
from resilience.running import running_loop

__all__ = ("collect", "launch_here", "launch_in")


async def collect(asked: list[tuple[Check, CheckOutcome | CheckRun]]) -> list[CheckOutcome]:
    """Return the outcome of each check. Waits for the longest timeout at most, because all checks run already."""
    return [await _outcome_of(check, found) for check, found in asked]


async def _outcome_of(check: Check, found: CheckOutcome | CheckRun) -> CheckOutcome:
    if isinstance(found, CheckOutcome):
        return found
    loop = asyncio.get_running_loop()
    is_over: asyncio.Future[None] = loop.create_future()

    def wake() -> None:
        with contextlib.suppress(RuntimeError):  # the loop was closed meanwhile, so no task waits
            loop.call_soon_threadsafe(_resolve_once, is_over)

    if check.watch(found, wake):
        try:
            await asyncio.wait([is_over], timeout=check.time_left(found))
        finally:
            check.unwatch(wake)
    return check.conclude(found)


def _resolve_once(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def launch_here() -> Launch:
    """Return the launch for the running loop: coroutine functions become its tasks, plain ones run in threads."""
    loop = running_loop("Health")

    def launch(check: Check, run: CheckRun) -> None:
        if _is_coroutine_function(check.function):
            _begin(check, run, check.function, _LoopHost(loop))
        else:
            launch_in_thread(check, run, functools.partial(_hand_over, _LoopHost(loop)))

    return launch


def launch_in(loop: asyncio.AbstractEventLoop) -> Launch:
    """Return the launch for a loop that another thread runs."""

    def launch(check: Check, run: CheckRun) -> None:
        host = _LoopHost(loop)
        if _is_coroutine_function(check.function):
            check.move_to(host, run)
            loop.call_soon_threadsafe(_begin, check, run, check.function, host)  # RuntimeError if the loop is closed
        else:
            launch_in_thread(check, run, functools.partial(_hand_over, host))

    return launch


def _is_coroutine_function(function: object) -> bool:
    while isinstance(function, functools.partial):
        function = function.func
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(type(function).__call__)


class _LoopHost(RunHost):
    """An event loop, and the task in it. The task is kept here because the loop holds tasks only weakly."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.task: asyncio.Task[None] | None = None

    def is_gone(self, *, overdue: bool) -> bool:
        # A loop may pause between two run_until_complete(). If it still pauses after the timeout, it counts as dead.
        return self.loop.is_closed() or (overdue and not self.loop.is_running())


def _hand_over(host: _LoopHost, check: Check, run: CheckRun, awaitable: Awaitable[Any]) -> None:
    """Continue in the loop that asked: the awaitable may be bound to it."""
    check.move_to(host, run)
    try:
        host.loop.call_soon_threadsafe(_begin, check, run, lambda: awaitable, host)
    except RuntimeError:  # the loop is closed
        if inspect.iscoroutine(awaitable):
            awaitable.close()
        check.abandon(run)


def _begin(check: Check, run: CheckRun, function: Callable[[], Awaitable[Any]], host: _LoopHost) -> None:
    host.task = host.loop.create_task(_drive(check, run, function), name=f"health {check.name}", context=Context())
    host.task.add_done_callback(functools.partial(_abandon_unfinished, check, run))
    check.move_to(host, run)


async def _drive(check: Check, run: CheckRun, function: Callable[[], Awaitable[Any]]) -> None:
    try:
        reason = failure_of_result(await function())
    except asyncio.CancelledError as error:
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise  # the loop is shutting down
        reason = failure_of_error(error)
    except (KeyboardInterrupt, GeneratorExit):
        raise
    except BaseException as error:  # noqa: BLE001 - any exception is this check's failure, SystemExit too
        reason = failure_of_error(error)
    check.finish(run, reason)


def _abandon_unfinished(check: Check, run: CheckRun, task: asyncio.Task[None]) -> None:
    """Give the run up if its task ended without an answer, even before its first step."""
    check.abandon(run)
    if not task.cancelled():
        task.exception()
