"""The conventions of Flask's extensions, and where the layer stands among others."""

from __future__ import annotations

import datetime as dt
import threading
from typing import Any

import pytest
from flask import Blueprint, Flask, current_app
from werkzeug.middleware.dispatcher import DispatcherMiddleware
from werkzeug.middleware.proxy_fix import ProxyFix
from werkzeug.test import EnvironBuilder

from resilience.errors import ConfigurationError
from resilience.server import current_request
from resilience_flask import FlaskResilience, exempt


def test_given_an_application(app: Flask, browse: Any) -> None:
    """`FlaskResilience(app)` is all it takes: ids, probes, envelopes."""
    FlaskResilience(app)
    client = browse(app)
    missing = client.get("/nowhere")
    assert (missing.status_code, missing.json["code"]) == (404, "NOT_FOUND")
    assert missing.headers["X-Request-ID"] == missing.json["request_id"]
    assert client.get("/livez").text == client.get("/readyz").text == "ok"


def test_factory(browse: Any) -> None:
    """One object made without an application may guard several: each has its own toolkit, limits and all."""
    extension = FlaskResilience()

    def create(name: str, rate: str) -> Flask:
        app = Flask(name)
        app.config["RESILIENCE_SERVER__RATE_LIMIT"] = rate
        app.add_url_rule("/", "root", lambda: extension.resilience.config.server.rate_limit or "")
        extension.init_app(app)
        return app

    first, second = create("one", "1/minute"), create("two", "2/minute")
    assert first.extensions["resilience"] is not second.extensions["resilience"]
    told = [[browse(app).get("/").status_code for _ in range(3)] for app in (first, second)]
    assert told == [[200, 429, 429], [200, 200, 429]]


def test_toolkit_is_found(app: Flask, toolkit: Any) -> None:
    """The toolkit that was given is the one every view finds under `app.extensions`, and the object's own."""
    resilience = toolkit()
    extension = FlaskResilience(app, resilience)
    assert app.extensions["resilience"] is resilience is extension.resilience
    other = FlaskResilience()
    other.init_app(app)
    with app.app_context():
        assert other.resilience is current_app.extensions["resilience"] is resilience


def test_configured_by_the_application(app: Flask, monkeypatch: pytest.MonkeyPatch) -> None:
    """`RESILIENCE_*` of `app.config` counts, whatever type a value has; the environment beats it, unless empty."""
    app.config.update(
        RESILIENCE_SERVER__RATE_LIMIT="5/minute",
        RESILIENCE_SERVER__RATE_LIMIT_HEADERS=True,
        RESILIENCE_SERVER__MAX_CONCURRENT_REQUESTS=7,
        RESILIENCE_SERVER__DEADLINE=dt.timedelta(milliseconds=1500),
        RESILIENCE_SERVER__EXCLUDE_PATHS=["/a", "/b"],
        RESILIENCE_SERVER__RATE_LIMIT_BURST=None,
        OTHER="x",
    )
    monkeypatch.setenv("RESILIENCE_SERVER__RATE_LIMIT", "6/minute")
    monkeypatch.setenv("RESILIENCE_SERVER__DEADLINE", "")
    FlaskResilience(app)
    server = app.extensions["resilience"].config.server
    assert (server.rate_limit, server.rate_limit_headers, server.max_concurrent_requests) == ("6/minute", True, 7)
    assert (server.deadline, server.exclude_paths, server.rate_limit_burst) == (1.5, ("/a", "/b"), None)


def test_bad_configuration(app: Flask) -> None:
    """A mistake is told where the application is built, by variable, and leaves the application as it was."""
    app.config["RESILIENCE_SERVER__RATE_LIMIT"] = "lots"
    before = app.wsgi_app
    with pytest.raises(ConfigurationError, match="RESILIENCE_SERVER__RATE_LIMIT"):
        FlaskResilience(app)
    assert (app.wsgi_app, "resilience" in app.extensions) == (before, False)


def test_second_init_does_nothing(app: Flask, toolkit: Any, browse: Any) -> None:
    """Guarding an application again, by the same or another object, changes nothing: one id, one charge."""
    resilience = toolkit(server__rate_limit="2/minute", server__rate_limit_covers="all")
    extension = FlaskResilience(app, resilience)
    layer = app.wsgi_app
    extension.init_app(app)
    FlaskResilience(app, resilience)
    FlaskResilience(app)
    assert app.wsgi_app is layer
    answers = [browse(app).get("/") for _ in range(3)]
    assert [answer.status_code for answer in answers] == [404, 404, 429]
    assert len(answers[0].headers.getlist("X-Request-ID")) == 1


def test_another_toolkit_is_refused(app: Flask, toolkit: Any) -> None:
    """An application has one toolkit; giving it a second is a mistake that is told."""
    FlaskResilience(app, toolkit())
    with pytest.raises(ConfigurationError, match="another Resilience"):
        FlaskResilience(app, toolkit())


