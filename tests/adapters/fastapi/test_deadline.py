"""504 on time, and what happens to the work behind it."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import threading
import time
import weakref
from collections.abc import AsyncIterator, Iterator
from typing import Any

import anyio.to_thread
import httpx2
import pytest
from fastapi import BackgroundTasks, Depends, FastAPI, Request
from fastapi.responses import JSONResponse, StreamingResponse
from starlette.middleware.base import BaseHTTPMiddleware

from resilience.errors import DeadlineExceededError
from resilience.server import current_request
from resilience.timeout import Deadline
from resilience_fastapi import install

pytestmark = pytest.mark.realtime


async def test_async_endpoint_is_cancelled_once(browse: Any, toolkit: Any) -> None:
    """An endpoint that awaits gets one cancellation and may still await in its `finally` blocks."""
    app, seen = FastAPI(), []

    @app.get("/")
    async def slow() -> None:
        try:
            await asyncio.sleep(5)
        except asyncio.CancelledError:
            seen.append("cancelled")
            raise
        finally:
            await asyncio.sleep(0.01)
            seen.append("cleaned up")

    resilience = toolkit(server__deadline="50ms", server__max_concurrent_requests="1")
    install(app, resilience)
    async with browse(app) as client:
        began = time.monotonic()
        answer = await client.get("/")
        again = await client.get("/")
    assert time.monotonic() - began < 2
    assert (
        (answer.status_code, answer.json()["code"])
        == (again.status_code, "DEADLINE_EXCEEDED")
        == (504, "DEADLINE_EXCEEDED")
    )
    assert seen == ["cancelled", "cleaned up"] * 2
    assert resilience.lifecycle.in_flight == 0


async def test_own_handler_answers_for_the_deadline(browse: Any, toolkit: Any) -> None:
    """A handler the application registered for late answers is asked, and knows the request."""
    app = FastAPI()

    @app.get("/")
    async def slow() -> None:
        await asyncio.sleep(5)

    @app.exception_handler(DeadlineExceededError)
    async def late(request: Request, error: DeadlineExceededError) -> JSONResponse:
        context = current_request()
        return JSONResponse(context and context.request_id, 504)

    install(app, toolkit(server__deadline="20ms"))
    async with browse(app) as client:
        assert (await client.get("/", headers={"X-Request-ID": "abc"})).json() == "abc"


async def test_deadlines_of_one_moment_are_apart(browse: Any, toolkit: Any) -> None:
    """Of many requests that are due together, those in time are left alone and the others answered for."""
    app = FastAPI()

    @app.get("/{milliseconds}")
    async def sleep(milliseconds: int) -> int:
        await asyncio.sleep(milliseconds / 1000)
        return milliseconds

    resilience = toolkit(server__deadline="700ms")
    install(app, resilience)
    async with browse(app) as client:
        answers = await asyncio.gather(*(client.get(f"/{n}") for n in [1, 5000] * 10))
    assert [answer.status_code for answer in answers] == [200, 504] * 10
    assert resilience.lifecycle.in_flight == 0


async def test_caller_sets_a_sooner_deadline(browse: Any) -> None:
    """A header alone sets a deadline, where the server has none."""
    app = FastAPI()

    @app.get("/")
    async def slow() -> None:
        await asyncio.sleep(5)

    install(app)
    async with browse(app) as client:
        assert (await client.get("/", headers={"X-Request-Timeout": "20ms"})).status_code == 504


@pytest.mark.parametrize("header", ["X-Request-Timeout", "Request-Timeout"])
async def test_who_has_no_time_left_is_not_served(browse: Any, header: str) -> None:
    """A caller that waits no more gets its 504 at once, and nothing is done for it."""
    app, served = FastAPI(), list[str]()
    app.get("/")(lambda: served.append("served"))
    install(app)
    async with browse(app) as client:
        answer = await client.get("/", headers={header: "0"})
    assert (answer.status_code, answer.json()["code"], served) == (504, "DEADLINE_EXCEEDED", [])


async def test_timer_leaves_no_trace(browse: Any, toolkit: Any) -> None:
    """A request that is in time is not cancelled later, nor is the task that served it."""
    app = FastAPI()

    @app.get("/")
    async def quick() -> str:
        return "quick"

    install(app, toolkit(server__deadline="50ms"))
    async with browse(app) as client:
        assert (await client.get("/")).status_code == 200
        await asyncio.sleep(0.1)
        task = asyncio.current_task()
        assert task is not None
        assert task.cancelling() == 0


async def test_swallowed_cancellation(browse: Any, toolkit: Any) -> None:
    """An endpoint that swallows the cancellation changes nothing: the client has its 504, the task is not cancelled."""
    app = FastAPI()

    @app.get("/")
    async def stubborn() -> str:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(5)
        return "too late"

    install(app, toolkit(server__deadline="20ms"))
    async with browse(app) as client:
        assert (await client.get("/")).status_code == 504
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0


async def test_error_after_the_504_is_still_raised(toolkit: Any) -> None:
    """What an endpoint raises after its time is not lost: the server gets it, to log it."""
    app = FastAPI()

    @app.get("/")
    async def fails() -> None:
        try:
            await asyncio.sleep(5)
        finally:
            raise ValueError("on the way out")

    install(app, toolkit(server__deadline="20ms"))
    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://shop.example") as client:
        with pytest.raises(ValueError, match="on the way out"):
            await client.get("/")


async def test_outside_cancellation_goes_on(browse: Any, toolkit: Any) -> None:
    """A cancellation by the server is never taken for ours."""
    app = FastAPI()
    begun = asyncio.Event()

    @app.get("/")
    async def slow() -> None:
        begun.set()
        await asyncio.sleep(5)

    install(app, toolkit(server__deadline="5s"))
    async with browse(app) as client:
        request = asyncio.create_task(client.get("/"))
        await asyncio.wait_for(begun.wait(), 5)
        request.cancel()
        with pytest.raises(asyncio.CancelledError):
            await request


async def test_outside_cancellation_before_the_deadline_goes_on(toolkit: Any) -> None:
    """A task cancelled by the server, and late only because it cleans up, ends cancelled: that was not our doing."""
    app, begun = FastAPI(), asyncio.Event()

    @app.get("/")
    async def slow() -> None:
        begun.set()
        try:
            await asyncio.sleep(5)
        finally:
            await asyncio.sleep(5)

    install(app, toolkit(server__deadline="100ms"))
    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://shop.example") as client:
        request = asyncio.create_task(client.get("/"))
        await asyncio.wait_for(begun.wait(), 5)
        request.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(asyncio.shield(request), 5)
    assert request.cancelling() == 1


async def test_serves_a_task_already_cancelled(toolkit: Any) -> None:
    """In a task that was cancelled before the request came, a missed deadline is still answered with 504."""
    app = FastAPI()

    @app.get("/")
    async def slow() -> None:
        await asyncio.sleep(5)

    install(app, toolkit(server__deadline="20ms"))
    statuses = []

    async def clean_up() -> None:
        try:
            await asyncio.sleep(5)
        except asyncio.CancelledError:
            async with httpx2.AsyncClient(
                transport=httpx2.ASGITransport(app), base_url="http://shop.example"
            ) as client:
                statuses.append((await client.get("/")).status_code)

    task = asyncio.create_task(clean_up())
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait_for(task, 5)
    assert statuses == [504]


async def test_answered_requests_are_let_go(browse: Any, toolkit: Any) -> None:
    """A request that was in time is held by nothing until its deadline, however far off that is."""
    app, known = FastAPI(), list[weakref.ref[Any]]()

    class Burden: ...

    @app.get("/")
    async def endpoint(request: Request) -> str:
        request.state.burden = burden = Burden()
        known.append(weakref.ref(burden))
        return "done"

    install(app, toolkit(server__deadline="1h"))
    async with browse(app) as client:
        assert (await client.get("/")).status_code == 200
    gc.collect()
    assert [reference() for reference in known] == [None]


@pytest.mark.parametrize("kind", ["endpoint", "dependency", "yielding", "middleware"])
def test_thread_keeps_its_place(serve: Any, toolkit: Any, kind: str) -> None:
    """A blocking endpoint or dependency is answered for on time, and its place is kept until its thread returns."""
    app, go_on, began = FastAPI(), threading.Event(), threading.Event()

    def block() -> str:
        began.set()
        go_on.wait(5)
        return "late"

    def block_and_yield() -> Iterator[str]:
        yield block()

    async def nothing() -> None: ...

    needs = {"dependency": [Depends(block)], "yielding": [Depends(block_and_yield)]}.get(kind, [])
    app.add_api_route("/", nothing if needs else block, dependencies=needs)

    @app.get("/quick")
    async def quick() -> str:
        return "quick"

    if kind == "middleware":
        app.add_middleware(BaseHTTPMiddleware, dispatch=lambda request, call_next: call_next(request))
    resilience = toolkit(server__deadline="100ms", server__max_concurrent_requests="1")
    install(app, resilience)
    with httpx2.Client(base_url=serve(app)) as client:
        start = time.monotonic()
        answer = client.get("/", timeout=4)
        assert time.monotonic() - start < 2
        assert answer.json()["code"] == "DEADLINE_EXCEEDED"
        assert began.is_set()
        time.sleep(0.2)
        assert resilience.lifecycle.in_flight == 1
        assert client.get("/quick").json()["code"] == "BULKHEAD_FULL"
        go_on.set()
        patience = time.monotonic() + 5
        while resilience.lifecycle.in_flight and time.monotonic() < patience:
            time.sleep(0.01)
        assert client.get("/quick").status_code == 200


async def test_what_goes_on_late_asks_nobody(browse: Any, toolkit: Any) -> None:
    """A thread that works on after the 504 has no more time than before it; its background tasks do, as ever."""
    app, go_on, left = FastAPI(), threading.Event(), list[bool]()

    def look() -> None:
        deadline = Deadline.current()
        left.append(deadline is not None and deadline.expired)

    @app.get("/")
    def work(tasks: BackgroundTasks) -> str:
        tasks.add_task(look)
        go_on.wait(5)
        look()
        return "late"

    install(app, toolkit(server__deadline="50ms"))
    async with browse(app) as client:
        answering = asyncio.create_task(client.get("/"))
        await asyncio.sleep(0.2)
        go_on.set()
        assert (await answering).status_code == 504
    assert left == [True, False]


async def test_queueing_for_a_thread_is_given_up(browse: Any, toolkit: Any) -> None:
    """A request that still waits for a worker thread when its caller has gone is never begun."""
    app, calls = FastAPI(), []

    @app.get("/")
    def work() -> None:
        calls.append(1)

    install(app, toolkit(server__deadline="50ms"))
    limiter = anyio.to_thread.current_default_thread_limiter()
    async with browse(app) as client:
        tokens = limiter.total_tokens
        holders = [object() for _ in range(int(tokens))]
        for holder in holders:
            limiter.acquire_on_behalf_of_nowait(holder)
        answer = await client.get("/")
        for holder in holders:
            limiter.release_on_behalf_of(holder)
    assert (answer.status_code, calls) == (504, [])


def test_begun_stream_is_broken_off(serve: Any, toolkit: Any) -> None:
    """A stream under way at its deadline ends in an aborted connection, never in a body that looks complete."""
    app = FastAPI()

    @app.get("/")
    async def stream() -> StreamingResponse:
        async def body() -> AsyncIterator[bytes]:
            yield b"a"
            await asyncio.sleep(5)
            yield b"b"

        return StreamingResponse(body())

    resilience = toolkit(server__deadline="100ms")
    install(app, resilience)
    url = serve(app)
    with httpx2.stream("GET", url, timeout=4) as answer, pytest.raises(httpx2.RemoteProtocolError):
        answer.read()
    assert answer.status_code == 200
    assert resilience.lifecycle.in_flight == 0


async def test_background_work_is_not_late(browse: Any, toolkit: Any) -> None:
    """Background tasks run on after the deadline, and do not see one that has passed (L15)."""
    app, seen = FastAPI(), []

    @app.get("/")
    async def endpoint(tasks: BackgroundTasks) -> str:
        async def later() -> None:
            await asyncio.sleep(0.1)
            deadline = Deadline.current()
            seen.append(deadline is None or not deadline.expired)

        tasks.add_task(later)
        return "done"

    install(app, toolkit(server__deadline="50ms"))
    async with browse(app) as client:
        assert (await client.get("/")).status_code == 200
    assert seen == [True]


async def test_excluded_paths_take_their_time(browse: Any, toolkit: Any) -> None:
    """A path excluded by setting, such as a stream of events, is not timed, and nothing below it."""
    app = FastAPI()

    @app.get("/events/{topic}")
    async def events(topic: str) -> str:
        await asyncio.sleep(0.05)
        return topic

    install(app, toolkit(server__deadline="10ms", server__exclude_paths="/events"))
    async with browse(app) as client:
        assert (await client.get("/events/a")).json() == "a"
