"""A loop in a thread of our own, for calls on `grpc` that nobody waits for yet: futures."""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import os
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from typing import Any

from resilience import BulkheadFullError

__all__ = ("submit",)

_loops: dict[int, asyncio.AbstractEventLoop] = {}
"""By process: of a thread that a fork has left behind there is nothing but its loop."""


def submit(work: Callable[[], Coroutine[Any, Any, Any]]) -> Future[Any]:
    """Run `work` on the loop, in a copy of the caller's context.

    Raises `BulkheadFullError` if the loop is not running yet and no thread can be started for it.
    """
    loop = _loop()
    return asyncio.run_coroutine_threadsafe(work(), loop)


def _loop() -> asyncio.AbstractEventLoop:
    process = os.getpid()
    loop = _loops.get(process)
    if loop is None:
        fresh = asyncio.new_event_loop()
        thread = _run(fresh)
        loop = _loops.setdefault(process, fresh)  # not before it runs: a call on it would wait for ever
        if loop is fresh:
            atexit.register(_end, fresh, thread, process)
        else:  # another thread was faster
            _end(fresh, thread, process)
    return loop


def _run(loop: asyncio.AbstractEventLoop) -> threading.Thread:
    thread = threading.Thread(target=loop.run_forever, name="resilience-grpc", daemon=True)
    try:
        thread.start()
    except RuntimeError as error:  # the system starts no more threads, or the interpreter is ending
        loop.close()
        raise BulkheadFullError("no thread can be started for a future", policy="grpc") from error
    return thread


def _end(loop: asyncio.AbstractEventLoop, thread: threading.Thread, process: int) -> None:
    if process != os.getpid():
        return
    with contextlib.suppress(RuntimeError):
        loop.call_soon_threadsafe(loop.stop)
        thread.join(1.0)
        loop.close()
