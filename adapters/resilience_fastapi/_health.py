"""Probes as a router, for those who want to place them."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from resilience import Resilience
from resilience.health import PROBE_PATHS, Health
from resilience_fastapi._probes import IS_PROBE, reply

__all__ = ("health_router",)


def health_router(source: Resilience | Health | None = None, prefix: str = "") -> APIRouter:
    """Return a router with `/livez`, `/healthz`, `/readyz`, `/startupz` and `/readyz/<check>` under `prefix`.

    `install(app)` answers the same paths without it. `source` says whose checks; by default `Resilience.from_env()`.
    All of it is `async def`, so it answers while every worker thread is busy, and none of it is in the OpenAPI schema.
    Wherever it is included, in a mounted application too, probes are never limited, refused, timed or counted as under
    way; not so under a prefix or mount that has a parameter, or on a host of its own.
    """
    health = _health_of(Resilience.from_env() if source is None else source)
    router = APIRouter(prefix=prefix, include_in_schema=False)
    for path in PROBE_PATHS:
        _add(router, health, path)
    return router


def _health_of(source: Resilience | Health) -> Health:
    if isinstance(source, Health):
        return source
    source.health.attach(source.lifecycle)
    return source.health


def _add(router: APIRouter, health: Health, endpoint: str) -> None:
    async def probe(request: Request) -> Response:
        return await reply(health, request.scope, endpoint)

    async def check(request: Request) -> Response:
        return await reply(health, request.scope, f"{endpoint}/{request.path_params['check']}")

    setattr(probe, IS_PROBE, True)
    router.add_api_route(endpoint, probe, methods=["GET", "HEAD"])
    router.add_api_route(f"{endpoint}/{{check}}", check, methods=["GET", "HEAD"])
