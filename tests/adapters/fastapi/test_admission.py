"""Who is let in, and until when a request counts as under way (L15)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from fastapi import BackgroundTasks, FastAPI
from fastapi.responses import StreamingResponse
from starlette.authentication import AuthCredentials, AuthenticationBackend, SimpleUser
from starlette.middleware.authentication import AuthenticationMiddleware
from starlette.requests import HTTPConnection

from resilience.errors import ConfigurationError
from resilience_fastapi import ResilienceMiddleware, install


class Gate:
    """An endpoint's work, held up until the test lets it go on."""

    def __init__(self) -> None:
        self.begun = asyncio.Event()
        self.go_on = asyncio.Event()

    async def __call__(self) -> None:
        self.begun.set()
        await asyncio.wait_for(self.go_on.wait(), 5)


def place(app: FastAPI, gate: Gate) -> None:
    @app.get("/plain")
    async def plain() -> str:
        await gate()
        return "done"

    @app.get("/stream")
    async def stream() -> StreamingResponse:
        async def body() -> AsyncIterator[bytes]:
            yield b"a"
            await gate()
            yield b"b"

        return StreamingResponse(body())

    @app.get("/background")
    async def background(tasks: BackgroundTasks) -> str:
        tasks.add_task(gate)
        return "done"

    @app.get("/fails")
    async def fails() -> None:
        await gate()
        raise ValueError

    @app.get("/quick")
    async def quick() -> str:
        return "quick"


@pytest.mark.parametrize("path", ["/plain", "/stream", "/background", "/fails"])
async def test_place_is_held_to_the_very_end(browse: Any, toolkit: Any, path: str) -> None:
    """A request holds its place, and counts as under way, until body, background work or error have come to an end."""
    app, gate = FastAPI(), Gate()
    place(app, gate)
    resilience = toolkit(server__max_concurrent_requests="1")
    install(app, resilience)
    async with browse(app) as client:
        first = asyncio.create_task(client.get(path))
        await asyncio.wait_for(gate.begun.wait(), 5)
        assert resilience.lifecycle.in_flight == 1
        refused = await client.get("/quick")
        assert (refused.status_code, refused.json()["code"]) == (503, "BULKHEAD_FULL")
        assert (await client.get("/livez")).status_code == 200
        gate.go_on.set()
        await first
        assert resilience.lifecycle.in_flight == 0
        assert (await client.get("/quick")).status_code == 200


async def test_cancelled_request_gives_its_place_back(browse: Any, toolkit: Any) -> None:
    """A server that cancels a request whose client has gone leaves no place taken."""
    app, gate = FastAPI(), Gate()
    place(app, gate)
    resilience = toolkit(server__max_concurrent_requests="1", server__deadline="10s")
    install(app, resilience)
    async with browse(app) as client:
        first = asyncio.create_task(client.get("/plain"))
        await asyncio.wait_for(gate.begun.wait(), 5)
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        assert resilience.lifecycle.in_flight == 0
        assert (await client.get("/quick")).status_code == 200


async def test_clients_are_limited_by_address(browse: Any, toolkit: Any) -> None:
    """Each address has its own quota; beyond it come 429 and the time to wait."""
    app = FastAPI()
    install(app, toolkit(server__rate_limit="2/minute", server__rate_limit_covers="all"))
    statuses = []
    for host in ("203.0.113.9", "203.0.113.10"):
        async with browse(app, (host, 1)) as client:
            statuses += [(await client.get("/")).status_code for _ in range(3)]
            refused = await client.get("/", headers={"X-Forwarded-For": "6.6.6.6"})
    assert statuses == [404, 404, 429] * 2
    assert 1 <= int(refused.headers["Retry-After"]) <= 30
    assert "RateLimit" not in refused.headers


async def test_trusted_proxies_name_the_client(browse: Any, toolkit: Any) -> None:
    """Behind a trusted proxy the quota is the client's, and a client cannot write itself a new address."""
    app = FastAPI()
    install(
        app,
        toolkit(
            server__rate_limit="1/minute",
            server__rate_limit_covers="all",
            server__trusted_proxies="10.0.0.0/8,fd00::/8",
        ),
    )
    async with browse(app, ("10.1.2.3", 1)) as client:

        async def status(*forwarded: str) -> int:
            answer = await client.get("/", headers=[("X-Forwarded-For", line) for line in forwarded])
            return int(answer.status_code)

        assert await status("203.0.113.9") == 404
        assert await status("203.0.113.9") == 429
        assert await status("1.1.1.1, 203.0.113.9") == 429
        assert await status("1.1.1.1", "203.0.113.9, 10.9.9.9") == 429
        assert await status("203.0.113.10") == 404


async def test_clients_are_limited_by_header(browse: Any, toolkit: Any) -> None:
    """With a header as key, each value has its quota and those without share their address's."""
    app = FastAPI()
    install(
        app,
        toolkit(
            server__rate_limit="1/minute", server__rate_limit_covers="all", server__rate_limit_key="header:X-Api-Key"
        ),
    )
    async with browse(app) as client:
        statuses = [
            (await client.get("/", headers=h)).status_code for h in ({"X-Api-Key": "a"}, {"X-Api-Key": "b"}, {}) * 2
        ]
    assert statuses == [404] * 3 + [429] * 3


