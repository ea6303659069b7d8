"""Limits: docs/howto/moving-from-other-libraries.md on slowapi and Flask-Limiter is shown, theirs beside ours."""

from __future__ import annotations

from typing import Any

import httpx2
import pytest
from fastapi import FastAPI, Request
from flask import Flask
from moving_page import check_rows, example, library

from resilience import ConfigurationError, RateLimitedError, Resilience
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
    """Theirs takes two rates in one text; ours refuses that where it is written, and takes two limits."""
    theirs = Slow(default_limits=["5/minute;1/hour"]).app
    with pytest.raises(ConfigurationError, match="one rate"):
        rate_limit("5/minute;1/hour")
    app = ours()
    add(theirs, "/")
    add(app, "/", dependencies=[rate_limit("5/minute"), rate_limit("1/hour")])
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
