"""Limits per route, as a dependency without a `request` parameter."""

from __future__ import annotations

import functools
from typing import Annotated, Any

import fastapi.routing
import pytest
from fastapi import APIRouter, Depends, FastAPI, WebSocket
from fastapi.responses import PlainTextResponse
from starlette.requests import HTTPConnection

from resilience import Resilience
from resilience.errors import ConfigurationError, RejectedError
from resilience_fastapi import ResilienceMiddleware, install, rate_limit


async def statuses(client: Any, *paths: str, **options: Any) -> list[int]:
    return [(await client.get(path, **options)).status_code for path in paths]


@pytest.mark.parametrize("installed", [True, False])
@pytest.mark.parametrize("colour", ["async", "sync"])
async def test_route_is_limited(browse: Any, colour: str, *, installed: bool) -> None:
    """An endpoint of either colour is limited per client, with 429 beyond; with or without `install`."""
    app = FastAPI()

    async def in_loop() -> str:
        return "a"

    def in_thread() -> str:
        return "s"

    limited = [Depends(rate_limit("2/minute", name=f"{colour}{installed}"))]
    app.add_api_route("/", in_loop if colour == "async" else in_thread, dependencies=limited)
    if installed:
        install(app, Resilience())
    codes = []
    for host in ("203.0.113.9", "203.0.113.10"):
        async with browse(app, (host, 1)) as client:
            codes += await statuses(client, "/", "/", "/")
    assert codes == [200, 200, 429] * 2


async def test_refusal_is_an_envelope(browse: Any) -> None:
    """Beyond the limit comes 429 with the time to wait."""
    app = FastAPI(dependencies=[Depends(rate_limit("1/minute"))])
    app.add_api_route("/", lambda: "x")
    install(app, Resilience())
    async with browse(app) as client:
        assert (await client.get("/")).status_code == 200
        answer = await client.get("/")
    assert (answer.status_code, answer.json()["code"], answer.headers["Retry-After"]) == (429, "RATE_LIMITED", "60")


def mounted(sub: FastAPI) -> FastAPI:
    app = FastAPI()
    app.mount("/sub", sub)
    install(app, Resilience())
    return app


def with_middleware(app: FastAPI) -> FastAPI:
    app.add_middleware(ResilienceMiddleware, resilience=Resilience())
    return app


def with_own_handler(app: FastAPI) -> FastAPI:
    async def answer(_: Any, error: Exception) -> PlainTextResponse:
        return PlainTextResponse("mine", 420, {"Retry-After": "9"})

    app.add_exception_handler(RejectedError, answer)
    return app


@pytest.mark.parametrize(
    ("guard", "path", "status", "body", "wait"),
    [
        (lambda app: app, "/", 429, '{"detail":"Too many requests."}', "60"),
        (lambda app: ResilienceMiddleware(app, Resilience()), "/", 429, '{"detail":"Too many requests."}', "60"),
        (mounted, "/sub/", 429, '{"detail":"Too many requests."}', "60"),
        (with_middleware, "/", 429, '{"code":"RATE_LIMITED"', "60"),
        (lambda app: mounted(with_middleware(app)), "/sub/", 429, '{"code":"RATE_LIMITED"', "60"),
        (with_own_handler, "/", 420, "mine", "9"),
        (lambda app: mounted(with_own_handler(app)), "/sub/", 420, "mine", "9"),
    ],
    ids=["alone", "wrapped", "mounted", "middleware", "mounted middleware", "own handler", "mounted own handler"],
)
async def test_refusal_is_answered(
    browse: Any, request: pytest.FixtureRequest, guard: Any, path: str, status: int, body: str, wait: str
) -> None:
    """Whoever answers an application's errors, a refusal tells the time to wait, and is never a fault."""
    app = FastAPI(dependencies=[rate_limit("1/minute", name=request.node.name)])
    app.add_api_route("/", lambda: "x")
    async with browse(guard(app)) as client:
        assert (await client.get(path)).status_code == 200
        answer = await client.get(path)
    assert (answer.status_code, answer.headers["Retry-After"]) == (status, wait)
    assert answer.text.startswith(body)


