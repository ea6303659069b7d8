"""`install(app)` on an application that exists: nothing of it changes but what was asked for."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from fastapi import APIRouter, FastAPI, Request
from fastapi.responses import Response, StreamingResponse

from resilience import Resilience
from resilience.errors import ConfigurationError
from resilience.lifecycle import Lifecycle
from resilience.server import current_request
from resilience_fastapi import ResilienceMiddleware, health_router, install

START_IS_DUE = "not ready: start hooks and dependencies are run by install(app) in the lifespan, or by astart()"


@contextlib.asynccontextmanager
async def life(app: FastAPI) -> AsyncIterator[list[dict[str, Any]]]:
    """Run the lifespan as a server does, and collect what the application says."""
    said: list[dict[str, Any]] = []
    orders: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
    answers: asyncio.Queue[dict[str, Any]] = asyncio.Queue()

    async def send(message: Any) -> None:
        said.append(message)
        await answers.put(message)

    scope: dict[str, Any] = {"type": "lifespan", "asgi": {"version": "3.0"}, "state": {}}
    running = asyncio.create_task(app(scope, orders.get, send))
    await orders.put({"type": "lifespan.startup"})
    await asyncio.wait_for(answers.get(), 5)
    said.append(scope["state"])
    yield said
    await orders.put({"type": "lifespan.shutdown"})
    with contextlib.suppress(RuntimeError):
        await asyncio.wait_for(running, 5)


def with_lifespan(log: list[str]) -> FastAPI:
    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[dict[str, str]]:
        log.append("start")
        yield {"db": "connected"}
        log.append("stop")

    return FastAPI(lifespan=lifespan)


def with_router_lifespan(log: list[str]) -> FastAPI:
    @contextlib.asynccontextmanager
    async def lifespan(app: Any) -> AsyncIterator[dict[str, str]]:
        log.append("start")
        yield {"db": "connected"}
        log.append("stop")

    app = FastAPI()
    app.include_router(APIRouter(lifespan=lifespan))
    return app


def with_events(log: list[str]) -> FastAPI:
    app = FastAPI()
    app.router.on_startup.append(lambda: log.append("start"))
    app.router.on_shutdown.append(lambda: log.append("stop"))
    return app


def with_nothing(log: list[str]) -> FastAPI:
    return FastAPI()


@pytest.mark.parametrize("build", [with_lifespan, with_router_lifespan, with_events, with_nothing])
async def test_lifespan_is_as_without_us(build: Callable[[list[str]], FastAPI]) -> None:
    """Start, stop, their order and the state an application yields are the same with and without us (L15)."""
    results = []
    for installed in (False, True):
        log: list[str] = []
        app = build(log)
        if installed:
            install(app)
        async with life(app) as said:
            log.append("serving")
        results.append((log, said))
    assert results[0] == results[1]


async def test_lifecycle_follows_the_application() -> None:
    """Readiness comes after the application's own start and ends before its stop; a second life is possible."""
    log: list[str] = []
    states: list[str] = []

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        states.append(resilience.lifecycle.state)
        yield
        states.append(resilience.lifecycle.state)

    app = FastAPI(lifespan=lifespan)
    resilience = Resilience()
    install(app, resilience)
    for _ in range(2):
        async with life(app):
            states.append(resilience.lifecycle.state)
    assert states == ["starting", "ready", "draining", "stopped", "ready", "draining"]
    assert resilience.lifecycle.state == "stopped"
    assert log == []


async def test_the_toolkit_ends_with_the_application() -> None:
    """The toolkit is closed after the application's own stop and the stop hooks, also where it was given."""
    log = list[str]()

    class Watched(Resilience):
        async def aclose(self) -> None:
            log.append("closed")
            await super().aclose()

    app, resilience = with_lifespan(log), Watched()
    assert install(app, resilience) is resilience
    resilience.lifecycle.on_stop(lambda: log.append("hook"))
    async with life(app):
        log.append("serving")
    assert log == ["start", "serving", "stop", "hook", "closed"]


async def test_failed_start_is_reported_and_torn_down() -> None:
    """An application that fails to start says so as without us, and is never ready."""

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        if app.title:
            raise RuntimeError("no database")
        yield

    app = FastAPI(lifespan=lifespan)
    resilience = install(app)
    with contextlib.suppress(RuntimeError):
        async with life(app) as said:
            assert said[0]["type"] == "lifespan.startup.failed"
    assert resilience.lifecycle.state == "stopped"


