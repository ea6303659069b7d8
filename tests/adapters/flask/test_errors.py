"""One shape for every error, nothing internal in it (L16), and the application's own answers left alone."""

from __future__ import annotations

import datetime as dt
import logging
from collections.abc import Iterator
from typing import Any

import pytest
from flask import Blueprint, Flask, Response, abort, got_request_exception, jsonify, redirect, request
from werkzeug.datastructures import WWWAuthenticate
from werkzeug.exceptions import (
    Conflict,
    HTTPException,
    InternalServerError,
    NotFound,
    ServiceUnavailable,
    TooManyRequests,
    Unauthorized,
)

from resilience.envelope import Envelope, read_envelope
from resilience.errors import (
    AppError,
    ConfigurationError,
    DeadlineExceededError,
    PoolTimeoutError,
    RateLimitedError,
    ResilienceError,
)
from resilience_flask import FlaskResilience

MEMBERS = {"code", "message", "details", "request_id", "trace_id", "retry_after"}


def raises(app: Flask, error: Exception | type[Exception], path: str = "/") -> None:
    def view() -> str:
        raise error

    app.add_url_rule(path, path, view)


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (AppError("ORDERS_V001", "We do not sell that.", http_status=422), 422, "ORDERS_V001"),
        (RateLimitedError("secret", retry_after=1.5), 429, "RATE_LIMITED"),
        (DeadlineExceededError("secret"), 504, "DEADLINE_EXCEEDED"),
        (PoolTimeoutError("secret"), 503, "POOL_TIMEOUT"),
        (NotFound(), 404, "NOT_FOUND"),
        (Conflict("that is taken"), 409, "CONFLICT"),
        (InternalServerError(), 500, "INTERNAL"),
        (ValueError("secret"), 500, "INTERNAL"),
        (ConfigurationError("secret"), 500, "INTERNAL"),
    ],
    ids=lambda value: getattr(type(value), "__name__", None) if isinstance(value, Exception) else None,
)
def test_envelope(app: Flask, browse: Any, error: Exception, status: int, code: str) -> None:
    """Every error has the same members, its own status and code, and nothing that was not meant for clients."""
    raises(app, error)
    FlaskResilience(app)
    answer = browse(app).get("/", headers={"X-Request-ID": "abc", "traceparent": f"00-{'1' * 32}-{'2' * 16}-01"})
    assert (answer.status_code, answer.content_type, set(answer.json)) == (status, "application/json", MEMBERS)
    assert (answer.json["code"], answer.json["request_id"], answer.json["trace_id"]) == (code, "abc", "1" * 32)
    assert answer.headers["X-Request-ID"] == "abc"
    assert "Accept" in answer.headers["Vary"]
    assert "secret" not in answer.text


def test_problem(app: Flask, browse: Any, toolkit: Any) -> None:
    """A client that asks for `application/problem+json` gets it, and so does everybody where that is the setting."""
    FlaskResilience(app)
    asked = browse(app).get("/", headers={"Accept": "application/problem+json"})
    assert asked.content_type == "application/problem+json"
    assert (asked.json["status"], asked.json["title"], asked.json["code"]) == (404, "Not Found", "NOT_FOUND")
    other = Flask("other")
    FlaskResilience(other, toolkit(server__errors="problem", server__problem_type_base="https://e.example/"))
    assert browse(other).get("/").json["type"] == "https://e.example/NOT_FOUND"


def test_languages(app: Flask, browse: Any, toolkit: Any) -> None:
    """A message of the catalogue is told in the language the client reads best; English otherwise."""
    resilience = toolkit()
    resilience.catalog.define(
        "ORDERS_V001", "We do not sell that.", http_status=422, translations={"de": "Das haben wir nicht."}
    )
    app.add_url_rule("/", "root", lambda: fail(resilience.catalog.error("ORDERS_V001")))
    FlaskResilience(app, resilience)
    german = browse(app).get("/", headers={"Accept-Language": "de-AT, en;q=0.5"})
    assert (german.json["message"], german.headers["Content-Language"]) == ("Das haben wir nicht.", "de")
    assert {"Accept", "Accept-Language"} <= set(german.vary.as_set(preserve_casing=True))
    assert browse(app).get("/").json["message"] == "We do not sell that."


