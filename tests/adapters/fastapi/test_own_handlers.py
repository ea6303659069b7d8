"""The application's own handlers win whenever they match, whatever ours are registered for."""

from __future__ import annotations

from typing import Any

import pytest
from fastapi import APIRouter, Depends, FastAPI, HTTPException, Request
from fastapi.responses import JSONResponse
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.routing import Mount, Router

from resilience import AppError, CircuitOpenError, DeadlineExceededError
from resilience.errors import RateLimitedError, RejectedError, ResilienceError
from resilience_fastapi import ResilienceMiddleware, install, rate_limit


class HTTPLibraryError(Exception):
    """The base class of another library, as `httpx.HTTPError`."""


class TransportError(HTTPLibraryError):
    """A class below it."""


class OpenOnTheWireError(CircuitOpenError, TransportError):
    """An error that is ours and the library's, as our clients raise them."""


class LateOnTheWireError(DeadlineExceededError, TransportError):
    """The same for a deadline."""


class PagesError(ExceptionGroup[Exception], HTTPLibraryError):
    """A group that is the library's too."""


class BusyError(HTTPException, HTTPLibraryError):
    """An HTTP error of the framework that is the library's too."""


def by(name: str) -> Any:
    def own(_: Request, error: Exception) -> JSONResponse:
        return JSONResponse({"by": name, "error": type(error).__name__}, 418)

    return own


def fails(app: FastAPI | APIRouter, error: Exception) -> None:
    @app.get("/")
    def root() -> None:
        raise error


@pytest.mark.parametrize("mode", ["json", "native"])
@pytest.mark.parametrize("is_early", [True, False])
@pytest.mark.parametrize(
    ("error", "kinds", "winner"),
    [
        (OpenOnTheWireError("open"), [HTTPLibraryError], "HTTPLibraryError"),
        (OpenOnTheWireError("open"), [TransportError, HTTPLibraryError], "TransportError"),
        (OpenOnTheWireError("open"), [HTTPLibraryError, OpenOnTheWireError], "OpenOnTheWireError"),
        (OpenOnTheWireError("open"), [ResilienceError], "ResilienceError"),
        (OpenOnTheWireError("open"), [RejectedError, TransportError], "RejectedError"),
        (LateOnTheWireError("late"), [HTTPLibraryError], "HTTPLibraryError"),
        (PagesError("pages", [CircuitOpenError("open")]), [HTTPLibraryError], "HTTPLibraryError"),
        (ExceptionGroup("g", [OpenOnTheWireError("open")]), [HTTPLibraryError], "HTTPLibraryError"),
        (RateLimitedError("no"), [ResilienceError], "ResilienceError"),
        (AppError("USER_001"), [ResilienceError], "ResilienceError"),
    ],
    ids=str,
)
async def test_nearest_class_of_theirs_wins(
    browse: Any, toolkit: Any, error: Exception, kinds: Any, winner: str, mode: str, *, is_early: bool
) -> None:
    """Whatever classes ours are registered for, the application's handler for the nearest class answers."""
    app = FastAPI()
    fails(app, error)

    def add() -> None:
        for kind in kinds:
            app.add_exception_handler(kind, by(kind.__name__))

    if is_early:
        add()
    install(app, toolkit(server__errors=mode))
    if not is_early:
        add()
    async with browse(app) as client:
        answer = await client.get("/")
    assert (answer.status_code, answer.json()["by"]) == (418, winner)
    assert answer.headers["X-Request-ID"]


@pytest.mark.parametrize("error", [OpenOnTheWireError("open"), LateOnTheWireError("late")], ids=str)
async def test_errors_of_middleware(browse: Any, error: Exception) -> None:
    """The same holds for an error that the application's own middleware raises."""
    app = FastAPI()

    async def dispatch(request: Request, call_next: Any) -> Any:
        raise error

    app.add_middleware(BaseHTTPMiddleware, dispatch=dispatch)
    app.add_exception_handler(HTTPLibraryError, by("own"))
    install(app)
    async with browse(app) as client:
        assert (await client.get("/")).json()["by"] == "own"


