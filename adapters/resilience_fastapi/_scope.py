"""The facts of an ASGI scope: the path, the user, and the template of the route."""

from __future__ import annotations

import functools
import re

from starlette.types import Scope

from resilience_fastapi._framework_internals import flat_routes, mounted_root, route_template

__all__ = ("path_of", "template_of", "user_of")

_MOUNTS = "_resilience_mounts"


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
