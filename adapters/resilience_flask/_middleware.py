"""The layer around an application: WSGI for the whole answer, and one hook of Flask for the route."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from flask import Flask, request
from werkzeug.datastructures import EnvironHeaders

from resilience import Resilience
from resilience.errors import DeadlineExceededError, RejectedError
from resilience.server import PROBE_METHODS, ProbePaths, RequestContext, ServerGate, is_preflight
from resilience_flask._errors import CONTEXT, path_of
from resilience_flask._exchange import WSGIExchange
from resilience_flask._limit import is_exempt, is_not_found, is_static
from resilience_flask._probes import answer_probe, routes_of

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

__all__ = ("FlaskMiddleware",)

_FOR_HOOK = "resilience.for_hook"
"""The key in the environ under which the hook finds its task: a refusal to raise, or a quota to charge."""


class FlaskMiddleware:
    """Identifies, admits and counts every request, until its answer is complete."""

    def __init__(self, app: Flask, resilience: Resilience, key: Callable[[], str | None] | None) -> None:
        self._gate = gate = ServerGate.of(resilience, key=None if key is None else lambda _: key())
        self.resilience = resilience
        self.app = app
        self._inner: WSGIApplication = app.wsgi_app
        self._wanted = tuple((_environ_key(name), name) for name in gate.wanted)
        self._probes = ProbePaths(paths=resilience.health.paths)
        self._exempt: frozenset[str] = frozenset()
        self._covers_routes = gate.options.rate_limit_covers == "routes"
        self.has_served = False
        """Whether a request has come: from then on the application is complete, and this process serves it."""
        resilience.health.attach(resilience.lifecycle)

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Serve one request."""
        if not self.has_served:
            self._inspect_app()
        if CONTEXT in environ:  # mounted inside an application with this layer
            return self._inner(environ, start_response)
        context = self._receive(environ)
        exchange = WSGIExchange(self._gate, self.app, context, environ, start_response)
        with context:
            try:
                return exchange.carry(self._serve(environ, context, exchange.start))
            except BaseException:
                self._gate.leave(context)
                if context.record is not None:
                    context.record.status = 500  # of the server, after this error
                    self._gate.log_request(context, environ.get("REQUEST_METHOD", "GET"))
                raise

    def _inspect_app(self) -> None:
        """Look at the finished application once, at its first request: routes may be added until then.

        A second request at the same time looks as well, and finds the same: no request is served by half of the rules.
        """
        self._probes.update(*routes_of(self.app))
        app, has_static = self.app, self._covers_routes
        self._exempt = frozenset(
            endpoint
            for endpoint in app.view_functions
            if is_exempt(app, endpoint) or (has_static and is_static(app, endpoint))
        )
        self.watch_process()
        self.resilience.lifecycle.server.started_if_no_hooks()
        self.has_served = True

    def watch_process(self) -> None:
        """Make SIGTERM drain the toolkit, and the end of the process stop it: servers report neither to WSGI.

        Only the main thread can install the signal handler, after the server has installed its own. This is usually
        where the application is made. In a worker that was forked with the application in it, it is the first request
        that the main thread serves.
        """
        lifecycle = self.resilience.lifecycle
        if not self.app.testing:
            lifecycle.install_signals()
            lifecycle.server.stop_at_exit()

    def _receive(self, environ: WSGIEnvironment) -> RequestContext:
        picked = {}
        for key, name in self._wanted:
            value = environ.get(key)
            if value is not None:
                picked[name] = value
        path = path_of(environ)
        context = self._gate.receive(picked, environ.get("REMOTE_ADDR"), path=path)
        if path.startswith(self._probes.prefixes) and self._probes.routes(path):
            context.is_excluded, context.deadline = True, None
        if environ.get("REQUEST_METHOD") == "OPTIONS":
            context.is_preflight = is_preflight("OPTIONS", EnvironHeaders(environ))
        context.source = environ
        environ[CONTEXT] = context
        return context

    def _serve(self, environ: WSGIEnvironment, context: RequestContext, start: StartResponse) -> Iterable[bytes]:
        path = environ.get("PATH_INFO", "")
        if self._probes.answers(path) and environ["REQUEST_METHOD"] in PROBE_METHODS:
            return answer_probe(self.resilience.health, environ, path, start)
        try:
            self._gate.enter(context)
        except RejectedError as refusal:
            # Not through the middleware in between, which could answer in place of the hook.
            environ[_FOR_HOOK] = refusal
            return type(self.app).wsgi_app(self.app, environ, start)
        if self._gate.quota is not None and not context.is_excluded and not context.is_preflight:
            environ[_FOR_HOOK] = self._gate.quota
        return self._inner(environ, start)

    def admit(self) -> None:
        """Refuse or charge the request, as the first hook of Flask: its error handlers answer, its own hooks follow."""
        environ = request.environ
        context: RequestContext | None = environ.get(CONTEXT)
        if context is None:
            return
        if context.record is not None and request.url_rule is not None:
            context.record.route = request.url_rule.rule
        task = environ.pop(_FOR_HOOK, None)
        if isinstance(task, Exception):
            raise task
        if context.deadline is not None and context.deadline.expired:
            raise DeadlineExceededError("the deadline passed before the request was served", policy="server")
        if task is not None and not self._is_exempt():
            if context.user is None:
                context.user = environ.get("REMOTE_USER")
            (context.gate or self._gate).charge(context, task)  # if this application is mounted, the outer gate

    def _is_exempt(self) -> bool:
        """Return whether the limit of the server does not count this request."""
        endpoint = request.endpoint
        if endpoint is None:
            return self._covers_routes and is_not_found()
        return bool(self._exempt) and endpoint in self._exempt


def _environ_key(name: str) -> str:
    """Return the key of the header `name` in a WSGI environ."""
    key = name.upper().replace("-", "_")
    return key if key in {"CONTENT_TYPE", "CONTENT_LENGTH"} else f"HTTP_{key}"
