"""Limits for views, blueprints and applications."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Awaitable, Callable
from typing import Any, ClassVar

import pytest
from flask import Blueprint, Flask, request
from flask.views import MethodView

from resilience.errors import ConfigurationError
from resilience.server import current_request
from resilience_flask import FlaskResilience, exempt, rate_limit


def statuses(client: Any, *paths: str, **options: Any) -> list[int]:
    return [client.get(path, **options).status_code for path in paths]


@pytest.fixture
def guarded(app: Flask) -> Flask:
    FlaskResilience(app)
    return app


@pytest.mark.parametrize("installed", [True, False])
@pytest.mark.parametrize("colour", ["async", "sync"])
def test_view_is_limited(app: Flask, browse: Any, colour: str, *, installed: bool) -> None:
    """A view of either colour is limited per client, with 429 beyond; with or without `FlaskResilience`."""
    limited = rate_limit("2/minute", name=f"{colour}{installed}")

    async def in_loop() -> str:
        return "x"

    def plain() -> str:
        return "x"

    app.add_url_rule("/", "root", limited(in_loop) if colour == "async" else limited(plain))
    if installed:
        FlaskResilience(app)
    answers = [browse(app, address).get("/") for address in ("203.0.113.9", "203.0.113.10") for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200, 200, 429] * 2
    assert 20 <= int(answers[2].headers["Retry-After"]) <= 30


def test_refusal_is_an_envelope(guarded: Flask, browse: Any) -> None:
    """Beyond the limit comes the envelope, with the time to wait."""
    guarded.add_url_rule("/", "root", rate_limit("1/minute")(lambda: "x"))
    browse(guarded).get("/")
    answer = browse(guarded).get("/")
    assert (answer.status_code, answer.json["code"], answer.headers["Retry-After"]) == (429, "RATE_LIMITED", "60")


def test_view_stays_what_it_is() -> None:
    """A decorated view keeps its name and signature, which Flask makes endpoints from."""

    @rate_limit("1/minute")
    def read(order: int) -> str:
        return str(order)

    assert (read.__name__, list(inspect.signature(read).parameters)) == ("read", ["order"])


def test_under_async_decorators(guarded: Flask, browse: Any) -> None:
    """An async decorator above the limit gets what it awaits."""

    def shout(view: Callable[[], Awaitable[str]]) -> Callable[[], Awaitable[str]]:
        @functools.wraps(view)
        async def shouted() -> str:
            return (await view()).upper()

        return shouted

    @guarded.get("/")
    @shout
    @rate_limit("1/minute")
    async def root() -> str:
        return "x"

    assert [browse(guarded).get("/").text[:1] for _ in range(2)] == ["X", "{"]


def test_blueprints(guarded: Flask, browse: Any) -> None:
    """A limit on a blueprint stands on each of its views, under every prefix, and not on the exempt ones."""
    blueprint = rate_limit("1/minute")(Blueprint("b", __name__))
    blueprint.add_url_rule("/items/<int:item>", "item", lambda item: f"item {item}")
    blueprint.add_url_rule("/free", "free", exempt(lambda: "free"))
    guarded.add_url_rule("/", "root", lambda: "x")
    guarded.register_blueprint(blueprint, url_prefix="/v1")
    guarded.register_blueprint(blueprint, url_prefix="/v2", name="again")
    client = browse(guarded)
    for prefix in ("/v1", "/v2"):
        assert statuses(client, *(f"{prefix}/items/{item}" for item in range(3))) == [200, 429, 429]
        assert statuses(client, f"{prefix}/free", f"{prefix}/free") == [200, 200]
    assert statuses(client, "/", "/") == [200, 200]


def test_nested_blueprints(guarded: Flask, browse: Any) -> None:
    """An exempt blueprint is exempt with all that is nested in it."""
    outer, inner = exempt(Blueprint("outer", __name__)), Blueprint("inner", __name__)
    inner.add_url_rule("/x", "x", lambda: "x")
    outer.register_blueprint(inner)
    guarded.register_blueprint(outer)
    guarded.add_url_rule("/y", "y", lambda: "y")
    rate_limit("1/minute")(guarded)
    client = browse(guarded)
    assert statuses(client, "/x", "/x", "/y", "/y", "/nowhere", "/elsewhere") == [200, 200, 200, 429, 404, 404]


def test_class_based_views(guarded: Flask, browse: Any) -> None:
    """In a class-based view the limit is one of its `decorators`; each method counts by itself."""

    class Item(MethodView):
        decorators: ClassVar[list[Callable[..., Any]]] = [rate_limit("1/minute")]

        def get(self) -> str:
            return "get"

        async def put(self) -> str:
            return "put"

    guarded.add_url_rule("/", view_func=Item.as_view("item"))
    client = browse(guarded)
    assert statuses(client, "/", "/") == [200, 429]
    assert [client.put("/").status_code for _ in range(2)] == [200, 429]


def test_paths_are_no_way_around(guarded: Flask, browse: Any) -> None:
    """Varying path parameters, the query, or HEAD for GET never gives a new quota."""
    guarded.add_url_rule("/items/<int:item>", "items", rate_limit("2/minute")(lambda item: f"item {item}"))
    client = browse(guarded)
    assert statuses(client, "/items/1") == [200]
    assert client.head("/items/1").status_code == 200
    assert statuses(client, "/items/2", "/items/1?a=b") == [429, 429]


def test_shared_by_name(guarded: Flask, browse: Any) -> None:
    """One limit on several views counts each by itself, unless it has a name."""
    apart, together = rate_limit("1/minute"), rate_limit("1/minute", name="all")
    for path in ("a", "b"):
        guarded.add_url_rule(f"/{path}", path, apart(lambda: "x"))
        guarded.add_url_rule(f"/shared/{path}", f"shared-{path}", together(lambda: "x"))
    client = browse(guarded)
    assert statuses(client, "/a", "/b", "/a", "/shared/a", "/shared/b") == [200, 200, 429, 200, 429]


def test_keys(guarded: Flask, browse: Any) -> None:
    """A key can be a header, the user, or a function of nothing, called in the request."""
    keys: dict[str, Any] = {
        "header": "header:X-Tenant",
        "user": "user",
        "function": lambda: request.headers["X-Tenant"],
    }
    for name, key in keys.items():
        guarded.add_url_rule(f"/{name}", name, rate_limit("1/minute", key=key)(lambda: "x"))
    client = browse(guarded)
    for name in keys:
        told = [
            client.get(f"/{name}", headers={"X-Tenant": who}, environ_overrides={"REMOTE_USER": who}).status_code
            for who in ("a", "b", "a")
        ]
        assert told == [200, 200, 429]


def test_user_of_the_application(guarded: Flask, browse: Any) -> None:
    """Who the application itself has recognised is the user a limit counts."""

    @guarded.before_request
    def authenticate() -> None:
        context = current_request()
        assert context is not None
        context.user = request.headers["X-User"]

    guarded.add_url_rule("/", "root", rate_limit("1/minute", key="user")(lambda: "x"))
    client = browse(guarded)
    assert [client.get("/", headers={"X-User": who}).status_code for who in ("a", "b", "a")] == [200, 200, 429]


def test_dynamic(guarded: Flask, browse: Any) -> None:
    """Rate and cost may depend on the request; a rate of None is no limit."""
    rates = {"free": "1/minute", "gold": "4/minute", "staff": None}

    @guarded.get("/")
    @rate_limit(
        lambda: rates[request.args["plan"]], cost=lambda: int(request.args.get("cost", 1)), key=lambda: "everybody"
    )
    def root() -> str:
        return "x"

    client = browse(guarded)
    for plan, told in {"free": [200, 429, 429], "gold": [200, 429, 200], "staff": [200, 200, 200]}.items():
        first, second, third = (f"/?plan={plan}{more}" for more in ("", "&cost=4", ""))
        assert statuses(client, first, second, third) == told


@pytest.mark.parametrize("wrong", [{"rate": "lots"}, {"cost": -1}])
def test_dynamic_mistakes(guarded: Flask, browse: Any, wrong: dict[str, Any]) -> None:
    """A function that returns nonsense is a fault of the service, not a way past its limits."""
    given: dict[str, Any] = {"rate": "1/minute", "cost": 1, **wrong}
    limited = rate_limit(lambda: given["rate"], cost=lambda: given["cost"])
    guarded.add_url_rule("/", "root", limited(lambda: "x"))
    answer = browse(guarded).get("/")
    assert (answer.status_code, answer.json["code"]) == (500, "INTERNAL")


def test_many_dynamic_rates(guarded: Flask, browse: Any) -> None:
    """However many rates a function thinks of, what is remembered of them is bounded, and limits still hold."""
    counter = iter(range(1, 1000))
    limited = rate_limit(lambda: f"{next(counter)}/hour")
    guarded.add_url_rule("/", "root", limited(lambda: "x"))
    client = browse(guarded)
    assert set(statuses(client, *["/"] * 300)) == {200}


def test_cost_and_burst(guarded: Flask, browse: Any) -> None:
    """A request may cost more than one, and more may come at once than the rate says."""
    guarded.add_url_rule("/", "root", rate_limit("1/minute", burst=5, cost=2)(lambda: "x"))
    assert statuses(browse(guarded), "/", "/", "/") == [200, 200, 429]


def test_two_limits(app: Flask, browse: Any, toolkit: Any) -> None:
    """Several limits on one view hold together, and the caller is told each."""

    @app.get("/")
    @rate_limit("3/hour")
    @rate_limit("2/minute")
    def root() -> str:
        return "x"

    FlaskResilience(app, toolkit(server__rate_limit_headers="on"))
    answer = browse(app).get("/")
    assert answer.headers["RateLimit-Policy"] == '"3/hour";q=3;w=3600, "2/minute";q=2;w=60'


def test_one_limit_in_two_applications(browse: Any) -> None:
    """A limit written once and used in two applications counts in each by itself."""
    limited = rate_limit("1/minute")(lambda: "x")
    for name in ("one", "two"):
        app = Flask(name)
        app.add_url_rule("/", "root", limited)
        FlaskResilience(app)
        assert statuses(browse(app), "/", "/") == [200, 429]


@pytest.mark.parametrize(
    "wrong", [{"rate": "5"}, {"rate": 5}, {"burst": 0}, {"cost": 0}, {"cost": True}, {"key": "cookie"}, {"key": 5}]
)
def test_bad_arguments(wrong: dict[str, Any]) -> None:
    """A bad argument is refused where it is written."""
    arguments: dict[str, Any] = {"rate": "5/minute", **wrong}
    with pytest.raises(ConfigurationError):
        rate_limit(arguments.pop("rate"), **arguments)


def test_excluded_paths_hold_limits_of_their_own(app: Flask, browse: Any, toolkit: Any) -> None:
    """A limit written on a view holds even where the server's own limits do not apply."""
    app.add_url_rule("/metrics", "metrics", rate_limit("1/minute")(lambda: "x"))
    FlaskResilience(app, toolkit())
    assert statuses(browse(app), "/metrics", "/metrics") == [200, 429]


