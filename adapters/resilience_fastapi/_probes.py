"""Health probes: the answer, their routes in an application, and a router for your own paths."""

from __future__ import annotations

from collections.abc import Iterator

from fastapi import APIRouter
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Scope

from resilience import Resilience
from resilience.health import Health
from resilience.server import health_of, is_probe, mark_probe
from resilience_fastapi._framework_internals import flat_routes

__all__ = ("health_router", "probe_response", "routes_of")

_MAX_DEPTH = 8


async def probe_response(health: Health, scope: Scope, path: str) -> Response:
    """Return the answer to the probe at `path`. It never blocks, however long the checks take."""
    reply = await health.ahandle(path, scope.get("query_string", b""), Headers(scope=scope).get("accept"))
    return Response(reply.body, reply.status, reply.headers)


def routes_of(app: object) -> tuple[list[str], list[str]]:
    """Return the paths of an application's routes, and the paths of the probes among them."""
    routes = getattr(app, "routes", ())
    return [path for path, _ in flat_routes(routes)], list(_probes_below("", routes, _MAX_DEPTH))


def _probes_below(prefix: str, routes: object, depth: int) -> Iterator[str]:
    """Yield the paths of probes, in mounted applications too. No path with a parameter: clients can vary it."""
    if depth == 0:  # an application may be mounted below itself
        return
    for path, route in flat_routes(routes):
        if "{" not in path:
            if is_probe(getattr(route, "endpoint", None)):
                yield prefix + path
            yield from _probes_below(prefix + path, getattr(route, "routes", ()), depth - 1)


def health_router(source: Resilience | Health | None = None, prefix: str = "") -> APIRouter:
    """Return a router with `/livez`, `/healthz`, `/readyz`, `/startupz` and `/readyz/<check>` under `prefix`.

    It has `/metrics` as well, if `RESILIENCE_METRICS__ENDPOINT` is set.

    `install(app)` answers the same paths without it. All endpoints are coroutine functions, so they answer while every
    worker thread is busy. None of them is in the OpenAPI schema.

    Wherever you include the router, in a mounted application too, probes are never limited, refused, timed or counted
    as in flight. This does not hold under a prefix or mount with a parameter, or on a host of its own.

    Args:
        source: A toolkit or a `Health` with the checks; None for `Resilience.from_env()`.
        prefix: The beginning of all paths, such as "/internal".
    """
    health = health_of(Resilience.from_env() if source is None else source)
    router = APIRouter(prefix=prefix, include_in_schema=False)
    for path in health.paths:
        _add(router, health, path)
    return router


def _add(router: APIRouter, health: Health, path: str) -> None:
    async def probe(request: Request) -> Response:
        return await probe_response(health, request.scope, path)

    async def check(request: Request) -> Response:
        return await probe_response(health, request.scope, f"{path}/{request.path_params['check']}")

    router.add_api_route(path, mark_probe(probe), methods=["GET", "HEAD"])
    router.add_api_route(f"{path}/{{check}}", check, methods=["GET", "HEAD"])
