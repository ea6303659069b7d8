"""A bound that counts the time in which the event loop ran.

`asyncio.timeout` counts the time on the clock. A handler that keeps the loop for longer than the bound lets it expire
while the reply lies in the socket: the timer is served before the task that would read. Here the bound is counted in
steps, and a step that ends late counts no more than any other. After the last step the loop looks at its sockets, and
runs those tasks for which there is news, before the bound expires.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import TracebackType

__all__ = ("LoopBound",)

STEPS = 2
LOOKS = 4
"""Turns of the loop from the last step to expiry. News takes three: socket to stream, stream to task, task to end."""


class LoopBound:
    """`async with LoopBound(seconds):` raises TimeoutError after `seconds` in which the loop ran.

    A loop that stands still prolongs it by as long, `STEPS` times at most.
    """

    __slots__ = ("_handle", "_left", "_loop", "_step", "_timeout")

    def __init__(self, seconds: float) -> None:
        self._loop = asyncio.get_running_loop()
        self._step = seconds / STEPS
        self._left = STEPS + LOOKS
        self._timeout = asyncio.timeout(None)
        self._handle: asyncio.Handle | None = None

    async def __aenter__(self) -> None:
        await self._timeout.__aenter__()
        self._next()

    def _next(self) -> None:
        self._left -= 1
        if self._left >= LOOKS:
            self._handle = self._loop.call_later(self._step, self._next)
        elif self._left:
            self._handle = self._loop.call_soon(self._next)
        else:
            self._handle = None
            self._timeout.reschedule(self._loop.time())

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._handle is not None:
            self._handle.cancel()
        await self._timeout.__aexit__(kind, error, traceback)