async def test_without_lifespan_the_first_request_is_the_start(browse: Any) -> None:
    """Where no server runs the lifespan (a test client), an application that serves requests is ready."""
    app = FastAPI()
    install(app)
    async with browse(app) as client:
        assert (await client.get("/readyz")).status_code == 200


@pytest.mark.parametrize("due", [Lifecycle.on_start, Lifecycle.depends_on], ids=["hook", "need"])
async def test_without_lifespan_no_start_is_skipped(browse: Any, caplog: pytest.LogCaptureFixture, due: Any) -> None:
    """Without a lifespan, a start that nobody ran keeps readiness away, and the log says who could run it."""
    app, run = FastAPI(), list[str]()
    resilience = install(app)
    due(resilience.lifecycle, lambda: run.append("run"))
    async with browse(app) as client:
        refused = await client.get("/readyz")
        await resilience.lifecycle.astart()
        assert (await client.get("/readyz")).status_code == 200
    assert (refused.status_code, "lifecycle failed: starting" in refused.text, run) == (503, True, ["run"])
    assert [record.message for record in caplog.records if "start" in record.message] == [START_IS_DUE]


async def test_second_install_changes_nothing(browse: Any) -> None:
    """Installing twice is installing once."""
    app = FastAPI()
    first = install(app)
    layers, lifespan, handlers = list(app.user_middleware), app.router.lifespan_context, dict(app.exception_handlers)
    assert install(app) is install(app, first) is first
    assert (app.user_middleware, app.router.lifespan_context) == (layers, lifespan)
    assert app.exception_handlers == handlers
    async with browse(app) as client:
        assert len((await client.get("/")).headers.get_list("X-Request-ID")) == 1
        assert install(app) is first


def test_another_toolkit_is_refused() -> None:
    """One application has one toolkit."""
    app = FastAPI()
    install(app, Resilience())
    with pytest.raises(ConfigurationError, match="another Resilience"):
        install(app, Resilience())


async def test_too_late(browse: Any) -> None:
    """Installing on an application that already runs is refused with the reason."""
    app = FastAPI()
    async with browse(app) as client:
        await client.get("/")
    with pytest.raises(ConfigurationError, match="has started"):
        install(app)


async def test_environment_is_read_at_install(monkeypatch: pytest.MonkeyPatch, browse: Any) -> None:
    """Without a toolkit the environment says what to do."""
    monkeypatch.setenv("RESILIENCE_SERVER__RATE_LIMIT", "1/minute")
    app = FastAPI()
    app.get("/")(lambda: "ok")
    install(app)
    async with browse(app) as client:
        assert [(await client.get("/")).status_code for _ in range(2)] == [200, 429]


async def test_middleware_alone(browse: Any) -> None:
    """The middleware can be added without the rest."""
    app = FastAPI()
    app.add_middleware(ResilienceMiddleware, resilience=Resilience())

    @app.get("/boom")
    async def boom() -> None:
        raise ValueError

    async with browse(app) as client:
        assert (await client.get("/boom")).json()["code"] == "INTERNAL"
        assert (await client.get("/livez")).status_code == 404


async def test_middleware_alone_is_ready_when_the_application_is() -> None:
    """Without `install`, readiness comes when the application's own start is complete."""
    states, resilience = list[str](), Resilience()

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        states.append(resilience.lifecycle.state)
        yield

    app = FastAPI(lifespan=lifespan)
    app.add_middleware(ResilienceMiddleware, resilience=resilience)
    async with life(app):
        states.append(resilience.lifecycle.state)
    assert states == ["starting", "ready"]


async def test_middleware_alone_leaves_a_start_that_is_due(caplog: pytest.LogCaptureFixture) -> None:
    """Without `install` nobody but the application runs the start hooks: until it has, it is not ready."""
    resilience = Resilience()
    resilience.lifecycle.on_start(lambda: None)
    app = FastAPI()
    app.add_middleware(ResilienceMiddleware, resilience=resilience)
    async with life(app):
        assert resilience.lifecycle.state == "starting"
    assert START_IS_DUE in caplog.messages


async def test_application_without_lifespan(browse: Any) -> None:
    """An application that knows no lifespan, and says so as ASGI has it, is ready at its first request."""

    async def plain(scope: Any, receive: Any, send: Any) -> None:
        assert scope["type"] == "http"
        await Response()(scope, receive, send)

    resilience = Resilience()
    app = ResilienceMiddleware(plain, resilience)
    with pytest.raises(AssertionError):
        await app({"type": "lifespan"}, *[None] * 2)  # type: ignore[arg-type]  # it does not come to that
    async with browse(app) as client:
        assert (await client.get("/")).status_code == 200
    assert resilience.lifecycle.is_ready