def spends(browse: Any, app: Flask) -> list[int]:
    """Ask twice as one client, then once as another, and return the statuses."""
    addresses = ("203.0.113.1", "203.0.113.1", "203.0.113.2")
    return [browse(app, address).get("/").status_code for address in addresses]


@pytest.mark.parametrize("found", [None, ""])
@pytest.mark.parametrize("place", ["view", "server"])
def test_a_key_that_is_not_found(app: Flask, browse: Any, toolkit: Any, found: Any, place: str) -> None:
    """A key function that returns None or "" leaves the setting: by address, never one bucket for all, never a 500."""

    def view() -> str:
        return "ok"

    app.add_url_rule("/", "root", rate_limit("1/day", key=lambda: found)(view) if place == "view" else view)
    settings = {"server__rate_limit": "1/day"} if place == "server" else {}
    FlaskResilience(app, toolkit(**settings), key=(lambda: found) if place == "server" else None)
    assert spends(browse, app) == [200, 429, 200]


@pytest.mark.parametrize("limit", [{"rate": lambda: ""}, {"rate": lambda: None}, {"cost": lambda: 0}])
def test_no_rate_and_no_cost(app: Flask, browse: Any, toolkit: Any, limit: Any) -> None:
    """A function that returns no rate, or a cost of 0, means that the request is not limited."""
    app.add_url_rule("/", "root", rate_limit(**{"rate": "1/day", **limit})(lambda: "ok"))
    FlaskResilience(app, toolkit())
    assert spends(browse, app) == [200, 200, 200]


def test_several_rates() -> None:
    """A route takes several rates: a request pays all or none, and the tightest one says when to come back."""
    app = Flask(__name__)
    app.get("/")(rate_limit("500/hour;2/day")(lambda: "ok"))
    answers = [app.test_client().get("/") for _ in range(3)]
    assert [each.status_code for each in answers] == [200, 200, 429]
    assert int(answers[-1].headers["retry-after"]) == pytest.approx(43_200, abs=30)