async def test_clients_are_limited_by_function(browse: Any, toolkit: Any) -> None:
    """A function of the connection can say whose quota a request is charged to."""
    app = FastAPI()

    def tenant(connection: HTTPConnection) -> str:
        return connection.url.path

    install(app, toolkit(server__rate_limit="1/minute", server__rate_limit_covers="all"), key=tenant)
    async with browse(app) as client:
        assert [(await client.get(path)).status_code for path in ("/a", "/b", "/a")] == [404, 404, 429]


async def test_clients_are_limited_by_user(browse: Any, toolkit: Any) -> None:
    """Where authentication ran before us, a user has one quota from every address."""

    class Backend(AuthenticationBackend):
        async def authenticate(self, conn: HTTPConnection) -> tuple[AuthCredentials, SimpleUser] | None:
            name = conn.headers.get("X-User")
            return None if name is None else (AuthCredentials(), SimpleUser(name))

    app = FastAPI()
    install(app, toolkit(server__rate_limit="1/minute", server__rate_limit_covers="all", server__rate_limit_key="user"))
    app.add_middleware(AuthenticationMiddleware, backend=Backend())
    statuses = []
    for host, user in (("203.0.113.1", "ann"), ("203.0.113.2", "ann"), ("203.0.113.3", "bob"), ("203.0.113.3", "")):
        async with browse(app, (host, 1)) as client:
            statuses.append((await client.get("/", headers={"X-User": user} if user else {})).status_code)
    assert statuses == [404, 429, 404, 404]


async def test_quota_headers(browse: Any, toolkit: Any) -> None:
    """Behind the flag every answer tells what is left, refusals included."""
    app = FastAPI()
    install(
        app, toolkit(server__rate_limit="2/minute", server__rate_limit_covers="all", server__rate_limit_headers="on")
    )
    async with browse(app) as client:
        answers = [await client.get("/") for _ in range(3)]
    assert {answer.headers["RateLimit-Policy"] for answer in answers} == {'"default";q=2;w=60'}
    assert [answer.headers["RateLimit"].split(";")[1] for answer in answers] == ["r=1", "r=0", "r=0"]
    assert answers[2].headers["RateLimit"].split(";t=")[1] == answers[2].headers["Retry-After"]


async def test_connections_close_while_draining(browse: Any) -> None:
    """While draining every answer asks the client to open its next connection elsewhere, and requests are served."""
    app = FastAPI()
    resilience = install(app)
    async with browse(app) as client:
        before = await client.get("/openapi.json")
        resilience.lifecycle.drain()
        after, ready = await client.get("/openapi.json"), await client.get("/readyz")
    assert "Connection" not in before.headers
    assert (after.status_code, after.headers["Connection"]) == (200, "close")
    assert ready.status_code == 503


async def test_http2_has_no_connection_header(browse: Any) -> None:
    """Over HTTP/2 the header, which does not exist there, is not sent."""
    app = FastAPI()
    install(app).lifecycle.drain()

    async def over_http2(scope: Any, receive: Any, send: Any) -> None:
        await app({**scope, "http_version": "2"}, receive, send)

    async with browse(over_http2) as client:
        assert "Connection" not in (await client.get("/openapi.json")).headers


async def test_an_answer_has_one_request_id(browse: Any) -> None:
    """An id that the application sets is replaced by ours; shared header lists are not written to."""
    shared = [(b"x-request-id", b"own"), (b"X-Request-ID", b"twice"), (b"x-request-if", b"kept")]
    given = list(shared)
    start = {"type": "http.response.start", "status": 200, "headers": shared}
    plain: dict[str, Any] = {"type": "http.response.start", "status": 200, "headers": []}

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(start if scope["path"] == "/own" else plain)
        await send({"type": "http.response.body"})

    async with browse(ResilienceMiddleware(app)) as client:
        own = await client.get("/own", headers={"X-Request-ID": "r-1"})
        ids = [(await client.get("/")).headers.get_list("X-Request-ID") for _ in range(2)]
    assert own.headers.get_list("X-Request-ID") == ["r-1"]
    assert own.headers["X-Request-If"] == "kept"
    assert shared == given
    assert [len(each) for each in ids] == [1, 1]
    assert ids[0] != ids[1]
    assert plain["headers"] == []


async def test_other_scopes_pass() -> None:
    """A scope of a type nobody has invented yet reaches the application untouched."""
    seen: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append((scope, receive, send))

    given = ({"type": "carrier-pigeon"}, object(), object())
    await ResilienceMiddleware(app)(*given)  # type: ignore[arg-type]  # not a scope of this world
    assert seen == [given]
    assert given[0] == {"type": "carrier-pigeon"}


@pytest.mark.parametrize("variable", ["server__trusted_proxies", "server__rate_limit"])
def test_bad_settings_fail_at_install(toolkit: Any, variable: str) -> None:
    """What is wrong with the settings is said where the application is built, not at its first request."""
    with pytest.raises(ConfigurationError, match="nonsense"):
        install(FastAPI(), toolkit(**{variable: "nonsense"}))
