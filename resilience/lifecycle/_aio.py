"""Waiting for the last request without blocking the loop."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from resilience.lifecycle._lifecycle import Lifecycle

__all__ = ("await_idle",)


async def await_idle(lifecycle: Lifecycle, limit: float) -> bool:
    """Return whether the last request left within `limit` seconds. It may leave in another thread."""
    loop = asyncio.get_running_loop()
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
