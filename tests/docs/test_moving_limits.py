"""Limits: docs/howto/moving-from-other-libraries.md on slowapi and Flask-Limiter is shown, theirs beside ours."""

from __future__ import annotations

from typing import Any

import httpx2
import pytest
from fastapi import FastAPI, Request
from flask import Flask, request
from moving_page import check_rows, example, library

from resilience import RateLimitedError, Resilience
from resilience_fastapi import install, rate_limit
from resilience_flask import FlaskResilience
from resilience_flask import rate_limit as flask_rate_limit

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:slowapi")

GONE = "redis://127.0.0.1:1/0"


def test_rows_and_tests_are_the_same() -> None:
    """Each line of the table of differences has an anchor and a test of that name, and the test is here."""
    check_rows("### Limits", __file__)


class Slow:
    """An application that slowapi guards, as its documentation has it."""

    def __init__(self, **options: Any) -> None:
        slowapi = library("slowapi")
        self.limiter = slowapi.Limiter(key_func=library("slowapi.util").get_remote_address, **options)
        self.app = FastAPI()
        self.app.state.limiter = self.limiter
        self.app.add_exception_handler(slowapi.errors.RateLimitExceeded, slowapi._rate_limit_exceeded_handler)
        self.app.add_middleware(library("slowapi.middleware").SlowAPIMiddleware)


def theirs_on_flask(**options: Any) -> tuple[Flask, Any]:
    """Return an application that Flask-Limiter guards, and the limiter."""
    extension = library("flask_limiter")
    app = Flask(__name__)
    return app, extension.Limiter(
        library("flask_limiter.util").get_remote_address, app=app, **{"storage_uri": "memory://", **options}
    )


def ours_on_flask(**settings: str) -> Flask:
    app = Flask(__name__)
    FlaskResilience(app, Resilience.from_env({f"RESILIENCE_{name}": value for name, value in settings.items()}))
    return app


def ours(**settings: str) -> FastAPI:
    app = FastAPI()
    install(app, Resilience.from_env({f"RESILIENCE_{name}": value for name, value in settings.items()}))
    return app


async def ask(app: FastAPI, *paths: str, method: str = "GET", **headers: str) -> list[httpx2.Response]:
    transport = httpx2.ASGITransport(app, raise_app_exceptions=False)
    async with httpx2.AsyncClient(transport=transport, base_url="http://test", headers=headers) as client:
        return [await client.request(method, path) for path in paths]


async def statuses(app: FastAPI, *paths: str, **more: str) -> list[int]:
    return [answer.status_code for answer in await ask(app, *paths, **more)]


def flask_statuses(app: Flask, *paths: str, method: str = "GET", **headers: str) -> list[int]:
    client = app.test_client()
    return [client.open(path, method=method, headers=headers).status_code for path in paths]


def add(app: FastAPI, *paths: str, dependencies: Any = ()) -> None:
    async def endpoint(request: Request) -> str:
        return "x"

    for path in paths:
        app.get(path, dependencies=list(dependencies))(endpoint)


class TestExamples:
    async def test_slowapi(self) -> None:
        """The example does what its table says: costs, exemptions, a shared limit by a key of one's own."""
        app = example("def tenant")["app"]
        assert await statuses(app, "/search", "/search", "/search") == [200, 200, 429]
        assert await statuses(app, *["/search"] * 5, **{"X-Tenant": "staff"}) == [200] * 5
        assert await statuses(app, "/invite", "/remind", "/invite", method="POST") == [200, 200, 429]
        assert await statuses(app, "/invite", method="POST", **{"X-Tenant": "other"}) == [200]
        assert await statuses(app, *["/status"] * 110) == [200] * 110

    def test_flask_limiter(self) -> None:
        """The example does what its table says: blueprints, keys, exemptions, a limiter by hand."""
        found = example("FlaskResilience(shop)")
        shop, login = found["shop"], found["login"]
        assert flask_statuses(shop, *["/admin/report"] * 3) == [200, 200, 429]
        assert flask_statuses(shop, "/admin/report", **{"X-Tenant": "other"}) == [200]
        assert flask_statuses(shop, *["/search"] * 3) == [200, 200, 429]
        assert flask_statuses(shop, *["/search"] * 5, **{"X-Staff": "1"}) == [200] * 5
        assert flask_statuses(shop, *["/ping"] * 110) == [200] * 110
        assert [bool(login.acquire("ada")) for _ in range(5)] == [True] * 4 + [False]  # one was taken in the example