def fail(error: Exception) -> str:
    raise error


@pytest.mark.parametrize(
    ("said", "message", "details"),
    [
        ("no such order", "no such order", {}),
        ({"field": "size"}, "The request is not valid.", {"field": "size"}),
        (["a", "b"], "The request is not valid.", {"detail": ["a", "b"]}),
        (None, "The request is not valid.", {}),
    ],
)
def test_what_the_developer_said(app: Flask, browse: Any, said: Any, message: str, details: Any) -> None:
    """The text or data of `abort(400, ...)` is for the client; Werkzeug's usual sentence is replaced by ours."""
    app.add_url_rule("/", "root", lambda: abort(400, said))
    app.add_url_rule("/key", "key", lambda: request.form["missing"])
    FlaskResilience(app)
    answer = browse(app).get("/")
    assert (answer.json["message"], answer.json["details"]) == (message, details)
    assert browse(app).get("/key").json["message"] == "The request is not valid."


@pytest.mark.parametrize("mode", ["json", "problem", "native"])
@pytest.mark.parametrize("status", [400, 500, 502, 503, 504])
def test_a_message_of_the_application_arrives(app: Flask, browse: Any, toolkit: Any, mode: str, status: int) -> None:
    """The text of `abort(status, text)` was written for the client, and is sent on every status in every mode."""
    app.add_url_rule("/", "root", lambda: abort(status, "closed until Monday"))
    FlaskResilience(app, toolkit(server__errors=mode))
    answer = browse(app).get("/")
    assert (answer.status_code, "closed until Monday" in answer.text) == (status, True)


def test_headers_stay(app: Flask, browse: Any) -> None:
    """What the headers of an error say stays said: `Allow`, `Retry-After` as seconds or date, each challenge."""
    when = dt.datetime(2030, 1, 1, tzinfo=dt.UTC)
    raises(app, TooManyRequests(retry_after=7), "/seconds")
    raises(app, ServiceUnavailable(retry_after=when), "/date")
    challenges = [WWWAuthenticate("basic", {"realm": "a"}), WWWAuthenticate("digest", {"realm": "b"})]
    raises(app, Unauthorized(www_authenticate=challenges), "/challenge")
    FlaskResilience(app)
    client = browse(app)
    missing = client.delete("/seconds")
    assert (missing.status_code, missing.json["code"]) == (405, "METHOD_NOT_ALLOWED")
    assert set(missing.headers["Allow"].split(", ")) == {"GET", "HEAD", "OPTIONS"}
    seconds, date = client.get("/seconds"), client.get("/date")
    assert (seconds.headers["Retry-After"], seconds.json["retry_after"]) == ("7", 7)
    assert (date.headers["Retry-After"], date.json["retry_after"]) == ("Tue, 01 Jan 2030 00:00:00 GMT", None)
    assert len(client.get("/challenge").headers.getlist("WWW-Authenticate")) == 2


def test_redirects_are_no_errors(app: Flask, browse: Any) -> None:
    """Redirects of the router and of the application, and whole responses that are raised, pass as they are."""
    app.add_url_rule("/slash/", "slash", lambda: "slash")
    app.add_url_rule("/moved", "moved", lambda: abort(redirect("/x")))
    raises(app, type("SeeOther", (HTTPException,), {"code": 303})("elsewhere"), "/other")
    app.add_url_rule("/whole", "whole", lambda: abort(Response("teapot", 418)))
    raises(app, NotFound(response=Response("mine", 404)), "/mine")
    FlaskResilience(app)
    client = browse(app)
    slash, moved, whole = client.get("/slash"), client.get("/moved"), client.get("/whole")
    assert (slash.status_code, slash.headers["Location"].endswith("/slash/")) == (308, True)
    assert (moved.status_code, moved.headers["Location"]) == (302, "/x")
    assert (client.get("/other").status_code, "elsewhere" in client.get("/other").text) == (303, True)
    assert (whole.status_code, whole.text, client.get("/mine").text) == (418, "teapot", "mine")


