"""Runs coroutines together: until the first ends, until all end, or until a signal arrives."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

__all__ = ("all_of", "first_of", "until_signalled")

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

R = TypeVar("R")


async def until_signalled(demo: Coroutine[Any, Any, int], interrupted: Callable[[], object]) -> int:
    """Run `demo` and return its result, or 128 + n if signal n arrives.

    The first signal cancels the demo. Later signals do not disturb its cleanup. `interrupted` is called after
    the cleanup.
    """
    loop, task = asyncio.get_running_loop(), asyncio.ensure_future(demo)
    received: list[int] = []

    def receive(number: int) -> None:
        if not received:
            task.cancel()
        received.append(number)

    for number in _SIGNALS:
        loop.add_signal_handler(number, receive, number)
    await asyncio.wait([task])
    if task.cancelled() and received:
        interrupted()
        return 128 + received[0]
    return task.result()


async def first_of(*coroutines: Coroutine[Any, Any, None]) -> None:
    """Run the coroutines until one ends, and cancel the others. Raise the exception of the ended one, if any."""
    tasks = [asyncio.ensure_future(each) for each in coroutines]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def all_of(*coroutines: Coroutine[Any, Any, R]) -> list[R]:
    """Run the coroutines and return their results.

    If one raises, the others are cancelled, and the first exception is raised after they have ended.
    """
    tasks = [asyncio.ensure_future(each) for each in coroutines]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