async def test_the_switch() -> None:
    """With `enabled=False` theirs limits nothing, and neither does ours with `LIMITS=false`."""
    flask, _ = theirs_on_flask(default_limits=["1/minute"], enabled=False)
    ours_too = ours_on_flask(SERVER__RATE_LIMIT="1/minute", SERVER__LIMITS="false")
    for each in (flask, ours_too):
        each.add_url_rule("/", view_func=lambda: "x")
        assert flask_statuses(each, "/", "/", "/") == [200] * 3
    theirs, app = Slow(default_limits=["1/minute"], enabled=False).app, ours(SERVER__LIMITS="false")
    add(theirs, "/")
    add(app, "/", dependencies=[rate_limit("1/minute")])
    for asgi in (theirs, app):
        assert await statuses(asgi, "/", "/", "/") == [200] * 3


def test_deduct_when() -> None:
    """Theirs charges failed logins only; ours charges each request, and the view can charge a limiter itself."""
    theirs, limiter = theirs_on_flask()
    app = ours_on_flask()
    failed = app.extensions["resilience"].limiter("failed-logins", "2/minute")

    def login() -> tuple[str, int]:
        return "x", 200 if "X-Right" in request.headers else 401

    def charged() -> tuple[str, int]:
        answer = login()
        return ("x", 429) if answer[1] == 401 and not failed.acquire("ada") else answer

    guard = limiter.limit("2/minute", deduct_when=lambda response: response.status_code == 401)
    theirs.add_url_rule("/", view_func=guard(login))
    app.add_url_rule("/each", view_func=flask_rate_limit("2/minute")(login), endpoint="each")
    app.add_url_rule("/", view_func=charged)
    assert flask_statuses(theirs, *["/"] * 4, **{"X-Right": "1"}) == [200] * 4
    assert flask_statuses(theirs, *["/"] * 3) == [401, 401, 429]
    assert flask_statuses(app, *["/each"] * 3, **{"X-Right": "1"}) == [200, 200, 429]
    assert flask_statuses(app, *["/"] * 4, **{"X-Right": "1"}) == [200] * 4
    assert flask_statuses(app, *["/"] * 3) == [401, 401, 429]


def test_limited_methods() -> None:
    """Only POST is limited: by an option of theirs, by the rate function of ours."""
    theirs, limiter = theirs_on_flask()
    app = ours_on_flask()
    view = limiter.limit("1/minute", methods=["POST"])(lambda: "x")
    theirs.add_url_rule("/", view_func=view, methods=["GET", "POST"])
    only_post = flask_rate_limit(lambda: "1/minute" if request.method == "POST" else None)
    app.add_url_rule("/", view_func=only_post(lambda: "x"), methods=["GET", "POST"])
    for each in (theirs, app):
        assert flask_statuses(each, "/", "/", method="POST") == [200, 429]
        assert flask_statuses(each, "/", "/", "/") == [200] * 3


def test_on_breach() -> None:
    """Their options see a refusal and set its text; our error handler does both."""
    seen: list[str] = []
    theirs, limiter = theirs_on_flask(on_breach=lambda _limit: seen.append("theirs"))
    theirs.add_url_rule("/", view_func=limiter.limit("1/minute", error_message="slowly!")(lambda: "x"))
    app = ours_on_flask()
    app.add_url_rule("/", view_func=flask_rate_limit("1/minute")(lambda: "x"))

    @app.errorhandler(RateLimitedError)
    def refused(_error: RateLimitedError) -> tuple[str, int]:
        seen.append("ours")
        return "slowly!", 429

    for each in (theirs, app):
        answers = [each.test_client().get("/") for _ in range(2)]
        assert [answer.status_code for answer in answers] == [200, 429]
        assert "slowly!" in answers[-1].text
    assert seen == ["theirs", "ours"]


def test_scope_functions() -> None:
    """A limit for each host: their scope is a function, our key has it."""
    theirs, limiter = theirs_on_flask()
    app = ours_on_flask()
    theirs.add_url_rule("/", view_func=limiter.shared_limit("1/minute", scope=lambda _name: request.host)(lambda: "x"))
    each_host = flask_rate_limit("1/minute", name="mail", key=lambda: f"{request.host} {request.remote_addr}")
    app.add_url_rule("/", view_func=each_host(lambda: "x"))
    for each in (theirs, app):
        assert [flask_statuses(each, "/", Host=host)[0] for host in ("a", "b", "a", "b")] == [200, 200, 429, 429]


