"""The end of an async pool that blocking code asks for."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
from typing import Any

from resilience.pool._aio import TaskLending

__all__ = ("close_in_loop",)

_MARGIN = 2.0
"""Seconds for the loop to come to the work, and to close the connections."""
_closing: set[asyncio.Task[None]] = set()
"""Closes that no caller awaits: a loop keeps no task alive by itself."""


def close_in_loop(lending: TaskLending[Any], seconds: float) -> None:
    """Close a pool in its loop, and wait for the end if another thread runs that loop."""
    loop = lending.loop
    if loop is None or not loop.is_running():
        lending.shut()
    elif loop is _loop_here():
        task = loop.create_task(lending.close(seconds))
        _closing.add(task)
        task.add_done_callback(_closing.discard)
    else:
        future = asyncio.run_coroutine_threadsafe(lending.close(seconds), loop)
        with contextlib.suppress(concurrent.futures.TimeoutError, concurrent.futures.CancelledError):
            future.result(seconds + _MARGIN)


def _loop_here() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None