@pytest.mark.parametrize("where", ["application", "router", "mounted router", "route"])
async def test_errors_of_routes_anywhere(browse: Any, where: str) -> None:
    """The application's handlers answer for its routers, for routes mounted in it, and for limits of routes."""
    app, router = FastAPI(), APIRouter()
    install(app)
    app.add_exception_handler(ResilienceError, by("own"))
    if where == "application":
        fails(app, OpenOnTheWireError("open"))
    elif where == "router":
        fails(router, OpenOnTheWireError("open"))
        app.include_router(router)
    elif where == "mounted router":
        fails(router, OpenOnTheWireError("open"))
        app.router.routes.append(Mount("/", app=Router(routes=router.routes)))
    else:
        app.get("/", dependencies=[Depends(rate_limit("1/day", cost=lambda _: 2))])(lambda: "ok")
    async with browse(app) as client:
        assert (await client.get("/")).json()["by"] == "own"


@pytest.mark.parametrize("is_installed", [True, False])
async def test_mounted_applications_have_their_own(browse: Any, *, is_installed: bool) -> None:
    """A mounted application's handlers answer for its routes, and the outer application's do not."""
    outer, inner = FastAPI(), FastAPI()
    fails(inner, OpenOnTheWireError("open"))
    inner.add_exception_handler(HTTPLibraryError, by("inner"))
    outer.add_exception_handler(TransportError, by("outer"))
    if is_installed:
        install(inner)
    outer.mount("/inner", inner)
    install(outer)
    async with browse(outer) as client:
        assert (await client.get("/inner/")).json()["by"] == "inner"


async def test_outer_middleware_around_a_mounted_application(browse: Any) -> None:
    """An error that the outer application's middleware raises after an inner one has served is the outer one's."""
    outer, inner = FastAPI(), FastAPI()
    inner.get("/")(lambda: "ok")
    inner.add_exception_handler(HTTPLibraryError, by("inner"))
    outer.add_exception_handler(HTTPLibraryError, by("outer"))

    async def dispatch(request: Request, call_next: Any) -> Any:
        await call_next(request)
        raise OpenOnTheWireError("open")

    outer.mount("/inner", inner)
    outer.add_middleware(BaseHTTPMiddleware, dispatch=dispatch)
    install(outer)
    async with browse(outer) as client:
        assert (await client.get("/inner/")).json()["by"] == "outer"


async def test_http_errors_of_both_kinds_are_answered_as_without_us(browse: Any) -> None:
    """FastAPI's own handler for HTTP errors stands before a handler for a farther class, and so does ours."""
    app = FastAPI()
    fails(app, BusyError(503, "closed until Monday"))
    app.add_exception_handler(HTTPLibraryError, by("own"))
    install(app)
    async with browse(app) as client:
        assert (await client.get("/")).json()["message"] == "closed until Monday"


@pytest.mark.parametrize("kind", [Exception, 500])
async def test_last_resort_gets_no_refusals(browse: Any, kind: Any) -> None:
    """A handler for `Exception` or 500 is for unhandled errors: it would turn each refusal into a fault."""
    app = FastAPI()
    fails(app, OpenOnTheWireError("open"))
    app.add_exception_handler(kind, by("own"))
    install(app)
    async with browse(app) as client:
        answer = await client.get("/")
    assert (answer.status_code, answer.json()["code"]) == (503, "CIRCUIT_OPEN")


async def test_layer_alone(browse: Any) -> None:
    """The middleware without `install` asks the application's handlers as well."""
    app = FastAPI()

    async def dispatch(request: Request, call_next: Any) -> Any:
        raise OpenOnTheWireError("open")

    app.add_middleware(BaseHTTPMiddleware, dispatch=dispatch)
    app.add_middleware(ResilienceMiddleware)
    app.add_exception_handler(HTTPLibraryError, by("own"))
    async with browse(app) as client:
        assert (await client.get("/")).json()["by"] == "own"
