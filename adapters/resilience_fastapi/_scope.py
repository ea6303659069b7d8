"""The facts of an ASGI scope: the path, the user, the template of the route, and whether a route serves it.

By default the limit of the server counts neither static files nor paths without a route (404). Only the router knows
which they are, and to match every request twice would cost as much as the layer itself. So a request below a mount of
static files is matched before it is charged, a request that the limit refuses before it is refused, and a 404 is paid
back. All other requests are not matched (`ServedRoutes`).
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Mapping
from typing import Any, TypeAlias

from starlette.routing import BaseRoute, Match, Mount
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

from resilience_fastapi._framework_internals import flat_routes, frontend_paths, mounted_root, route_template

__all__ = ("ServedRoutes", "path_of", "template_of", "user_of")

_MOUNTS = "_resilience_mounts"
_METHODS = frozenset({"GET", "HEAD"})
_MAX_CACHED_PATH = 256

_Key: TypeAlias = tuple[str, str, str]
"""Method, path and root path of a request."""


def path_of(scope: Scope) -> str:
    """Return the path as the application's routes have it: without the part of a proxy in front, or of a mount."""
    path: str = scope["path"]
    root: str = scope.get("root_path", "")
    if root and path.startswith(root) and path[len(root) : len(root) + 1] in {"", "/"}:
        return path[len(root) :]
    return path


def user_of(scope: Scope) -> str | None:
    """Return the user that Starlette's authentication has found, if it ran outside of this layer."""
    user = scope.get("user")
    if user is None or not getattr(user, "is_authenticated", False):
        return None
    try:
        return str(user.identity)
    except (AttributeError, NotImplementedError):  # `identity` is optional in BaseUser
        return str(user.display_name)


def template_of(scope: Scope) -> str:
    """Return the whole path template of the route that serves this request, such as `/api/items/{item_id}`.

    Never the path itself, nor a `root_path` with the value of a mount's parameter: clients can vary both. A route that
    has no template counts under the name of its endpoint.
    """
    template = route_template(scope)
    if template is not None:
        return _mounts_of(scope) + template
    endpoint = scope.get("endpoint")
    return f"{getattr(endpoint, '__module__', '')}.{getattr(endpoint, '__qualname__', 'unknown')}"


def _mounts_of(scope: Scope) -> str:
    """Return the templates of the mounts that this request came through: the scope has their texts alone."""
    before = mounted_root(scope)
    if before is None:  # the root path is that of a server or proxy
        return ""
    path = path_of({"path": scope["path"], "root_path": before})
    return Mounts.of(scope.get("router")).template_of(path, len(scope["root_path"]) - len(before))


class Mounts:
    """The mounts among some routes, found when the first request has come through a mount."""

    def __init__(self, routes: object) -> None:
        self._routes = routes

    @classmethod
    def of(cls, router: object) -> Mounts:
        """Return the mounts of a router, which keeps them: to walk over hundreds of routes takes milliseconds."""
        known: Mounts | None = getattr(router, _MOUNTS, None)
        if known is None:
            known = cls(getattr(router, "routes", ()))
            if router is not None:
                setattr(router, _MOUNTS, known)
        return known

    @functools.cached_property
    def _found(self) -> list[tuple[str, re.Pattern[str], Mounts]]:
        mounts = [(path, route) for path, route in flat_routes(self._routes) if hasattr(route, "routes")]
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


class ServedRoutes:
    """The routes of one application, and its mounts of static files.

    Args:
        app: The application. If it has no routes, every request counts as served.
    """

    def __init__(self, app: object) -> None:
        self._routes: Iterable[BaseRoute] | None = getattr(app, "routes", None)
        mounts = [*_static_mounts(self._routes or ()), *frontend_paths(app)]
        self.static_paths = tuple(path.rstrip("/") for path in mounts)
        """The beginnings of all paths of static files; "" if they are mounted at the root. A route may have one too."""
        self._known = functools.lru_cache(maxsize=1024)(self._matches)

    def serve(self, scope: Scope) -> bool:
        """Return whether a route serves the request, and no mount of static files."""
        before = mounted_root(scope)
        key = scope["method"], scope["path"], scope.get("root_path", "") if before is None else before
        return self._known(key) if len(key[1]) <= _MAX_CACHED_PATH else self._matches(key)

    def serve_file(self, scope: Scope) -> bool:
        """Return whether a mount of static files serves a request whose path begins like that of a mount."""
        return scope["method"] in _METHODS and not self.serve(scope)

    def _matches(self, key: _Key) -> bool:
        if self._routes is None:
            return True
        method, path, root = key
        # A scope without the traces of the routing that has taken place: a route must not see them.
        return _is_routed(self._routes, {"type": "http", "method": method, "path": path, "root_path": root})


def _static_mounts(routes: Iterable[BaseRoute]) -> list[str]:
    """Return the templates of all mounts of static files, up to their first parameter."""
    found = []
    for route in routes:
        if isinstance(route, Mount):
            below = [""] if isinstance(route.app, StaticFiles) else _static_mounts(route.routes)
            found += [(route.path + path).partition("{")[0] for path in below]
    return found


def _is_routed(routes: Iterable[BaseRoute], scope: Mapping[str, Any]) -> bool:
    """Return whether one of `routes` takes a request, as the router of Starlette decides: the first one, or a 405."""
    is_partly = False
    for route in routes:
        match, child = route.matches(dict(scope))
        if match is Match.FULL:
            if not isinstance(route, Mount):
                return True
            if isinstance(route.app, StaticFiles):
                return False
            return _is_routed(route.routes, {**scope, **child}) if route.routes else True
        is_partly = is_partly or match is Match.PARTIAL
    return is_partly
