"""Probes, answered before any other layer: no authentication, no catch-all route and no busy thread is in their way."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import Scope

from resilience.health import PROBE_PATHS, Health
from resilience_fastapi._routes import flat

__all__ = ("IS_PROBE", "Probes", "reply")

IS_PROBE = "_resilience_is_probe"
"""Marks the endpoints of `health_router`."""
_DEEPEST = 8


class Probes:
    """Answers the probe paths, save those the application has a route of its own for, and knows where else they are."""

    __slots__ = ("_answered", "_health", "_routed", "paths")

    def __init__(self, health: Health, *, answers: bool) -> None:
        self._health = health
        self._answered = frozenset(PROBE_PATHS if answers else ())
        self._routed: frozenset[str] = frozenset()
        self.paths = tuple(self._answered)
        """What every probe's path begins with: on all others no more time is spent."""

    def find_routes(self, app: Any) -> None:
        """Look for routes of the probes' paths, and for probes under other paths (`health_router`)."""
        routes = getattr(app, "routes", ())
        self._answered = self._answered.difference(path for path, _ in flat(routes))
        self._routed = frozenset(_probes_below("", routes, _DEEPEST))
        self.paths = (*self._answered, *self._routed)

    def are_asked(self, scope: Scope, path: str) -> bool:
        """Whether this request is a probe for us to answer."""
        return _is_read(scope) and f"/{path.split('/', 2)[1]}" in self._answered

    def are_routed(self, scope: Scope, path: str) -> bool:
        """Whether this request is a probe that the application routes: itself, or one check of it."""
        return _is_read(scope) and (path in self._routed or path.rpartition("/")[0] in self._routed)

    async def response(self, scope: Scope, path: str) -> Response:
        """Return the answer."""
        return await reply(self._health, scope, path)


async def reply(health: Health, scope: Scope, path: str) -> Response:
    """Ask `health`; nothing in here blocks, whatever the checks do."""
    answer = await health.ahandle(path, scope.get("query_string", b""), Headers(scope=scope).get("accept"))
    return Response(answer.body, answer.status, answer.headers)


def _is_read(scope: Scope) -> bool:
    return scope.get("method") in {"GET", "HEAD"}  # a websocket has none


def _probes_below(prefix: str, routes: Any, levels: int) -> Iterator[str]:
    """Yield the paths of probes, in mounted applications too; none that a client could vary."""
    if levels == 0:  # an application may be mounted below itself
        return
    for path, route in flat(routes):
        if "{" not in path:
            if hasattr(getattr(route, "endpoint", None), IS_PROBE):
                yield prefix + path
            yield from _probes_below(prefix + path, getattr(route, "routes", ()), levels - 1)
