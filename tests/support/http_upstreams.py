"""Upstreams: real servers on loopback that do as they are told, or break off as they are told."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import struct
import threading
import time
from collections.abc import Iterator
from typing import Any

import uvicorn

Answer = tuple[int, dict[str, str], bytes]


class Upstream:
    """Answers with what stands in `script`, then with 200 and the headers it was sent. `seen` has every request."""

    def __init__(self) -> None:
        self.url = ""
        self.under_way = 0
        self.reset()

    def reset(self) -> None:
        """Forget what was said and seen, and let go of who still waits."""
        self.script: list[Answer] = []
        self.seen: list[tuple[str, dict[str, str], bytes]] = []
        self.delay = 0.0
        self.drips = 0
        patience = time.monotonic() + 5
        while self.under_way and time.monotonic() < patience:
            time.sleep(0.005)

    def answers(self, status: int, body: bytes = b"", **headers: str) -> None:
        named = {name.replace("_", "-"): text for name, text in headers.items()}
        self.script.append((status, {"content-length": str(len(body)), **named}, body))

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        self.under_way += 1
        try:
            await self._answer(scope, receive, send)
        finally:
            self.under_way -= 1

    async def _answer(self, scope: Any, receive: Any, send: Any) -> None:
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message.get("body", b""), message.get("more_body", False)
        headers = {name.decode(): text.decode("latin-1") for name, text in scope["headers"]}
        self.seen.append((scope["method"], headers, body))
        began = time.monotonic()
        while (left := began + self.delay - time.monotonic()) > 0:
            await asyncio.sleep(min(left, 0.01))
        echo = json.dumps(headers).encode()
        status, given, content = self.script.pop(0) if self.script else (200, {"content-length": str(len(echo))}, echo)
        if self.drips:
            given = {name: text for name, text in given.items() if name != "content-length"}
        sent = [(name.encode(), text.encode()) for name, text in given.items()]
        await send({"type": "http.response.start", "status": status, "headers": sent})
        sent_drips = 0
        while sent_drips < self.drips:
            sent_drips += 1
            await send({"type": "http.response.body", "body": b".", "more_body": True})
            await asyncio.sleep(0.05)
        await send({"type": "http.response.body", "body": content})


class Halting:
    """Answers 404 with `first`, of no stated length, and goes on with `rest` once it is let."""

    def __init__(self, content_type: str, first: bytes, rest: bytes = b"", **headers: str) -> None:
        given = {"content-type": content_type, **headers}
        self._headers = [(name.replace("_", "-").encode(), text.encode()) for name, text in given.items()]
        self._first, self._rest = first, rest
        self.go_on = threading.Event()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 404, "headers": self._headers})
        await send({"type": "http.response.body", "body": self._first, "more_body": True})
        while not self.go_on.is_set():
            await asyncio.sleep(0.005)
        await send({"type": "http.response.body", "body": self._rest})


@contextlib.contextmanager
def running(upstream: Upstream) -> Iterator[Upstream]:
    with serving(upstream) as url:
        upstream.url = url
        yield upstream


@contextlib.contextmanager
def serving(app: Any) -> Iterator[str]:
    listener = socket.create_server(("127.0.0.1", 0))
    # uvloop, if it is installed, refuses to end while a client keeps its connection, and warns of it in a later test.
    config = uvicorn.Config(app, loop="asyncio", log_config=None, lifespan="off", timeout_graceful_shutdown=2)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
    thread.start()
    patience = time.monotonic() + 10
    while not server.started and time.monotonic() < patience:
        time.sleep(0.01)
    assert server.started
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(10)
        listener.close()
        assert not thread.is_alive()


class Breaking:
    """Sends `first` and resets the connection, `times` times; then answers properly."""

    def __init__(self, first: bytes, times: int) -> None:
        self._first, self._times = first, times
        self.connections = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            with connection:
                connection.recv(65_536)
                if self.connections <= self._times:
                    connection.sendall(self._first)
                    time.sleep(0.02)  # so that what was sent is read before the reset throws it away
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                else:
                    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok")

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(5)
