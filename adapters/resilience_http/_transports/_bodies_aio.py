"""Bodies of responses that tasks read: `_bodies.py` with `await`."""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import AsyncIterator, Iterable

from resilience_http._exchange import DRAIN_TIMEOUT, MAX_READ_AHEAD, StepTimeouts
from resilience_http._transports._bodies import TrackedBody
from resilience_http._transports._library import Foreign, HTTPXLibrary, HTTPXRequest, HTTPXResponse

__all__ = ("AsyncBodies", "aclose_all")

_CLOSE_TIMEOUT = 1.0
"""Seconds to wait until unused responses are closed. After that they are closed in the background."""

_tasks: set[asyncio.Future[object]] = set()
"""Tasks that close responses: an event loop keeps no task alive itself."""


def keep_alive(closing: asyncio.Future[Foreign]) -> None:
    """Keep a task alive until it is done."""
    _tasks.add(closing)
    closing.add_done_callback(_tasks.discard)


class AsyncTrackedBody(TrackedBody):
    """The body of a response, read in a task."""

    _discarding: asyncio.Task[None] | None = None

    async def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            async for part in self.stream:
                self.check()
                yield part
        except self.library.timeout_exception:
            self.check()
            raise

    def discard(self) -> None:
        if not self.is_closed:
            self._discarding = asyncio.ensure_future(self._discarded())
            keep_alive(self._discarding)

    async def _discarded(self) -> None:
        self.limit_rest()
        try:
            with contextlib.suppress(Exception):  # the response is not used, whatever its body is
                async with asyncio.timeout(DRAIN_TIMEOUT):
                    await self._drained()
        finally:
            with contextlib.suppress(Exception):
                await self.aclose()

    async def _drained(self) -> None:
        left = MAX_READ_AHEAD
        async for part in self.stream:
            left -= len(part)
            if left < 0:
                return

    async def aclose(self) -> None:
        if self.is_closed:  # or closed soon, by `discard`
            if self._discarding is not None and self._discarding is not asyncio.current_task():
                await asyncio.wait([self._discarding])
            return
        self.is_closed = True
        try:
            await self.stream.aclose()
        finally:
            self.settle()


class AsyncPartlyReadBody:
    """A body that was read in part. Its reader gets all of it."""

    def __init__(self, begun: list[bytes], rest: AsyncIterator[bytes], stream: Foreign) -> None:
        self._begun, self._rest, self._stream = begun, rest, stream

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for part in self._begun:
            yield part
        async for part in self._rest:
            yield part

    async def aclose(self) -> None:
        await self._stream.aclose()


class AsyncBodies:
    """Reads and replaces the bodies of a library's responses, in a task."""

    def __init__(self, library: HTTPXLibrary[Foreign, Foreign]) -> None:
        self._byte_stream = library.byte_stream
        self._tracked = library.derived(AsyncTrackedBody, library.async_stream)
        self._partly_read = library.derived(AsyncPartlyReadBody, library.async_stream)

    def track(self, response: HTTPXResponse, request: HTTPXRequest, times: StepTimeouts) -> None:
        """Let the body of a response keep the deadline, and hold permits until it is closed."""
        response.stream = self._tracked(response.stream, request, times)

    async def read(self, response: HTTPXResponse, max_bytes: float = math.inf) -> bytes | None:
        """Read a body, keep it to be read again, and free its connection.

        Of a body with more than `max_bytes`, the rest is left unread, and None is returned.
        """
        stream = response.stream
        parts, read, size = aiter(stream), list[bytes](), 0
        try:
            async for part in parts:
                read.append(part)
                size += len(part)
                if size > max_bytes:
                    response.stream = self._partly_read(read, parts, stream)
                    return None
        except BaseException:
            await stream.aclose()
            raise
        await stream.aclose()
        raw = b"".join(read)
        response.stream = self._byte_stream(raw)
        return raw


async def aclose_all(responses: Iterable[HTTPXResponse]) -> None:
    """Close responses. A cancellation does not stop that: it is raised when they are closed, or after a second."""
    closing = [response.aclose() for response in responses]
    if not closing:
        return
    every = asyncio.gather(*closing, return_exceptions=True)  # no caller is left to get the error
    keep_alive(every)
    try:
        await asyncio.wait([every], timeout=_CLOSE_TIMEOUT)
    except asyncio.CancelledError:
        await asyncio.wait([every], timeout=_CLOSE_TIMEOUT)
        raise
