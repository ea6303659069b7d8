"""One line for an application that exists."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any
from weakref import WeakSet

from flask import Flask, current_app

from resilience import Resilience
from resilience.errors import ConfigurationError
from resilience.health import HealthServer
from resilience.options import Secret
from resilience_flask._handlers import add_handlers
from resilience_flask._layer import Layer
from resilience_flask._log import OneLine

__all__ = ("FlaskResilience",)

_NAME, _PREFIX = "resilience", "RESILIENCE_"


class FlaskResilience:
    """Guards Flask applications: request ids, the server's limits, deadlines, probes, and one shape for errors.

    `FlaskResilience(app)`, or `FlaskResilience()` and `init_app(app)` where applications are made by a factory; one
    object may serve several. Without a `resilience` each application gets `Resilience.from_env()`, with `RESILIENCE_*`
    of its `config` below the environment. `key` is a function without parameters, called in the request, that computes
    whose quota is charged, where the `rate_limit_key` setting says too little. `app.extensions["resilience"]` is the
    toolkit. Raises `ConfigurationError` as `init_app` does.
    """

    def __init__(
        self, app: Flask | None = None, resilience: Resilience | None = None, *, key: Callable[[], str] | None = None
    ) -> None:
        self._given = None if resilience is None else Resilience.of(resilience)
        self._key = key
        self._layers: WeakSet[Layer] = WeakSet()
        if app is not None:
            self.init_app(app)

    @property
    def resilience(self) -> Resilience:
        """The toolkit it was given, else that of the application being served."""
        if self._given is not None:
            return self._given
        toolkit: Resilience = current_app.extensions[_NAME]
        return toolkit

    def init_app(self, app: Flask) -> None:
        """Guard `app`: views, hooks, middleware and error handlers of its own stay as they are, and win.

        A second call does nothing. Raises `ConfigurationError` when the application has served a request already, was
        given another toolkit before, or is configured badly; it is unchanged then.
        """
        known = app.extensions.get(_NAME)
        if known is not None:
            if self._given not in {None, known}:
                raise ConfigurationError("init_app(app): this application already has another Resilience")
            return
        layer = Layer(app, self._given or Resilience.from_env(_environment(app.config)), self._key)
        try:
            app.before_request(layer.admit)
        except AssertionError:
            reason = "the application has served a request; call it where the application is built"
            raise ConfigurationError(f"init_app(app): {reason}") from None
        add_handlers(app)
        # By its name: `app.logger` would set up logging before the application may have done so.
        logging.getLogger(app.name).addFilter(OneLine())
        app.wsgi_app = layer  # type: ignore[method-assign]  # as Flask's documentation puts middleware in
        app.extensions[_NAME] = layer.resilience
        self._layers.add(layer)
        layer.attend()

    def serve_health(self, port: int, host: str = "127.0.0.1", *, app: Flask | None = None) -> HealthServer:
        """Answer the probes on a port of their own as well, which no busy worker thread keeps from answering.

        Call it once, after `init_app`, in the process that serves or in one that will fork it. Of several workers one
        has the port, and another takes it over when that one ends. Port 0 takes any free port. `app` says whose probes,
        where this object guards several. Raises `ConfigurationError` for an address nobody can listen on.
        """
        layer = self._layer_of(app)
        health, lifecycle = layer.resilience.health, layer.resilience.lifecycle
        return HealthServer(
            health, port, host, before=lifecycle.started_if_no_hooks, serves=lambda: layer.is_acquainted
        )

    def _layer_of(self, app: Flask | None) -> Layer:
        wrapped = [layer for layer in self._layers if app is None or layer.app is app]
        if len(wrapped) != 1:
            raise ConfigurationError("serve_health(app=...): name an application this FlaskResilience guards")
        return wrapped[0]


def _environment(config: Mapping[str, Any]) -> dict[str, str]:
    """Return the variables of the process, and below them what the application's own configuration sets.

    Only those with our prefix, and as secrets: an error tracker that reports a mistake in them shows the others too.
    """
    own = {name: _text(value) for name, value in config.items() if name.startswith(_PREFIX) and value is not None}
    set_outside = {name: text for name, text in os.environ.items() if name.upper().startswith(_PREFIX)}
    found = {**own, **{name: text for name, text in set_outside.items() if text or name not in own}}
    return {name: Secret(text) for name, text in found.items()}


def _text(value: Any) -> str:
    """Return a value of Python code as a variable has it."""
    if isinstance(value, timedelta):
        return str(value.total_seconds())
    return json.dumps(value) if isinstance(value, list | tuple) else str(value)
