"""The awaiting half of the lifecycle: waiting for the last request, and running steps, without blocking the loop."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import threading
import time
from collections.abc import Awaitable, Callable
from contextvars import copy_context
from typing import TYPE_CHECKING, Any

from resilience.lifecycle._ending import Ended, hung
from resilience.lifecycle._hooks import START, STOP
from resilience.lifecycle._signals import SIGNALS
from resilience.lifecycle._sync import SLICE, never
from resilience.running import running_loop

if TYPE_CHECKING:
    from typing import TypeVar

    from resilience.lifecycle._ending import Waiting
    from resilience.lifecycle._lifecycle import Lifecycle
    from resilience.lifecycle._presence import Presence

    L = TypeVar("L", bound=Lifecycle)

__all__ = (
    "attempt",
    "await_drained",
    "await_for",
    "await_idle",
    "await_until",
    "entered",
    "left",
    "prepare",
    "resolve",
    "resolve_in",
    "run_stage",
    "start",
    "stop",
)

_USER = "Lifecycle"


async def await_idle(lifecycle: Presence, limit: float) -> bool:
    """Return whether the last request left within `limit` seconds. It may leave in another thread."""
    loop = running_loop(_USER)
    idle = asyncio.Event()

    def wake() -> None:
        with contextlib.suppress(RuntimeError):  # the loop was closed meanwhile: nobody waits any more
            loop.call_soon_threadsafe(idle.set)

    if not lifecycle.watch_idle(wake):
        return True
    patience = asyncio.timeout(limit)
    try:
        async with patience:
            await idle.wait()
    except TimeoutError:
        if not patience.expired():
            raise
    finally:
        lifecycle.forget_idle(wake)
    return idle.is_set()


async def await_until(holds: Callable[[], bool], limit: float) -> bool:
    """Return whether `holds()` within `limit` seconds."""
    end = time.monotonic() + limit
    while not holds():
        left = end - time.monotonic()
        if left <= 0:
            return False
        running_loop(_USER)
        await asyncio.sleep(min(left, SLICE))
    return True


def resolve(awaitable: Awaitable[Any]) -> Any:
    """Return what `awaitable` resolves to, in a loop of its own."""
    return asyncio.run(_awaited(awaitable))


def resolve_in(loop: asyncio.AbstractEventLoop, awaitable: Awaitable[Any]) -> Any:
    """Return what `awaitable` resolves to in a loop that another thread runs: its client may be bound to that."""
    return asyncio.run_coroutine_threadsafe(_awaited(awaitable), loop).result()


async def _awaited(awaitable: Awaitable[Any]) -> Any:
    return await awaitable


async def attempt(
    run: Callable[[], Any], limit: float, name: str, *, is_pointless: Callable[[], bool] = never
) -> Ended:
    """Return how `run` ended, or that it has not within `limit` seconds; it is then cancelled, or its thread left."""
    task = asyncio.create_task(_ended(run, name), name=f"resilience {name}")
    begun = time.monotonic()
    try:
        while not task.done() and (left := begun + limit - time.monotonic()) > 0 and not is_pointless():
            await asyncio.wait({task}, timeout=min(left, SLICE))
    finally:
        is_late = not task.done()
        task.cancel()
    if is_late:
        lasted = time.monotonic() - begun
        await asyncio.wait({task}, timeout=SLICE)  # its `finally` may await; one that refuses to end is left behind
        return hung(min(limit, lasted))
    return task.result()


async def _ended(run: Callable[[], Any], name: str) -> Ended:
    try:
        result = run() if inspect.iscoroutinefunction(run) else await _in_thread(run, name)
        return Ended(await result if hasattr(type(result), "__await__") else result)
    except asyncio.CancelledError as error:
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise
        return Ended(None, error)
    except (KeyboardInterrupt, GeneratorExit):
        raise
    except BaseException as error:  # noqa: BLE001 - whatever leaves a step is its failure, sys.exit() too
        return Ended(None, error)


async def _in_thread(run: Callable[[], Any], name: str) -> Any:
    """Call a plain function in a daemon thread: those of the loop's executor would hold up the end of the process."""
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[Ended] = loop.create_future()

    def settle(ended: Ended) -> None:
        if not answer.done():
            answer.set_result(ended)

    def call() -> None:
        try:
            ended = Ended(run())
        except BaseException as error:  # noqa: BLE001 - as above
            ended = Ended(None, error)
        with contextlib.suppress(RuntimeError):  # the loop was closed meanwhile
            loop.call_soon_threadsafe(settle, ended)

    context = copy_context()
    try:
        threading.Thread(target=context.run, args=(call,), name=f"resilience-{name}", daemon=True).start()
    except RuntimeError:  # the system starts no more threads, or the interpreter is ending: here, without a limit
        context.run(call)
    ended = await answer
    if ended.error is not None:
        raise ended.error
    return ended.result


