"""Things that go on at the same time: until the first has ended, or somebody wants all of it to end."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

__all__ = ("all_of", "first_of", "until_signalled")

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

R = TypeVar("R")


async def until_signalled(performance: Coroutine[Any, Any, int], interrupted: Callable[[], object]) -> int:
    """Cancel the performance at the first signal, let it clean up whatever signals follow, and return 128 + n.

    `interrupted` is called when that has been done.
    """
    loop, task = asyncio.get_running_loop(), asyncio.ensure_future(performance)
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
    """Run all of them until one ends, and raise what it raised."""
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
    """Run all of them and return what they return; raise what the first one raises, once the others are cancelled."""
    tasks = [asyncio.ensure_future(each) for each in coroutines]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
