"""What runs inside a request knows the request (research table: who sees which context variable)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextvars import ContextVar
from typing import Annotated, Any

import pytest
from fastapi import BackgroundTasks, Depends, FastAPI, Request
from fastapi.responses import StreamingResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from resilience.server import current_request
from resilience.timeout import Deadline
from resilience_fastapi import install

inside: ContextVar[str] = ContextVar("inside", default="-")


def rid() -> str:
    context = current_request()
    return "-" if context is None else context.request_id


def async_dependency() -> Any:
    async def dependency() -> str:
        return rid()

    return Depends(dependency)


def sync_dependency() -> Any:
    return Depends(rid)


async def yielding() -> AsyncIterator[str]:
    yield rid()


def sync_yielding() -> Iterator[str]:
    yield rid()


def place(app: FastAPI, later: list[str]) -> None:
    @app.get("/async")
    async def in_async(
        a: Annotated[str, async_dependency()],
        b: Annotated[str, sync_dependency()],
        c: Annotated[str, Depends(yielding)],
        d: Annotated[str, Depends(sync_yielding)],
    ) -> list[str]:
        return [rid(), a, b, c, d, await asyncio.to_thread(rid), await asyncio.create_task(asyncio.to_thread(rid))]

    @app.get("/sync")
    def in_sync(a: Annotated[str, sync_dependency()]) -> list[str]:
        return [rid(), a]

    @app.get("/background")
    async def background(tasks: BackgroundTasks) -> list[str]:
        async def in_loop() -> None:
            later.append(rid())

        tasks.add_task(in_loop)
        tasks.add_task(lambda: later.append(rid()))
        return [rid()]

    @app.get("/stream")
    def stream() -> StreamingResponse:
        return StreamingResponse((f"{rid()} " for _ in range(3)), media_type="text/plain")

    @app.get("/astream")
    async def astream() -> StreamingResponse:
        async def body() -> AsyncIterator[str]:
            for _ in range(3):
                await asyncio.sleep(0)
                yield f"{rid()} "

        return StreamingResponse(body(), media_type="text/plain")


@pytest.mark.parametrize("path", ["/async", "/sync", "/background", "/stream", "/astream"])
async def test_request_is_known_everywhere(browse: Any, path: str) -> None:
    """Endpoints, dependencies, threads, tasks, streams and background work of a request know its id."""
    app, later = FastAPI(), list[str]()
    place(app, later)
    install(app)
    async with browse(app) as client:
        answer = await client.get(path, headers={"X-Request-ID": "abc"})
    seen = answer.json() if answer.headers["content-type"] == "application/json" else answer.text.split()
    assert set(seen) == {"abc"}
    assert later == (["abc", "abc"] if path == "/background" else [])


async def test_nothing_leaks_between_requests(browse: Any) -> None:
    """Requests at the same time or one after the other, in tasks or reused threads, each see themselves (L19)."""
    app = FastAPI()

    @app.get("/{kind}/{name}")
    def sync_one(kind: str, name: str) -> list[str]:
        return [name, rid()]

    @app.get("/async/{name}/x")
    async def async_one(name: str) -> list[str]:
        await asyncio.sleep(0)
        return [name, rid()]

    install(app)
    async with browse(app) as client:
        for _ in range(3):
            paths = [f"/sync/n{n}" for n in range(20)] + [f"/async/n{n}/x" for n in range(20)]
            ids = [path.replace("/", ".").strip(".") for path in paths]
            requests = [client.get(path, headers={"X-Request-ID": own}) for path, own in zip(paths, ids, strict=True)]
            answers = await asyncio.gather(*requests)
            assert [answer.json()[1] for answer in answers] == ids
    assert current_request() is None
    assert Deadline.current() is None


async def test_values_set_inside_are_seen_outside(browse: Any) -> None:
    """We do not hide what an async endpoint sets from the middleware around us, as BaseHTTPMiddleware would."""
    app, seen = FastAPI(), list[str]()

    class Outer:
        def __init__(self, app: ASGIApp) -> None:
            self.app = app

        async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
            inside.set("outer")
            await self.app(scope, receive, send)
            seen.append(inside.get())

    @app.get("/")
    async def endpoint() -> None:
        inside.set("endpoint")

    install(app)
    app.add_middleware(Outer)
    async with browse(app) as client:
        await client.get("/")
    assert seen == ["endpoint"]


async def test_context_is_one_object_changed_in_place(browse: Any, toolkit: Any) -> None:
    """What a thread notes in the request's context is seen by everybody else in the request."""
    app = FastAPI()

    def note() -> None:
        context = current_request()
        assert context is not None
        context.user = "ann"

    @app.get("/", dependencies=[Depends(note)])
    async def endpoint(request: Request) -> list[Any]:
        context = current_request()
        assert context is request.scope["resilience"]
        return [context and context.user, context and context.client]

    install(app)
    async with browse(app) as client:
        assert (await client.get("/")).json() == ["ann", "203.0.113.9"]


async def test_deadline_is_known_inside(browse: Any, toolkit: Any) -> None:
    """Endpoints of both colours know how long the caller still waits, and a header only shortens it."""
    app = FastAPI()

    @app.get("/async")
    async def in_async() -> float | None:
        deadline = Deadline.current()
        return None if deadline is None else deadline.remaining()

    @app.get("/sync")
    def in_sync() -> float | None:
        deadline = Deadline.current()
        return None if deadline is None else deadline.remaining()

    install(app, toolkit(server__deadline="5s", server__deadline_header="X-Patience"))
    async with browse(app) as client:
        for path in ("/async", "/sync"):
            assert 4 < (await client.get(path)).json() <= 5
            assert 1 < (await client.get(path, headers={"X-Patience": "2000ms"})).json() <= 2
            assert 4 < (await client.get(path, headers={"X-Patience": "60"})).json() <= 5
            assert 4 < (await client.get(path, headers={"X-Patience": "soon"})).json() <= 5