def test_after_the_first_request(app: Flask, browse: Any) -> None:
    """An application that has served a request cannot be guarded any more, and stays as it was."""
    assert browse(app).get("/").status_code == 404
    before = app.wsgi_app
    with pytest.raises(ConfigurationError, match="has served a request"):
        FlaskResilience(app)
    assert (app.wsgi_app, "resilience" in app.extensions) == (before, False)
    assert browse(app).get("/").content_type.startswith("text/html")


def test_several_applications_behind_one_dispatcher(browse: Any, toolkit: Any) -> None:
    """Applications side by side know their own requests and limits only."""
    apps = [Flask(name) for name in ("one", "two")]
    for app in apps:
        FlaskResilience(app, toolkit(server__rate_limit="1/minute", server__rate_limit_covers="all"))
    client = browse(DispatcherMiddleware(apps[0], {"/two": apps[1]}))
    assert [client.get(path).status_code for path in ("/", "/two/", "/", "/two/")] == [404, 404, 429, 429]
    assert client.get("/two/livez").status_code == 200


def test_mounted_below(app: Flask, browse: Any, toolkit: Any) -> None:
    """An application mounted inside a guarded one is guarded by that one, and charged once."""
    inner, seen = Flask("inner"), []

    @inner.get("/")
    def read() -> str:
        context = current_request()
        assert context is not None
        seen.append((context.request_id, outer.lifecycle.in_flight, own.lifecycle.in_flight))
        return "inner"

    inner.add_url_rule("/free", "free", exempt(lambda: "free"))
    own, outer = toolkit(), toolkit(server__rate_limit="2/minute", server__rate_limit_key="header:X-Tenant")
    FlaskResilience(inner, own)
    app.wsgi_app = DispatcherMiddleware(app.wsgi_app, {"/inner": inner})  # type: ignore[method-assign]
    FlaskResilience(app, outer)
    client = browse(app)
    headers = {"X-Request-ID": "abc", "X-Tenant": "a"}
    assert {client.get("/inner/free", headers=headers).status_code for _ in range(3)} == {200}
    answers = [client.get("/inner/", headers=headers) for _ in range(3)]
    assert client.get("/inner/", headers={"X-Tenant": "b"}).status_code == 200
    assert [answer.status_code for answer in answers] == [200, 200, 429]
    assert answers[2].json["code"] == "RATE_LIMITED"
    assert seen[:2] == [("abc", 1, 0)] * 2
    assert answers[0].headers.getlist("X-Request-ID") == ["abc"]


def test_request_made_inside_a_request(app: Flask, toolkit: Any) -> None:
    """A view that calls its own application by a test client gets its own context back afterwards."""
    seen: list[Any] = []

    @app.get("/outer")
    def outer() -> str:
        answer = app.test_client().get("/inner", headers={"X-Request-ID": "inner"})
        context = current_request()
        seen.append(context and context.request_id)
        return answer.text

    app.add_url_rule("/inner", "inner", lambda: "x")
    resilience = toolkit()
    FlaskResilience(app, resilience)
    assert app.test_client().get("/outer", headers={"X-Request-ID": "outer"}).text == "x"
    assert (seen, resilience.lifecycle.in_flight, current_request()) == (["outer"], 0, None)


@pytest.mark.parametrize("is_outside", [True, False])
def test_other_middleware(app: Flask, browse: Any, *, is_outside: bool) -> None:
    """Middleware may stand on either side: what runs outside has changed the address, what runs inside has not."""
    app.add_url_rule("/", "root", lambda: getattr(current_request(), "client", ""))
    if is_outside:
        FlaskResilience(app)
    app.wsgi_app = ProxyFix(app.wsgi_app)  # type: ignore[method-assign]
    FlaskResilience(app)
    client = browse(app)
    client_seen = client.get("/", headers={"X-Forwarded-For": "198.51.100.7"}).text
    assert client_seen == ("198.51.100.7" if is_outside else "203.0.113.9")


def test_hooks_and_views_are_untouched(app: Flask, browse: Any) -> None:
    """Views, hooks and blueprints of the application run as they did, in their order."""
    order: list[str] = []
    blueprint = Blueprint("b", __name__)
    app.before_request(lambda: order.append("before"))
    FlaskResilience(app)
    app.before_request(lambda: order.append("later"))
    blueprint.before_request(lambda: order.append("blueprint"))
    app.teardown_request(lambda _: order.append("teardown"))
    blueprint.add_url_rule("/b", "view", lambda: "".join(order))
    app.register_blueprint(blueprint)
    assert browse(app).get("/b").text == "beforelaterblueprint"
    assert order[3:] == ["teardown"]


def test_ids_of_callers(app: Flask, browse: Any) -> None:
    """A caller's id is kept where it is sane, replaced where it is not; it replaces one of the application's own."""
    FlaskResilience(app)
    app.add_url_rule("/own", "own", lambda: ("x", {"x-request-id": "mine"}))
    client = browse(app)
    assert client.get("/", headers={"X-Request-ID": "abc.1"}).headers["X-Request-ID"] == "abc.1"
    assert client.get("/", headers={"X-Request-ID": "a b"}).headers["X-Request-ID"] != "a b"
    assert client.get("/own", headers={"X-Request-ID": "abc.1"}).headers.getlist("X-Request-ID") == ["abc.1"]


