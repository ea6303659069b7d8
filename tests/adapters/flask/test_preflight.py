"""CORS preflights: whoever answers them, they are neither charged nor refused."""

from __future__ import annotations

from typing import Any

import pytest
from flask import Blueprint, Flask, Response, request

from resilience_flask import FlaskResilience, rate_limit

ASKED = {"Origin": "https://shop.example", "Access-Control-Request-Method": "PUT"}
ALLOWED = "Access-Control-Allow-Origin"


def cors(app: Flask) -> None:
    """Add the headers after each request, as flask-cors does."""

    @app.after_request
    def allow(response: Response) -> Response:
        response.headers[ALLOWED] = "https://shop.example"
        return response


@pytest.mark.parametrize("order", [("cors", "ours"), ("ours", "cors")], ids="-".join)
@pytest.mark.parametrize("path", ["/plain", "/admin/plain", "/own", "/nowhere"])
def test_neither_charged_nor_refused(
    app: Flask, browse: Any, open_body: Any, toolkit: Any, order: tuple[str, ...], path: str
) -> None:
    """In either order of extensions, preflights take no quota and no place; the requests themselves do."""
    admin = Blueprint("admin", __name__, url_prefix="/admin")
    rate_limit("1/minute", key=lambda: request.headers["X-Api-Key"])(admin)  # no preflight has one
    app.add_url_rule("/plain", "plain", lambda: "x", methods=["PUT"])
    app.add_url_rule("/held", "held", lambda: Response(iter(["a"])))
    app.add_url_rule("/own", "own", rate_limit("1/minute")(lambda: "x"), methods=["OPTIONS"])
    admin.add_url_rule("/plain", "plain", lambda: "x", methods=["PUT"])
    app.register_blueprint(admin)
    settings = {"server__max_concurrent_requests": "1", "server__rate_limit": "2/minute"}
    for name in order:
        if name == "cors":
            cors(app)
        else:
            FlaskResilience(app, toolkit(**settings))
    client = browse(app)
    body, _ = open_body(app, "/held", environ_overrides={"REMOTE_ADDR": "203.0.113.9"})
    answers = [client.options(path, headers=ASKED) for _ in range(5)]
    assert {answer.status_code for answer in answers} == {404 if path == "/nowhere" else 200}
    assert all(answer.headers[ALLOWED] for answer in answers)
    assert client.put("/plain", headers=ASKED).status_code == 503
    body.close()
    assert [client.put("/plain", headers=ASKED).status_code for _ in range(2)] == [200, 429]
    assert client.options(path, headers=ASKED).status_code == answers[0].status_code


def test_a_mere_options_request_is_charged(app: Flask, browse: Any, toolkit: Any) -> None:
    """OPTIONS without the headers of a preflight is a request like any other."""
    cors(app)
    FlaskResilience(app, toolkit(server__rate_limit="2/minute", server__rate_limit_covers="all"))
    client = browse(app)
    some: list[dict[str, str]] = [{}, {"Origin": "https://shop.example"}, {"Access-Control-Request-Method": "PUT"}]
    assert [client.options("/", headers=headers).status_code for headers in some] == [404, 404, 429]


def test_without_the_layer(app: Flask, browse: Any) -> None:
    """A limit of an application without `FlaskResilience` charges no preflight either."""
    app.add_url_rule("/", "root", rate_limit("1/minute")(lambda: "x"), methods=["OPTIONS"])
    client = browse(app, "203.0.113.78")
    assert [client.options("/", headers=ASKED).status_code for _ in range(3)] == [200] * 3
    assert [client.options("/").status_code for _ in range(2)] == [200, 429]
