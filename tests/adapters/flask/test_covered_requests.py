"""Which requests the limits of server, application and blueprint count: those that a route serves, or all."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
from flask import Blueprint, Flask, abort

from resilience_flask import FlaskResilience, rate_limit

ADDRESSES = itertools.count(1)
COUNTED = ["/orders/1", "/gone", "/b/", "/mine"]
NOT_COUNTED = ["/nowhere", "/b/nowhere", "/static/page.css", "/static/none", "/b/assets/page.css"]


@pytest.fixture(params=["server", "application", "blueprint", "application alone"])
def build(request: pytest.FixtureRequest, tmp_path: Path, toolkit: Any) -> Any:
    """Make an application with a limit of three requests in one place."""
    (tmp_path / "page.css").write_text("p {}")

    def make(**settings: str) -> tuple[str, Flask]:
        app = Flask("shop", static_folder=str(tmp_path), static_url_path="/static")
        blueprint = Blueprint("b", __name__, url_prefix="/b", static_folder=str(tmp_path), static_url_path="/assets")
        blueprint.add_url_rule("/", "root", lambda: "blueprint")
        app.add_url_rule("/orders/<order>", "order", lambda order: order)
        app.add_url_rule("/mine", "mine.static", lambda: "a view whose name ends as that of files does")
        app.add_url_rule("/gone", "gone", lambda: abort(404))
        place = request.param
        limit = rate_limit("3/day", name=request.node.name)
        if place != "application alone":
            FlaskResilience(app, toolkit(**settings, **({"server__rate_limit": "3/day"} if place == "server" else {})))
        if place != "server":
            limit(blueprint if place == "blueprint" else app)
        app.register_blueprint(blueprint)
        return place, app

    return make


def is_spent(browse: Any, app: Flask, path: str, probe: str) -> bool:
    """Return whether three requests for `path` have used up the limit of `probe`."""
    client = browse(app, f"203.0.113.{next(ADDRESSES)}")
    assert len({client.get(path).status_code for _ in range(3)}) == 1
    return bool(client.get(probe).status_code == 429)


def test_routes_are_counted_files_and_404s_are_not(browse: Any, build: Any) -> None:
    """Views count, also if they answer 404; the files of Flask and unknown paths do not, in each place of a limit."""
    place, app = build()
    probe = "/b/" if place == "blueprint" else "/orders/1"
    for path in ["/b/"] if place == "blueprint" else COUNTED:
        if place in {"server", "blueprint"} or path == probe:  # other limits count each route by itself
            assert is_spent(browse, app, path, probe), path
    assert [path for path in NOT_COUNTED if is_spent(browse, app, path, probe)] == []


def test_a_client_over_its_limit_still_gets_files_and_404s(browse: Any, build: Any) -> None:
    """A page whose limit is used up still has its style sheet."""
    place, app = build()
    client, probe = browse(app, f"203.0.113.{next(ADDRESSES)}"), "/b/" if place == "blueprint" else "/orders/1"
    assert [client.get(probe).status_code for _ in range(4)] == [200, 200, 200, 429]
    assert [client.get(path).status_code for path in ("/static/page.css", "/b/assets/page.css", "/nowhere")] == [
        200,
        200,
        404,
    ]


def test_all_are_counted_if_asked(browse: Any, toolkit: Any, tmp_path: Path) -> None:
    """With `rate_limit_covers=all` every request counts against the limits of server and application."""
    (tmp_path / "page.css").write_text("p {}")
    for limit_of in ("server", "application"):
        app = Flask("shop", static_folder=str(tmp_path), static_url_path="/static")
        settings = {"server__rate_limit": "3/day"} if limit_of == "server" else {}
        FlaskResilience(app, toolkit(server__rate_limit_covers="all", **settings))
        if limit_of == "application":
            rate_limit("3/day", name="whole")(app)
        for path in ("/nowhere", "/static/page.css"):
            assert is_spent(browse, app, path, path)
