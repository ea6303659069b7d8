"""What a service in production meets: busy threads, any header, any order of middleware, several applications."""

from __future__ import annotations

import re
import socket as socket_module
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx2
import pytest
import uvicorn
from fastapi import BackgroundTasks, FastAPI, WebSocket
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.gzip import GZipMiddleware
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from resilience import Resilience
from resilience.server import current_request
from resilience_fastapi import install

ID = re.compile(r"[A-Za-z0-9._-]{1,128}").fullmatch


@pytest.mark.servers
def test_probes_answer_while_all_threads_are_busy(serve: Any) -> None:
    """With 45 blocking requests on 40 threads every probe is answered at once, and nobody is lost (L18)."""
    app, gate, running = FastAPI(), threading.Event(), threading.Semaphore(0)

    @app.get("/slow")
    def slow() -> str:
        running.release()
        gate.wait(20)
        return "done"

    resilience = install(app)
    url = serve(app)
    with ThreadPoolExecutor(45) as crowd:
        answers = [crowd.submit(httpx2.get, f"{url}/slow", timeout=30) for _ in range(45)]
        try:
            assert all(running.acquire(timeout=10) for _ in range(40))
            probes = [httpx2.get(url + path, timeout=2).status_code for path in ("/livez", "/readyz", "/startupz")]
            assert resilience.lifecycle.in_flight >= 40
        finally:
            gate.set()
        statuses = [answer.result().status_code for answer in answers]
    assert (probes, statuses) == ([200] * 3, [200] * 45)
    assert resilience.lifecycle.wait_idle(5)  # a client has its answer a moment before the server is done with it


HEADERS = [b"x-request-id", b"traceparent", b"tracestate", b"baggage", b"x-request-timeout", b"request-timeout",
           b"x-forwarded-for", b"accept", b"accept-language"]  # fmt: skip