def test_head_and_options(app: Flask, browse: Any) -> None:
    """HEAD has the headers of the error and no body; automatic OPTIONS still answer."""
    app.add_url_rule("/", "root", lambda: abort(409))
    FlaskResilience(app)
    head = browse(app).head("/")
    assert (head.status_code, head.text, head.content_type) == (409, "", "application/json")
    assert browse(app).options("/").status_code == 200


class TestOwnHandlers:
    @pytest.mark.parametrize("is_early", [True, False])
    @pytest.mark.parametrize("kind", [404, NotFound, HTTPException, Exception])
    def test_win(self, app: Flask, browse: Any, kind: Any, *, is_early: bool) -> None:
        """A handler of the application stands, for a status, a class or everything, registered before or after."""
        if is_early:
            app.register_error_handler(kind, lambda error: (f"own {type(error).__name__}", 404))
        FlaskResilience(app)
        if not is_early:
            app.register_error_handler(kind, lambda error: (f"own {type(error).__name__}", 404))
        assert browse(app).get("/").text == "own NotFound"

    @pytest.mark.parametrize("kind", [AppError, ResilienceError])
    def test_for_ours(self, app: Flask, browse: Any, kind: type[ResilienceError]) -> None:
        """A handler for our own errors, or a class above them, stands as well."""
        raises(app, AppError("ORDERS_V001"))
        FlaskResilience(app)
        app.register_error_handler(kind, lambda error: (f"own {error.code}", 400))
        assert browse(app).get("/").text == "own ORDERS_V001"

    def test_catch_all(self, app: Flask, browse: Any) -> None:
        """A catch-all gets what it got before, and not the answers that are ours to give."""
        raises(app, ValueError("x"), "/fault")
        raises(app, ConfigurationError("x"), "/configuration")
        raises(app, AppError("ORDERS_V001", http_status=422), "/answer")
        app.register_error_handler(Exception, lambda error: (type(error).__name__, 500))
        FlaskResilience(app)
        client = browse(app)
        told = [client.get(path).text for path in ("/fault", "/configuration", "/nowhere")]
        assert told == ["ValueError", "ConfigurationError", "NotFound"]
        assert client.get("/answer").json["code"] == "ORDERS_V001"

    @pytest.mark.parametrize("kind", [500, InternalServerError, HTTPException])
    def test_for_faults(self, app: Flask, browse: Any, kind: Any) -> None:
        """A handler for 500 sees what was not handled."""
        raises(app, ValueError("x"))
        app.register_error_handler(kind, lambda error: (f"own {error.original_exception!r}", 500))
        FlaskResilience(app)
        assert browse(app).get("/").text == "own ValueError('x')"

    def test_of_blueprints(self, app: Flask, browse: Any) -> None:
        """A blueprint's handlers stand for its views, and only for those."""
        blueprint = Blueprint("b", __name__, url_prefix="/b")
        blueprint.add_url_rule("/x", "x", lambda: abort(409))
        blueprint.register_error_handler(HTTPException, lambda error: ("blueprint", error.code))
        app.register_blueprint(blueprint)
        app.add_url_rule("/x", "x", lambda: abort(409))
        FlaskResilience(app)
        assert browse(app).get("/b/x").text == "blueprint"
        assert browse(app).get("/x").json["code"] == "CONFLICT"

    def test_error_with_its_own_look(self, app: Flask, browse: Any) -> None:
        """An error class of the application that writes its own body keeps it."""

        class Broke(HTTPException):
            code = 402

            def get_body(self, *_: Any, **__: Any) -> str:
                return "broke"

        raises(app, Broke())
        FlaskResilience(app)
        answer = browse(app).get("/")
        assert (answer.status_code, answer.text) == (402, "broke")

    def test_async(self, app: Flask, browse: Any) -> None:
        """A catch-all written as a coroutine function works as it did."""

        @app.errorhandler(Exception)
        async def everything(error: Exception) -> tuple[str, int]:
            return type(error).__name__, 500

        FlaskResilience(app)
        assert browse(app).get("/").text == "NotFound"

    def test_that_fails(self, app: Flask, browse: Any) -> None:
        """A handler that fails itself is one more unhandled error."""
        app.register_error_handler(404, lambda _: str(1 / 0))
        FlaskResilience(app)
        answer = browse(app).get("/")
        assert (answer.status_code, answer.json["code"]) == (500, "INTERNAL")


