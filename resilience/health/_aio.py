"""Running probes as tasks of the loop that asks, and waiting for them without blocking it.

The task belongs to the check and not to the probe request: a request that is cancelled leaves it running for the next
one. It starts in an empty context, so that no request's deadline or trace leaks into it (L19).
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import inspect
from collections.abc import Awaitable, Callable
from contextvars import Context
from typing import Any

from resilience.health._check import Check, Home, Launch
from resilience.health._machine import Outcome, Run
from resilience.health._sync import in_thread
from resilience.health._verdict import reason_of, verdict_of
from resilience.running import running_loop

__all__ = ("collect", "launch_here", "launch_in", "resolve")


def resolve(awaitable: Awaitable[Any]) -> Any:
    """Return what `awaitable` resolves to, in a loop of its own."""

    async def wait() -> Any:
        return await awaitable

    return asyncio.run(wait())


async def collect(asked: list[tuple[Check, Outcome | Run]]) -> list[Outcome]:
    """Return the outcome of each, waiting no longer than the longest timeout: they all run already."""
    return [await _outcome_of(check, found) for check, found in asked]


async def _outcome_of(check: Check, found: Outcome | Run) -> Outcome:
    if isinstance(found, Outcome):
        return found
    loop = asyncio.get_running_loop()
    over: asyncio.Future[None] = loop.create_future()

    def wake() -> None:
        with contextlib.suppress(RuntimeError):  # our loop was closed meanwhile: nobody waits any more
            loop.call_soon_threadsafe(_resolve_once, over)

    if check.watch(found, wake):
        try:
            await asyncio.wait([over], timeout=check.patience(found))
        finally:
            check.forget(wake)
    return check.conclude(found)


def _resolve_once(over: asyncio.Future[None]) -> None:
    if not over.done():
        over.set_result(None)


def launch_here() -> Launch:
    """Return what starts a run for the running loop: coroutine functions as its tasks, the rest in threads."""
    loop = running_loop("Health")

    def launch(check: Check, run: Run) -> None:
        if _is_coroutine_function(check.probe):
            _begin(check, run, check.probe, _Loop(loop))
        else:
            in_thread(check, run, functools.partial(_hand_over, _Loop(loop)))

    return launch


def launch_in(loop: asyncio.AbstractEventLoop) -> Launch:
    """Return the same for a loop that another thread runs."""

    def launch(check: Check, run: Run) -> None:
        home = _Loop(loop)
        if _is_coroutine_function(check.probe):
            check.settle_in(home, run)
            loop.call_soon_threadsafe(_begin, check, run, check.probe, home)  # RuntimeError where it was closed
        else:
            in_thread(check, run, functools.partial(_hand_over, home))

    return launch


def _is_coroutine_function(probe: Any) -> bool:
    while isinstance(probe, functools.partial):
        probe = probe.func
    return inspect.iscoroutinefunction(probe) or inspect.iscoroutinefunction(type(probe).__call__)


class _Loop(Home):
    """An event loop, and the task in it: kept here because the loop itself holds tasks only weakly."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.task: asyncio.Task[None] | None = None

    def is_gone(self, *, overdue: bool) -> bool:
        # A loop may pause between two run_until_complete(); one that pauses beyond the timeout is taken for dead.
        return self.loop.is_closed() or (overdue and not self.loop.is_running())


def _hand_over(home: _Loop, check: Check, run: Run, awaitable: Awaitable[Any]) -> None:
    """Continue in the loop that asked: what a plain function returned may be bound to it."""
    check.settle_in(home, run)
    try:
        home.loop.call_soon_threadsafe(_begin, check, run, lambda: awaitable, home)
    except RuntimeError:  # closed
        if inspect.iscoroutine(awaitable):
            awaitable.close()
        check.abandon(run)


def _begin(check: Check, run: Run, probe: Callable[[], Awaitable[Any]], home: _Loop) -> None:
    home.task = home.loop.create_task(_drive(check, run, probe), name=f"health {check.name}", context=Context())
    home.task.add_done_callback(functools.partial(_ended, check, run))
    check.settle_in(home, run)


async def _drive(check: Check, run: Run, probe: Callable[[], Awaitable[Any]]) -> None:
    try:
        reason = verdict_of(await probe())
    except asyncio.CancelledError as error:
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise  # the loop is shutting down
        reason = reason_of(error)
    except (KeyboardInterrupt, GeneratorExit):
        raise
    except BaseException as error:  # noqa: BLE001 - whatever leaves a probe is its answer, sys.exit() too
        reason = reason_of(error)
    check.finish(run, reason)


def _ended(check: Check, run: Run, task: asyncio.Task[None]) -> None:
    """Give the run up if its task ended without an answer, even before its first step."""
    check.abandon(run)
    if not task.cancelled():
        task.exception()
