"""How late an event loop is, measured by a timer of its own."""

from __future__ import annotations

import asyncio
import weakref

from resilience.telemetry._process import PROCESS

__all__ = ("watch_loop",)

_INTERVAL = 0.25

_watches: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, LoopWatch] = weakref.WeakKeyDictionary()


class LoopWatch:
    """Adds up by how much the timer of a loop is late. It ends with the loop, which it does not keep alive."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = weakref.ref(loop)
        self._wait(loop)

    def _wait(self, loop: asyncio.AbstractEventLoop) -> None:
        self._due = loop.time() + _INTERVAL
        loop.call_at(self._due, self._look)

    def _look(self) -> None:
        loop = asyncio.get_running_loop()
        PROCESS.loop_lag += max(0.0, loop.time() - self._due)
        self._wait(loop)

    def tasks(self) -> int:
        """Return the number of tasks that are not done; 0 once the loop is closed."""
        loop = self._loop()
        return 0 if loop is None or loop.is_closed() else len(asyncio.all_tasks(loop))


def watch_loop() -> None:
    """Watch the running loop from now on. A second call does nothing."""
    loop = asyncio.get_running_loop()
    if loop not in _watches:
        watch = _watches[loop] = LoopWatch(loop)
        PROCESS.add(watch)
