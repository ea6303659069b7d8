"""Internals of AnyIO, FastAPI, Starlette and the servers that this adapter relies on. No other file relies on any.

- Coroutine frames of `anyio.to_thread.run_sync` and `CapacityLimiter.acquire_on_behalf_of` (AnyIO 4.16), and
  `gc.get_referents` of an async generator's step (CPython 3.11 to 3.13): `waits_for_thread`. If they change, a task is
  cancelled at its deadline although its thread goes on; the client gets the 504 all the same.
- `fastapi.routing.iter_route_contexts` and `scope["fastapi"]["effective_route_context"]` (FastAPI 0.165; 0.116 has
  neither, and there the routes of included routers are flat): `flat_routes`, `route_template`. If they go, limits of
  included routes count under the route's own template, or under the name of the endpoint.
- `APIRouter._low_priority_routes`, and the `path` of their routes (FastAPI 0.165; 0.116 has no frontends):
  `frontend_paths`. If they go, the limit of the server counts the files of a frontend.
- `scope["app_root_path"]` (Starlette 0.46 to 1.10): `mounted_root`. If it goes, mounted routes count under their own
  template, without that of the mount.
- `middleware_stack`, `.app` of each layer, and `ServerErrorMiddleware.handler` and `.debug` (Starlette 0.46 to 1.10):
  `error_layer_of`, `cors_inside`. If they go, we answer unhandled errors in place of the application's handler for 500,
  and our own answers lack the CORS headers, so that browsers hide them from the page.
- A copy of a `CORSMiddleware` with another `app` (Starlette 0.46 to 1.10): `through_cors`.
- The names of the servers' loggers (uvicorn, Hypercorn, gunicorn): `SERVER_LOGGERS`. If they change, the server logs a
  traceback for an answer that its deadline has broken off.
"""

from __future__ import annotations

import asyncio
import copy
import gc
from collections.abc import Iterator
from types import AsyncGeneratorType, CodeType, CoroutineType
from typing import Any

import fastapi.routing
from anyio import CapacityLimiter, to_thread
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.errors import ServerErrorMiddleware
from starlette.types import ASGIApp, Scope

__all__ = (
    "SERVER_LOGGERS",
    "cors_inside",
    "error_layer_of",
    "flat_routes",
    "frontend_paths",
    "mounted_root",
    "route_template",
    "through_cors",
    "waits_for_thread",
)

SERVER_LOGGERS = ("uvicorn.error", "hypercorn.error", "gunicorn.error")
"""Each of these servers logs an exception of the application with its traceback."""

_IN_THREAD: CodeType = to_thread.run_sync.__code__
_IN_QUEUE = CapacityLimiter.acquire_on_behalf_of.__name__
_MAX_LAYERS = 64


def waits_for_thread(awaited: object) -> bool:
    """Follow the chain of awaitables that a task waits for, and return whether it ends in a worker thread at work.

    A task in AnyIO's queue for a thread does not count: a request whose client has gone need not begin.
    """
    in_thread = False
    while awaited is not None:
        code = getattr(awaited, "cr_code", None)
        in_thread = in_thread or code is _IN_THREAD
        if in_thread and code is not None and code.co_name == _IN_QUEUE:
            return False
        awaited = _awaited_by(awaited)
    return in_thread


def _awaited_by(awaited: object) -> object:
    if isinstance(awaited, CoroutineType):
        return awaited.cr_await
    if isinstance(awaited, AsyncGeneratorType):
        return awaited.ag_await
    if isinstance(awaited, asyncio.Future):
        return None
    # A step of an async generator (a sync dependency with `yield`) has no attribute for its generator.
    return next((thing for thing in gc.get_referents(awaited) if isinstance(thing, AsyncGeneratorType)), None)


def flat_routes(routes: Any) -> Iterator[tuple[str, Any]]:
    """Yield each route with its path, those of included routers too."""
    flatten = getattr(fastapi.routing, "iter_route_contexts", iter)
    for route in flatten(routes):
        path = getattr(route, "path", None)
        if isinstance(path, str):
            yield path, route


def frontend_paths(app: object) -> list[str]:
    """Return the paths of the frontends of an application (`app.frontend(...)`): files, behind all its routes."""
    groups = getattr(getattr(app, "router", None), "_low_priority_routes", ())
    return [route.path for group in groups for route in getattr(group, "routes", ())]


def route_template(scope: Scope) -> str | None:
    """Return the template of the route that serves a request, below its mounts; None if it has none."""
    included = scope.get("fastapi")
    effective = included.get("effective_route_context") if isinstance(included, dict) else None
    for known in (effective, scope.get("route")):
        path = getattr(known, "path_format", None) or getattr(known, "path", None)
        if isinstance(path, str):
            return path
    return None


def mounted_root(scope: Scope) -> str | None:
    """Return the `root_path` before any mount has added its part, None if no mount has."""
    root: str | None = scope.get("app_root_path")
    return root


def _layers(outermost: object) -> Iterator[object]:
    layer: object = outermost
    for _ in range(_MAX_LAYERS):
        if layer is None:
            return
        yield layer
        layer = getattr(layer, "app", None)


def error_layer_of(app: object) -> ServerErrorMiddleware | None:
    """Return the layer that answers the unhandled errors of a Starlette application."""
    stack = getattr(app, "middleware_stack", None)
    return next((layer for layer in _layers(stack) if isinstance(layer, ServerErrorMiddleware)), None)


def cors_inside(app: ASGIApp) -> CORSMiddleware | None:
    """Return the CORS layer inside of ours, if there is one: our own answers do not pass through it."""
    return next((layer for layer in _layers(app) if isinstance(layer, CORSMiddleware)), None)


def through_cors(cors: CORSMiddleware | None, response: ASGIApp) -> ASGIApp:
    """Return `response` with the headers of the application's own CORS rules: without them a browser hides it."""
    if cors is None:
        return response
    layer = copy.copy(cors)
    layer.app = response
    return layer
