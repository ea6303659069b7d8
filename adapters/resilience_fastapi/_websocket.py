"""A websocket: it bears the request's id, and is closed in good order once its process is about to go.

Servers close theirs when they stop. Whoever drains without stopping a server (`lifecycle.drain()`), or under one that
breaks websockets off, would keep clients for hours that ought to be with another instance by then.
"""

from __future__ import annotations

import asyncio
import contextlib

from starlette.types import Message, Send

from resilience.lifecycle import Lifecycle
from resilience.running import running_loop
from resilience_fastapi._exchange import identified

__all__ = ("Socket",)

_HANDSHAKE = frozenset({"websocket.accept", "websocket.http.response.start"})
_RESTART = {"type": "websocket.close", "code": 1012, "reason": "service restart"}
"""The code (IANA's registry for RFC 6455) that tells clients to come back, after a while of their own choosing."""


class Socket:
    """What an application says to one websocket, until the drain of its process has lasted `drain_delay`."""

    def __init__(self, request_id: str, lifecycle: Lifecycle, send: Send) -> None:
        self._request_id = request_id
        self._lifecycle = lifecycle
        self._send = send
        self._loop = running_loop("ResilienceMiddleware")
        self._is_open = self._is_due = self._has_left = False
        self._timer: asyncio.TimerHandle | None = None
        self._farewell: asyncio.Task[None] | None = None
        self._unwatch = lifecycle.watch_drain(self._wake)
        if self._unwatch is None:
            self._begin()

    async def send(self, message: Message) -> None:
        """Pass on what the application says. Raises `OSError` once the socket was closed, as servers do."""
        kind = message["type"]
        if self._has_left:
            if kind != _RESTART["type"]:
                raise OSError("this websocket was closed, since its process is about to end")
            return
        if kind in _HANDSHAKE:
            message = {**message, "headers": identified(message.get("headers", ()), self._request_id)}
        self._is_open = self._is_open and kind != _RESTART["type"]
        await self._send(message)
        if kind == "websocket.accept":
            self._is_open = True
            if self._is_due:
                await self._leave()

    def end(self) -> None:
        """Have nothing more done: the application has returned."""
        if self._unwatch is not None:
            self._unwatch()
        for pending in (self._timer, self._farewell):
            if pending is not None:
                pending.cancel()

    def _wake(self) -> None:
        """Hear of the drain, in whatever thread it was declared."""
        with contextlib.suppress(RuntimeError):  # the loop was closed meanwhile, and the socket with it
            self._loop.call_soon_threadsafe(self._begin)

    def _begin(self) -> None:
        self._timer = self._loop.call_later(self._lifecycle.options.drain_delay, self._close)

    def _close(self) -> None:
        self._is_due = True
        if self._is_open:
            self._farewell = self._loop.create_task(self._leave())

    async def _leave(self) -> None:
        self._is_open, self._has_left = False, True
        with contextlib.suppress(Exception):  # the server, or the client, was faster
            await self._send(_RESTART)
