"""How late the event loop is."""

from __future__ import annotations

import asyncio

from resilience.health._verdict import CheckFailedError
from resilience.running import running_loop

__all__ = ("LoopLag",)

_SAMPLE = 0.01
_SAMPLES = 3


class LoopLag:
    """Sleeps a moment, several times, and looks how much longer that took: what any other task would notice."""

    failure = "warn"

    def __init__(self, limit: float) -> None:
        self._limit = limit

    async def __call__(self) -> None:
        loop = running_loop("LoopLag")
        worst = 0.0
        for _ in range(_SAMPLES):
            began = loop.time()
            await asyncio.sleep(_SAMPLE)
            worst = max(worst, loop.time() - began - _SAMPLE)
        if worst > self._limit:
            raise CheckFailedError(f"the event loop is {worst:.3g} s late, allowed {self._limit:g} s")