class TestProbes:
    @pytest.mark.parametrize("path", ["/livez", "/healthz", "/readyz", "/startupz", "/readyz/ping", "/livez/ping"])
    async def test_answered(self, browse: Any, path: str) -> None:
        """Every probe answers, for GET and HEAD, under no limit, and is never cached."""
        app = FastAPI()
        install(app)
        async with browse(app) as client:
            answers = [await client.request(method, path) for method in ("GET", "HEAD")]
        assert [answer.status_code for answer in answers] == [200, 200]
        assert answers[0].headers["Cache-Control"] == "no-store"

    @pytest.mark.parametrize("path", ["/livezz", "/livez-x", "/readyz/nothing", "/nope"])
    async def test_other_paths(self, browse: Any, path: str) -> None:
        """What is no probe is not answered as one."""
        app = FastAPI()
        install(app)
        async with browse(app) as client:
            assert (await client.get(path)).status_code == 404
            assert (await client.post("/livez")).status_code == 404

    async def test_own_routes_win(self, browse: Any) -> None:
        """A probe path the application has a route for is the application's, in an included router too."""
        app, router = FastAPI(), APIRouter()

        @app.get("/healthz")
        def healthz() -> str:
            return "mine"

        install(app)

        @router.get("/z")
        def readyz() -> str:
            return "mine"

        app.include_router(router, prefix="/ready")
        router.add_api_route("y", readyz)
        inner = APIRouter()
        inner.add_api_route("/readyz", readyz)
        app.include_router(inner)
        async with browse(app) as client:
            assert (await client.get("/healthz")).json() == "mine"
            assert (await client.get("/readyz")).json() == "mine"
            assert (await client.get("/livez")).text.startswith("ok")

    async def test_nothing_stands_in_the_way(self, browse: Any) -> None:
        """Neither a catch-all route nor a dependency that refuses everybody keeps a probe from its answer."""
        app = FastAPI()

        @app.get("/{path:path}")
        def everything(path: str) -> str:
            return path

        install(app)
        async with browse(app) as client:
            assert (await client.get("/livez")).text.startswith("ok")
            assert (await client.get("/other")).json() == "other"

    async def test_failed_check_is_503(self, browse: Any) -> None:
        """A failing check takes readiness away and leaves liveness alone (L18)."""
        app = FastAPI()
        resilience = install(app)
        resilience.health.add("db", lambda: False)
        async with browse(app) as client:
            statuses = {path: (await client.get(path)).status_code for path in ("/livez", "/readyz", "/readyz/db")}
            excluded = await client.get("/readyz?exclude=db&verbose")
        assert statuses == {"/livez": 200, "/readyz": 503, "/readyz/db": 503}
        assert (excluded.status_code, "[+]ping ok" in excluded.text) == (200, True)

    async def test_behind_a_root_path(self, browse: Any) -> None:
        """Probes are found where a server passes the prefix a proxy took off."""
        app = FastAPI()
        install(app)

        async def prefixed(scope: Any, receive: Any, send: Any) -> None:
            await app({**scope, "root_path": "/shop", "path": "/shop" + scope["path"]}, receive, send)

        async with browse(prefixed) as client:
            assert (await client.get("/livez")).status_code == 200

    @pytest.mark.parametrize("source", ["resilience", "health", "environment"])
    async def test_router(self, browse: Any, source: str) -> None:
        """The same answers can be had from a router, anywhere, with checks of one's own."""
        app, resilience = FastAPI(), Resilience()
        resilience.lifecycle.started()
        sources: dict[str, Any] = {"resilience": resilience, "health": resilience.health, "environment": None}
        given = sources[source]
        app.include_router(health_router(given, prefix="/internal"))
        async with browse(app) as client:
            for path in ("/internal/livez", "/internal/livez/ping"):
                assert (await client.get(path)).status_code == 200
                assert (await client.head(path)).status_code == 200
            ready = await client.get("/internal/readyz")
        assert app.openapi()["paths"] == {}
        assert ready.status_code == (503 if source == "environment" else 200)


def at_prefix(app: FastAPI, probes: Callable[[str], APIRouter]) -> str:
    app.include_router(probes("/internal"))
    return "/internal"


def in_router(app: FastAPI, probes: Callable[[str], APIRouter]) -> str:
    outer = APIRouter()
    outer.include_router(probes("/probes"))
    app.include_router(outer, prefix="/internal")
    return "/internal/probes"


