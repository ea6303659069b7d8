"""Running steps by blocking: each in a thread of its own, so that one that hangs holds up the others no longer."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextvars import copy_context
from typing import TYPE_CHECKING, Any

from resilience.lifecycle._ending import Ended, hung
from resilience.lifecycle._hooks import START

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop

    from resilience.lifecycle._ending import Waiting
    from resilience.lifecycle._lifecycle import Lifecycle

__all__ = ("SLICE", "attempt", "run_stage", "wait_for", "wait_until")

SLICE = 0.1
"""Seconds between two looks at what no event can tell: locks are not for signal handlers."""


def never() -> bool:
    """Wait to the end."""
    return False


def wait_until(holds: Callable[[], bool], limit: float) -> bool:
    """Block until `holds()`, for `limit` seconds at most; whether it does."""
    end = time.monotonic() + limit
    while not holds():
        left = end - time.monotonic()
        if left <= 0:
            return False
        time.sleep(min(left, SLICE))
    return True


def attempt(
    run: Callable[[], Any],
    limit: float,
    name: str,
    *,
    loop: AbstractEventLoop | None = None,
    is_pointless: Callable[[], bool] = never,
) -> Ended:
    """Return how `run` ended, or that it has not within `limit` seconds; its thread is then left behind.

    What `run` returns to await is awaited in `loop` where that runs, else in a loop of its own.
    """
    ended: list[Ended] = []
    over = threading.Event()

    def call() -> None:
        try:
            result = run()
            ended.append(Ended(_resolved(result, loop) if hasattr(type(result), "__await__") else result))
        except BaseException as error:  # noqa: BLE001 - whatever leaves a step is its failure, sys.exit() too
            ended.append(Ended(None, error))
        finally:
            over.set()

    context = copy_context()
    try:
        threading.Thread(target=context.run, args=(call,), name=f"resilience-{name}", daemon=True).start()
    except RuntimeError:  # the system starts no more threads, or the interpreter is ending: here, without a limit
        context.run(call)
    begun = time.monotonic()
    while not over.wait(max(0.0, min(begun + limit - time.monotonic(), SLICE))):
        if time.monotonic() >= begun + limit or is_pointless():
            break
    return ended[0] if ended else hung(min(limit, time.monotonic() - begun))


def _resolved(awaitable: Any, loop: AbstractEventLoop | None) -> Any:
    from resilience.lifecycle._aio import resolve, resolve_in  # noqa: PLC0415 - asyncio costs 40 ms and few need it here

    return resolve(awaitable) if loop is None or not loop.is_running() else resolve_in(loop, awaitable)


def run_stage(lifecycle: Lifecycle, stage: str) -> None:
    """Run the steps of a stage, one after the other. Raises `StartupError` for one that is required."""
    loop = None if stage == START else lifecycle.loop
    for hook in lifecycle.steps(stage):
        lifecycle.judge(stage, hook, attempt(hook.run, hook.timeout, f"{stage}-{hook.name}", loop=loop))


def wait_for(waiting: Waiting) -> None:
    """Block until a dependency is there. Raises `StartupError`."""
    while True:
        name = f"waits-for-{waiting.need.name}"
        ended = attempt(waiting.need.check, waiting.left(), name, is_pointless=waiting.is_pointless)
        if waiting.is_over(ended):
            return
        wait_until(waiting.is_pointless, waiting.pause())