async def test_included_twice(browse: Any) -> None:
    """A router included under two prefixes, nested or mounted is limited in each place by itself."""
    router, outer, app, sub = (
        APIRouter(dependencies=[Depends(rate_limit("1/minute"))]),
        APIRouter(),
        FastAPI(),
        FastAPI(),
    )

    @router.get("/items/{item}")
    def read(item: int) -> int:
        return item

    outer.include_router(router, prefix="/nested")
    app.include_router(router, prefix="/v1")
    app.include_router(router, prefix="/v2")
    app.include_router(outer, prefix="/outer")
    sub.include_router(router)
    app.mount("/sub", sub)
    install(app, Resilience())
    install(sub, Resilience())
    async with browse(app) as client:
        for prefix in ("/v1", "/v2", "/outer/nested", "/sub"):
            assert await statuses(client, *(f"{prefix}/items/{item}" for item in range(3))) == [200, 429, 429]


def below_a_parameter(app: FastAPI, sub: FastAPI) -> None:
    app.mount("/t/{tenant}", sub)


def below_a_number(app: FastAPI, sub: FastAPI) -> None:
    app.mount("/t/{item:int}", sub)


def below_two(app: FastAPI, sub: FastAPI) -> None:
    middle = FastAPI()
    middle.mount("/{tenant}", sub)
    app.mount("/t", middle)


def below_nothing(app: FastAPI, sub: FastAPI) -> None:
    middle = FastAPI()
    middle.mount("/t/{tenant}", sub)
    app.mount("", middle)


def below_an_included_mount(app: FastAPI, sub: FastAPI) -> None:
    if not hasattr(fastapi.routing, "iter_route_contexts"):
        pytest.skip("this FastAPI leaves mounts out where a router is included")
    router = APIRouter()
    router.mount("/{tenant}", sub)
    app.include_router(router, prefix="/t")


@pytest.mark.parametrize(
    "mount", [below_a_parameter, below_a_number, below_two, below_nothing, below_an_included_mount]
)
@pytest.mark.parametrize("root", ["", "/shop"], ids=["", "behind a proxy"])
async def test_parameters_of_mounts_are_no_way_around(browse: Any, mount: Any, root: str) -> None:
    """What a client writes for the parameter of a mount never gives a new quota; another mount is another place."""
    app, sub = FastAPI(), FastAPI()
    app.root_path = root
    sub.add_api_route("/login/{item}", lambda item: item, dependencies=[rate_limit("1/minute")])
    app.mount("/fixed", sub)
    mount(app, sub)
    install(app, Resilience())
    async with browse(app) as client:
        assert await statuses(client, *(f"{root}/t/{n}/login/1" for n in ("1", "2", "003"))) == [200, 429, 429]
        assert await statuses(client, *(f"{root}/fixed/login/{n}" for n in (1, 2))) == [200, 429]


async def test_methods_and_routes_are_apart(browse: Any) -> None:
    """One dependency on several routes and methods limits each by itself, unless it has a name."""
    app = FastAPI()
    apart, together = Depends(rate_limit("1/minute")), Depends(rate_limit("1/minute", name="all"))
    for path in ("/a", "/b"):
        app.add_api_route(path, lambda: "x", methods=["GET", "PUT"], dependencies=[apart])
        app.add_api_route(f"/shared{path}", lambda: "x", dependencies=[together])
    install(app, Resilience())
    async with browse(app) as client:
        assert await statuses(client, "/a", "/b", "/a") == [200, 200, 429]
        assert (await client.put("/a")).status_code == 200
        assert await statuses(client, "/shared/a", "/shared/b") == [200, 429]


async def test_paths_are_no_way_around(browse: Any) -> None:
    """Varying path parameters, case of the method's answer or the query never gives a new quota."""
    app = FastAPI()
    app.add_api_route("/items/{item}", lambda item: item, dependencies=[Depends(rate_limit("1/minute"))])
    install(app, Resilience())
    async with browse(app) as client:
        assert await statuses(client, "/items/1", "/items/2", "/items/1?a=b") == [200, 429, 429]


