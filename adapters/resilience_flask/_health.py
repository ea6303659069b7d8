"""Probes as a blueprint, for those who want to place them."""

from __future__ import annotations

from flask import Blueprint, Response, current_app, request

from resilience import Resilience
from resilience.errors import ConfigurationError
from resilience.health import PROBE_PATHS, Health
from resilience_flask._probes import IS_PROBE

__all__ = ("health_blueprint",)


def health_blueprint(
    source: Resilience | Health | None = None, *, url_prefix: str | None = None, name: str = "resilience_health"
) -> Blueprint:
    """Return a blueprint with `/livez`, `/healthz`, `/readyz`, `/startupz` and `/readyz/<check>` under `url_prefix`.

    `FlaskResilience(app)` answers the same paths without it. `source` says whose checks; by default those of the
    application it is registered on. Wherever they are placed, probes are never limited, refused or timed.
    """
    blueprint = Blueprint(name, __name__, url_prefix=url_prefix)
    known = None if source is None else _health_of(source)
    for path in PROBE_PATHS:
        _add(blueprint, path, known)
    return blueprint


def _health_of(source: Resilience | Health) -> Health:
    if isinstance(source, Health):
        return source
    source.health.attach(source.lifecycle)
    return source.health


def _of_application() -> Health:
    toolkit = current_app.extensions.get("resilience")
    if toolkit is None:
        raise ConfigurationError("health_blueprint() speaks for FlaskResilience(app); without one, name a Resilience")
    return _health_of(toolkit)


def _add(blueprint: Blueprint, endpoint: str, known: Health | None) -> None:
    def probe(check: str | None = None) -> Response:
        path = endpoint if check is None else f"{endpoint}/{check}"
        health = _of_application() if known is None else known
        reply = health.handle(path, request.query_string, request.headers.get("Accept"))
        return Response(reply.body, reply.status, reply.headers)

    setattr(probe, IS_PROBE, True)
    name = endpoint.strip("/")
    blueprint.add_url_rule(endpoint, name, probe)
    blueprint.add_url_rule(f"{endpoint}/<check>", f"{name}_check", probe)
