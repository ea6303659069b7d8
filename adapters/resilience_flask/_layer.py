"""The layer around an application: WSGI for what concerns the whole answer, one hook for what concerns the route."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from flask import Flask, got_request_exception, request
from werkzeug.datastructures import EnvironHeaders

from resilience import Resilience
from resilience.envelope import ANSWERS, envelope_of, worst_of
from resilience.errors import DeadlineExceededError, RejectedError, one_line
from resilience.server import RequestContext, ServerGate, is_preflight
from resilience_flask._answers import CONTEXT, ids_of, rendered
from resilience_flask._exchange import Exchange, Headers
from resilience_flask._limit import is_exempt
from resilience_flask._probes import Probes

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

__all__ = ("Layer",)

_DUE = "resilience.due"
"""Where the hook finds what is still to be said about a request: its refusal, or the quota to charge."""


class Layer:
    """Recognises, admits and accounts for every request, until its answer is complete."""

    def __init__(self, app: Flask, resilience: Resilience, key: Callable[[], str] | None) -> None:
        self.gate = gate = ServerGate.of(resilience, key=None if key is None else lambda _: key())
        self.resilience = resilience
        self.app = app
        self._inner: WSGIApplication = app.wsgi_app
        self._wanted = tuple((_key(name), name) for name in gate.wanted)
        self._probes = Probes(resilience)
        self._exempt: frozenset[str] = frozenset()
        self.is_acquainted = False
        """Whether a request has come: from then on the application is as it is, and this is the process that serves."""
        resilience.health.attach(resilience.lifecycle)

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Serve one request."""
        if not self.is_acquainted:
            self._acquaint()
        if CONTEXT in environ:  # mounted under an application that has a layer of its own
            return self._inner(environ, start_response)
        context = self._receive(environ)
        exchange = Exchange(self, context, environ, start_response)
        with context:
            try:
                return exchange.carry(self._serve(environ, context, exchange.start))
            except BaseException:
                self.gate.leave(context)
                raise

    def _acquaint(self) -> None:
        """Look at the finished application once, at its first request: until then routes may be added.

        Another request that comes meanwhile looks for itself, and sees the same: none is served by half of the rules.
        """
        self._probes.find_routes(self.app)
        self._exempt = frozenset(endpoint for endpoint in self.app.view_functions if is_exempt(self.app, endpoint))
        self.attend()
        self.resilience.lifecycle.started_if_no_hooks()
        self.is_acquainted = True

    def attend(self) -> None:
        """Have SIGTERM drain, and the end of the process stop, what is guarded here: servers tell WSGI of neither.

        Only the main thread can arrange for the former, after the server has: where the application is made, as a rule;
        in a worker that was forked with the application in it, at a first request that is served in the main thread.
        """
        lifecycle = self.resilience.lifecycle
        if not self.app.testing:
            lifecycle.install_signals()
            lifecycle.stop_at_exit()

    def _receive(self, environ: WSGIEnvironment) -> RequestContext:
        picked = {}
        for key, name in self._wanted:
            value = environ.get(key)
            if value is not None:
                picked[name] = value
        path = _path_of(environ)
        context = self.gate.receive(picked, environ.get("REMOTE_ADDR"), path=path)
        if self._probes.are_routed(path):
            context.is_excluded, context.deadline = True, None
        if environ.get("REQUEST_METHOD") == "OPTIONS":
            context.is_preflight = is_preflight("OPTIONS", EnvironHeaders(environ))
        context.source = environ
        environ[CONTEXT] = context
        return context

    def _serve(self, environ: WSGIEnvironment, context: RequestContext, start: Any) -> Iterable[bytes]:
        path = environ.get("PATH_INFO", "")
        if self._probes.are_asked(environ["REQUEST_METHOD"], path):
            return self._probes.answer(environ, path, start)
        try:
            self.gate.enter(context)
        except RejectedError as refusal:
            # Past whatever middleware is in between, so that none of it can answer instead.
            environ[_DUE] = refusal
            return type(self.app).wsgi_app(self.app, environ, start)
        if self.gate.quota is not None and not context.is_excluded and not context.is_preflight:
            environ[_DUE] = self.gate.quota
        return self._inner(environ, start)

    def admit(self) -> None:
        """Refuse, or charge, the request Flask is about to serve: its error handlers answer, its own hooks follow."""
        environ = request.environ
        context: RequestContext | None = environ.get(CONTEXT)
        if context is None:
            return
        due = environ.pop(_DUE, None)
        if isinstance(due, Exception):
            raise due
        if context.deadline is not None and context.deadline.expired:
            raise DeadlineExceededError("the deadline passed before the request was served", policy="server")
        if due is not None and not (self._exempt and request.endpoint in self._exempt):
            if context.user is None:
                context.user = environ.get("REMOTE_USER")
            (context.gate or self.gate).charge(context, due)  # where this one is mounted, the outer one's

    def answer_for(
        self, environ: WSGIEnvironment, error: Exception, given: Headers
    ) -> tuple[bytes, tuple[str, Headers]]:
        """Return body, status and headers for a stream that failed before anything of it was sent.

        Flask is done with the request by then, so what it would do with an unhandled error is done here. Of the headers
        those stay that do not speak of the body: CORS, cookies, ids.
        """
        if not isinstance(worst_of(error), ANSWERS):
            self._report(environ, error)
        envelope = envelope_of(error, **ids_of(environ))
        body, own = rendered(environ, envelope)
        own["Content-Length"] = str(len(body))
        dropped = _OF_THE_BODY.union(name.lower() for name in own) - {"vary"}
        kept = [(name, value) for name, value in given if name.lower() not in dropped]
        status = f"{envelope.http_status} {_phrase(envelope.http_status)}"
        return body, (status, [*kept, *own.items(), ("Vary", "Accept")])

    def _report(self, environ: WSGIEnvironment, error: Exception) -> None:
        app = self.app
        got_request_exception.send(app, _async_wrapper=app.ensure_sync, exception=error)
        propagates = app.config["PROPAGATE_EXCEPTIONS"]
        if propagates or (propagates is None and (app.testing or app.debug)):
            raise error
        method, path = environ["REQUEST_METHOD"], _path_of(environ)
        app.logger.error("Exception on %s [%s], in the body", one_line(path), one_line(method), exc_info=sys.exc_info())


_OF_THE_BODY = frozenset(
    {
        "accept-ranges",
        "cache-control",
        "content-digest",
        "content-disposition",
        "content-encoding",
        "content-language",
        "content-length",
        "content-location",
        "content-md5",
        "content-range",
        "content-type",
        "digest",
        "etag",
        "expires",
        "last-modified",
        "repr-digest",
        "retry-after",
    }
)
"""By name, for not all that begins with `content-` is about the body: there is `Content-Security-Policy`."""


def _path_of(environ: WSGIEnvironment) -> str:
    path: str = environ.get("PATH_INFO", "")
    # PEP 3333 hands bytes on as if they were latin-1.
    return path if path.isascii() else path.encode("latin-1").decode("utf-8", "replace")


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Unknown"


def _key(name: str) -> str:
    """Return where a WSGI environ keeps the header `name`."""
    key = name.upper().replace("-", "_")
    return key if key in {"CONTENT_TYPE", "CONTENT_LENGTH"} else f"HTTP_{key}"