async def test_keys(browse: Any) -> None:
    """A key can be a header or a function of the connection, of either colour."""
    app = FastAPI()

    async def tenant(connection: HTTPConnection) -> str:
        return connection.headers["X-Tenant"]

    keys: dict[str, Any] = {
        "/header": "header:X-Tenant",
        "/async": tenant,
        "/sync": lambda connection: connection.headers["X-Tenant"],
    }
    for path, key in keys.items():
        app.add_api_route(path, lambda: "x", dependencies=[Depends(rate_limit("1/minute", key=key))])
    install(app, Resilience())
    async with browse(app) as client:
        for path in keys:
            codes = [await statuses(client, path, headers={"X-Tenant": name}) for name in ("a", "b", "a")]
            assert codes == [[200], [200], [429]]


async def test_cost_and_burst(browse: Any) -> None:
    """A request may cost more than one, and more may come at once than the rate says."""
    app = FastAPI()
    limit = rate_limit("1/minute", burst=5, cost=2)
    app.add_api_route("/", lambda: "x", dependencies=[Depends(limit)])
    install(app, Resilience())
    async with browse(app) as client:
        assert await statuses(client, "/", "/", "/") == [200, 200, 429]


async def test_two_limits(browse: Any, toolkit: Any) -> None:
    """Several limits on one route hold together, and the caller is told each."""
    app = FastAPI()
    limits = [Depends(rate_limit("2/minute")), Depends(rate_limit("3/hour"))]
    app.add_api_route("/", lambda: "x", dependencies=limits)
    install(app, toolkit(server__rate_limit_headers="on"))
    async with browse(app) as client:
        answer = await client.get("/")
    assert answer.headers["RateLimit-Policy"] == '"2/minute";q=2;w=60, "3/hour";q=3;w=3600'


async def test_one_dependency_in_two_applications(browse: Any) -> None:
    """A limit written once and used in two applications counts in each by itself."""
    limit = Depends(rate_limit("1/minute"))
    for _ in range(2):
        app = FastAPI()
        app.add_api_route("/", lambda: "x", dependencies=[limit])
        install(app, Resilience())
        async with browse(app) as client:
            assert await statuses(client, "/", "/") == [200, 429]


def test_schema_is_untouched() -> None:
    """A limit adds no parameter to the OpenAPI document."""

    def endpoint(_: Annotated[None, Depends(rate_limit("1/minute"))], size: int) -> int:
        return size

    app = FastAPI()
    app.add_api_route("/", endpoint)
    parameters = app.openapi()["paths"]["/"]["get"]["parameters"]
    assert [parameter["name"] for parameter in parameters] == ["size"]


@pytest.mark.parametrize(
    "wrong", [{"rate": "5"}, {"burst": 0}, {"cost": 0}, {"cost": True}, {"cost": 1.5}, {"key": "cookie"}]
)
def test_bad_arguments(wrong: dict[str, Any]) -> None:
    """A bad argument is refused where it is written."""
    arguments = {"rate": "5/minute", **wrong}
    with pytest.raises(ConfigurationError):
        rate_limit(arguments.pop("rate"), **arguments)


async def test_websocket_handshakes_are_limited(browse: Any) -> None:
    """A dependency on a websocket route refuses the handshake."""
    app = FastAPI()

    @app.websocket("/ws", dependencies=[Depends(rate_limit("1/minute"))])
    async def talk(socket: WebSocket) -> None:
        await socket.accept()
        await socket.close()

    install(app, Resilience())
    assert [await handshake(app), await handshake(app)] == ["websocket.accept", "websocket.close"]
    assert await handshake(app, "websocket.http.response") == "websocket.http.response.start"


@pytest.mark.parametrize("guard", [lambda app: app, with_middleware], ids=["alone", "middleware"])
async def test_websocket_handshakes_are_denied_without_handlers(request: pytest.FixtureRequest, guard: Any) -> None:
    """Without `install`, too, a handshake over the limit is denied, and no fault."""
    app = FastAPI()

    @app.websocket("/ws", dependencies=[rate_limit("1/minute", name=request.node.name)])
    async def talk(socket: WebSocket) -> None:
        await socket.accept()
        await socket.close()

    guard(app)
    assert [await handshake(app), await handshake(app)] == ["websocket.accept", "websocket.close"]
    assert await handshake(app, "websocket.http.response") == "websocket.http.response.start"


