"""Excluded paths on applications with routes for any path."""

from __future__ import annotations

import http.client
from typing import Any
from urllib.parse import urlsplit

import pytest
from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.routing import Mount

from resilience_fastapi import health_router, install

ROUND = [
    "/static/../login",
    "/static/%2e%2e/login",
    "/static/..%2flogin",
    "/static/%252e%252e/login",
    "/static//../login",
]


def ask(url: str, path: str) -> int:
    """Send a path as it is: clients of HTTP resolve dot segments."""
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=10)
    try:
        connection.request("GET", path)
        return connection.getresponse().status
    finally:
        connection.close()


def catching_all() -> FastAPI:
    app = FastAPI()
    app.add_api_route("/{path:path}", lambda path: path)
    return app


@pytest.mark.servers
@pytest.mark.parametrize("path", [*ROUND, "/api/static/../login"])
@pytest.mark.parametrize("root", ["", "/api"])
def test_no_way_round(serve: Any, toolkit: Any, path: str, root: str) -> None:
    """Behind a route for any path, whatever its prefix, no dot segment takes a request past the limit."""
    app = catching_all()
    install(app, toolkit(server__rate_limit="2/minute", server__exclude_paths="/static"))

    async def rooted(scope: Any, receive: Any, send: Any) -> None:
        await app({**scope, "root_path": root}, receive, send)

    url = serve(rooted)
    assert [ask(url, path) for _ in range(3)] == [200, 200, 429]
    assert [ask(url, "/static/style.css") for _ in range(3)] == [200] * 3


@pytest.mark.servers
def test_below_a_mount(serve: Any, toolkit: Any) -> None:
    """An application that is mounted excludes paths as its own routes know them, and no others."""
    app = catching_all()
    install(app, toolkit(server__rate_limit="2/minute", server__exclude_paths="/static"))
    url = serve(Starlette(routes=[Mount("/shop", app)]))
    assert [ask(url, "/shop/static/a") for _ in range(3)] == [200] * 3
    assert [ask(url, "/shop/static/../login") for _ in range(3)] == [200, 200, 429]
    assert ask(url, "/shop/static/../../shop/static/a") == 429


@pytest.mark.servers
def test_below_a_probe(serve: Any, toolkit: Any) -> None:
    """A path below a routed probe is the probe's own, or limited."""
    app = FastAPI()
    app.include_router(health_router(prefix="/internal"))
    app.add_api_route("/{path:path}", lambda path: path)
    install(app, toolkit(server__rate_limit="2/minute"))
    url = serve(app)
    assert [ask(url, "/internal/livez/../../login") for _ in range(3)] == [200, 200, 429]
    assert [ask(url, "/internal/livez") for _ in range(3)] == [200] * 3
