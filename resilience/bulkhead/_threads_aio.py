"""Awaiting a call that runs in a thread of the pool."""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, cast

from resilience.bulkhead._threads import Isolated
from resilience.errors import RunningWork
from resilience.running import running_loop
from resilience.timeout import DeadlineTimer

if TYPE_CHECKING:
    from resilience.bulkhead._threads import ThreadPoolBulkhead
    from resilience.timeout import DeadlineWait

__all__ = ("run_in_threads",)

P = ParamSpec("P")
R = TypeVar("R")


def _resolve(future: asyncio.Future[bool], has_ended: bool) -> None:  # noqa: FBT001 - the value of a future
    if not future.done():
        future.set_result(has_ended)


def _tell(loop: asyncio.AbstractEventLoop, future: asyncio.Future[bool]) -> None:
    with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits
        loop.call_soon_threadsafe(_resolve, future, True)


async def _ended(work: Isolated, patience: DeadlineWait, loop: asyncio.AbstractEventLoop) -> bool:
    """Wait for the end of `work`, as long as `patience` has it; return whether it has ended."""
    future: asyncio.Future[bool] = loop.create_future()
    work.add_done_callback(functools.partial(_tell, loop, future))
    alarm = DeadlineTimer(loop, patience, functools.partial(_resolve, future, False))
    try:
        return await future
    finally:
        alarm.cancel()


def run_in_threads(pool: ThreadPoolBulkhead, call: Callable[P, R]) -> Callable[P, Coroutine[Any, Any, R]]:
    """Return a coroutine function that runs `call` in a thread of `pool`."""

    async def isolated(*args: P.args, **kwargs: P.kwargs) -> R:
        loop = running_loop(pool)  # before a thread has begun the call
        work, is_begun = Isolated(functools.partial(call, *args, **kwargs), pool.leave), False
        try:
            work.held = [await pool.enter_awaiting() if pool.waits else pool.enter()]
            patience = pool.start(work)
            is_begun = True
            has_ended = await _ended(work, patience, loop)
        except BaseException as interrupt:
            if is_begun or not work.cancel():
                RunningWork(work.add_done_callback).note(interrupt)
            raise
        if not has_ended:
            pool.exceeded(work, patience.seconds)
        return cast("R", pool.outcome(work))

    return isolated
