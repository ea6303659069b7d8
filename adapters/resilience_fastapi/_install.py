"""One line for an application that exists."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

from fastapi import FastAPI
from starlette.requests import HTTPConnection

from resilience import Resilience
from resilience.errors import ConfigurationError
from resilience.server import ServerGate
from resilience_fastapi._handlers import add_handlers
from resilience_fastapi._lifespan import Lifespan
from resilience_fastapi._middleware import ResilienceMiddleware

__all__ = ("install",)


def install(
    app: FastAPI, resilience: Resilience | None = None, *, key: Callable[[HTTPConnection], str] | None = None
) -> Resilience:
    """Guard `app` and return the toolkit it is guarded with (by default `Resilience.from_env()`).

    Adds request ids, deadlines, the server's limits, probes, and one shape for errors; routes, middleware, lifespan and
    exception handlers of the application stay as they are and win where both have something to say. `key` computes
    whose quota a request is charged to, where the `rate_limit_key` setting says too little. The toolkit lives as long
    as the application: its start hooks run before the application's own start, and after the application's own stop
    come its stop hooks and its end, also of one that was given.
    A second call does nothing. Raises `ConfigurationError` when the application is already running, was given another
    toolkit before, or is configured badly.
    """
    installed = _installed(app)
    if installed is not None:
        if resilience not in {None, installed}:
            raise ConfigurationError("install(app, resilience): this application already has another Resilience")
        return installed
    if app.middleware_stack is not None:
        raise ConfigurationError("install(app): the application has started; call it where the application is built")
    toolkit = Resilience.of(resilience)
    ServerGate.of(
        toolkit
    )  # what is wrong with the settings is said here; the layer itself is built at the first request
    app.add_middleware(ResilienceMiddleware, resilience=toolkit, key=key, answers_probes=True)
    add_handlers(app)
    app.router.lifespan_context = Lifespan(app.router.lifespan_context, toolkit)
    return toolkit


def _installed(app: FastAPI) -> Resilience | None:
    for layer in app.user_middleware:
        made_by: object = layer.cls
        if made_by is ResilienceMiddleware and layer.kwargs.get("answers_probes"):
            return cast(Resilience, layer.kwargs["resilience"])
    return None
