"""Who is let in, and until when a request counts as under way (L2, L15)."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from flask import Flask, Response, g, jsonify, request, send_file
from werkzeug.wsgi import FileWrapper

from resilience.errors import BulkheadFullError, ConfigurationError, RejectedError
from resilience_flask import FlaskResilience, exempt


@pytest.fixture
def one_place(app: Flask, toolkit: Any) -> Any:
    """Guard the application with a single place."""

    @app.get("/quick")
    def quick() -> str:
        return "quick"

    @app.get("/stream")
    def stream() -> Response:
        return Response(iter(["a", "b"]))

    @app.get("/file")
    def file() -> Response:
        return send_file(io.BytesIO(b"abc"), mimetype="text/plain")

    @app.get("/boom")
    def boom() -> str:
        raise ValueError("secret")

    @app.get("/exit")
    def leave() -> str:
        raise SystemExit

    resilience = toolkit(server__max_concurrent_requests="1")
    FlaskResilience(app, resilience)
    return resilience


@pytest.mark.parametrize("path", ["/quick", "/stream", "/file"])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_place_is_held_until_the_body_is_closed(
    app: Flask, one_place: Any, open_body: Any, path: str, method: str
) -> None:
    """A request holds its place and counts as under way until its body is closed, read or not, and no longer."""
    for is_read in (True, False):
        body, _ = open_body(app, path, method=method)
        if is_read:
            list(body)
        assert one_place.lifecycle.in_flight == 1
        refused, answers = open_body(app, "/quick")
        assert answers[0][0].startswith("503")
        refused.close()
        assert one_place.lifecycle.in_flight == 1
        body.close()
        assert one_place.lifecycle.in_flight == 0
        body.close()
        assert one_place.lifecycle.in_flight == 0


def test_failed_stream(app: Flask, one_place: Any, open_body: Any) -> None:
    """A stream that fails half-way reaches the server as the error it is, and gives its place back when closed."""
    closed: list[str] = []

    def pieces() -> Iterator[bytes]:
        try:
            yield b"a"
            raise ValueError("half-way")
        finally:
            closed.append("generator")

    @app.get("/fails")
    def fails() -> Response:
        answer = Response(pieces())
        answer.call_on_close(lambda: closed.append("answer"))
        return answer

    body, answers = open_body(app, "/fails")
    assert answers == []  # nothing is promised before there is a first piece
    assert next(body) == b"a"
    assert answers[0][0] == "200 OK"
    with pytest.raises(ValueError, match="half-way"):
        next(body)
    body.close()
    assert (closed, one_place.lifecycle.in_flight) == (["generator", "answer"], 0)


def test_abandoned_stream(app: Flask, one_place: Any, open_body: Any) -> None:
    """A client that goes away closes the generator, and what the application wanted done at the end is done."""
    done: list[str] = []

    def pieces() -> Iterator[bytes]:
        try:
            yield b"a"
            yield b"b"
        finally:
            done.append("closed")

    app.add_url_rule("/", "root", lambda: Response(pieces()))
    body, _ = open_body(app)
    next(body)
    body.close()
    assert (done, one_place.lifecycle.in_flight) == (["closed"], 0)


def test_close_that_fails(app: Flask, one_place: Any, open_body: Any) -> None:
    """A place is given back even when the application fails at closing."""

    @app.get("/")
    def root() -> Response:
        answer = Response("x")
        answer.call_on_close(lambda: 1 / 0)
        return answer

    body, _ = open_body(app)
    with pytest.raises(ZeroDivisionError):
        body.close()
    assert one_place.lifecycle.in_flight == 0


def test_forgotten_body(app: Flask, one_place: Any, open_body: Any) -> None:
    """Middleware that never closes what it was given costs no place once it has let go of it."""
    body, _ = open_body(app, "/stream")
    assert one_place.lifecycle.in_flight == 1
    del body
    assert one_place.lifecycle.in_flight == 0


@pytest.mark.parametrize(("path", "raised"), [("/boom", ValueError), ("/exit", SystemExit)])
def test_whatever_leaves_the_application(
    app: Flask, one_place: Any, open_body: Any, path: str, raised: type[BaseException]
) -> None:
    """An exception that passes through, in tests as with `sys.exit()`, leaves no place taken."""
    app.testing = True
    with pytest.raises(raised):
        open_body(app, path)
    assert one_place.lifecycle.in_flight == 0


@pytest.mark.parametrize("wrapper", [FileWrapper, None])
def test_files_are_sent_by_the_server(app: Flask, one_place: Any, open_body: Any, wrapper: Any) -> None:
    """A server that sends files itself gets its own wrapper back, and the place is held until it closes it."""
    environ = {"wsgi.file_wrapper": wrapper} if wrapper else {}
    body, answers = open_body(app, "/file", environ_overrides=environ)
    assert (type(body) is FileWrapper, one_place.lifecycle.in_flight) == (wrapper is not None, 1)
    assert (answers[0][0], b"".join(body)) == ("200 OK", b"abc")
    body.close()
    assert one_place.lifecycle.in_flight == 0


def test_wrapper_that_takes_no_attributes(app: Flask, one_place: Any, open_body: Any) -> None:
    """A file wrapper that cannot be watched is read piece by piece: slower, and never uncounted."""

    class Sealed:
        __slots__ = ("_file",)

        def __init__(self, file: Any, size: int = 8192) -> None:
            self._file = file

        def __iter__(self) -> Iterator[bytes]:
            return iter([self._file.read()])

        def close(self) -> None:
            self._file.close()

    body, _ = open_body(app, "/file", environ_overrides={"wsgi.file_wrapper": Sealed})
    assert (type(body) is Sealed, list(body)) == (False, [b"abc"])
    assert one_place.lifecycle.in_flight == 1
    body.close()
    assert one_place.lifecycle.in_flight == 0


def test_refusal_passes_the_application_s_own_hooks(app: Flask, browse: Any, one_place: Any, open_body: Any) -> None:
    """A refusal is answered inside Flask: its error handlers win, and CORS headers set after requests are there."""
    app.after_request(lambda answer: answer.headers.add("Access-Control-Allow-Origin", "*") or answer)
    body, _ = open_body(app, "/stream")
    plain = browse(app).get("/quick")
    assert (plain.status_code, plain.json["code"]) == (503, "BULKHEAD_FULL")
    assert plain.headers["Access-Control-Allow-Origin"] == "*"
    app.error_handler_spec[None][None][BulkheadFullError] = lambda error: (jsonify(own=error.code), 529)
    own = browse(app).get("/quick")
    assert (own.status_code, own.json) == (529, {"own": "BULKHEAD_FULL"})
    body.close()


def test_hooks_registered_before_ours_run_first(app: Flask, browse: Any, toolkit: Any) -> None:
    """A hook after requests finds what one before requests left, for refused requests too, if that was there first."""

    @app.before_request
    def begin() -> None:
        g.began = "began"

    @app.after_request
    def end(answer: Response) -> Response:
        answer.headers["X-Began"] = g.began
        return answer

    FlaskResilience(app, toolkit(server__rate_limit="1/minute", server__rate_limit_covers="all"))
    answers = [browse(app).get("/") for _ in range(2)]
    assert [(answer.status_code, answer.headers["X-Began"]) for answer in answers] == [(404, "began"), (429, "began")]


def test_nothing_inside_answers_for_a_refused_request(app: Flask, toolkit: Any, open_body: Any) -> None:
    """A refused request never reaches middleware below the layer, which might serve it all the same."""
    served: list[str] = []

    def below(environ: Any, start_response: Any) -> Any:
        served.append(environ["PATH_INFO"])
        return flask(environ, start_response)

    app.add_url_rule("/stream", "stream", lambda: Response(iter(["a"])))
    flask, app.wsgi_app = app.wsgi_app, below  # type: ignore[method-assign]
    FlaskResilience(app, toolkit(server__max_concurrent_requests="1"))
    body, _ = open_body(app, "/stream")
    refused, answers = open_body(app, "/other")
    assert (served, answers[0][0][:3]) == (["/stream"], "503")
    refused.close()
    body.close()


def test_clients_are_limited_by_address(app: Flask, browse: Any, toolkit: Any) -> None:
    """Each address has its own quota; beyond it come 429 and the time to wait."""
    FlaskResilience(app, toolkit(server__rate_limit="2/minute", server__rate_limit_covers="all"))
    statuses = []
    for address in ("203.0.113.9", "203.0.113.10"):
        client = browse(app, address)
        statuses += [client.get("/").status_code for _ in range(3)]
        refused = client.get("/", headers={"X-Forwarded-For": "6.6.6.6"})
    assert statuses == [404, 404, 429] * 2
    assert 1 <= int(refused.headers["Retry-After"]) <= 30
    assert "RateLimit" not in refused.headers


def test_limits_are_told(app: Flask, browse: Any, toolkit: Any) -> None:
    """With `rate_limit_headers` every answer, of success and refusal, says what is left."""
    FlaskResilience(
        app, toolkit(server__rate_limit="1/minute", server__rate_limit_covers="all", server__rate_limit_headers="on")
    )
    answers = [browse(app).get("/") for _ in range(2)]
    assert [answer.headers["RateLimit-Policy"] for answer in answers] == ['"default";q=1;w=60'] * 2
    told = [re.fullmatch('"default";r=0;t=([0-9]+)', answer.headers["RateLimit"]) for answer in answers]
    assert [found is not None and 40 <= int(found[1]) <= 60 for found in told] == [True, True]


def test_trusted_proxies_name_the_client(app: Flask, browse: Any, toolkit: Any) -> None:
    """Behind a trusted proxy the quota is the client's, and a client cannot write itself a new address."""
    FlaskResilience(
        app,
        toolkit(server__rate_limit="1/minute", server__rate_limit_covers="all", server__trusted_proxies="10.0.0.0/8"),
    )
    client = browse(app, "10.1.2.3")

    def status(forwarded: str) -> int:
        return int(client.get("/", headers={"X-Forwarded-For": forwarded}).status_code)

    assert [status("198.51.100.7"), status("6.6.6.6, 198.51.100.7"), status("198.51.100.8")] == [404, 429, 404]