class TestFaults:
    def test_logged_once(self, app: Flask, browse: Any, caplog: pytest.LogCaptureFixture) -> None:
        """An unhandled error is logged once, signalled once, and told to nobody."""
        raises(app, ValueError("secret"))
        FlaskResilience(app)
        seen: list[Any] = []
        with got_request_exception.connected_to(lambda _, exception: seen.append(exception), app):
            answer = browse(app).get("/")
        assert "secret" not in answer.text
        assert [str(error) for error in seen] == ["secret"]
        assert len([record for record in caplog.records if record.exc_info]) == 1

    @pytest.mark.parametrize("streams", [False, True])
    def test_a_path_forges_no_line(
        self, app: Flask, browse: Any, caplog: pytest.LogCaptureFixture, *, streams: bool
    ) -> None:
        """Whatever line breaks a client puts into a path or a method, the record of an unhandled error is one line."""

        def view(name: str) -> Response:
            return Response(map(fail, [ValueError()]) if streams else fail(ValueError()))

        app.add_url_rule("/<name>", "view", view)
        FlaskResilience(app)
        FlaskResilience(Flask(app.name))
        with caplog.at_level(logging.ERROR):
            assert browse(app).get("/a%0a2026-01-01 ERROR forged%0d%e2%80%a8b").status_code == 500
        (message,) = [record.getMessage() for record in caplog.records]
        assert message.startswith("Exception on /a\\n2026-01-01 ERROR forged\\r\\u2028b [GET]")
        assert message.isprintable()
        assert len(logging.getLogger(app.name).filters) == 1

    @pytest.mark.parametrize("setting", ["TESTING", "DEBUG", "PROPAGATE_EXCEPTIONS"])
    def test_propagate_as_flask_says(self, app: Flask, browse: Any, setting: str) -> None:
        """In tests, in debug mode and where told so, an unhandled error reaches whoever runs the application."""
        raises(app, ValueError("x"))
        raises(app, AppError("ORDERS_V001", http_status=422), "/answer")
        app.config[setting] = True
        FlaskResilience(app)
        with pytest.raises(ValueError, match="x"):
            app.test_client().get("/")
        assert app.test_client().get("/answer").status_code == 422

    def test_trapped(self, app: Flask) -> None:
        """`TRAP_HTTP_EXCEPTIONS` shows HTTP errors as faults, as it does without us."""
        app.config.update(TRAP_HTTP_EXCEPTIONS=True, TESTING=True)
        FlaskResilience(app)
        with pytest.raises(NotFound):
            app.test_client().get("/")
        app.testing = False
        answer = app.test_client().get("/")
        assert (answer.status_code, answer.get_json()["code"]) == (500, "INTERNAL")

    def test_hook_that_fails(self, app: Flask, browse: Any) -> None:
        """An error in a hook after the request is an unhandled error like any other."""
        app.add_url_rule("/", "root", lambda: "x")
        app.after_request(lambda _: Response(str(1 / 0)))
        FlaskResilience(app)
        answer = browse(app).get("/")
        assert (answer.status_code, answer.json["code"]) == (500, "INTERNAL")


