"""A websocket: its handshake carries the request id, and the drain of its process closes it in good order.

Servers close their websockets when they stop. If the process drains without a stop (`lifecycle.drain()`), or under a
server that breaks websockets off, clients would otherwise stay connected for hours to an instance that is to end.
"""

from __future__ import annotations

import asyncio
import contextlib

from starlette.types import Message, Send

from resilience.lifecycle import Lifecycle
from resilience.running import running_loop
from resilience_fastapi._exchange import with_request_id

__all__ = ("WebSocketExchange",)

_HANDSHAKE = frozenset({"websocket.accept", "websocket.http.response.start"})
_RESTART = {"type": "websocket.close", "code": 1012, "reason": "service restart"}
"""The code (IANA's registry for RFC 6455) that asks clients to connect again after a while."""


class WebSocketExchange:
    """Passes the application's messages on, and closes the websocket when the drain has lasted `drain_delay`."""

    def __init__(self, request_id: str, lifecycle: Lifecycle, send: Send) -> None:
        self._request_id = request_id
        self._lifecycle = lifecycle
        self._send = send
        self._loop = running_loop("ResilienceMiddleware")
        self._is_open = self._is_due = self._is_closed_by_us = False
        self._timer: asyncio.TimerHandle | None = None
        self._closing: asyncio.Task[None] | None = None
        self._unwatch = lifecycle.server.watch_drain(self._on_drain)
        if self._unwatch is None:
            self._start_timer()

    async def send(self, message: Message) -> None:
        """Pass a message of the application on. Raises `OSError` after we have closed the websocket, as servers do."""
        kind = message["type"]
        if self._is_closed_by_us:
            if kind != _RESTART["type"]:
                raise OSError("this websocket was closed, since its process is about to end")
            return
        if kind in _HANDSHAKE:
            message = {**message, "headers": with_request_id(message.get("headers", ()), self._request_id)}
        self._is_open = self._is_open and kind != _RESTART["type"]
        await self._send(message)
        if kind == "websocket.accept":
            self._is_open = True
            if self._is_due:
                await self._close_now()

    def end(self) -> None:
        """Stop all timers and tasks: the application has returned."""
        if self._unwatch is not None:
            self._unwatch()
        for pending in (self._timer, self._closing):
            if pending is not None:
                pending.cancel()

    def _on_drain(self) -> None:
        """Start the timer, from the thread that started the drain."""
        with contextlib.suppress(RuntimeError):  # the loop is closed, and the websocket with it
            self._loop.call_soon_threadsafe(self._start_timer)

    def _start_timer(self) -> None:
        self._timer = self._loop.call_later(self._lifecycle.options.drain_delay, self._on_timer)

    def _on_timer(self) -> None:
        self._is_due = True
        if self._is_open:
            self._closing = self._loop.create_task(self._close_now())

    async def _close_now(self) -> None:
        self._is_open, self._is_closed_by_us = False, True
        with contextlib.suppress(Exception):  # the server or the client has closed it already
            await self._send(_RESTART)