def in_mounted_application(app: FastAPI, probes: Callable[[str], APIRouter]) -> str:
    sub = FastAPI()
    sub.include_router(probes("/probes"))
    app.mount("/sub", sub)
    return "/sub/probes"


def behind_a_proxy(app: FastAPI, probes: Callable[[str], APIRouter]) -> str:
    app.root_path = "/shop"
    app.include_router(probes("/internal"))
    return "/shop/internal"


class TestProbesElsewhere:
    @pytest.mark.parametrize("place", [at_prefix, in_router, in_mounted_application, behind_a_proxy])
    @pytest.mark.parametrize("way", ["install", "middleware"])
    async def test_never_limited(self, browse: Any, toolkit: Any, place: Any, way: str) -> None:
        """Wherever a router of probes is placed, they are never limited, refused, timed or counted (L18)."""
        app, seen = FastAPI(), []
        resilience = toolkit(
            server__rate_limit="1/minute",
            server__rate_limit_covers="all",
            server__max_concurrent_requests="1",
            server__deadline="1s",
        )
        base = place(app, lambda prefix: health_router(resilience, prefix=prefix))
        if way == "install":
            install(app, resilience)
        else:
            app.add_middleware(ResilienceMiddleware, resilience=resilience)

        def look() -> None:
            context = current_request()
            seen.append((resilience.lifecycle.in_flight, context and context.deadline))

        resilience.health.add("look", look, cache=0)
        async with browse(app) as client:
            answers = [
                await client.get(base + path) for path in ("/livez", "/readyz", "/readyz/look", "/readyz?verbose")
            ]
            refused = [await client.get(path) for path in (f"{base}/livezz", f"{base}/livez/a/b")]
        assert [answer.status_code for answer in answers] == [200] * 4
        assert seen == [(0, None)] * 3
        assert [answer.status_code for answer in refused] == [404, 429]

    async def test_mounted_below_itself(self, browse: Any, toolkit: Any) -> None:
        """An application below itself has endlessly many probes: those within reach are excluded, and none in vain."""
        app, resilience = FastAPI(), toolkit(server__rate_limit="1/minute", server__rate_limit_covers="all")
        app.include_router(health_router(resilience, prefix="/internal"))
        app.mount("/again", app)
        install(app, resilience)
        async with browse(app) as client:
            paths = ["/internal/livez", "/again/internal/livez", "/again/again/internal/livez"]
            assert [(await client.get(path)).status_code for path in paths] == [200] * 3

    async def test_not_for_clients_to_choose(self, browse: Any, toolkit: Any) -> None:
        """Under a prefix with a parameter probes are limited like everything else: its values are the client's."""
        app, resilience = FastAPI(), toolkit(server__rate_limit="1/minute")
        app.include_router(health_router(resilience, prefix="/{tenant}"))
        install(app, resilience)
        async with browse(app) as client:
            assert [(await client.get(f"/{tenant}/livez")).status_code for tenant in "ab"] == [200, 429]


async def test_host_application_answers_as_before(browse: Any) -> None:
    """The same application with and without us gives the same bodies, statuses and headers, but for the id (L15)."""

    def build() -> FastAPI:
        app = FastAPI()

        @app.get("/json")
        async def as_json(request: Request) -> dict[str, str]:
            return {"url": str(request.url)}

        @app.post("/echo")
        async def echo(request: Request) -> StreamingResponse:
            body = await request.body()
            return StreamingResponse((body[n : n + 1000] for n in range(0, len(body), 1000)), headers={"X-Mine": "1"})

        @app.get("/sync")
        def sync() -> list[int]:
            return [1, 2]

        sub = FastAPI()
        sub.add_api_route("/", sync)
        app.mount("/sub", sub)
        router = APIRouter()
        router.add_api_route("/{item}", sync)
        app.include_router(router, prefix="/one")
        app.include_router(router, prefix="/two")
        return app

    answers = []
    for installed in (False, True):
        app = build()
        if installed:
            install(app)
        async with browse(app) as client:
            got = [await client.get(path) for path in ("/json", "/sync", "/sub/", "/one/1", "/two/1", "/openapi.json")]
            got.append(await client.post("/echo", content=b"x" * 100_000))
        for answer in got:
            answer.headers.pop("X-Request-ID", None)
        answers.append([(answer.status_code, answer.content, answer.headers.raw) for answer in got])
    assert answers[0] == answers[1]