def test_meta_limits() -> None:
    """Theirs keeps a client out for a day after a refusal; ours until its next token."""
    theirs, limiter = theirs_on_flask(meta_limits=["1/day"], headers_enabled=True)
    theirs.add_url_rule("/", view_func=limiter.limit("1/minute")(lambda: "x"))
    app = ours_on_flask()
    app.add_url_rule("/", view_func=flask_rate_limit("1/minute")(lambda: "x"))
    waits = []
    for each in (theirs, app):
        answers = [each.test_client().get("/") for _ in range(3)]
        assert [answer.status_code for answer in answers] == [200, 429, 429]
        waits.append(int(answers[-1].headers["Retry-After"]))
    assert waits[0] > 3600
    assert waits[1] <= 60


async def test_bucket() -> None:
    """Two a minute: their third request waits for the end of the minute, ours for half of it."""
    theirs, app = Slow(default_limits=["2/minute"], headers_enabled=True).app, ours(SERVER__RATE_LIMIT="2/minute")
    for each, least, most in ((theirs, 40, 60), (app, 10, 30)):
        add(each, "/")
        refused = (await ask(each, "/", "/", "/"))[-1]
        assert refused.status_code == 429
        assert least <= int(refused.headers["Retry-After"]) <= most


async def test_own_limits() -> None:
    """A route with a looser limit of its own gets past their default limit, and not past ours."""
    theirs = Slow(default_limits=["2/minute"])

    async def endpoint(request: Request) -> str:
        return "x"

    theirs.app.get("/")(theirs.limiter.limit("4/minute")(endpoint))
    app = FastAPI(dependencies=[rate_limit("2/minute")])
    install(app)
    add(app, "/", dependencies=[rate_limit("4/minute")])
    assert await statuses(theirs.app, *["/"] * 5) == [200] * 4 + [429]
    assert await statuses(app, *["/"] * 3) == [200, 200, 429]


async def test_templates() -> None:
    """By another path of the same route their limit begins anew; ours does not."""
    theirs, app = Slow(default_limits=["2/minute"]).app, FastAPI(dependencies=[rate_limit("2/minute")])
    install(app)
    for each, expected in ((theirs, 200), (app, 429)):
        add(each, "/items/{number}")
        assert await statuses(each, "/items/1", "/items/1", "/items/1", "/items/2") == [200, 200, 429, expected]


def test_methods() -> None:
    """With one method used up, another one of the same view is refused by theirs, and by ours with a name."""
    theirs, limiter = theirs_on_flask()
    for app, decorator, expected in (
        (theirs, limiter.limit("1/minute"), 429),
        (ours_on_flask(), flask_rate_limit("1/minute"), 200),
        (ours_on_flask(), flask_rate_limit("1/minute", name="both"), 429),
    ):
        app.route("/", methods=["GET", "POST"])(decorator(lambda: "x"))
        assert flask_statuses(app, "/", "/") == [200, 429]
        assert flask_statuses(app, "/", method="POST") == [expected]


async def test_several_rates() -> None:
    """Both take two rates in one text, and count by both."""
    theirs = Slow(default_limits=["5/minute;1/hour"]).app
    app = ours()
    add(theirs, "/")
    add(app, "/", dependencies=[rate_limit("5/minute;1/hour")])
    assert await statuses(theirs, "/", "/") == await statuses(app, "/", "/") == [200, 429]


async def test_request_parameter() -> None:
    """Theirs refuses an endpoint that has no `request`; ours guards it."""

    async def endpoint() -> str:
        return "x"

    with pytest.raises(Exception, match="request"):
        Slow().limiter.limit("1/minute")(endpoint)
    app = ours()
    app.get("/", dependencies=[rate_limit("1/minute")])(endpoint)
    assert await statuses(app, "/", "/") == [200, 429]


