"""Websockets, when their process is about to go and no server closes them."""

from __future__ import annotations

import asyncio
import functools
import time
from typing import Any

import pytest
from fastapi import FastAPI, WebSocket, WebSocketDisconnect
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from resilience_fastapi import install

pytestmark = pytest.mark.servers


class Talk:
    """An application with a websocket of each habit, and how each of them ended."""

    def __init__(self, toolkit: Any, **settings: str) -> None:
        self.app = app = FastAPI()
        self.ended: list[object] = []
        self.release = asyncio.Event()

        @app.websocket("/listens")
        async def listens(socket: WebSocket) -> None:
            await socket.accept()
            try:
                while True:
                    await socket.send_text(await socket.receive_text())
            except WebSocketDisconnect as error:
                self.ended.append(error.code)

        @app.websocket("/tells")
        async def tells(socket: WebSocket) -> None:
            await socket.accept()
            try:
                while True:
                    await socket.send_text("tick")
                    await asyncio.sleep(0.01)
            except WebSocketDisconnect:
                self.ended.append("told nobody")
                await socket.close()  # as a `finally` may, and too late
                raise

        @app.websocket("/hesitates")
        async def hesitates(socket: WebSocket) -> None:
            while not self.resilience.lifecycle.is_draining:
                await asyncio.sleep(0.01)
            await asyncio.sleep(0.1)
            await socket.accept()
            self.ended.append((await socket.receive())["type"])

        self.resilience = install(app, toolkit(**settings))

    def gone(self, number: int = 0, within: float = 5) -> bool:
        """Wait until no more than `number` websockets are counted."""
        end = time.monotonic() + within
        while self.resilience.lifecycle.in_flight > number and time.monotonic() < end:
            time.sleep(0.01)
        return self.resilience.lifecycle.in_flight <= number


def code_of(socket: ClientConnection) -> int:
    """Read to the end, and return the code it came with."""
    with pytest.raises(ConnectionClosed) as caught:
        list(iter(functools.partial(socket.recv, 5), None))
    assert caught.value.rcvd is not None
    return caught.value.rcvd.code


@pytest.mark.parametrize(("path", "ended"), [("/listens", 1012), ("/tells", "told nobody")])
def test_closed_at_the_drain(serve: Any, toolkit: Any, path: str, ended: object) -> None:
    """A drain nobody sent a signal for closes open websockets with 1012, and the application hears that it is over."""
    talk = Talk(toolkit)
    with connect(serve(talk.app).replace("http", "ws") + path) as socket:
        if path == "/listens":
            socket.send("a")
        assert socket.recv(5) in {"a", "tick"}
        talk.resilience.lifecycle.drain()
        assert code_of(socket) == 1012
        assert talk.gone()
    assert talk.ended == [ended]


def test_not_before_the_delay(serve: Any, toolkit: Any) -> None:
    """For `drain_delay` an open websocket goes on, since a client that came back would be sent here again."""
    talk = Talk(toolkit, lifecycle__drain_delay="400ms")
    with connect(serve(talk.app).replace("http", "ws") + "/listens") as socket:
        socket.send("a")
        assert socket.recv(5) == "a"
        talk.resilience.lifecycle.drain()
        began = time.monotonic()
        socket.send("b")
        assert socket.recv(5) == "b"
        assert code_of(socket) == 1012
        assert time.monotonic() - began >= 0.3


def test_late_comers(serve: Any, toolkit: Any) -> None:
    """A websocket that is opened during the drain, or accepted after it, is closed as well."""
    talk = Talk(toolkit)
    url = serve(talk.app).replace("http", "ws")
    with connect(f"{url}/listens"):  # else the drain could be over before the hesitant one was counted
        began = asyncio.run(_hesitate(talk, f"{url}/hesitates"))
    assert began == 1012
    with connect(f"{url}/listens") as late:
        assert code_of(late) == 1012
    assert talk.gone()
    assert "websocket.disconnect" in talk.ended


async def _hesitate(talk: Talk, url: str) -> int:
    client = asyncio.create_task(asyncio.to_thread(_open_and_read, url))
    while talk.resilience.lifecycle.in_flight < 2:
        await asyncio.sleep(0.01)
    talk.resilience.lifecycle.drain()
    return await client


def _open_and_read(url: str) -> int:
    with connect(url) as socket:
        return code_of(socket)


def test_nothing_stays_behind(serve: Any, toolkit: Any) -> None:
    """A websocket that ended by itself is forgotten: a drain later finds nothing to close."""
    talk = Talk(toolkit)
    lifecycle = talk.resilience.lifecycle
    url = serve(talk.app).replace("http", "ws")
    for _ in range(3):
        with connect(f"{url}/listens") as socket:
            socket.send("a")
            assert socket.recv(5) == "a"
    assert talk.gone()
    assert lifecycle._life._drain_watchers == set()
    assert lifecycle.drain()
    assert talk.ended == [1000] * 3
