"""What only a real server shows: what it logs, how it aborts, websockets, keep-alive."""

from __future__ import annotations

import http.client
import json
import logging
import socket
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import urlsplit

import httpx2
import pytest
from fastapi import Depends, FastAPI, Query, WebSocket
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import StreamingResponse
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from resilience.errors import AppError, RateLimitedError
from resilience.server import current_request
from resilience_fastapi import install, rate_limit

pytestmark = [pytest.mark.servers, pytest.mark.everywhere]


def shop() -> FastAPI:
    app = FastAPI()

    @app.get("/boom")
    async def boom() -> None:
        raise ValueError("secret")

    @app.get("/stream")
    async def stream() -> StreamingResponse:
        async def body() -> AsyncIterator[bytes]:
            yield b"a"
            raise ValueError("secret")

        return StreamingResponse(body())

    @app.get("/three")
    async def three() -> StreamingResponse:
        return StreamingResponse(iter(["a", "b", "c"]))

    @app.post("/length")
    async def length(body: dict[str, Any]) -> int:
        return len(body)

    return app


def test_unhandled_error_is_logged_once(serve: Any, caplog: pytest.LogCaptureFixture) -> None:
    """The client gets the whole envelope with CORS headers and id; the server logs the error once, and goes on."""
    app = shop()
    app.add_middleware(CORSMiddleware, allow_origins=["*"])
    install(app)
    caplog.set_level(logging.ERROR)
    with httpx2.Client(base_url=serve(app)) as client:
        answer = client.get("/boom", headers={"Origin": "https://a.example", "X-Request-ID": "abc"})
        assert client.get("/three").text == "abc"  # on a new connection: the client was told to close the first
    assert answer.headers["Connection"] == "close"
    assert (answer.status_code, answer.json()["request_id"], answer.headers["X-Request-ID"]) == (500, "abc", "abc")
    assert answer.headers["Access-Control-Allow-Origin"] == "*"
    assert "secret" not in answer.text
    faults = [record for record in caplog.records if record.exc_info and "secret" in str(record.exc_info[1])]
    assert len(faults) == 1


def test_failed_stream_is_aborted(serve: Any, caplog: pytest.LogCaptureFixture) -> None:
    """An error in the middle of a stream aborts the connection: the client can tell that something is missing."""
    app = shop()
    resilience = install(app)
    caplog.set_level(logging.CRITICAL)
    with httpx2.Client(base_url=serve(app)) as client, pytest.raises(httpx2.RemoteProtocolError):
        client.get("/stream")
    assert resilience.lifecycle.in_flight == 0


def test_connections_are_kept_alive(serve: Any, toolkit: Any) -> None:
    """Many requests, refusals among them, use one connection; draining closes it."""
    app = shop()
    resilience = toolkit(server__rate_limit="3/minute")
    install(app, resilience)
    connection = http.client.HTTPConnection(urlsplit(serve(app)).netloc, timeout=5)
    ports, statuses = set(), []
    for _ in range(5):
        connection.request("POST", "/length", json.dumps({"a": 1}), {"Content-Type": "application/json"})
        assert connection.sock is not None
        ports.add(connection.sock.getsockname()[1])
        answer = connection.getresponse()
        answer.read()
        statuses.append(answer.status)
    assert (len(ports), statuses) == (1, [200, 200, 200, 429, 429])
    resilience.lifecycle.drain()
    connection.request("GET", "/readyz")
    answer = connection.getresponse()
    assert (answer.status, answer.will_close) == (503, True)
    connection.close()


@pytest.mark.parametrize("error", [AppError("USER_001", http_status=409), ValueError()], ids=["answer", "fault"])
def test_middleware_of_a_mounted_application_raises(
    serve: Any, caplog: pytest.LogCaptureFixture, error: Exception
) -> None:
    """Raised inside a mounted application, an error of ours costs no connection, and a fault is closed and logged."""
    is_fault, app, sub = isinstance(error, ValueError), FastAPI(), FastAPI()

    class Refusing:
        def __init__(self, app: Any) -> None:
            self.app = app

        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            raise error

    sub.add_middleware(Refusing)
    install(sub)
    app.mount("/sub", sub)
    install(app)
    caplog.set_level(logging.ERROR)
    connection = http.client.HTTPConnection(urlsplit(serve(app)).netloc, timeout=5)
    for _ in range(2):
        connection.request("GET", "/sub/")
        answer = connection.getresponse()
        code = json.loads(answer.read())["code"]
        assert (answer.status, code) == ((500, "INTERNAL") if is_fault else (409, "USER_001"))
        assert answer.will_close == is_fault
    connection.close()
    assert bool(caplog.records) == is_fault


