"""One line for each request that a web service has answered, if the setting asks for it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import httpx2
import pytest
from fastapi import APIRouter, FastAPI
from fastapi.responses import StreamingResponse
from flask import Blueprint, Flask
from starlette.background import BackgroundTask

from resilience import AppError, Resilience
from resilience.logs import ContextFilter
from resilience_fastapi import ResilienceMiddleware, install
from resilience_flask import FlaskResilience

SECRET = "s3cret"  # noqa: S105 - of these tests
Ask = Callable[..., Any]


class Records(logging.Handler):
    """Keeps the records of the requests, with the ids that a filter adds."""

    def __init__(self) -> None:
        super().__init__()
        self.addFilter(ContextFilter())
        self.found: list[Any] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.found.append(record)

    @property
    def lines(self) -> list[tuple[str, str | None, int | None]]:
        return [(record.http_method, record.http_route, record.http_status) for record in self.found]


@pytest.fixture
def records() -> Iterator[Records]:
    log, handler = logging.getLogger("resilience.requests"), Records()
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    yield handler
    log.removeHandler(handler)
    log.setLevel(logging.NOTSET)


def toolkit(**settings: str) -> Resilience:
    return Resilience.from_env({"RESILIENCE_LOG__REQUESTS": "true", **settings})


def refuse() -> str:
    raise AppError("SHOP_C001", "Sold out.", http_status=409)


def fail() -> str:
    raise ValueError(SECRET)


def fastapi_app(resilience: Resilience) -> FastAPI:
    app, router, mounted = FastAPI(), APIRouter(prefix="/api"), FastAPI()

    @router.get("/orders/{order}")
    async def order(order: str) -> str:
        return order

    @mounted.get("/inner/{name}")
    def inner(name: str) -> str:
        return name

    @app.get("/stream")
    def stream() -> StreamingResponse:
        async def pieces() -> AsyncIterator[bytes]:
            yield b"a"
            logging.getLogger("resilience.requests").info("piece")
            yield b"b"

        def after() -> None:
            logging.getLogger("resilience.requests").info("background")

        return StreamingResponse(pieces(), background=BackgroundTask(after))

    app.get("/refuse")(refuse)
    app.get("/fail")(fail)
    app.include_router(router)
    app.mount("/mounted/{tenant}", mounted)
    install(app, resilience)
    return app


def flask_app(resilience: Resilience) -> Flask:
    app, api = Flask("shop"), Blueprint("api", __name__, url_prefix="/api")

    @api.get("/orders/<order>")
    def order(order: str) -> str:
        return order

    @app.get("/stream")
    def stream() -> Any:
        def pieces() -> Iterator[bytes]:
            yield b"a"
            logging.getLogger("resilience.requests").info("piece")
            yield b"b"

        return pieces()

    @app.get("/broken")
    def broken() -> Any:
        def pieces() -> Iterator[bytes]:
            fail()
            yield b"a"

        return pieces()

    app.get("/refuse")(refuse)
    app.get("/fail")(fail)
    app.register_blueprint(api)
    FlaskResilience(app, resilience)
    return app


async def ask_fastapi(app: FastAPI, *requests: tuple[str, str], **headers: str) -> None:
    transport = httpx2.ASGITransport(app, raise_app_exceptions=False)
    async with httpx2.AsyncClient(transport=transport, base_url="http://test") as client:
        for method, path in requests:
            await client.request(method, path, headers=headers)


def ask_flask(app: Flask, *requests: tuple[str, str], **headers: str) -> None:
    for method, path in requests:
        app.test_client().open(path, method=method, headers=headers, buffered=True).get_data()


async def test_fastapi_lines(records: Records) -> None:
    """Each answer has one line with method, template and status, whatever it is; never a path, a query or a probe."""
    paths = ["/api/orders/7?card=visa-x", "/refuse", "/fail", "/nope/s3cret?x=1", "/mounted/acme/inner/bob", "/livez"]
    await ask_fastapi(fastapi_app(toolkit()), *[("GET", path) for path in paths], ("POST", "/refuse"))
    assert records.lines == [
        ("GET", "/api/orders/{order}", 200),
        ("GET", "/refuse", 409),
        ("GET", "/fail", 500),
        ("GET", None, 404),
        ("GET", "/mounted/{tenant}/inner/{name}", 200),
        ("POST", "/refuse", 405),
    ]
    text = str([vars(record) for record in records.found])
    assert not [word for word in ("visa-x", SECRET, "acme", "bob") if word in text]


def test_flask_lines(records: Records) -> None:
    """Each answer has one line with method, rule and status, whatever it is; never a path, a query or a probe."""
    paths = ["/api/orders/7?card=visa-x", "/refuse", "/fail", "/broken", "/nope/s3cret?x=1", "/livez"]
    app = flask_app(toolkit())
    ask_flask(app, *[("GET", path) for path in paths], ("POST", "/refuse"))
    assert records.lines == [
        ("GET", "/api/orders/<order>", 200),
        ("GET", "/refuse", 409),
        ("GET", "/fail", 500),
        ("GET", "/broken", 500),
        ("GET", None, 404),
        ("POST", None, 405),
    ]
    text = str([vars(record) for record in records.found])
    assert not [word for word in ("visa-x", SECRET) if word in text]


async def test_a_line_comes_with_the_last_byte(records: Records) -> None:
    """The line of a streamed answer follows its last piece, and comes before background work."""
    await ask_fastapi(fastapi_app(toolkit()), ("GET", "/stream"))
    assert [record.getMessage().partition(" ")[0] for record in records.found] == ["piece", "GET", "background"]
    records.found.clear()
    ask_flask(flask_app(toolkit()), ("GET", "/stream"))
    assert [record.getMessage().partition(" ")[0] for record in records.found] == ["piece", "GET"]


@pytest.mark.parametrize("framework", ["fastapi", "flask"])
async def test_a_line_has_ids_duration_and_client(records: Records, framework: str) -> None:
    """The line says how long the answer took, who asked, and the ids of request and trace."""
    trace = "0af7651916cd43dd8448eb211c80319c"
    headers = {"X-Request-ID": "r-1", "traceparent": f"00-{trace}-b7ad6b7169203331-01"}
    if framework == "fastapi":
        await ask_fastapi(fastapi_app(toolkit()), ("GET", "/api/orders/7"), **headers)
    else:
        ask_flask(flask_app(toolkit()), ("GET", "/api/orders/7"), **headers)
    (record,) = records.found
    assert (record.request_id, record.trace_id, record.client_address) == ("r-1", trace, "127.0.0.1")
    assert (record.levelname, 0 < record.duration_ms < 5000) == ("INFO", True)
    assert record.getMessage().startswith(f"GET {record.http_route} 200 in ")
    assert record.getMessage().endswith(" ms")


async def test_a_client_that_leaves_has_no_status(records: Records) -> None:
    """A request that is cancelled before its answer has a line without a status."""

    async def cancelled(*_: object) -> None:
        raise asyncio.CancelledError

    transport = httpx2.ASGITransport(ResilienceMiddleware(cancelled, toolkit()))
    async with httpx2.AsyncClient(transport=transport, base_url="http://test") as client:
        with pytest.raises(asyncio.CancelledError):
            await client.get("/slow")
    assert records.lines == [("GET", None, None)]
    assert records.found[0].getMessage().startswith("GET (no route) no answer in ")


async def test_a_late_request_has_the_status_of_its_answer(records: Records) -> None:
    """A request whose deadline passes has one line, with the 504 that the client got."""
    app = FastAPI()

    @app.get("/slow")
    async def slow() -> None:
        await asyncio.sleep(10)

    install(app, toolkit(RESILIENCE_SERVER__DEADLINE="20ms"))
    await ask_fastapi(app, ("GET", "/slow"))
    assert records.lines == [("GET", "/slow", 504)]


async def test_a_refused_request_has_a_line(records: Records) -> None:
    """A request that the server's own limit refuses is in the log with its status."""
    settings = {"RESILIENCE_SERVER__RATE_LIMIT": "1/hour"}
    twice = [("GET", "/api/orders/7")] * 2
    await ask_fastapi(fastapi_app(toolkit(**settings)), *twice)
    ask_flask(flask_app(toolkit(**settings)), *twice)
    assert [status for _, _, status in records.lines] == [200, 429, 200, 429]


async def test_no_line_without_the_setting(records: Records) -> None:
    """By default no request has a line."""
    await ask_fastapi(fastapi_app(Resilience.from_env({})), ("GET", "/api/orders/7"))
    ask_flask(flask_app(Resilience.from_env({})), ("GET", "/api/orders/7"))
    assert records.lines == []


async def test_a_failing_handler_costs_the_request_nothing() -> None:
    """A log handler that raises changes no answer."""

    class Failing(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            raise RuntimeError("disk full")

    log, handler = logging.getLogger("resilience.requests"), Failing()
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    try:
        transport = httpx2.ASGITransport(fastapi_app(toolkit()))
        async with httpx2.AsyncClient(transport=transport, base_url="http://test") as client:
            assert (await client.get("/api/orders/7")).json() == "7"
        assert flask_app(toolkit()).test_client().get("/api/orders/7", buffered=True).text == "7"
    finally:
        log.removeHandler(handler)
        log.setLevel(logging.NOTSET)
