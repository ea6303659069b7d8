"""Everything for an existing application, in one line."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Mapping
from datetime import timedelta
from weakref import WeakSet

from flask import Blueprint, Flask, current_app

from resilience import Resilience
from resilience.errors import ConfigurationError, Problem
from resilience.health import HealthServer
from resilience.options import Secret
from resilience.server import checked_key
from resilience_flask._errors import add_handlers
from resilience_flask._flask_internals import OneLine
from resilience_flask._middleware import FlaskMiddleware

__all__ = ("FlaskResilience",)

_NAME, _PREFIX = "resilience", "RESILIENCE_"


class FlaskResilience:
    """Guards Flask applications: request ids, the server's limits, deadlines, probes, and one shape for errors.

    Use `FlaskResilience(app)`; or `FlaskResilience()` and `init_app(app)` if a factory makes the application. One
    object may guard several applications. The toolkit of an application is `app.extensions["resilience"]`.

    Args:
        app: The application to guard; None to call `init_app` later.
        resilience: The toolkit. None for `Resilience.from_env()`, one for each application, with the `RESILIENCE_*`
            values of its `config` below the environment.
        key: A function without parameters, called in the request, that returns the key a request is charged under, in
            place of the setting `rate_limit_key`. If it returns None or "", the setting decides.

    Raises:
        ConfigurationError: `key` is no function, or a coroutine function; see also `init_app`.
    """

    def __init__(
        self,
        app: Flask | None = None,
        resilience: Resilience | None = None,
        *,
        key: Callable[[], str | None] | None = None,
    ) -> None:
        self._given = None if resilience is None else Resilience.of(resilience)
        self._key = checked_key(key)
        self._guards: WeakSet[FlaskMiddleware] = WeakSet()
        if app is not None:
            self.init_app(app)

    @property
    def resilience(self) -> Resilience:
        """The toolkit that was given, else that of the application that serves the current request."""
        if self._given is not None:
            return self._given
        toolkit: Resilience = current_app.extensions[_NAME]
        return toolkit

    def init_app(self, app: Flask) -> None:
        """Guard `app`. A second call does nothing.

        Views, hooks, middleware and error handlers of the application stay as they are. If a handler of the application
        and one of ours apply, the application's wins.

        Raises:
            ConfigurationError: The application has served a request, has another toolkit already, or is configured
                badly. It is unchanged then.
        """
        given: object = app
        if not isinstance(given, Flask):
            raise ConfigurationError([Problem("app", given, "a Flask application", _instead(given))])
        known = app.extensions.get(_NAME)
        if known is not None:
            if self._given not in {None, known}:
                raise ConfigurationError("init_app(app): this application already has another Resilience")
            return
        middleware = FlaskMiddleware(app, self._given or Resilience.from_env(_environment(app.config)), self._key)
        try:
            app.before_request(middleware.admit)
        except AssertionError:
            reason = "the application has served a request; call it where the application is built"
            raise ConfigurationError(f"init_app(app): {reason}") from None
        add_handlers(app, middleware.resilience)
        # By its name: `app.logger` would configure logging, perhaps before the application does.
        logging.getLogger(app.name).addFilter(OneLine())
        app.wsgi_app = middleware  # type: ignore[method-assign]  # as Flask's documentation puts middleware in
        app.extensions[_NAME] = middleware.resilience
        self._guards.add(middleware)
        middleware.watch_process()

    def serve_health(self, port: int, host: str = "127.0.0.1", *, app: Flask | None = None) -> HealthServer:
        """Answer the probes on a port of their own as well: they answer while every worker thread is busy.

        Call it once, after `init_app`, in the process that serves or in a process that will fork it. One of several
        workers has the port. When that worker ends, another takes the port over.

        Args:
            port: The port, 0 for any free port.
            host: The address to listen on.
            app: The application whose probes are answered; needed if this object guards several.

        Raises:
            ConfigurationError: The address cannot be used.
        """
        middleware = self._middleware_of(app)
        health, lifecycle = middleware.resilience.health, middleware.resilience.lifecycle
        return HealthServer(
            health, port, host, before=lifecycle.server.started_if_no_hooks, serves=lambda: middleware.has_served
        )

    def _middleware_of(self, app: Flask | None) -> FlaskMiddleware:
        wrapped = [middleware for middleware in self._guards if app is None or middleware.app is app]
        if len(wrapped) != 1:
            raise ConfigurationError("serve_health(app=...): name an application this FlaskResilience guards")
        return wrapped[0]


def _instead(given: object) -> str:
    """Return the line that was probably meant."""
    if isinstance(given, Blueprint):
        return "guard the application that registers the blueprint: FlaskResilience(app)"
    if isinstance(given, type):
        return f"give an instance: FlaskResilience({given.__name__}(__name__))"
    if isinstance(given, Resilience):
        return "the application comes first: FlaskResilience(app, resilience)"
    return "for FastAPI, write install(app)" if hasattr(given, "add_middleware") else ""


def _environment(config: Mapping[str, object]) -> dict[str, str]:
    """Return the variables of the process, and below them the values of the application's own configuration.

    Only names with our prefix, and all values as secrets: the report of one mistake may show the other values too.
    """
    own = {name: _text(value) for name, value in config.items() if name.startswith(_PREFIX) and value is not None}
    set_outside = {name: text for name, text in os.environ.items() if name.upper().startswith(_PREFIX)}
    found = {**own, **{name: text for name, text in set_outside.items() if text or name not in own}}
    return {name: Secret(text) for name, text in found.items()}


def _text(value: object) -> str:
    """Return a Python value as the text of a variable."""
    if isinstance(value, timedelta):
        return str(value.total_seconds())
    return json.dumps(value) if isinstance(value, list | tuple) else str(value)
