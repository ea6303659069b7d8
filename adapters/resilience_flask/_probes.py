"""Probes, answered before any other layer: no authentication and no catch-all route is in their way."""

from __future__ import annotations

from collections.abc import Iterable
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from flask import Flask

from resilience import Resilience
from resilience.health import PROBE_PATHS

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment

__all__ = ("IS_PROBE", "Probes")

IS_PROBE = "_resilience_is_probe"
"""Marks the views of `health_blueprint`."""


class Probes:
    """Answers the probe paths, save those the application has a route of its own for, and knows where else they are."""

    __slots__ = ("_answered", "_health", "_routed")

    def __init__(self, resilience: Resilience) -> None:
        self._health = resilience.health
        self._answered: tuple[str, ...] = PROBE_PATHS
        self._routed: tuple[str, ...] = ()

    def find_routes(self, app: Flask) -> None:
        """Look for routes of the probes' paths, and for probes under other paths (`health_blueprint`)."""
        rules = [(rule.rule, app.view_functions.get(rule.endpoint)) for rule in app.url_map.iter_rules()]
        self._routed = tuple({path for path, view in rules if hasattr(view, IS_PROBE) and "<" not in path})
        taken = {path for path, _ in rules}
        self._answered = tuple(path for path in PROBE_PATHS if path not in taken)

    def are_asked(self, method: str, path: str) -> bool:
        """Whether this request is a probe for us to answer."""
        return path.startswith(self._answered) and _is_below(path, self._answered) and method in {"GET", "HEAD"}

    def are_routed(self, path: str) -> bool:
        """Whether this request is a probe that Flask routes: itself, or one check of it."""
        return path.startswith(self._routed) and (path in self._routed or path.rpartition("/")[0] in self._routed)

    def answer(self, environ: WSGIEnvironment, path: str, start: Any) -> Iterable[bytes]:
        """Answer; blocks no longer than the checks may take."""
        reply = self._health.handle(path, environ.get("QUERY_STRING", ""), environ.get("HTTP_ACCEPT"))
        start(f"{reply.status} {HTTPStatus(reply.status).phrase}", list(reply.headers.items()))
        return () if environ["REQUEST_METHOD"] == "HEAD" else (reply.body,)


def _is_below(path: str, known: tuple[str, ...]) -> bool:
    return any(path == each or path.startswith(f"{each}/") for each in known)