class TestWebsockets:
    def test_talk(self, serve: Any, toolkit: Any) -> None:
        """A websocket works as without us: known, counted, identified, without a deadline or a place taken."""
        app, seen = FastAPI(), []

        @app.websocket("/ws")
        async def talk(socket: WebSocket) -> None:
            await socket.accept()
            async for text in socket.iter_text():
                context = current_request()
                seen.append(
                    (context and context.request_id, context and context.deadline, resilience.lifecycle.in_flight)
                )
                await socket.send_text(text.upper())

        resilience = toolkit(server__max_concurrent_requests="1", server__deadline="10s")
        install(app, resilience)
        url = serve(app)
        with connect(url.replace("http", "ws") + "/ws", additional_headers={"X-Request-ID": "abc"}) as socket:
            for text in ("a", "b"):
                socket.send(text)
                assert socket.recv(5) == text.upper()
            assert httpx2.get(f"{url}/openapi.json").status_code == 200
            assert socket.response is not None
            assert socket.response.headers["X-Request-ID"] == "abc"
        assert seen == [("abc", None, 1)] * 2

    def test_denied(self, serve: Any) -> None:
        """A handshake over the limit is answered with the 429 an HTTP request would get."""
        app = FastAPI()

        @app.websocket("/ws", dependencies=[Depends(rate_limit("1/minute"))])
        async def talk(socket: WebSocket) -> None:
            await socket.accept()
            await socket.close()

        install(app)
        url = serve(app).replace("http", "ws") + "/ws"
        with connect(url):
            pass
        with pytest.raises(InvalidStatus) as caught, connect(url):
            pass
        answer = caught.value.response
        assert (answer.status_code, json.loads(answer.body)["code"]) == (429, "RATE_LIMITED")
        assert 40 <= int(answer.headers["Retry-After"]) <= 60
        assert len(answer.headers.get_all("X-Request-ID")) == 1

    @pytest.mark.parametrize(("error", "code"), [(RateLimitedError("secret"), 1013), (AppError("BAD_SIZE"), 1011)])
    def test_closed(self, serve: Any, error: Exception, code: int) -> None:
        """An error of ours in an open websocket closes it with a code that says whether to come back (L16)."""
        app = FastAPI()

        @app.websocket("/ws")
        async def talk(socket: WebSocket) -> None:
            await socket.accept()
            raise error

        install(app)
        with connect(serve(app).replace("http", "ws") + "/ws") as socket, pytest.raises(ConnectionClosed) as caught:
            socket.recv(5)
        assert caught.value.rcvd is not None
        assert caught.value.rcvd.code == code
        assert "secret" not in caught.value.rcvd.reason

    def test_invalid(self, serve: Any) -> None:
        """A handshake with bad parameters is refused without echoing them (L16)."""
        app = FastAPI()

        @app.websocket("/ws")
        async def talk(socket: WebSocket, size: int = Query()) -> None:
            await socket.accept()

        install(app)
        with pytest.raises(InvalidStatus) as caught, connect(serve(app).replace("http", "ws") + "/ws?size=secret"):
            pass
        assert caught.value.response.status_code == 403
        assert b"secret" not in caught.value.response.body


@pytest.fixture
def raw(serve: Any, toolkit: Any) -> Any:
    """Send header lines as they are, and return the status line and headers of the answer."""
    app = shop()
    install(
        app, toolkit(server__deadline="5s", server__rate_limit="100000/second", server__trusted_proxies="127.0.0.1/32")
    )
    address = urlsplit(serve(app))

    def ask(name: bytes, value: bytes) -> bytes:
        with socket.create_connection((address.hostname or "", address.port or 0), timeout=5) as connection:
            connection.sendall(b"GET /three HTTP/1.1\r\nHost: x\r\nConnection: close\r\n%s: %s\r\n\r\n" % (name, value))
            received = bytearray()
            while chunk := connection.recv(65536):
                received += chunk
        return bytes(received)

    return ask


HEADERS = [b"X-Request-ID", b"traceparent", b"X-Request-Timeout", b"X-Forwarded-For", b"Accept"]
FIELD = st.binary(max_size=300).map(lambda value: bytes(b for b in value if b >= 32 and b != 127))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=st.sampled_from(HEADERS), value=FIELD)
def test_no_header_causes_an_error(raw: Any, name: bytes, value: bytes) -> None:
    """Whatever stands in the headers we read, over a real connection, the answer is what it would be without."""
    answer = raw(name, value)
    head, _, body = answer.partition(b"\r\n\r\n")
    expected = b"504" if b" 504 " in head and name == b"X-Request-Timeout" else b"200"
    assert head.split(b" ", 2)[1] == expected
    assert body
    lines = [line for line in head.lower().split(b"\r\n") if line.startswith(b"x-request-id: ")]
    assert len(lines) == 1