def test_start_is_somebody_s_to_declare(app: Flask, browse: Any, toolkit: Any) -> None:
    """The first request finds the application started, unless start hooks wait for `lifecycle.start()`."""
    resilience, done = toolkit(), []
    resilience.lifecycle.on_start(lambda: done.append("warm"))
    FlaskResilience(app, resilience)
    client = browse(app)
    assert (client.get("/readyz").status_code, client.get("/startupz").status_code, done) == (503, 503, [])
    resilience.lifecycle.start()
    assert (client.get("/readyz").status_code, done) == (200, ["warm"])


def test_first_requests_at_once(app: Flask, browse: Any, toolkit: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A request that comes while the first one still looks at the application is served by the same rules."""
    resilience, looking, go_on = toolkit(server__rate_limit="1/hour"), threading.Event(), threading.Event()
    app.add_url_rule("/readyz", "readyz", lambda: "mine")
    app.add_url_rule("/free", "free", exempt(lambda: "free"))
    FlaskResilience(app, resilience)
    rules = app.url_map.iter_rules

    def slowly() -> Any:
        if not looking.is_set():
            looking.set()
            go_on.wait(10)
        return rules()

    monkeypatch.setattr(app.url_map, "iter_rules", slowly)
    first = threading.Thread(target=lambda: browse(app).get("/readyz"))
    first.start()
    assert looking.wait(5)
    answers = [browse(app).get(path).text for path in ("/readyz", "/free", "/free")]
    is_ready = resilience.lifecycle.is_ready
    go_on.set()
    first.join(5)
    assert (answers, is_ready) == (["mine", "free", "free"], True)


def test_without_a_layer(app: Flask) -> None:
    """Code run by `test_request_context` does without the layer, and nothing of ours fails there."""
    FlaskResilience(app)
    with app.test_request_context("/"):
        assert app.preprocess_request() is None
        assert current_request() is None


def test_write(app: Flask) -> None:
    """Middleware below may write past its body, as WSGI allows; the status goes out with the first piece."""
    sent: list[Any] = []

    def old_fashioned(_environ: Any, start_response: Any) -> Any:
        write = start_response("200 OK", [("Content-Type", "text/plain")])
        assert sent == []
        write(b"first ")
        write(b"second ")
        return [b"third"]

    def start_response(status: str, _headers: Any, _exc_info: Any = None) -> Any:
        sent.append(status)
        return sent.append

    vars(app)["wsgi_app"] = old_fashioned
    FlaskResilience(app)
    sent += app(EnvironBuilder().get_environ(), start_response)
    assert sent == ["200 OK", b"first ", b"second ", b"third"]


def test_write_after_second_thoughts(app: Flask) -> None:
    """What writes past the body is the same before and after the status is replaced, as it is in every server."""
    sent: list[Any] = []

    def unsure(_environ: Any, start_response: Any) -> Any:
        write = start_response("200 OK", [])
        start_response("503 Unsure", [("Content-Length", "5")], (ValueError, ValueError(), None))
        write(b"sorry")
        return []

    def start_response(status: str, _headers: Any, _exc_info: Any = None) -> Any:
        sent.append(status)
        return sent.append

    vars(app)["wsgi_app"] = unsure
    FlaskResilience(app)
    sent += app(EnvironBuilder().get_environ(), start_response)
    assert sent == ["503 Unsure", b"sorry"]


@pytest.mark.parametrize("is_sent", [True, False])
def test_second_thoughts(app: Flask, *, is_sent: bool) -> None:
    """Middleware below may replace what it has announced; a server is told why only if it knows of the first."""
    error = (ValueError, ValueError(), None)

    def unsure(_environ: Any, start_response: Any) -> Any:
        start_response("200 OK", [("Content-Length", "5")] if is_sent else [])
        start_response("503 Unsure", [("Content-Length", "5")], error)
        return [b"sorry"]

    told: list[Any] = []
    start_response: Any = lambda status, _, *more: told.append((status, *more))  # noqa: E731 - shorter than its types
    vars(app)["wsgi_app"] = unsure
    FlaskResilience(app)
    list(app(EnvironBuilder().get_environ(), start_response))
    assert told == ([("200 OK",), ("503 Unsure", error)] if is_sent else [("503 Unsure",)])


def test_past_the_layer(app: Flask, browse: Any) -> None:
    """A request that comes to Flask past the layer is served, without an id, and its errors have their shape."""
    inside = app.wsgi_app
    FlaskResilience(app)
    answer = browse(inside).get("/")
    assert (answer.status_code, answer.json["code"], answer.json["request_id"]) == (404, "NOT_FOUND", "")
    assert "X-Request-ID" not in answer.headers
