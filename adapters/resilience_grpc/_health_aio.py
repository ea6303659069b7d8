"""The health service of a server on an event loop."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import grpc

from resilience.health import Report
from resilience_grpc._health import Answer, Services, answer_of

__all__ = ("AioHealth",)


class AioHealth:
    """Whoever watches is a task that looks again when something may have changed."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._is_over = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._change = asyncio.Event()
        self._unsubscribe = services.on_change(self._hurry)

    async def check(self, request: Any, servicer: Any) -> Answer:
        """Answer once."""
        report = await self._report(request.service)
        if report is None:
            await servicer.abort(grpc.StatusCode.NOT_FOUND, "unknown service")
        return answer_of(report)

    async def watch(self, request: Any, servicer: Any) -> None:
        """Answer, and again whenever the answer is another."""
        self._loop = asyncio.get_running_loop()
        told: Any = None
        while True:
            change, is_last = self._change, self._is_over
            answer = answer_of(await self._report(request.service))
            if is_last:
                answer = Answer(status=Answer.NOT_SERVING)
            if answer.status != told:
                told = answer.status
                await servicer.write(answer)
            if is_last:
                return
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(change.wait(), self._services.interval)

    async def _report(self, name: str) -> Report | None:
        group = self._services.group_of(name)
        return None if group is None else await self._services.health.areport(group)

    def _hurry(self) -> None:
        """Wake whoever watches, from any thread."""
        loop = self._loop
        if loop is not None:
            with contextlib.suppress(RuntimeError):  # closed: nobody watches any more
                loop.call_soon_threadsafe(self._turn)

    def _turn(self) -> None:
        change, self._change = self._change, asyncio.Event()
        change.set()

    def end(self) -> None:
        """Tell watchers that nothing is served any more, and end their streams."""
        self._is_over = True
        self._unsubscribe()
        self._hurry()
