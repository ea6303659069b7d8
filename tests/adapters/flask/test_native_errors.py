"""`RESILIENCE_SERVER__ERRORS=native`: bodies as without us, and refusals in the shape of Flask's own errors."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from flask import Flask, Response, abort, jsonify, make_response, request
from werkzeug.exceptions import HTTPException, InternalServerError, ServiceUnavailable, TooManyRequests

from resilience import AppError, CircuitOpenError, DeadlineExceededError
from resilience.errors import BulkheadFullError, DrainingError, PoolTimeoutError, RateLimitedError
from resilience_flask import FlaskResilience, rate_limit

REFUSALS: dict[str, tuple[Exception, int, str, str | None]] = {
    "limited": (RateLimitedError("secret", retry_after=1.2), 429, "Too many requests.", "2"),
    "open": (CircuitOpenError("secret", policy="x", retry_after=3), 503, CircuitOpenError.public_message, "3"),
    "full": (BulkheadFullError("secret"), 503, BulkheadFullError.public_message, None),
    "draining": (DrainingError("secret"), 503, DrainingError.public_message, None),
    "late": (DeadlineExceededError("secret"), 504, DeadlineExceededError.public_message, None),
    "pool": (PoolTimeoutError("secret"), 503, PoolTimeoutError.public_message, None),
    "group": (ExceptionGroup("g", [RateLimitedError("secret", retry_after=7)]), 429, "Too many requests.", "7"),
}
PLAIN = ["/items/x", "/missing", "/boom", "/busy", "/key", "/json", "/whole", "/slash", "/group"]


def shop() -> Flask:
    app = Flask("shop", static_folder=None)
    app.add_url_rule("/items/<int:item>", "item", lambda item: f"{item}")
    app.add_url_rule("/boom", "boom", lambda: str(1 / 0))
    app.add_url_rule("/busy", "busy", lambda: fail(ServiceUnavailable("closed until Monday", retry_after=60)))
    app.add_url_rule("/key", "key", lambda: request.form["missing"])
    app.add_url_rule("/json", "json", lambda: jsonify(request.json))
    app.add_url_rule("/whole", "whole", lambda: abort(make_response(jsonify(error="taken"), 409)))
    app.add_url_rule("/slash/", "slash", lambda: "slash")
    app.add_url_rule("/group", "group", lambda: fail(ExceptionGroup("g", [ValueError("secret")])))
    app.add_url_rule("/refused/<name>", "refused", lambda name: fail(REFUSALS[name][0]))
    app.add_url_rule("/own", "own", lambda: fail(AppError("ORDERS_V001", details={"size": 7}, http_status=409)))
    return app


def fail(error: Exception) -> str:
    raise error


@pytest.fixture
def native(toolkit: Any) -> Any:
    def build(app: Flask, **settings: str) -> Flask:
        FlaskResilience(app, toolkit(server__errors="native", **settings))
        return app

    return build


def html(status: int, name: str, message: str) -> str:
    return f"<!doctype html>\n<html lang=en>\n<title>{status} {name}</title>\n<h1>{name}</h1>\n<p>{message}</p>\n"


NAMES = {429: "Too Many Requests", 503: "Service Unavailable", 504: "Gateway Timeout"}


@pytest.mark.parametrize("path", PLAIN)
@pytest.mark.parametrize("method", ["GET", "DELETE", "HEAD"])
def test_bodies_stay(browse: Any, native: Any, path: str, method: str) -> None:
    """Every error of the framework and the application has the status, headers and body that it has without us."""
    answers = [
        browse(app).open(path, method=method, headers={"Accept": "application/problem+json"})
        for app in (shop(), native(shop()))
    ]
    said = [
        (answer.status_code, answer.data, sorted(line for line in answer.headers if line[0] != "X-Request-ID"))
        for answer in answers
    ]
    assert said[0] == said[1]
    assert answers[1].headers["X-Request-ID"]


@pytest.mark.parametrize("name", REFUSALS)
def test_refusals_look_like_errors_of_flask(browse: Any, native: Any, name: str) -> None:
    """A refusal has the body of Werkzeug's error, our fixed sentence, the wait and the id of the request."""
    _, status, message, wait = REFUSALS[name]
    headers = {"Accept": "application/problem+json", "X-Request-ID": "r-1"}
    answer = browse(native(shop())).get(f"/refused/{name}", headers=headers)
    assert (answer.status_code, answer.text) == (status, html(status, NAMES[status], message))
    assert (answer.headers.get("Retry-After"), answer.headers["X-Request-ID"]) == (wait, "r-1")
    assert (answer.content_type, "Vary" in answer.headers) == ("text/html; charset=utf-8", False)


@pytest.mark.parametrize(
    ("setting", "value", "status"),
    [("rate_limit", "1/day", 429), ("deadline", "1us", 504), ("max_concurrent_requests", "1", 503)],
)
def test_refusals_of_the_gate(app: Flask, browse: Any, native: Any, setting: str, value: str, status: int) -> None:
    """The gate's own refusals have this shape too, with the headers of the quota, and pass `after_request`."""
    native(app, **{f"server__{setting}": value, "server__rate_limit_headers": "true"})
    app.after_request(lambda response: response.headers.add("X-Mine", "1") or response)
    app.add_url_rule("/", "root", lambda: app.test_client().get("/"))  # another request while this one is in flight
    answer = browse(app).get("/")
    assert (answer.status_code, answer.text.startswith(f"<!doctype html>\n<html lang=en>\n<title>{status}")) == (
        status,
        True,
    )
    assert "1" in answer.headers.getlist("X-Mine")
    if setting == "rate_limit":
        assert int(answer.headers["Retry-After"]) > 0
        assert "default" in answer.headers["RateLimit"]


