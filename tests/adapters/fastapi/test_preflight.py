"""CORS preflights: whoever answers them, they are neither charged nor refused."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from fastapi import FastAPI, Response
from fastapi.middleware.cors import CORSMiddleware
from starlette.requests import HTTPConnection

from resilience_fastapi import install, rate_limit

ASKED = {"Origin": "https://shop.example", "Access-Control-Request-Method": "PUT"}
ALLOWED = "Access-Control-Allow-Origin"


def cors(app: FastAPI) -> None:
    app.add_middleware(CORSMiddleware, allow_origins=["https://shop.example"], allow_methods=["PUT"])


@pytest.mark.parametrize("order", [("cors", "ours"), ("ours", "cors"), ("ours",)], ids="-".join)
async def test_neither_charged_nor_refused(browse: Any, toolkit: Any, order: tuple[str, ...]) -> None:
    """In either order of middleware, preflights take no quota and no place; the requests themselves do."""
    app, begun, go_on = FastAPI(), asyncio.Event(), asyncio.Event()

    def api_key(connection: HTTPConnection) -> str:
        return connection.headers["X-Api-Key"]  # no preflight has one

    limit = rate_limit("1/minute", key=api_key)

    @app.put("/held")
    async def held() -> None:
        begun.set()
        await asyncio.wait_for(go_on.wait(), 5)

    @app.options("/own", dependencies=[limit])
    async def own() -> Response:
        return Response(headers={ALLOWED: "*"})

    settings = {"server__max_concurrent_requests": "1", "server__rate_limit": "2/minute"}
    add: dict[str, Callable[[], object]] = {
        "cors": lambda: cors(app),
        "ours": lambda: install(app, toolkit(**settings)),
    }
    for name in order:
        add[name]()
    async with browse(app) as client:
        first = asyncio.create_task(client.put("/held"))
        await asyncio.wait_for(begun.wait(), 5)
        answers = [await client.options("/own", headers=ASKED) for _ in range(5)]
        assert {answer.status_code for answer in answers} == {200}
        assert all(answer.headers[ALLOWED] for answer in answers)
        refused = await client.put("/held", headers=ASKED)
        assert (refused.status_code, refused.json()["code"]) == (503, "BULKHEAD_FULL")
        go_on.set()
        assert (await first).status_code == 200
        assert (await client.put("/held", headers=ASKED)).status_code == 200
        assert (await client.put("/held", headers=ASKED)).status_code == 429
        assert (await client.options("/own", headers=ASKED)).status_code == 200


async def test_a_mere_options_request_is_charged(browse: Any, toolkit: Any) -> None:
    """OPTIONS without the headers of a preflight is a request like any other."""
    app = FastAPI()
    cors(app)
    install(app, toolkit(server__rate_limit="2/minute", server__rate_limit_covers="all"))
    async with browse(app) as client:
        statuses = [
            (await client.options("/", headers=headers)).status_code
            for headers in ({}, {"Origin": "https://shop.example"}, {"Access-Control-Request-Method": "PUT"})
        ]
    assert statuses == [404, 404, 429]


async def test_without_the_layer(browse: Any) -> None:
    """A limit of an application without the middleware charges no preflight either."""
    app = FastAPI(dependencies=[rate_limit("1/minute")])
    app.add_api_route("/", lambda: "", methods=["OPTIONS"])
    async with browse(app, ("203.0.113.77", 1)) as client:
        assert [(await client.options("/", headers=ASKED)).status_code for _ in range(3)] == [200] * 3
        assert [(await client.options("/")).status_code for _ in range(2)] == [200, 429]