VALUE = st.one_of(
    st.binary(max_size=300),
    st.sampled_from(
        [
            b"nan",
            b"-1",
            b"inf",
            b"1e999",
            b"0",
            b"\r\nSet-Cookie: a=b",
            b"abc\n",
            b"a" * 128,
            b"a" * 100_000,
            b"00-" + b"0" * 32,
        ]
    ),
    st.from_regex(rb"\A00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}\Z"),
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(headers=st.lists(st.tuples(st.sampled_from(HEADERS), VALUE), max_size=6))
async def test_any_headers(headers: list[tuple[bytes, bytes]], toolkit: Any) -> None:
    """Whatever the headers say there is no fault, and the request id sent back is a sound one."""
    app = FastAPI()
    app.add_api_route("/", lambda: "x")
    install(app, toolkit(server__trusted_proxies="127.0.0.1/32", server__rate_limit="1000000/second"))
    for path, usual in (("/", 200), ("/nowhere", 404)):
        said = await ask(app, path, headers)
        sent = [value.decode("latin-1") for name, value in said["headers"] if name == b"x-request-id"]
        assert said["status"] in {usual, 504}
        assert len(sent) == 1
        assert ID(sent[0])
        asked = [value.decode("latin-1") for name, value in headers if name == b"x-request-id"]
        assert sent[0] in asked or not (len(asked) == 1 and ID(asked[0]))
        assert all(b"\r" not in value and b"\n" not in value for _, value in said["headers"])


async def ask(app: Any, path: str, headers: list[tuple[bytes, bytes]]) -> Any:
    """Hand over a request no client library would send, and return the start of the answer."""
    said: list[Any] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        said.append(message)

    scope = {"type": "http", "method": "GET", "path": path, "query_string": b"", "headers": headers,
             "client": ("127.0.0.1", 1), "http_version": "1.1"}  # fmt: skip
    await app(scope, receive, send)
    return said[0]


@pytest.mark.parametrize("is_first", [True, False])
async def test_any_order_of_middleware(browse: Any, *, is_first: bool) -> None:
    """Other middleware works on either side of ours: refusals, faults and answers carry CORS headers and an id."""
    app = FastAPI()

    @app.get("/boom")
    async def boom() -> None:
        raise ValueError("secret")

    resilience = Resilience.from_env(
        {"RESILIENCE_SERVER__RATE_LIMIT": "2/minute", "RESILIENCE_SERVER__RATE_LIMIT_COVERS": "all"}
    )
    if is_first:
        install(app, resilience)
    app.add_middleware(CORSMiddleware, allow_origins=["https://a.example"], expose_headers=["X-Request-ID"])
    app.add_middleware(GZipMiddleware)
    if not is_first:
        install(app, resilience)
    async with browse(app) as client:
        answers = [await client.get(path, headers={"Origin": "https://a.example"}) for path in ("/boom", "/no", "/no")]
    assert [answer.status_code for answer in answers] == [500, 404, 429]
    for answer in answers:
        assert answer.headers["Access-Control-Allow-Origin"] == "https://a.example"
        assert answer.json()["request_id"] == answer.headers["X-Request-ID"]


async def test_applications_of_one_factory(browse: Any) -> None:
    """Applications made by one factory live in one process, each with limits, counts and readiness of its own."""

    def build() -> tuple[FastAPI, Resilience]:
        app = FastAPI()
        return app, install(
            app,
            Resilience.from_env(
                {"RESILIENCE_SERVER__RATE_LIMIT": "1/minute", "RESILIENCE_SERVER__RATE_LIMIT_COVERS": "all"}
            ),
        )

    (one, first), (other, _) = build(), build()
    async with browse(one) as client, browse(other) as neighbour:
        assert [(await client.get("/")).status_code for _ in range(2)] == [404, 429]
        assert (await neighbour.get("/")).status_code == 404
        first.lifecycle.drain()
        assert [(await browser.get("/readyz")).status_code for browser in (client, neighbour)] == [503, 200]


async def test_mounted_application_is_counted_once(browse: Any) -> None:
    """A request to an application mounted under ours, installed on too, is one request with one id, counted once."""
    app, sub, seen = FastAPI(), FastAPI(), []

    @sub.get("/")
    async def read(tasks: BackgroundTasks) -> str:
        tasks.add_task(lambda: seen.append((outer.lifecycle.in_flight, inner.lifecycle.in_flight)))
        seen.append((outer.lifecycle.in_flight, inner.lifecycle.in_flight))
        context = current_request()
        return context.request_id if context else ""

    inner, outer = install(sub, Resilience()), install(app, Resilience())
    app.mount("/sub", sub)
    async with browse(app) as client:
        answer = await client.get("/sub/")
    assert seen == [(1, 0)] * 2
    assert answer.headers.get_list("X-Request-ID") == [answer.json()]
    assert outer.lifecycle.in_flight == 0


async def test_method_not_allowed_keeps_allow(browse: Any) -> None:
    """405 says which methods there are, and a slash too few is a redirect as without us."""
    app = FastAPI()
    app.add_api_route("/items/", lambda: "x")
    install(app)
    async with browse(app) as client:
        wrong, moved = await client.put("/items/"), await client.get("/items")
    assert (wrong.status_code, wrong.headers["Allow"], wrong.json()["code"]) == (405, "GET", "METHOD_NOT_ALLOWED")
    assert (moved.status_code, moved.headers["Location"], moved.content) == (307, "http://shop.example/items/", b"")


@pytest.mark.servers
def test_websockets_end_with_the_server() -> None:
    """A server that stops tells each open websocket to come back later (1012), and none is counted afterwards."""
    app = FastAPI()

    @app.websocket("/ws")
    async def talk(socket: WebSocket) -> None:
        await socket.accept()
        async for text in socket.iter_text():
            await socket.send_text(text)

    resilience = install(app)
    listener = socket_module.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_config=None, timeout_graceful_shutdown=5))
    thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
    thread.start()
    with listener, connect(f"ws://127.0.0.1:{listener.getsockname()[1]}/ws") as socket:
        socket.send("a")
        assert socket.recv(5) == "a"
        assert resilience.lifecycle.in_flight == 1
        server.should_exit = True
        with pytest.raises(ConnectionClosed) as caught:
            socket.recv(5)
        thread.join(10)
    assert not thread.is_alive()
    assert caught.value.rcvd is not None
    assert caught.value.rcvd.code == 1012
    assert resilience.lifecycle.in_flight == 0
