"""Excluded paths on applications with routes for any path."""

from __future__ import annotations

from typing import Any

import pytest
from flask import Flask

from resilience_flask import FlaskResilience, health_blueprint


def asked(app: Flask, open_body: Any, path: str) -> str:
    """Send a path as a server hands it on, decoded and not resolved."""
    body, answers = open_body(app, environ_overrides={"PATH_INFO": path, "REMOTE_ADDR": "203.0.113.9"})
    list(body)
    body.close()
    return str(answers[0][0][:3])


@pytest.fixture
def catching_all(app: Flask, toolkit: Any) -> Flask:
    """Serve any path, with a limit and one path that it does not hold for."""
    app.register_blueprint(health_blueprint(url_prefix="/internal"))
    app.add_url_rule("/<path:path>", "any", lambda path: path)
    FlaskResilience(app, toolkit(server__rate_limit="2/minute", server__exclude_paths="/static"))
    return app


@pytest.mark.parametrize(
    "path",
    [
        "/static/../login",
        "/static/%2e%2e/login",
        "/static\\../login",
        "/static/..\\login",
        "/internal/livez/../../login",
        "/internal/readyz/redis/more",
    ],
)
def test_no_way_round(catching_all: Flask, open_body: Any, path: str) -> None:
    """Behind a route for any path no dot segment takes a request past the limit, below a probe neither."""
    assert [asked(catching_all, open_body, path) for _ in range(3)] == ["200", "200", "429"]
    assert [asked(catching_all, open_body, "/static/style.css") for _ in range(3)] == ["200"] * 3
    assert [asked(catching_all, open_body, "/internal/livez") for _ in range(3)] == ["200"] * 3
