"""Bodies of httpx answers in a task: `_httpx_body.py` with `await`."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import httpx

from resilience_http._exchange import DRAIN, SMALL
from resilience_http._httpx_body import Held

__all__ = ("AsyncBegun", "AsyncBody", "in_background")

_under_way: set[asyncio.Future[Any]] = set()
"""Closings under way: a loop keeps no task alive itself."""


def in_background(closing: asyncio.Future[Any]) -> None:
    """Keep `closing` alive until it is done."""
    _under_way.add(closing)
    closing.add_done_callback(_under_way.discard)


class AsyncBody(Held, httpx.AsyncByteStream):
    """The body of an answer, in a task."""

    _discarding: asyncio.Task[None] | None = None

    async def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            async for part in self.stream:
                self.check()
                yield part
        except httpx.TimeoutException:
            self.check()
            raise

    def discard(self) -> None:
        if not self.is_closed:
            self._discarding = asyncio.ensure_future(self._discarded())
            in_background(self._discarding)

    async def _discarded(self) -> None:
        self.hurry()
        try:
            with contextlib.suppress(Exception):  # the answer is of no use, whatever its body is
                async with asyncio.timeout(DRAIN):
                    await self._drained()
        finally:
            with contextlib.suppress(Exception):
                await self.aclose()

    async def _drained(self) -> None:
        left = SMALL
        async for part in self.stream:
            left -= len(part)
            if left < 0:
                return

    async def aclose(self) -> None:
        if self.is_closed:  # or about to be
            if self._discarding is not None and self._discarding is not asyncio.current_task():
                await asyncio.wait([self._discarding])
            return
        self.is_closed = True
        try:
            await self.stream.aclose()
        finally:
            self.settle()


class AsyncBegun(httpx.AsyncByteStream):
    """A body of which some has been read already; its reader gets all of it."""

    def __init__(self, begun: list[bytes], rest: AsyncIterator[bytes], stream: httpx.AsyncByteStream) -> None:
        self._begun, self._rest, self._stream = begun, rest, stream

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for part in self._begun:
            yield part
        async for part in self._rest:
            yield part

    async def aclose(self) -> None:
        await self._stream.aclose()
