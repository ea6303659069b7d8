"""Probes, answered before any other layer: no authentication, no catch-all route and no busy thread is in their way."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import fastapi.routing
from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import Scope

from resilience.health import Health

__all__ = ("PROBE_PATHS", "Probes")

PROBE_PATHS = ("/livez", "/healthz", "/readyz", "/startupz")


class Probes:
    """Answers the probe paths, save those the application has a route of its own for."""

    __slots__ = ("_health",)

    def __init__(self, health: Health) -> None:
        self._health = health

    def are_asked(self, scope: Scope, path: str) -> bool:
        """Whether this request is a probe of ours."""
        if not path.startswith(PROBE_PATHS) or scope["method"] not in {"GET", "HEAD"}:
            return False
        endpoint = f"/{path.split('/', 2)[1]}"
        return endpoint in PROBE_PATHS and endpoint not in _paths(scope.get("app"))

    async def response(self, scope: Scope, path: str) -> Response:
        """Return the answer."""
        return await reply(self._health, scope, path)


async def reply(health: Health, scope: Scope, path: str) -> Response:
    """Ask `health`; nothing in here blocks, whatever the checks do."""
    answer = await health.ahandle(path, scope.get("query_string", b""), Headers(scope=scope).get("accept"))
    return Response(answer.body, answer.status, answer.headers)


def _paths(app: Any) -> Iterator[str]:
    """Yield the paths of the application's routes; those of included routers are flat only in older versions."""
    routes = getattr(app, "routes", ())
    flatten = getattr(fastapi.routing, "iter_route_contexts", iter)
    for route in flatten(routes):
        path = getattr(route, "path", None)
        if isinstance(path, str):
            yield path