@pytest.mark.parametrize("rule", ["header", "user", "function"])
def test_keys(app: Flask, browse: Any, toolkit: Any, rule: str) -> None:
    """Whose quota is charged can be said by a header, by who the server in front knows, or by a function."""
    settings = {"header": "header:X-Tenant", "user": "user", "function": "ip"}
    key: Callable[[], str] | None = (lambda: request.headers["X-Tenant"]) if rule == "function" else None
    FlaskResilience(
        app,
        toolkit(server__rate_limit="1/minute", server__rate_limit_covers="all", server__rate_limit_key=settings[rule]),
        key=key,
    )
    client = browse(app)
    statuses = [
        client.get("/", headers={"X-Tenant": tenant}, environ_overrides={"REMOTE_USER": tenant}).status_code
        for tenant in ("a", "b", "a")
    ]
    assert statuses == [404, 404, 429]


def test_excluded_paths(app: Flask, browse: Any, toolkit: Any, open_body: Any) -> None:
    """Excluded paths, and all below them, are not limited, counted or refused; names that are not ASCII work too."""
    resilience = toolkit(
        server__rate_limit="1/hour",
        server__rate_limit_covers="all",
        server__exclude_paths="/metrics,/données",
        server__max_concurrent_requests="1",
    )
    app.add_url_rule("/metrics", "metrics", lambda: str(resilience.lifecycle.in_flight))
    FlaskResilience(app, resilience)
    client = browse(app)
    assert {client.get(path).status_code for path in ["/données/x"] * 3} == {404}
    assert [client.get("/metrics").text for _ in range(3)] == ["0"] * 3
    assert [client.get("/metricsx").status_code for _ in range(2)] == [404, 429]


