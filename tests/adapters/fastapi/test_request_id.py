"""Answers that the application gives an id of its own, and cleanups that fail."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from typing import Annotated, Any

import fastapi
import pytest
from fastapi import Depends, FastAPI, HTTPException, Request, WebSocket
from fastapi.responses import JSONResponse, Response, StreamingResponse
from websockets.sync.client import connect

from resilience.errors import AppError
from resilience_fastapi import install

OURS = {"X-Request-ID": "r-1"}
THEIRS = {"X-Request-ID": "theirs", "Mine": "1"}


class OwnError(Exception):
    """An error that the application answers itself."""


def shop() -> FastAPI:
    app = FastAPI()

    @app.get("/success")
    async def success() -> Response:
        response = JSONResponse({}, headers=THEIRS)
        response.headers.append("x-request-id", "again")
        return response

    @app.get("/stream")
    async def stream() -> Response:
        return StreamingResponse(iter(("a", "b")), headers=THEIRS)

    @app.get("/http")
    async def refused() -> None:
        raise HTTPException(409, "taken", headers=THEIRS)

    @app.get("/own")
    async def own() -> None:
        raise OwnError

    @app.get("/crash")
    async def crash() -> None:
        raise ValueError("secret")

    @app.exception_handler(OwnError)
    @app.exception_handler(HTTPException)
    @app.exception_handler(Exception)
    async def answer(request: Request, error: Exception) -> JSONResponse:
        return JSONResponse({}, 409, headers=THEIRS)

    return app


@pytest.mark.parametrize("path", ["success", "stream", "http", "own", "crash"])
async def test_one_id_on_every_answer(browse: Any, path: str) -> None:
    """An id that a handler of the application sets is replaced by the id of the request; its other headers stay."""
    app = shop()
    install(app)
    async with browse(app) as client:
        answer = await client.get(f"/{path}", headers=OURS)
    assert answer.headers.get_list("X-Request-ID") == ["r-1"]
    assert answer.headers["Mine"] == "1"


@pytest.mark.servers
def test_one_id_on_a_handshake(serve: Any) -> None:
    """A websocket that is accepted with an id of the application's own has the id of the request alone."""
    app = FastAPI()
    install(app)

    @app.websocket("/ws")
    async def talk(socket: WebSocket) -> None:
        await socket.accept(headers=[(b"x-request-id", b"theirs"), (b"mine", b"1")])
        await socket.close()

    with connect(serve(app).replace("http", "ws") + "/ws", additional_headers=OURS) as socket:
        assert socket.response is not None
        assert socket.response.headers.get_all("X-Request-ID") == ["r-1"]
        assert socket.response.headers["Mine"] == "1"


async def failing() -> AsyncIterator[None]:
    try:
        yield
    finally:
        raise ValueError("secret")


# Before 0.118 FastAPI ran the cleanup before it sent the answer, so no answer was sent yet.
CLEANS_UP_AFTER_THE_ANSWER = tuple(int(part) for part in fastapi.__version__.split(".")[:2]) >= (0, 118)


@pytest.mark.parametrize(
    ("path", "status"), [("done", 200 if CLEANS_UP_AFTER_THE_ANSWER else 500), ("http", 500), ("app", 500)]
)
async def test_a_cleanup_that_fails_is_logged_once(
    browse: Any, path: str, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    """An answer that was sent stands; an error not yet answered gives way to that of the cleanup, as in FastAPI."""
    app = FastAPI(dependencies=[Depends(failing)])
    install(app)

    @app.get("/done")
    async def done(given: Annotated[None, Depends(failing)]) -> None:
        return None

    @app.get("/http")
    async def http() -> None:
        raise HTTPException(409, "taken")

    @app.get("/app")
    async def refused() -> None:
        raise AppError("SHOP_C001", "taken", http_status=409)

    with caplog.at_level(logging.INFO, "resilience"):
        async with browse(app) as client:
            answer = await client.get(f"/{path}", headers=OURS)
    assert (answer.status_code, answer.headers.get_list("X-Request-ID")) == (status, ["r-1"])
    assert "secret" not in answer.text
    (record,) = [record for record in caplog.records if record.name == "resilience"]
    assert "r-1" in record.getMessage()
