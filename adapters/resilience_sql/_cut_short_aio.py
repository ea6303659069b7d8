"""I/O of a pool's own tasks on a connection whose server may hang."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

__all__ = ("or_abort",)

T = TypeVar("T")
_END_LIMIT = 1.0


async def or_abort(work: Coroutine[Any, Any, T], abort: Callable[[], object]) -> T:
    """Return the result of `work`. If the caller is cancelled, call `abort`, which ends `work` at once.

    psycopg answers a cancellation by cancelling the query at the server, and waits 5 s for its end. The connection of a
    check or reset that takes too long is closed anyway, so nothing has to be saved.

    `work` must have ended before the connection is closed: the loop still watches its socket, whose number is given to
    the next connection.
    """
    task = asyncio.ensure_future(work)
    task.add_done_callback(_take_error)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        abort()
        await asyncio.wait([task], timeout=_END_LIMIT)
        raise


def _take_error(task: asyncio.Future[Any]) -> None:
    """Take the error of a task for which no caller waits any more, so that asyncio does not log it."""
    if not task.cancelled():
        task.exception()