async def run_stage(lifecycle: Lifecycle, stage: str) -> None:
    """Run the steps of a stage, one after the other. Raises `StartupError` for one that is required.

    Stop steps are run even where this task is cancelled meanwhile, all but the one that is under way then: what holds
    connections is closed. The cancellation goes on afterwards.
    """
    cancelled: asyncio.CancelledError | None = None
    for hook in lifecycle.steps(stage):
        try:
            lifecycle.judge(stage, hook, await attempt(hook.arun, hook.timeout, f"{stage}-{hook.name}"))
        except asyncio.CancelledError as error:
            if stage != STOP:
                raise
            cancelled = error
    if cancelled is not None:
        raise cancelled


async def await_for(waiting: Waiting) -> None:
    """Suspend until a dependency is there. Raises `StartupError`."""
    while True:
        name = f"waits-for-{waiting.need.name}"
        if waiting.is_over(await attempt(waiting.need.check, waiting.left(), name, is_pointless=waiting.is_pointless)):
            return
        await await_until(waiting.is_pointless, waiting.pause())


async def prepare(lifecycle: Lifecycle) -> None:
    """Wait for what is needed, then run the start hooks."""
    lifecycle.begin(running_loop(_USER))
    for need in lifecycle.needed():
        await await_for(lifecycle.waiting(need))
    await run_stage(lifecycle, START)


async def start(lifecycle: Lifecycle) -> None:
    """Prepare, and be ready."""
    await prepare(lifecycle)
    lifecycle.started()


async def await_drained(lifecycle: Lifecycle, limit: float) -> bool:
    """Drain, and suspend until the last request has left."""
    running_loop(_USER)
    lifecycle.drain()
    lifecycle.is_attended = True
    await await_until(lambda: SIGNALS.came_twice, lifecycle.options.drain_delay)
    await lifecycle.await_drain_hooks()
    return await await_idle(lifecycle, limit)


async def stop(lifecycle: Lifecycle) -> None:
    """Run the stop hooks, once."""
    running_loop(_USER)
    lifecycle.drain()
    stopping = lifecycle.claim_stop()
    if stopping is None:
        await await_until(lambda: lifecycle.is_over, lifecycle.stop_timeout)
        return
    try:
        await lifecycle.await_drain_hooks()
        await run_stage(lifecycle, STOP)
    finally:
        lifecycle.stopped()
        stopping.set()


async def entered(lifecycle: L) -> L:
    """Start, for `async with`."""
    running_loop(_USER)
    lifecycle.install_signals()
    lifecycle.is_inside = threading.current_thread() is threading.main_thread()
    try:
        await start(lifecycle)
    except BaseException:
        await _leave(lifecycle)
        raise
    return lifecycle


async def left(lifecycle: Lifecycle, *, is_orderly: bool) -> None:
    """Stop, for `async with`."""
    lifecycle.drain()
    lifecycle.is_attended = True
    try:
        if is_orderly:
            await lifecycle.await_idle()
    finally:
        await _leave(lifecycle)


async def _leave(lifecycle: Lifecycle) -> None:
    try:
        await stop(lifecycle)
    finally:
        lifecycle.is_inside = False