class TestStreams:
    @pytest.mark.parametrize(
        ("error", "status"), [(ValueError("secret"), 500), (AppError("ORDERS_V001", http_status=499), 499)]
    )
    def test_that_fails_before_it_begins(
        self, app: Flask, browse: Any, caplog: pytest.LogCaptureFixture, error: Exception, status: int
    ) -> None:
        """A stream that fails before its first piece is answered: CORS and CSP stay, what spoke of the body goes."""
        spoke = ("ETag", "Content-Encoding", "Content-Disposition", "Content-Language", "Content-Range", "Repr-Digest")

        def pieces() -> Iterator[str]:
            for failure in [error]:
                raise failure
            yield ""

        @app.get("/")
        def root() -> Response:
            answer = Response(pieces(), mimetype="text/csv")
            answer.headers.update({"Access-Control-Allow-Origin": "*", "Content-Security-Policy": "default-src 'none'"})
            answer.headers.update(dict.fromkeys(spoke, "x"))
            return answer

        FlaskResilience(app)
        answer = browse(app).get("/", headers={"X-Request-ID": "abc"})
        assert (answer.status_code, answer.json["request_id"]) == (status, "abc")
        assert answer.headers["Access-Control-Allow-Origin"] == "*"
        assert answer.headers["Content-Security-Policy"] == "default-src 'none'"
        assert not set(spoke) & set(answer.headers.keys())
        assert answer.headers.getlist("Content-Type") == ["application/json"]
        assert "secret" not in answer.text
        logged = [record for record in caplog.records if record.levelno == logging.ERROR]
        assert len(logged) == (1 if status == 500 else 0)

    def test_in_tests(self, app: Flask, open_body: Any) -> None:
        """In tests such an error reaches the test."""
        app.testing = True
        app.add_url_rule("/", "root", lambda: Response(str(1 / number) for number in (0, 1)))
        FlaskResilience(app)
        body, _ = open_body(app)
        with pytest.raises(ZeroDivisionError):
            next(body)
        body.close()

    def test_that_is_empty(self, app: Flask, browse: Any) -> None:
        """A stream without any piece has its status and headers all the same."""
        app.add_url_rule("/", "root", lambda: Response(iter(()), 202))
        FlaskResilience(app)
        answer = browse(app).get("/")
        assert (answer.status_code, answer.text, "X-Request-ID" in answer.headers) == (202, "", True)


def test_json_errors_of_requests(app: Flask, browse: Any) -> None:
    """What Flask itself refuses - a body that is no JSON, or too large - has the envelope too."""
    app.add_url_rule("/", "root", lambda: jsonify(request.json), methods=["POST"])
    app.config["MAX_CONTENT_LENGTH"] = 10
    FlaskResilience(app)
    client = browse(app)
    answers = [client.post("/", data="x"), client.post("/", data="{", content_type="application/json")]
    answers.append(client.post("/", data="1" * 11, content_type="application/json"))
    assert [(answer.status_code, answer.json["code"]) for answer in answers] == [
        (415, "UNSUPPORTED_MEDIA_TYPE"),
        (400, "BAD_REQUEST"),
        (413, "PAYLOAD_TOO_LARGE"),
    ]


@pytest.mark.parametrize(("settings", "wait"), [({}, "300"), ({"server__retry_after_max": "10m"}, "600")])
def test_the_wait_of_another_service_is_handed_on_with_a_bound(
    app: Flask, toolkit: Any, browse: Any, settings: dict[str, str], wait: str
) -> None:
    """An error that another service sent says at most `retry_after_max` to our own client."""
    said, _ = Envelope(code="THEIR_001", message="later", retry_after=31_536_000.0).render()
    error = read_envelope(503, said, {})
    assert error is not None
    raises(app, error)
    FlaskResilience(app, toolkit(**settings))
    answer = browse(app).get("/")
    assert (answer.status_code, answer.headers["Retry-After"], answer.json["retry_after"]) == (503, wait, float(wait))
