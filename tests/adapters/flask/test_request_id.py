"""Answers that the application gives an id of its own."""

from __future__ import annotations

from typing import Any

import pytest
from flask import Flask, Response, abort, jsonify
from werkzeug.exceptions import HTTPException

from resilience_flask import FlaskResilience

THEIRS = {"X-Request-ID": "theirs", "Mine": "1"}


class OwnError(Exception):
    """An error that the application answers itself."""


@pytest.mark.parametrize("path", ["success", "stream", "http", "own", "crash"])
def test_one_id_on_every_answer(app: Flask, browse: Any, path: str) -> None:
    """An id that a handler of the application sets is replaced by the id of the request; its other headers stay."""
    FlaskResilience(app)

    @app.get("/success")
    def success() -> Response:
        response = jsonify({})
        response.headers.extend(THEIRS)
        response.headers.add("x-request-id", "again")
        return response

    @app.get("/stream")
    def stream() -> Response:
        return Response(iter(("a", "b")), headers=THEIRS)

    @app.get("/http")
    def refused() -> Response:
        abort(409)

    @app.get("/own")
    def own() -> Response:
        raise OwnError

    @app.get("/crash")
    def crash() -> Response:
        raise ValueError("secret")

    @app.errorhandler(OwnError)
    @app.errorhandler(HTTPException)
    def answer(error: Exception) -> Any:
        return jsonify({}), 409, THEIRS

    given = browse(app).get(f"/{path}", headers={"X-Request-ID": "r-1"})
    assert given.headers.getlist("X-Request-ID") == ["r-1"]
    assert given.headers["Mine"] == "1"
