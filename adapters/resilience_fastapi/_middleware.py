"""The layer around an application: pure ASGI, and one object for all requests."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from starlette.datastructures import Headers
from starlette.requests import HTTPConnection, Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from resilience import Resilience
from resilience.envelope import ANSWERS, worst_of
from resilience.errors import RateLimitedError
from resilience.running import needs_asyncio
from resilience.server import (
    PROBE_METHODS,
    DeadlineWheel,
    ProbePaths,
    RequestContext,
    ServerGate,
    ServerQuota,
    checked_key,
    is_preflight,
)
from resilience.timeout import Deadline
from resilience_fastapi._errors import ErrorHandlers, adopt_error_handler
from resilience_fastapi._exchange import (
    CLOSE,
    SCOPE_KEY,
    ASGIExchange,
    BrokenOffError,
    ExchangeTimer,
    RunningCall,
    broken_off,
    log_request,
    running_call,
)
from resilience_fastapi._framework_internals import cors_inside, through_cors
from resilience_fastapi._lifespan import set_ready, when_started
from resilience_fastapi._probes import probe_response, routes_of
from resilience_fastapi._scope import ServedRoutes, path_of, user_of
from resilience_fastapi._websocket import WebSocketExchange

__all__ = ("ResilienceMiddleware",)

_log = logging.getLogger("resilience")

_UNHANDLED = 500


class ResilienceMiddleware:
    """Identifies, admits, times and counts every request, and answers errors that the application does not answer.

    `install(app)` adds it together with everything else. Use `app.add_middleware(ResilienceMiddleware)` to add the
    layer alone.

    Args:
        app: The application inside.
        resilience: The toolkit; None for `Resilience.from_env()`.
        key: A function of the connection that returns the key a request is charged under, in place of the setting
            `rate_limit_key`. If it returns None or "", the setting decides.
        answers_probes: Whether the layer answers `/livez`, `/healthz`, `/readyz` and `/startupz` itself, before any
            other layer can refuse them. A route of the application for such a path wins.

    Raises:
        ConfigurationError: The configuration is wrong.
    """

    def __init__(
        self,
        app: ASGIApp,
        resilience: Resilience | None = None,
        *,
        key: Callable[[HTTPConnection], str | None] | None = None,
        answers_probes: bool = False,
    ) -> None:
        self.app = app
        self.resilience = resilience = Resilience.of(resilience)
        checked_key(key)
        self._gate = ServerGate.of(resilience, key=None if key is None else lambda context: key(_connection(context)))
        self._wanted = {name.encode("ascii"): name for name in self._gate.wanted}
        self._probes = ProbePaths(answers=answers_probes, paths=resilience.health.paths)
        self._covers_routes = self._gate.quota is not None and self._gate.options.rate_limit_covers == "routes"
        self._routes = ServedRoutes(None)
        self._static_paths: tuple[str, ...] = ()
        self._cors = cors_inside(app)
        self._wheel: DeadlineWheel[ASGIExchange, RunningCall] | None = None
        self._has_inspected_app = False
        self._errors = ErrorHandlers(None, resilience)
        self._app_answers_errors = False
        self._has_lifespan = False
        resilience.health.attach(resilience.lifecycle)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request or connection. Scopes of other types pass unchanged."""
        if scope["type"] != "http" or SCOPE_KEY in scope:
            await self._serve_other(scope, receive, send)
            return
        gate = self._gate
        path = path_of(scope) if scope.get("root_path") else scope["path"]
        context = self._receive(scope, path)
        exchange = ASGIExchange(gate, context, scope, receive, send, self._routes if self._covers_routes else None)
        with context:
            try:
                if path.startswith(self._probes.prefixes) and self._answers_probe(scope, path):
                    await exchange.respond(await probe_response(self.resilience.health, scope, path))
                    return
                if "user" in scope:
                    context.user = user_of(scope)
                quota = self._admit(context, scope, path)
                if quota is not None:
                    await self._charge(context, quota, scope)
                if context.deadline is not None:
                    self._watch(exchange, context.deadline)
                await self.app(scope, receive, exchange.send)
            except BaseException as error:
                if not await self._handle_exception(exchange, error):
                    raise
            else:
                if exchange.slot is not None:
                    await exchange.finish()
            finally:
                gate.leave(context)
                log_request(gate, context, scope)
                context.source = None  # the scope refers to the context: without this line they are a cycle

    def _admit(self, context: RequestContext, scope: Scope, path: str) -> ServerQuota | None:
        """Admit a request, and return the quota that is still to be charged."""
        if path.startswith(self._static_paths) and self._routes.serve_file(scope):
            context.is_unrouted = True
        try:
            return self._gate.admit(context)
        except RateLimitedError:
            if self._is_covered(scope):
                raise
            context.charges = ()
            return None

    async def _charge(self, context: RequestContext, quota: ServerQuota, scope: Scope) -> None:
        try:
            await self._gate.acharge(context, quota)
        except RateLimitedError:
            if self._is_covered(scope):
                raise
            context.charges = ()

    def _is_covered(self, scope: Scope) -> bool:
        """Return whether the limit of the server counts a request."""
        return not self._covers_routes or self._routes.serve(scope)

    async def _serve_other(self, scope: Scope, receive: Receive, send: Send) -> None:
        kind = scope["type"]
        if kind == "http":
            await self._serve_mounted(scope, receive, send)
        elif kind == "websocket" and SCOPE_KEY not in scope:
            await self._serve_websocket(scope, receive, send)
        elif kind == "lifespan":
            await self._serve_lifespan(scope, receive, send)
        else:
            await self.app(scope, receive, send)

    async def _serve_lifespan(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._has_lifespan = True
        try:
            await self.app(scope, receive, when_started(send, self.resilience.lifecycle))
        except BaseException:  # an application without a lifespan raises here, and the server goes on without one
            self._has_lifespan = False
            raise

    def _inspect_app(self, scope: Scope) -> None:
        """Look at the finished application once, at its first request: handlers and routes may be added until then."""
        self._adopt_app(scope)
        if self._covers_routes:
            self._routes = ServedRoutes(scope.get("app", self.app))
            self._static_paths = self._routes.static_paths
        self._probes.update(*routes_of(scope.get("app", self.app)))
        if not self._has_lifespan:
            # A server that runs the lifespan does so before the first request; this server never will.
            set_ready(self.resilience.lifecycle)

    def _adopt_app(self, scope: Scope) -> None:
        """Take the error handlers of the application around this layer: later, the scope names the innermost one."""
        self._has_inspected_app = True
        app = scope.get("app")
        self._errors = ErrorHandlers(app, self.resilience)
        self._app_answers_errors = adopt_error_handler(app)

    def _answers_probe(self, scope: Scope, path: str) -> bool:
        return scope["method"] in PROBE_METHODS and self._probes.answers(path)

    def _receive(self, scope: Scope, path: str) -> RequestContext:
        if not self._has_inspected_app:
            self._inspect_app(scope)
        picked: dict[str, str] = {}
        wanted = self._wanted
        for name, value in scope["headers"]:
            if name in wanted:
                key, text = wanted[name], value.decode("latin-1")
                picked[key] = f"{picked[key]}, {text}" if key in picked else text
        peer = scope.get("client")
        context = self._gate.receive(picked, peer[0] if peer else None, path=path)
        # A websocket has no method.
        if (
            path.startswith(self._probes.prefixes)
            and scope.get("method") in PROBE_METHODS
            and self._probes.routes(path)
        ):
            context.is_excluded, context.deadline = True, None
        if scope.get("method") == "OPTIONS":
            context.is_preflight = is_preflight("OPTIONS", Headers(scope=scope))
        context.source = scope
        scope[SCOPE_KEY] = context
        return context

    def _watch(self, exchange: ASGIExchange, deadline: Deadline) -> None:
        try:  # as `running_loop`, inline: every request with a deadline comes here
            loop, wheel = asyncio.get_running_loop(), self._wheel
        except RuntimeError:
            raise needs_asyncio("ResilienceMiddleware") from None
        if wheel is None or wheel.loop is not loop:
            wheel = self._wheel = DeadlineWheel(loop, self._expire)
        exchange.slot = slot = wheel.slot_for(deadline)
        slot[exchange] = running_call(loop)

    def _expire(self, exchange: ASGIExchange, call: RunningCall) -> None:
        exchange.timer = ExchangeTimer(exchange, call, self._send_error)
        exchange.timer.fire()

    async def _handle_exception(self, exchange: ASGIExchange, error: BaseException) -> bool:
        """Answer an error that the application has raised, if it has not answered, and return whether it ends here.

        An unhandled error is answered and raised on: the server logs its traceback, once.
        """
        exchange.leave_slot()
        try:
            if exchange.timer is not None and await exchange.timer.absorbs_cancellation(error):
                return True
            if exchange.started and exchange.context.is_late(error):
                if exchange.abandoned:  # the client has got the 504
                    return True
                raise broken_off() from None
        except BrokenOffError:
            self._gate.log_broken_off(exchange.context)
            raise
        if not isinstance(error, Exception):
            return False
        is_answer = isinstance(worst_of(error), ANSWERS)
        if exchange.started or not is_answer:
            # The server logs the error after this layer has returned, and does not know the request id.
            _log.error("request %s ended by an unhandled %s", exchange.context.request_id, type(error).__name__)
        if exchange.started:
            return False
        if exchange.context.record is not None:
            exchange.context.record.status = _UNHANDLED  # of the answer below, or of a layer around this one
        if is_answer or not self._app_answers_errors:
            # Servers close a connection whose application has raised. The client must know, or loses its next request.
            exchange.closes_connection = not is_answer
            await self._send_error(exchange, error)
        return is_answer

    async def _send_error(self, exchange: ASGIExchange, error: Exception) -> None:
        await exchange.respond(await self._error_response(exchange.scope, error))

    async def _error_response(self, scope: Scope, error: Exception) -> ASGIApp:
        """Return the response to `error`: of the application's own handler, else ours. With CORS headers."""
        return through_cors(self._cors, await self._errors.respond(Request(scope), error))

    async def _serve_mounted(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve an application that is mounted inside one with this layer: only its errors are answered here."""
        if not self._has_inspected_app:
            self._adopt_app(scope)
        is_started = closes_connection = False

        async def watched(message: Message) -> None:
            nonlocal is_started
            if message["type"] == "http.response.start":
                is_started = True
                if closes_connection:
                    message = {**message, "headers": [*message.get("headers", ()), CLOSE]}
            await send(message)

        try:
            await self.app(scope, receive, watched)
        except Exception as error:
            is_answer = isinstance(worst_of(error), ANSWERS)
            if not is_started and (is_answer or not self._app_answers_errors):
                # The server will close the connection, and the outer layer does not know.
                closes_connection = not is_answer and scope.get("http_version", "1.1").startswith("1")
                response = await self._error_response(scope, error)
                await response(scope, receive, watched)
                if is_answer:
                    return
            raise

    async def _serve_websocket(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a websocket: identified, counted and drained, but neither limited nor timed. It is not one request."""
        context = self._receive(scope, path_of(scope))
        context.deadline = None
        with context:
            self._gate.enter(context, takes_permit=False)
            exchange = WebSocketExchange(context.request_id, self.resilience.lifecycle, send)
            try:
                await self.app(scope, receive, exchange.send)
            finally:
                exchange.end()
                self._gate.leave(context)
                context.source = None


def _connection(context: RequestContext) -> HTTPConnection:
    return HTTPConnection(context.source)
