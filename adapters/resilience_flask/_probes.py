"""Health probes: the answer, their routes in an application, and a blueprint for your own paths."""

from __future__ import annotations

from collections.abc import Iterable
from http import HTTPStatus
from typing import TYPE_CHECKING

from flask import Blueprint, Flask, Response, current_app, request

from resilience import Resilience
from resilience.errors import ConfigurationError
from resilience.health import PROBE_PATHS, Health
from resilience.server import health_of, is_probe, mark_probe

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

__all__ = ("answer_probe", "health_blueprint", "routes_of")


def answer_probe(health: Health, environ: WSGIEnvironment, path: str, start: StartResponse) -> Iterable[bytes]:
    """Answer the probe at `path`. It blocks no longer than the checks may take."""
    reply = health.handle(path, environ.get("QUERY_STRING", ""), environ.get("HTTP_ACCEPT"))
    start(f"{reply.status} {HTTPStatus(reply.status).phrase}", list(reply.headers.items()))
    return () if environ["REQUEST_METHOD"] == "HEAD" else (reply.body,)


def routes_of(app: Flask) -> tuple[list[str], list[str]]:
    """Return the paths of an application's routes, and the paths of the probes among them."""
    rules = [(rule.rule, app.view_functions.get(rule.endpoint)) for rule in app.url_map.iter_rules()]
    return [path for path, _ in rules], [path for path, view in rules if is_probe(view) and "<" not in path]


def health_blueprint(
    source: Resilience | Health | None = None, *, url_prefix: str | None = None, name: str = "resilience_health"
) -> Blueprint:
    """Return a blueprint with `/livez`, `/healthz`, `/readyz`, `/startupz` and `/readyz/<check>` under `url_prefix`.

    `FlaskResilience(app)` answers the same paths without it. Wherever you register the blueprint, probes are never
    limited, refused or timed.

    Args:
        source: A toolkit or a `Health` with the checks, and with `/metrics` if `RESILIENCE_METRICS__ENDPOINT` is set;
            None for the probes of the toolkit of the application.
        url_prefix: The beginning of all paths, such as "/internal".
        name: The name of the blueprint.
    """
    blueprint = Blueprint(name, __name__, url_prefix=url_prefix)
    known = None if source is None else health_of(source)
    for path in PROBE_PATHS if known is None else known.paths:
        _add(blueprint, path, known)
    return blueprint


def _add(blueprint: Blueprint, path: str, known: Health | None) -> None:
    @mark_probe
    def probe(check: str | None = None) -> Response:
        health = _health_of_app() if known is None else known
        wanted = path if check is None else f"{path}/{check}"
        reply = health.handle(wanted, request.query_string, request.headers.get("Accept"))
        return Response(reply.body, reply.status, reply.headers)

    name = path.strip("/")
    blueprint.add_url_rule(path, name, probe)
    blueprint.add_url_rule(f"{path}/<check>", f"{name}_check", probe)


def _health_of_app() -> Health:
    toolkit: Resilience | None = current_app.extensions.get("resilience")
    if toolkit is None:
        raise ConfigurationError("health_blueprint() needs FlaskResilience(app), or a Resilience as its argument")
    return health_of(toolkit)
