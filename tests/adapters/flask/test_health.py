"""Probes: before every other layer, wherever they are wanted, and on a port of their own (L18)."""

from __future__ import annotations

import threading
import urllib.error
import urllib.request
from typing import Any

import pytest
from flask import Flask, Response, abort
from werkzeug.serving import make_server

from resilience import Deadline, Resilience
from resilience.errors import ConfigurationError
from resilience.health import Health
from resilience_flask import FlaskResilience, health_blueprint

ENDPOINTS = ("/livez", "/healthz", "/readyz", "/startupz")


def test_before_every_other_layer(app: Flask, browse: Any, toolkit: Any, open_body: Any) -> None:
    """Probes are answered in front of authentication, catch-all routes, limits and full bulkheads, and not counted."""
    resilience = toolkit(server__max_concurrent_requests="1", server__rate_limit="1/hour", server__deadline="1s")
    app.before_request(lambda: abort(401))
    app.add_url_rule("/<path:rest>", "all", lambda rest: rest)
    FlaskResilience(app, resilience)
    body, _ = open_body(app, "/taken")
    client = browse(app)
    for path in ENDPOINTS:
        assert [client.get(path).status_code for _ in range(2)] == [200, 200]
    assert resilience.lifecycle.in_flight == 1
    head = client.head("/readyz")
    assert (head.status_code, head.text, head.headers["Content-Length"]) == (200, "", "2")
    assert client.post("/livez").status_code == client.get("/livezz").status_code == 401
    body.close()


def test_questions(app: Flask, browse: Any, toolkit: Any) -> None:
    """One check, all of them in detail, some left out, JSON: as everywhere."""
    resilience = toolkit()
    resilience.health.add("db", lambda: False)
    FlaskResilience(app, resilience)
    client = browse(app)
    assert (client.get("/readyz").status_code, client.get("/readyz/db").status_code) == (503, 503)
    assert client.get("/readyz?exclude=db").status_code == client.get("/livez").status_code == 200
    told = client.get("/readyz?verbose", headers={"Accept": "application/json"})
    assert {check["name"]: check["status"] for check in told.json["checks"]}["db"] == "failed"
    assert client.get("/readyz/nothing").status_code == 404


def test_own_routes_stand(app: Flask, browse: Any, toolkit: Any) -> None:
    """A route the application has for a probe's path is served by the application."""
    app.add_url_rule("/healthz", "healthz", lambda: "mine")
    FlaskResilience(app, toolkit())
    assert [browse(app).get(path).text for path in ("/healthz", "/livez")] == ["mine", "ok"]


def test_blueprint(app: Flask, browse: Any, toolkit: Any, open_body: Any) -> None:
    """The blueprint puts probes where they are wanted, and they are never limited, refused or counted there either."""
    resilience = toolkit(server__max_concurrent_requests="1", server__rate_limit="1/hour", server__deadline="5s")
    app.add_url_rule("/", "root", lambda: Response(iter(["x"])))
    app.register_blueprint(health_blueprint(url_prefix="/internal"))
    FlaskResilience(app, resilience)
    body, _ = open_body(app, "/")
    client = browse(app)
    for path in ENDPOINTS:
        assert [client.get(f"/internal{path}").status_code for _ in range(2)] == [200, 200]
        assert Deadline.current() is None
    assert client.get("/internal/readyz/lifecycle").status_code == 200
    assert client.get("/internal/readyz/nothing").status_code == 404
    assert client.head("/internal/livez").status_code == 200
    assert resilience.lifecycle.in_flight == 1
    body.close()


def test_blueprint_of_another_source(app: Flask, browse: Any) -> None:
    """The blueprint may speak for any toolkit or registry; without one it needs the application's."""
    failing, toolkit = Health(), Resilience()
    failing.add("db", lambda: False, groups=("live",))
    app.register_blueprint(health_blueprint(failing, url_prefix="/a", name="a"))
    app.register_blueprint(health_blueprint(toolkit, url_prefix="/b", name="b"))
    app.register_blueprint(health_blueprint(url_prefix="/c", name="c"))
    client = browse(app)
    assert [client.get(f"/{name}/livez").status_code for name in "abc"] == [503, 200, 500]
    assert client.get("/b/readyz").status_code == 503
    toolkit.lifecycle.started()
    assert client.get("/b/readyz").status_code == 200


def fetch(port: int, path: str = "/livez") -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as refusal:
        with refusal:
            return refusal.code, refusal.read().decode()


def test_side_port(app: Flask, toolkit: Any) -> None:
    """While the web server's only thread is busy, the side port answers; it says what the main port would."""
    resilience, begun, go_on = toolkit(), threading.Event(), threading.Event()

    @app.get("/slow")
    def slow() -> str:
        begun.set()
        go_on.wait(5)
        return "done"

    extension = FlaskResilience(app, resilience)
    web = make_server("127.0.0.1", 0, app, threaded=False)
    serving = threading.Thread(target=web.serve_forever)
    serving.start()
    try:
        with extension.serve_health(0) as side:
            asking = threading.Thread(target=fetch, args=(web.server_port, "/slow"))
            asking.start()
            assert begun.wait(5)
            assert fetch(side.port) == fetch(side.port, "/readyz") == (200, "ok")
            assert fetch(side.port, "/readyz?verbose")[1].count("[+]") == 2
            resilience.lifecycle.drain()
            assert fetch(side.port, "/readyz")[0] == 503
            assert fetch(side.port, "/slow")[0] == 404
            go_on.set()
            asking.join(5)
    finally:
        go_on.set()
        web.shutdown()
        serving.join(5)
        web.server_close()


def test_side_port_of_which_application(app: Flask) -> None:
    """Where one object guards several applications, it has to be told whose probes it is to answer."""
    extension = FlaskResilience(app)
    other = Flask("other")
    extension.init_app(other)
    with pytest.raises(ConfigurationError, match="name an application"):
        extension.serve_health(0)
    with pytest.raises(ConfigurationError, match="name an application"):
        FlaskResilience().serve_health(0)
    with extension.serve_health(0, app=other) as side:
        assert fetch(side.port) == (200, "ok")
    assert other.extensions["resilience"].lifecycle.is_ready
    assert not app.extensions["resilience"].lifecycle.is_ready
