"""What an ASGI scope says, and what it says badly."""

from __future__ import annotations

from typing import Any

from starlette.types import Scope

from resilience_fastapi._routes import Mounts

__all__ = ("path_of", "template_of", "user_of")


def path_of(scope: Scope) -> str:
    """Return the path as the application's routes know it: without what a proxy in front or a mount has taken off."""
    path: str = scope["path"]
    root: str = scope.get("root_path", "")
    if root and path.startswith(root) and path[len(root) : len(root) + 1] in {"", "/"}:
        return path[len(root) :]
    return path


def user_of(scope: Scope) -> str | None:
    """Return who Starlette's authentication found, if it ran before us and found anybody."""
    user: Any = scope.get("user")
    if user is None or not getattr(user, "is_authenticated", False):
        return None
    try:
        return str(user.identity)
    except (AttributeError, NotImplementedError):  # `identity` is optional in BaseUser
        return str(user.display_name)


def template_of(scope: Scope) -> str:
    """Return the whole path template of the route that serves this request, such as `/api/items/{item_id}`.

    The route itself knows only its own part of it, and a router may be included several times; how FastAPI keeps the
    rest is not documented, so without it the endpoint's name stands in. Never the path: that is the client's to vary,
    and so is `root_path`, where it says what the parameter of a mount was.
    """
    route = scope.get("route")
    included = scope.get("fastapi")
    effective = included.get("effective_route_context") if isinstance(included, dict) else None
    for known in (effective, route):
        path = getattr(known, "path_format", None) or getattr(known, "path", None)
        if isinstance(path, str):
            return _mounts_of(scope) + path
    endpoint: Any = scope.get("endpoint")
    return f"{getattr(endpoint, '__module__', '')}.{getattr(endpoint, '__qualname__', 'unknown')}"


def _mounts_of(scope: Scope) -> str:
    """Return the templates of the mounts this request came through: the scope tells their text alone, so look again."""
    before = scope.get("app_root_path")
    if before is None:  # what a server or a proxy put before the path is not ours
        return ""
    path = path_of({"path": scope["path"], "root_path": before})
    return Mounts.of(scope.get("router")).template_of(path, len(scope["root_path"]) - len(before))
