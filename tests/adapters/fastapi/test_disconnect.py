"""An application that works in tasks of its own ends with its request, if it is wrapped."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import httpx2
import pytest
from fastapi import FastAPI

from resilience import Resilience
from resilience_fastapi import DisconnectOnCancel, install


class InTasks:
    """An application that serves as Django does: cancelled itself, it leaves its two tasks alone."""

    def __init__(self) -> None:
        self.ended: list[str] = []
        self.listening = asyncio.Event()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        while (await receive()).get("more_body"):
            pass
        work = asyncio.create_task(self.work(send))
        gone = asyncio.create_task(self.listen(receive))
        await asyncio.wait([work, gone], return_when=asyncio.FIRST_COMPLETED)
        for task in (gone, work):
            if not task.done():
                task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    async def listen(self, receive: Any) -> None:
        self.listening.set()
        self.ended.append((await receive())["type"])

    async def work(self, send: Any) -> None:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            self.ended.append("cancelled")
            raise


class Stubborn(InTasks):
    """An application that does not mind a disconnect."""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await self.work(send)


def guarded(inner: Any) -> FastAPI:
    app = FastAPI()
    install(app, Resilience.from_env({"RESILIENCE_SERVER__DEADLINE": "50ms"}))
    app.mount("/", DisconnectOnCancel(inner))
    return app


def client_of(app: Any) -> httpx2.AsyncClient:
    return httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://test")


async def test_a_deadline_ends_the_tasks_of_the_application() -> None:
    """The client gets 504, the application learns of a disconnect, and ends its own work."""
    inner = InTasks()
    async with client_of(guarded(inner)) as client:
        answer = await client.get("/")
    assert (answer.status_code, inner.ended) == (504, ["http.disconnect", "cancelled"])


async def test_a_second_cancellation_cancels_the_application() -> None:
    """An application that does not end at a disconnect ends at the next cancellation."""
    inner = Stubborn()
    receive: asyncio.Future[Any] = asyncio.Future()
    request = asyncio.create_task(DisconnectOnCancel(inner)({"type": "http"}, lambda: receive, None))  # type: ignore[arg-type]  # no answer is sent
    await asyncio.sleep(0)
    for _ in range(2):
        await asyncio.sleep(0.01)
        assert not request.done()
        request.cancel()
    with pytest.raises(asyncio.CancelledError):
        await request
    await asyncio.sleep(0)
    assert inner.ended == ["cancelled"]


async def test_answers_and_errors_pass() -> None:
    """An answer, a body of several pieces, and an error are those of the application."""

    async def echo(scope: Any, receive: Any, send: Any) -> None:
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message["body"], message.get("more_body", False)
        if body == b"no":
            raise LookupError(body)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": body})

    async def pieces() -> AsyncIterator[bytes]:
        for piece in (b"a", b"b"):
            yield piece

    async with client_of(DisconnectOnCancel(echo)) as client:
        assert (await client.post("/", content=pieces())).content == b"ab"
        with pytest.raises(LookupError):
            await client.post("/", content=b"no")


async def test_other_scopes_pass() -> None:
    """A lifespan reaches the application as it is."""
    seen: list[Any] = []

    async def app(*scope: Any) -> None:
        seen.append(scope)

    given: tuple[Any, ...] = ({"type": "lifespan"}, None, None)
    await DisconnectOnCancel(app)(*given)
    assert seen == [given]
