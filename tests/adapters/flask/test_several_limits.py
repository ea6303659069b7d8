"""Several limits on one request: all are charged or none, whatever their order and place."""

from __future__ import annotations

from typing import Any

import pytest
from flask import Blueprint, Flask, abort

from resilience_flask import FlaskResilience, rate_limit

PLACES = ("server", "application", "parent", "blueprint", "outer", "inner")


def shop(place: str, toolkit: Any, *, name: str, is_guarded: bool = True) -> Flask:
    """Make an application with a limit of three requests a day in each place, and of one a day in `place`."""

    def limit(here: str) -> Any:
        rate, key = ("1/day", "header:X-Tight") if here == place else ("3/day", "ip")
        return rate_limit(rate, key=key, name=f"{name} {here}")

    app, parent, child = Flask("shop", static_folder=None), Blueprint("parent", __name__), Blueprint("child", __name__)
    child.add_url_rule("/", "root", limit("outer")(limit("inner")(lambda: "ok")))
    if is_guarded:
        settings = {"server__rate_limit": "3/day"}
        if place == "server":
            settings = {"server__rate_limit": "1/day", "server__rate_limit_key": "header:X-Tight"}
        FlaskResilience(app, toolkit(**settings))
    limit("application")(app)
    limit("parent")(parent)
    limit("blueprint")(child)
    parent.register_blueprint(child)
    app.register_blueprint(parent)
    return app


def passed(client: Any, tight: str) -> bool:
    answer = client.get("/", headers={"X-Tight": tight})
    assert answer.status_code in {200, 429}
    return bool(answer.status_code == 200)


@pytest.mark.parametrize("place", PLACES)
def test_a_refusal_charges_no_other_limit(browse: Any, toolkit: Any, place: str) -> None:
    """However many requests one limit refuses, all the others have their tokens left."""
    client = browse(shop(place, toolkit, name="x"))
    assert passed(client, "a")
    assert not any(passed(client, "a") for _ in range(5))
    assert [passed(client, tight) for tight in "bcd"] == [True, True, False]


@pytest.mark.parametrize("place", PLACES[1:])
def test_without_our_layer(browse: Any, toolkit: Any, place: str, request: pytest.FixtureRequest) -> None:
    """The same holds for limits of an application without `FlaskResilience`."""
    client = browse(shop(place, toolkit, name=request.node.name, is_guarded=False))
    assert passed(client, "a")
    assert not any(passed(client, "a") for _ in range(5))
    assert [passed(client, tight) for tight in "bcd"] == [True, True, False]


def test_other_refusals_are_paid_for(app: Flask, browse: Any, toolkit: Any) -> None:
    """A request that the view refuses was charged before: a limit protects what follows."""
    FlaskResilience(app, toolkit())
    app.add_url_rule("/", "root", rate_limit("3/day")(lambda: abort(401)))
    client = browse(app)
    assert [client.get("/").status_code for _ in range(4)] == [401, 401, 401, 429]


def test_limits_that_are_written_alike_count_apart(browse: Any, toolkit: Any) -> None:
    """An application and its view may have the same rate: a request takes one token of each."""
    app = Flask("shop")
    FlaskResilience(app, toolkit())
    rate_limit("2/hour")(app)
    app.add_url_rule("/", "root", rate_limit("2/hour")(lambda: "ok"))
    client = browse(app)
    assert [client.get("/").status_code for _ in range(3)] == [200, 200, 429]