def test_exempt_views(app: Flask, browse: Any, toolkit: Any) -> None:
    """An exempt view is not charged to the server's limit, under whatever decorators; its siblings are."""

    @app.get("/free")
    @exempt
    def free() -> str:
        return "free"

    app.add_url_rule("/dear", "dear", lambda: "dear")
    FlaskResilience(app, toolkit(server__rate_limit="1/minute"))
    client = browse(app)
    assert [client.get(path).status_code for path in ("/free", "/free", "/dear", "/free", "/dear")] == [
        200,
        200,
        200,
        200,
        429,
    ]


def test_bad_settings_are_told_at_once(app: Flask, toolkit: Any) -> None:
    """What is wrong with the server's settings is said by `init_app`, not by the first request."""
    with pytest.raises(ConfigurationError, match="RATE_LIMIT_KEY"):
        FlaskResilience(app, toolkit(server__rate_limit_key="cookie"))


def test_draining_requests_are_served(app: Flask, browse: Any, one_place: Any) -> None:
    """While draining, readiness says so and requests that still come are served."""
    one_place.lifecycle.drain()
    client = browse(app)
    assert (client.get("/readyz").status_code, client.get("/livez").status_code) == (503, 200)
    assert client.get("/quick").text == "quick"


def test_refusals_are_ours(app: Flask, one_place: Any, open_body: Any) -> None:
    """A refusal inside Flask is the toolkit's own error, which names its policy."""
    seen: list[RejectedError] = []

    @app.errorhandler(RejectedError)
    def refuse(error: RejectedError) -> tuple[str, int]:
        seen.append(error)
        return "no", 503

    body, _ = open_body(app, "/stream")
    refused, _ = open_body(app, "/quick")
    assert [error.policy for error in seen] == ["server"]
    refused.close()
    body.close()
