"""docs/cookbook/starlette.md, under uvicorn, with a price service that fails."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import httpx2
import pytest
from cookbook import Dependency, Recipe
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from resilience import ConfigurationError
from resilience_fastapi import install

pytestmark = pytest.mark.once

PAGE = Recipe("starlette")


@pytest.mark.servers
def test_an_outage_and_a_drain_are_as_the_page_shows_them(tmp_path: Path) -> None:
    """The middleware answers errors and probes, the limiter of a route refuses, and SIGTERM loses no request."""
    with (
        Dependency.served() as (prices, url),
        PAGE.started("uvicorn", tmp_path, PRICES_URL=url, RESILIENCE_LIFECYCLE__DRAIN_DELAY="200ms") as server,
    ):
        server.answers("/readyz", 200)
        prices.status = 503
        status, body = server.ask("/orders/tea")
        assert status == 503
        PAGE.shows("503, an order", body)
        PAGE.shows("the log", server.output)

        prices.status, prices.delay = 200, 0.4
        prices.seen.clear()
        thread, answers = server.asking("/orders/tea")
        while not prices.seen:
            time.sleep(0.01)
        server.tell(signal.SIGTERM)
        server.answers("/readyz", 503)
        thread.join()
        assert answers == [(200, '{"price":{"ok":true}}')]
        assert server.ended() in {0, -signal.SIGTERM}


async def tea(request: Request) -> Response:
    raise HTTPException(418, "tea")


async def bug(request: Request) -> Response:
    raise ValueError("a secret")


async def test_the_table_says_what_the_middleware_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Starlette keeps its own errors; probes, refusals and unhandled errors are ours; `install` names the remedy."""
    for name, value in {**PAGE.environment, "RESILIENCE_LIFECYCLE__SIGNALS": "false"}.items():
        monkeypatch.setenv(name, value)
    with Dependency.served() as (_, url):
        monkeypatch.setenv("PRICES_URL", url)
        app: Starlette = PAGE.load("orders.py", tmp_path)["app"]
        app.routes.extend([Route("/tea", tea), Route("/bug", bug)])
        transport = httpx2.ASGITransport(app, raise_app_exceptions=False)
        async with (
            app.router.lifespan_context(app),
            httpx2.AsyncClient(transport=transport, base_url="http://orders") as client,
        ):
            answers = [await client.get("/orders/tea") for _ in range(6)]
            assert [answer.status_code for answer in answers] == [200] * 5 + [429]
            PAGE.shows("429, the sixth order of a minute", answers[-1].text)
            own = [await client.get(path) for path in ("/nowhere", "/tea")]
            assert [(answer.status_code, answer.text) for answer in own] == [(404, "Not Found"), (418, "tea")]
            assert all(answer.headers["X-Request-ID"] for answer in own)
            unhandled = await client.get("/bug")
            assert (unhandled.status_code, unhandled.json()["code"]) == (500, "INTERNAL")
            assert [(await client.get(path)).status_code for path in ("/livez", "/readyz", "/startupz")] == [200] * 3
    with pytest.raises(ConfigurationError, match=r"for Starlette, write app.add_middleware\(ResilienceMiddleware\)"):
        install(app)  # type: ignore[arg-type]  # what a user tries first