async def handshake(app: FastAPI, *extensions: str) -> str:
    """Knock, and return the type of the first thing the application says."""
    said: list[Any] = []

    async def receive() -> dict[str, Any]:
        return {"type": "websocket.connect"}

    async def send(message: Any) -> None:
        said.append(message)

    scope = {
        "type": "websocket",
        "path": "/ws",
        "headers": [],
        "query_string": b"",
        "client": ("203.0.113.9", 1),
        "extensions": {name: {} for name in extensions},
    }
    await app(scope, receive, send)
    return str(said[0]["type"])


@pytest.mark.parametrize("wrap", [Depends, lambda limit: limit], ids=["in Depends", "as it is"])
@pytest.mark.parametrize("place", ["application", "router", "nested", "inclusion", "route"])
async def test_places(browse: Any, place: str, wrap: Any) -> None:
    """A limit stands on an application, a router, an inclusion or a route, with or without `Depends`."""
    limit = [wrap(rate_limit("1/minute"))]
    on = {name: limit if name == place else None for name in ("application", "router", "nested", "inclusion", "route")}
    app = FastAPI(dependencies=on["application"])
    outer, inner = APIRouter(dependencies=on["router"]), APIRouter(dependencies=on["nested"])
    inner.add_api_route("/items/{item}", lambda item: item, dependencies=on["route"])
    outer.include_router(inner, prefix="/inner")
    app.include_router(outer, prefix="/outer", dependencies=on["inclusion"])
    install(app, Resilience())
    async with browse(app) as client:
        assert await statuses(client, "/outer/inner/items/1", "/outer/inner/items/2") == [200, 429]


async def test_one_limit_in_two_places(browse: Any) -> None:
    """A limit that an endpoint gets from several places at once is charged once per request."""
    limit = rate_limit("2/minute")
    app, router = FastAPI(dependencies=[limit]), APIRouter(dependencies=[limit])
    router.add_api_route("/", lambda: "x", dependencies=[limit])
    app.include_router(router)
    install(app, Resilience())
    async with browse(app) as client:
        assert await statuses(client, "/", "/", "/") == [200, 200, 429]


async def test_whole_and_parts(browse: Any, toolkit: Any) -> None:
    """Limits of server, application and route hold together; a named one counts the whole application as one."""
    app = FastAPI(dependencies=[rate_limit("3/minute", name="whole")])
    app.add_api_route("/a", lambda: "x", dependencies=[rate_limit("2/minute")])
    app.add_api_route("/b", lambda: "x")
    sub = FastAPI()
    sub.add_api_route("/", lambda: "x")
    app.mount("/sub", sub)
    install(app, toolkit(server__rate_limit="5/minute", server__rate_limit_headers="on"))
    async with browse(app) as client:
        assert await statuses(client, "/a", "/a", "/a") == [200, 200, 429]
        answer = await client.get("/b")
        assert answer.headers["RateLimit-Policy"] == '"default";q=5;w=60, "3/minute";q=3;w=60'
        assert await statuses(client, "/sub/", "/sub/", "/sub/") == [200, 200, 429]


async def test_rate_and_cost_by_request(browse: Any) -> None:
    """What is allowed, and what a request costs, can depend on the request; functions are of either colour."""
    app = FastAPI()
    plans = {"free": "2/minute", "paid": "4/minute"}

    async def rate(connection: HTTPConnection) -> str | None:
        return plans.get(connection.headers["X-Plan"])

    def cost(connection: HTTPConnection) -> int:
        return int(connection.query_params.get("size", 1))

    limit = rate_limit(rate, cost=cost, key=lambda connection: connection.headers["X-Plan"])
    app.add_api_route("/", lambda: "x", dependencies=[limit])
    install(app, Resilience())
    async with browse(app) as client:
        free, paid, staff = ({"X-Plan": plan} for plan in ("free", "paid", "staff"))
        assert await statuses(client, "/", "/", "/", headers=free) == [200, 200, 429]
        assert await statuses(client, "/?size=3", "/?size=2", "/", headers=paid) == [200, 429, 200]
        assert await statuses(client, *["/"] * 9, headers=staff) == [200] * 9


@pytest.mark.parametrize("wrong", [{"rate": lambda _: "often"}, {"cost": lambda _: -1}, {"key": lambda _: 1 / 0}])
async def test_a_function_that_fails_lets_nobody_in(browse: Any, wrong: dict[str, Any]) -> None:
    """A function that makes no sense of a request is a fault of the service, and never a way around the limit."""
    app = FastAPI(dependencies=[rate_limit(**{"rate": "1/minute", **wrong})])
    app.add_api_route("/", lambda: "x")
    install(app, Resilience())
    async with browse(app) as client:
        answer = await client.get("/")
    assert (answer.status_code, "message" in answer.json()) == (500, True)


