"""Exception groups, as a handler's `TaskGroup` raises them, are answered as the worst error in them."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator
from typing import Any

import pytest
from fastapi import FastAPI, HTTPException, Request, WebSocket
from fastapi.responses import JSONResponse, StreamingResponse
from starlette.middleware.base import BaseHTTPMiddleware

from resilience import AppError, CircuitOpenError, RateLimitedError
from resilience_fastapi import ResilienceMiddleware, install


async def in_tasks(*errors: Exception) -> None:
    """Fail in as many tasks of one group, the last of them in a group within."""

    async def fail(error: Exception) -> None:
        raise error

    async with asyncio.TaskGroup() as outer:
        for error in errors[:-1]:
            outer.create_task(fail(error))
        async with asyncio.TaskGroup() as inner:
            inner.create_task(fail(errors[-1]))


class ShopError(Exception):
    """The application's own, with a handler of its own."""


LIMITED = RateLimitedError("secret", retry_after=7.0)
OPEN = CircuitOpenError("secret", retry_after=2.0)
CASES: list[tuple[tuple[Exception, ...], int, str, str | None]] = [
    ((LIMITED,), 429, "RATE_LIMITED", "7"),
    ((LIMITED, OPEN), 503, "CIRCUIT_OPEN", "7"),
    ((AppError("SHOP_C001", "Sold out.", http_status=409), LIMITED), 409, "SHOP_C001", None),
    ((HTTPException(404, "No such order."),), 404, "NOT_FOUND", None),
    ((HTTPException(404, "No such order."), OPEN), 503, "CIRCUIT_OPEN", "2"),
    ((ValueError("secret"), LIMITED), 500, "INTERNAL", None),
]


def passing(app: FastAPI) -> None:
    """Add a layer that Starlette runs in a task group of its own, and which collapses groups of one."""

    async def through(request: Request, call_next: Any) -> Any:
        return await call_next(request)

    app.add_middleware(BaseHTTPMiddleware, dispatch=through)


@pytest.mark.parametrize("layered", [False, True], ids=["bare", "behind BaseHTTPMiddleware"])
@pytest.mark.parametrize(("errors", "status", "code", "wait"), CASES)
async def test_a_group_is_answered_as_its_worst_error(
    browse: Any, errors: tuple[Exception, ...], status: int, code: str, wait: str | None, *, layered: bool
) -> None:
    """Status, code and `Retry-After` are those of the worst error in the group, the wait the longest of all."""
    app = FastAPI()
    if layered:
        passing(app)
    install(app)

    @app.get("/")
    async def page() -> None:
        await in_tasks(*errors)

    async with browse(app) as client:
        answer = await client.get("/")
    assert (answer.status_code, answer.json()["code"], answer.headers.get("Retry-After")) == (status, code, wait)
    assert answer.json()["request_id"] == answer.headers["X-Request-ID"]
    assert "secret" not in answer.text


async def test_the_middleware_alone_answers_groups(browse: Any) -> None:
    """Without `install`, the middleware answers a group of refusals, and one from a layer between it and the app."""
    app = FastAPI()

    @app.get("/")
    async def page() -> None:
        await in_tasks(LIMITED, OPEN)

    app.add_middleware(ResilienceMiddleware)
    async with browse(app) as client:
        answer = await client.get("/")
    assert (answer.status_code, answer.json()["code"]) == (503, "CIRCUIT_OPEN")


async def test_handlers_of_the_application_come_first(browse: Any) -> None:
    """A handler for the group's class gets the group; one for the worst error's class gets that error."""
    app, seen = FastAPI(), list[BaseException]()
    install(app)

    async def handle(_request: Request, error: Exception) -> JSONResponse:
        seen.append(error)
        return JSONResponse({"mine": True}, 418)

    class PageError(ExceptionGroup[Exception]):
        pass

    app.add_exception_handler(ShopError, handle)
    app.add_exception_handler(PageError, handle)

    @app.get("/shop")
    async def shop() -> None:
        await in_tasks(LIMITED, ShopError())

    @app.get("/page")
    async def page() -> None:
        raise PageError("page", [LIMITED])

    async with browse(app) as client:
        answers = [await client.get("/shop"), await client.get("/page")]
    assert [answer.status_code for answer in answers] == [418, 418]
    assert [type(error) for error in seen] == [ShopError, PageError]


async def test_a_handler_without_a_hash(browse: Any) -> None:
    """A handler may be any object that can be called, also one that is compared by its fields."""

    @dataclasses.dataclass
    class Handler:
        status: int

        async def __call__(self, _request: Request, _error: Exception) -> JSONResponse:
            return JSONResponse({"mine": True}, self.status)

    app = FastAPI()
    install(app)
    app.add_exception_handler(ShopError, Handler(418))

    @app.get("/")
    async def page() -> None:
        await in_tasks(LIMITED, ShopError())

    async with browse(app) as client:
        answer = await client.get("/")
    assert answer.status_code == 418


async def test_an_unhandled_group_is_raised_as_it_is(browse: Any) -> None:
    """The application's handler for all errors gets the group, as it does without us."""
    app, seen = FastAPI(), list[BaseException]()

    async def handle(_request: Request, error: Exception) -> JSONResponse:
        seen.append(error)
        return JSONResponse({"mine": True}, 500)

    app.add_exception_handler(Exception, handle)
    install(app)

    @app.get("/")
    async def page() -> None:
        await in_tasks(LIMITED, ValueError("secret"))

    async with browse(app) as client:
        answer = await client.get("/")
    assert (answer.status_code, answer.json()) == (500, {"mine": True})
    assert [type(error) for error in seen] == [ExceptionGroup]


async def test_a_stream_that_fails_with_a_group_before_its_start(browse: Any) -> None:
    """A group raised before the first byte of a stream is still answered."""
    app = FastAPI()
    install(app)

    @app.get("/")
    async def page() -> StreamingResponse:
        async def body() -> AsyncIterator[bytes]:
            yield b"never"

        await in_tasks(OPEN)
        return StreamingResponse(body())

    async with browse(app) as client:
        assert (await client.get("/")).status_code == 503


async def test_a_websocket_is_closed_as_for_the_worst_error() -> None:
    """A group in an accepted websocket closes it with the code and the name of the worst error."""
    app = FastAPI()
    install(app)

    @app.websocket("/")
    async def talk(socket: WebSocket) -> None:
        await socket.accept()
        await in_tasks(LIMITED, OPEN)

    sent: list[Any] = []

    async def receive() -> dict[str, str]:
        return {"type": "websocket.connect"}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "websocket", "path": "/", "headers": [], "query_string": b"", "client": ("203.0.113.9", 1)}
    await app(scope, receive, send)
    assert (sent[-1]["type"], sent[-1]["code"], sent[-1]["reason"]) == ("websocket.close", 1013, "CIRCUIT_OPEN")
