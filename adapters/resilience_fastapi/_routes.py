"""The routes of an application, whatever they are kept in."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from typing import Any

import fastapi.routing

__all__ = ("Mounts", "flat")

_MOUNTS = "_resilience_mounts"


def flat(routes: Any) -> Iterator[tuple[str, Any]]:
    """Yield each route with its path; those of included routers are flat only in older versions."""
    flatten = getattr(fastapi.routing, "iter_route_contexts", iter)
    for route in flatten(routes):
        path = getattr(route, "path", None)
        if isinstance(path, str):
            yield path, route


class Mounts:
    """The mounts among some routes: looked for once, when a request has come through one."""

    def __init__(self, routes: Any) -> None:
        self._routes = routes

    @classmethod
    def of(cls, router: Any) -> Mounts:
        """Return the mounts of a router, which keeps them: a walk over hundreds of routes takes milliseconds."""
        known: Mounts | None = getattr(router, _MOUNTS, None)
        if known is None:
            known = cls(getattr(router, "routes", ()))
            if router is not None:
                setattr(router, _MOUNTS, known)
        return known

    @functools.cached_property
    def _found(self) -> list[tuple[str, re.Pattern[str], Mounts]]:
        mounts = [(path, route) for path, route in flat(self._routes) if hasattr(route, "routes")]
        return [(path, route.path_regex, Mounts(route.routes)) for path, route in mounts]

    def template_of(self, path: str, length: int) -> str:
        """Return the templates of the mounts that took the first `length` characters of `path`."""
        if length > 0:
            for template, pattern, below in self._found:
                match = pattern.match(path)
                if match is not None:
                    rest = f"/{match['path']}"
                    return template + below.template_of(rest, length - len(path) + len(rest))
        return ""