@pytest.mark.parametrize("colour", ["async", "sync", "wrapped", "websocket"])
async def test_exempt(browse: Any, colour: str) -> None:
    """An endpoint can be spared one limit of its router or application, and keeps its others."""
    wide, narrow = rate_limit("1/minute"), rate_limit("2/minute")
    app, router = FastAPI(dependencies=[wide]), APIRouter(dependencies=[narrow])

    async def in_loop() -> str:
        return "x"

    def in_thread() -> str:
        return "x"

    async def talk(socket: WebSocket) -> None:
        await socket.accept()
        await socket.close()

    if colour == "websocket":
        app.websocket("/ws")(wide.exempt(talk))
        install(app, Resilience())
        assert [await handshake(app) for _ in range(3)] == ["websocket.accept"] * 3
        return
    endpoint = wide.exempt(in_loop if colour == "async" else in_thread)
    router.add_api_route("/spared", functools.wraps(endpoint)(lambda: "y") if colour == "wrapped" else endpoint)
    router.add_api_route("/other", lambda: "x")
    app.include_router(router)
    install(app, Resilience())
    async with browse(app) as client:
        assert await statuses(client, "/spared", "/spared", "/spared") == [200, 200, 429]
        assert await statuses(client, "/other", "/other") == [200, 429]


async def test_head_is_a_get(browse: Any) -> None:
    """HEAD is counted with GET, so that it gives nobody a second quota."""
    app = FastAPI()
    app.add_api_route("/", lambda: "x", methods=["GET", "HEAD"], dependencies=[rate_limit("1/minute")])
    install(app, Resilience())
    async with browse(app) as client:
        assert [(await client.get("/")).status_code, (await client.head("/")).status_code] == [200, 429]


async def spends(browse: Any, app: FastAPI) -> list[int]:
    """Ask twice as one client, then once as another, and return the statuses."""
    found = []
    for address in ("203.0.113.1", "203.0.113.1", "203.0.113.2"):
        async with browse(app, (address, 1)) as client:
            found.append((await client.get("/")).status_code)
    return found


@pytest.mark.parametrize("found", [None, ""])
@pytest.mark.parametrize("place", ["route", "server"])
@pytest.mark.parametrize("colour", ["sync", "async"])
async def test_a_key_that_is_not_found(browse: Any, found: Any, place: str, colour: str) -> None:
    """A key function that returns None or "" leaves the setting: by address, never one bucket for all, never a 500."""

    async def later(_: Any) -> Any:
        return found

    key: Any = later if colour == "async" and place == "route" else lambda _: found
    app = FastAPI()
    app.get("/", dependencies=[rate_limit("1/day", key=key)] if place == "route" else [])(lambda: "ok")
    settings = {"RESILIENCE_SERVER__RATE_LIMIT": "1/day"} if place == "server" else {}
    install(app, Resilience.from_env(settings), key=key if place == "server" else None)
    assert await spends(browse, app) == [200, 429, 200]


@pytest.mark.parametrize("limit", [{"rate": lambda _: ""}, {"rate": lambda _: None}, {"cost": lambda _: 0}])
async def test_no_rate_and_no_cost(browse: Any, limit: Any) -> None:
    """A function that returns no rate, or a cost of 0, means that the request is not limited."""
    app = FastAPI()
    app.get("/", dependencies=[rate_limit(**{"rate": "1/day", **limit})])(lambda: "ok")
    install(app, Resilience())
    assert await spends(browse, app) == [200, 200, 200]


async def test_several_rates(browse: Any) -> None:
    """A route takes several rates: a request pays all or none, and the tightest one says when to come back."""
    app = FastAPI()
    app.get("/", dependencies=[rate_limit("500/hour;2/day")])(lambda: "ok")
    install(app, Resilience())
    async with browse(app) as client:
        assert await statuses(client, "/", "/") == [200, 200]
        answer = await client.get("/")
    assert answer.status_code == 429
    assert int(answer.headers["retry-after"]) == pytest.approx(43_200, abs=30)
