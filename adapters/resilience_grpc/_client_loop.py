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

__all__ = ("submit",)

_loops: dict[int, asyncio.AbstractEventLoop] = {}
"""By process: of a thread that a fork has left behind there is nothing but its loop."""


def submit(work: Callable[[], Coroutine[Any, Any, Any]]) -> Future[Any]:
    """Run `work` on the loop, in a copy of the caller's context."""
    return asyncio.run_coroutine_threadsafe(work(), _loop())


def _loop() -> asyncio.AbstractEventLoop:
    process = os.getpid()
    loop = _loops.get(process)
    if loop is None:
        fresh = asyncio.new_event_loop()
        loop = _loops.setdefault(process, fresh)
        if loop is fresh:
            _run(fresh)
        else:  # another thread was faster
            fresh.close()
    return loop


def _run(loop: asyncio.AbstractEventLoop) -> None:
    thread = threading.Thread(target=loop.run_forever, name="resilience-grpc", daemon=True)
    thread.start()
    atexit.register(_end, loop, thread, os.getpid())


def _end(loop: asyncio.AbstractEventLoop, thread: threading.Thread, process: int) -> None:
    if process != os.getpid():
        return
    with contextlib.suppress(RuntimeError):
        loop.call_soon_threadsafe(loop.stop)
        thread.join(1.0)
        loop.close()
