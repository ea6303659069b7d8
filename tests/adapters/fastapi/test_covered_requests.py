"""Which requests the limit of the server counts: those that a route serves, or all."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
from fastapi import APIRouter, FastAPI, HTTPException
from fastapi.staticfiles import StaticFiles
from starlette.routing import Mount

from resilience_fastapi import ResilienceMiddleware, install

ADDRESSES = itertools.count(1)


@pytest.fixture
def files(tmp_path: Path) -> StaticFiles:
    (tmp_path / "page.css").write_text("p {}")
    (tmp_path / "index.html").write_text("hello")
    return StaticFiles(directory=tmp_path, html=True)


def shop(files: StaticFiles, place: str = "/static") -> FastAPI:
    app, inner, router = FastAPI(), FastAPI(), APIRouter()
    app.get("/orders/{order}")(lambda order: order)
    app.get("/static/upload")(lambda: "a route below the mount")
    app.get("/gone")(gone)
    router.get("/included")(lambda: "ok")
    app.include_router(router, prefix="/api")
    inner.get("/")(lambda: "inner")
    inner.mount("/assets", files)
    app.mount("/inner", inner)
    app.mount(place, files)
    return app


def gone() -> None:
    raise HTTPException(404)


async def remaining(browse: Any, app: FastAPI, *paths: str, method: str = "GET") -> list[tuple[int, bool]]:
    """Return for each path the status, and whether three requests for it have used up a limit of three."""
    found = []
    for path in paths:
        async with browse(app, (f"203.0.113.{next(ADDRESSES)}", 1)) as client:
            answers = [await client.request(method, path) for _ in range(3)]
            found.append((answers[0].status_code, (await client.get("/orders/1")).status_code == 429))
            assert len({answer.status_code for answer in answers}) == 1
    return found


COUNTED = ["/orders/1", "/gone", "/api/included", "/inner/", "/static/upload", "/docs", "/openapi.json"]
NOT_COUNTED = [
    "/nowhere",
    "/api/nowhere",
    "/inner/nowhere",
    "/static/page.css",
    "/static/none",
    "/inner/assets/page.css",
]


async def test_routes_are_counted_files_and_404s_are_not(browse: Any, toolkit: Any, files: Any) -> None:
    """Routes of any router or mounted application count, also if they answer 404; files and unknown paths do not."""
    app = shop(files)
    install(app, toolkit(server__rate_limit="3/day"))
    assert all(is_spent for _, is_spent in await remaining(browse, app, *COUNTED))
    assert not any(is_spent for _, is_spent in await remaining(browse, app, *NOT_COUNTED))
    assert await remaining(browse, app, "/orders/1", method="DELETE") == [(405, True)]


async def test_all_are_counted_if_asked(browse: Any, toolkit: Any, files: Any) -> None:
    """With `rate_limit_covers=all` every request counts, whatever serves it."""
    app = shop(files)
    install(app, toolkit(server__rate_limit="3/day", server__rate_limit_covers="all"))
    assert all(is_spent for _, is_spent in await remaining(browse, app, *COUNTED, *NOT_COUNTED))


@pytest.mark.parametrize("place", ["/", "/static"])
async def test_a_client_over_its_limit_still_gets_files_and_404s(
    browse: Any, toolkit: Any, files: Any, place: str
) -> None:
    """A page whose limit is used up still has its style sheet, also if the files are mounted at the root."""
    app = shop(files, place)
    install(app, toolkit(server__rate_limit="1/day", server__rate_limit_headers="true"))
    async with browse(app) as client:
        assert (await client.get("/orders/1")).status_code == 200
        assert (await client.get("/orders/1")).status_code == 429
        answers = [await client.get(path) for path in (f"{place.rstrip('/')}/page.css", "/nowhere")]
        assert [answer.status_code for answer in answers] == [200, 404]
        assert "RateLimit" not in answers[0].headers
        assert (await client.get("/orders/2")).status_code == 429


async def test_headers_of_a_404_show_what_is_left(browse: Any, toolkit: Any, files: Any) -> None:
    """The `RateLimit` field of a 404 says that it has cost nothing."""
    app = shop(files)
    install(app, toolkit(server__rate_limit="3/day", server__rate_limit_headers="true"))
    async with browse(app) as client:
        assert '"default";r=3' in (await client.get("/nowhere")).headers["RateLimit"]
        assert '"default";r=2' in (await client.get("/orders/1")).headers["RateLimit"]


async def test_files_of_a_page_take_no_tokens_at_the_same_time(browse: Any, toolkit: Any, files: Any) -> None:
    """Files are not charged and paid back: a request that comes with them would be refused meanwhile."""
    seen = []

    class Look:
        def __init__(self, app: Any) -> None:
            self.app = app

        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            seen.append(len(scope["resilience"].charges))
            await self.app(scope, receive, send)

    app = shop(files)
    app.add_middleware(Look)
    install(app, toolkit(server__rate_limit="1/day"))
    async with browse(app) as client:
        for path in ("/static/page.css", "/orders/1"):
            await client.get(path)
    assert seen == [0, 1]


async def test_a_parameter_in_the_path_of_the_mount(browse: Any, toolkit: Any, files: Any) -> None:
    """Files below a mount with a parameter are files too."""
    app = FastAPI()
    app.router.routes.append(Mount("/{tenant}/static", app=files))
    app.get("/orders/{order}")(lambda order: order)
    install(app, toolkit(server__rate_limit="3/day"))
    assert await remaining(browse, app, "/a/static/page.css") == [(200, False)]


async def test_around_any_application_all_are_counted(browse: Any, toolkit: Any) -> None:
    """An application without routes that we know has no unknown paths: every request counts."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 404, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    guarded = ResilienceMiddleware(app, toolkit(server__rate_limit="1/day"))
    async with browse(guarded) as client:
        assert [(await client.get("/")).status_code for _ in range(2)] == [404, 429]