async def test_unserved_paths() -> None:
    """A scan of paths without a route is counted by neither, unless our setting asks for it."""
    nowhere = ["/nowhere"] * 3
    theirs, app = Slow(application_limits=["2/minute"]).app, ours(SERVER__RATE_LIMIT="2/minute")
    covering = ours(SERVER__RATE_LIMIT="2/minute", SERVER__RATE_LIMIT_COVERS="all")
    assert [await statuses(each, *nowhere) for each in (theirs, app)] == [[404] * 3] * 2
    assert await statuses(covering, *nowhere) == [404, 404, 429]
    flask, _ = theirs_on_flask(application_limits=["2/minute"])
    flask_covering = ours_on_flask(SERVER__RATE_LIMIT="2/minute", SERVER__RATE_LIMIT_COVERS="all")
    for app_on_flask in (flask, ours_on_flask(SERVER__RATE_LIMIT="2/minute")):
        assert flask_statuses(app_on_flask, *nowhere) == [404] * 3
    assert flask_statuses(flask_covering, *nowhere) == [404, 404, 429]


@pytest.mark.parametrize("found", [None, ""])
async def test_no_key(found: Any) -> None:
    """Without a key their limit lets the request pass; ours counts it by address. Without a rate, ours lets it pass."""
    theirs, limiter = theirs_on_flask()
    theirs.get("/")(limiter.limit("1/minute", key_func=lambda: found)(lambda: "x"))
    assert flask_statuses(theirs, "/", "/") == [200, 200]
    slow = Slow()

    async def endpoint(request: Request) -> str:
        return "x"

    slow.app.get("/")(slow.limiter.limit("1/minute", key_func=lambda request: found)(endpoint))
    assert await statuses(slow.app, "/", "/") == [200, 200]
    app = ours()
    add(app, "/", dependencies=[rate_limit("1/minute", key=lambda _: found)])
    add(app, "/exempt", dependencies=[rate_limit(lambda _: found)])
    assert await statuses(app, "/", "/", "/exempt", "/exempt") == [200, 429, 200, 200]


async def test_bodies() -> None:
    """Their refusals have a body of their own, and say when to come back if told to; ours is the envelope, and does."""
    theirs, app = Slow(default_limits=["1/minute"]).app, ours(SERVER__RATE_LIMIT="1/minute")
    add(theirs, "/")
    add(app, "/")
    before, after = (await ask(theirs, "/", "/"))[-1], (await ask(app, "/", "/"))[-1]
    assert set(before.json()) == {"error"}
    assert "Retry-After" not in before.headers
    assert (after.json()["code"], "Retry-After" in after.headers) == ("RATE_LIMITED", True)


async def test_headers() -> None:
    """What is left is told in their headers, and in those of the draft."""
    theirs = Slow(default_limits=["5/minute"], headers_enabled=True).app
    app = ours(SERVER__RATE_LIMIT="5/minute", SERVER__RATE_LIMIT_HEADERS="true")
    add(theirs, "/")
    add(app, "/")
    (before,), (after,) = await ask(theirs, "/"), await ask(app, "/")
    assert before.headers["X-RateLimit-Remaining"] == "4"
    assert {"RateLimit", "RateLimit-Policy"} <= {name.title().replace("limit", "Limit") for name in after.headers}
    assert not any(name.startswith("x-ratelimit") for name in after.headers)


def test_handlers() -> None:
    """Their refusal is Werkzeug's 429; ours is an error of its own class, which knows when to come back."""
    theirs, _ = theirs_on_flask(default_limits=["1/minute"])
    app = ours_on_flask(SERVER__RATE_LIMIT="1/minute")
    app.register_error_handler(429, lambda error: ("not asked", 429))
    for each, kind in ((theirs, 429), (app, RateLimitedError)):
        each.register_error_handler(kind, lambda error: (f"mine {error.retry_after}", 429))
        each.get("/")(lambda: "x")
    assert flask_statuses(theirs, "/", "/") == flask_statuses(app, "/", "/") == [200, 429]
    assert theirs.test_client().get("/").text == "mine None"
    assert 0 < float(app.test_client().get("/").text.removeprefix("mine ")) <= 60


async def test_outages() -> None:
    """With no Redis at its address their requests fail, and ours are limited in the process."""
    pytest.importorskip("redis")
    theirs = Slow(default_limits=["1/minute"], storage_uri=GONE).app
    app = ours(SERVER__RATE_LIMIT="1/minute", REDIS__URL=GONE)
    flask, _ = theirs_on_flask(default_limits=["1/minute"], storage_uri=GONE)
    flask.get("/")(lambda: "x")
    add(theirs, "/")
    add(app, "/")
    assert await statuses(theirs, "/") == flask_statuses(flask, "/") == [500]
    assert await statuses(app, "/", "/") == [200, 429]
