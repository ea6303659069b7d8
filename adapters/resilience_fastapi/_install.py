"""Everything for an existing application, in one call."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

from fastapi import APIRouter, FastAPI
from starlette.applications import Starlette
from starlette.requests import HTTPConnection

from resilience import Resilience
from resilience.errors import ConfigurationError, Problem
from resilience.server import ServerGate, checked_key
from resilience_fastapi._errors import ErrorHandlers
from resilience_fastapi._lifespan import Lifespan
from resilience_fastapi._middleware import ResilienceMiddleware

__all__ = ("install",)


def install(
    app: FastAPI, resilience: Resilience | None = None, *, key: Callable[[HTTPConnection], str | None] | None = None
) -> Resilience:
    """Guard `app`, and return the toolkit that guards it. A second call does nothing.

    Adds request ids, deadlines, the limits of the server, probes, and one shape for errors. Routes, middleware,
    lifespan and exception handlers of the application stay as they are. If a handler or route of the application and
    one of ours apply, the application's wins.

    The toolkit lives as long as the application, also one that you give: its start hooks run before the application's
    own start. After the application's own stop its stop hooks run, and it is closed.

    Args:
        app: The application, before it has served a request.
        resilience: The toolkit; None for `Resilience.from_env()`.
        key: A function of the connection that returns the key a request is charged under, in place of the setting
            `rate_limit_key`. If it returns None or "", the setting decides.

    Raises:
        ConfigurationError: The application has started, has another toolkit already, or is configured badly; or `key`
            is no function, or a coroutine function.
    """
    given: object = app
    if not isinstance(given, FastAPI):
        raise ConfigurationError([Problem("app", given, "a FastAPI application", _instead(given))])
    installed = _installed(app)
    if installed is not None:
        if resilience not in {None, installed}:
            raise ConfigurationError("install(app, resilience): this application already has another Resilience")
        return installed
    if app.middleware_stack is not None:
        raise ConfigurationError("install(app): the application has started; call it where the application is built")
    toolkit = Resilience.of(resilience)
    checked_key(key)
    ServerGate.of(toolkit)  # raises for a bad setting now: Starlette builds the layer at the first request
    app.add_middleware(ResilienceMiddleware, resilience=toolkit, key=key, answers_probes=True)
    ErrorHandlers(app, toolkit).register()
    app.router.lifespan_context = Lifespan(app.router.lifespan_context, toolkit)
    return toolkit


def _instead(given: object) -> str:
    """Return the line that was probably meant."""
    if isinstance(given, APIRouter):
        return "guard the application that includes the router: install(app)"
    if isinstance(given, type):
        return f"give an instance: install({given.__name__}())"
    if isinstance(given, Resilience):
        return "the application comes first: install(app, resilience)"
    if isinstance(given, Starlette):
        return "for Starlette, write app.add_middleware(ResilienceMiddleware)"
    return "for Flask, write FlaskResilience(app)" if hasattr(given, "wsgi_app") else ""


def _installed(app: FastAPI) -> Resilience | None:
    for layer in app.user_middleware:
        made_by: object = layer.cls
        if made_by is ResilienceMiddleware and layer.kwargs.get("answers_probes"):
            return cast(Resilience, layer.kwargs["resilience"])
    return None