@pytest.mark.parametrize("is_early", [True, False])
@pytest.mark.parametrize("kind", [429, TooManyRequests, HTTPException, Exception])
def test_own_handlers_for_http_errors_answer_refusals(browse: Any, toolkit: Any, kind: Any, *, is_early: bool) -> None:
    """A refusal is an HTTP error of Werkzeug, so the application's handler for its status or a class answers it."""
    app = shop()

    def own(error: HTTPException) -> Any:
        response: Any = error.get_response()
        response.data = f"own {error.name}: {error.description}"
        return response

    if is_early:
        app.register_error_handler(kind, own)
    FlaskResilience(app, toolkit(server__errors="native", server__rate_limit="1/day"))
    if not is_early:
        app.register_error_handler(kind, own)
    client = browse(app)
    in_view, at_the_gate = client.get("/refused/limited"), client.get("/items/1")
    for answer in (in_view, at_the_gate):
        assert (answer.status_code, answer.text) == (429, "own Too Many Requests: Too many requests.")
    assert in_view.headers["Retry-After"] == "2"


def test_a_handler_that_passes_the_error_on(browse: Any, native: Any) -> None:
    """The usual catch-all of Flask's documentation, which returns HTTP errors as they are, leaves refusals whole."""
    app = shop()
    app.register_error_handler(Exception, lambda error: error if isinstance(error, HTTPException) else ("fault", 500))
    client = browse(native(app))
    refused, failed = client.get("/refused/limited"), client.get("/boom")
    assert (refused.status_code, refused.headers["Retry-After"], failed.text) == (429, "2", "fault")


def test_trapped_errors(browse: Any, native: Any) -> None:
    """`TRAP_HTTP_EXCEPTIONS` makes the application's HTTP errors faults, and no refusal."""
    app = native(shop())
    app.config["TRAP_HTTP_EXCEPTIONS"] = True
    assert browse(app).get("/refused/limited").status_code == 429


def test_app_errors_keep_their_envelope(browse: Any, native: Any) -> None:
    """An `AppError` is answered with its code and details: the application has chosen them for its client."""
    answer = browse(native(shop())).get("/own")
    assert (answer.status_code, answer.json["code"], answer.json["details"]) == (409, "ORDERS_V001", {"size": 7})


def test_a_status_that_werkzeug_does_not_know(app: Flask, browse: Any, native: Any) -> None:
    """A refusal of a plugin with any status of HTTP keeps that status."""

    class GoneError(RateLimitedError):
        http_status = 499

    app.add_url_rule("/", "root", lambda: fail(GoneError("secret")))
    answer = browse(native(app)).get("/")
    assert (answer.status_code, "secret" in answer.text) == (499, False)


def test_refusals_in_the_language_of_the_client(browse: Any, toolkit: Any) -> None:
    """The sentence of a refusal is translated, and the answer names its language."""
    app, resilience = shop(), toolkit(server__errors="native")
    resilience.catalog.translate("de", {"RATE_LIMITED": "Zu viele Anfragen."})
    FlaskResilience(app, resilience)
    answer = browse(app).get("/refused/limited", headers={"Accept-Language": "de"})
    assert answer.text == html(429, "Too Many Requests", "Zu viele Anfragen.")
    assert (answer.headers["Content-Language"], answer.headers["Vary"]) == ("de", "Accept-Language")


def test_route_limit(app: Flask, browse: Any, native: Any) -> None:
    """A limit of a route refuses in the same shape."""
    app.add_url_rule("/", "root", rate_limit("1/day")(lambda: "ok"))
    client = browse(native(app))
    client.get("/")
    answer = client.get("/")
    assert (answer.status_code, answer.text) == (429, html(429, "Too Many Requests", "Too many requests."))


@pytest.mark.parametrize(
    ("error", "status", "body"),
    [
        (REFUSALS["limited"][0], 429, html(429, "Too Many Requests", "Too many requests.")),
        (ValueError("secret"), 500, InternalServerError().get_body()),
    ],
)
def test_a_stream_that_fails_before_it_begins(
    app: Flask, browse: Any, native: Any, error: Exception, status: int, body: str
) -> None:
    """A stream that fails before its first piece is answered in the same shape, and keeps the other headers."""

    def pieces() -> Iterator[str]:
        yield fail(error)

    @app.get("/")
    def root() -> Response:
        return Response(pieces(), mimetype="text/csv", headers={"Access-Control-Allow-Origin": "*", "ETag": "x"})

    answer = browse(native(app)).get("/")
    assert (answer.status_code, answer.text, answer.content_type) == (status, body, "text/html; charset=utf-8")
    assert (answer.headers["Access-Control-Allow-Origin"], "ETag" in answer.headers) == ("*", False)
    assert answer.headers.getlist("Content-Length") == [str(len(body))]
