"""The layer around an application: pure ASGI, one object for all requests, nothing per request but what it needs."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from starlette.datastructures import Headers
from starlette.requests import HTTPConnection, Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from resilience import Resilience
from resilience.envelope import ANSWERS, envelope_of, worst_of
from resilience.running import needs_asyncio
from resilience.server import DeadlineWheel, RequestContext, ServerGate, is_preflight
from resilience.timeout import Deadline
from resilience_fastapi._answers import ids_of, respond
from resilience_fastapi._broken_off import BrokenOffError, broken_off
from resilience_fastapi._deadline import Call, Timer, call_of
from resilience_fastapi._exchange import CLOSE, SCOPE_KEY, Exchange
from resilience_fastapi._faults import adopt_fault_handler, call, cors_inside, through_cors
from resilience_fastapi._handlers import own_handler_within
from resilience_fastapi._lifespan import begin, begins
from resilience_fastapi._probes import Probes
from resilience_fastapi._scope import path_of, user_of
from resilience_fastapi._websocket import Socket

__all__ = ("ResilienceMiddleware",)

_log = logging.getLogger("resilience")


class ResilienceMiddleware:
    """Recognises, admits, times and accounts for every request, and answers for what nobody else does.

    `install(app)` adds it together with the rest; by itself it is `app.add_middleware(ResilienceMiddleware)`. Without a
    `resilience` it uses `Resilience.from_env()`. `key` computes whose quota a request is charged to.
    With `answers_probes` it answers `/livez` and its siblings itself, before any other layer can refuse them.
    """

    def __init__(
        self,
        app: ASGIApp,
        resilience: Resilience | None = None,
        *,
        key: Callable[[HTTPConnection], str] | None = None,
        answers_probes: bool = False,
    ) -> None:
        self.app = app
        self.resilience = resilience = Resilience.of(resilience)
        self._gate = ServerGate.of(resilience, key=None if key is None else lambda context: key(_connection(context)))
        self._wanted = {name.encode("ascii"): name for name in self._gate.wanted}
        self._probes = Probes(resilience.health, answers=answers_probes)
        self._cors = cors_inside(app)
        self._wheel: DeadlineWheel[Exchange, Call] | None = None
        self._app_answers_faults = False
        self._is_acquainted = False
        self._has_lifespan = False
        resilience.health.attach(resilience.lifecycle)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request or connection; scopes of other types pass through untouched."""
        if scope["type"] != "http" or SCOPE_KEY in scope:
            await self._serve_other(scope, receive, send)
            return
        gate = self._gate
        path = path_of(scope) if scope.get("root_path") else scope["path"]
        context = self._receive(scope, path)
        exchange = Exchange(gate, context, scope, receive, send)
        with context:
            try:
                if path.startswith(self._probes.paths) and self._probes.are_asked(scope, path):
                    await exchange.answer(await self._probes.response(scope, path))
                    return
                if "user" in scope:
                    context.user = user_of(scope)
                quota = gate.admit(context)
                if quota is not None:
                    await gate.acharge(context, quota)
                if context.deadline is not None:
                    self._watch(exchange, context.deadline)
                await self.app(scope, receive, exchange.send)
            except BaseException as error:
                if not await self._is_dealt_with(exchange, error):
                    raise
            else:
                if exchange.due is not None:
                    await exchange.settle()
            finally:
                gate.leave(context)
                context.source = None  # it holds the context, too, and only the garbage collector could part them

    async def _serve_other(self, scope: Scope, receive: Receive, send: Send) -> None:
        kind = scope["type"]
        if kind == "http":
            await self._serve_inside(scope, receive, send)
        elif kind == "websocket" and SCOPE_KEY not in scope:
            await self._attend(scope, receive, send)
        elif kind == "lifespan":
            await self._live(scope, receive, send)
        else:
            await self.app(scope, receive, send)

    async def _live(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._has_lifespan = True
        try:
            await self.app(scope, receive, begins(send, self.resilience.lifecycle))
        except BaseException:  # as an application does that has no lifespan; the server goes on without
            self._has_lifespan = False
            raise

    def _acquaint(self, scope: Scope) -> None:
        """Look at the finished application once, at its first request: handlers may be added until then."""
        self._is_acquainted = True
        self._app_answers_faults = adopt_fault_handler(scope.get("app"))
        self._probes.find_routes(scope.get("app", self.app))
        if not self._has_lifespan:
            # A server that runs the lifespan does so before the first request; this one never will.
            begin(self.resilience.lifecycle)

    def _receive(self, scope: Scope, path: str) -> RequestContext:
        if not self._is_acquainted:
            self._acquaint(scope)
        picked: dict[str, str] = {}
        wanted = self._wanted
        for name, value in scope["headers"]:
            if name in wanted:
                key, text = wanted[name], value.decode("latin-1")
                picked[key] = f"{picked[key]}, {text}" if key in picked else text
        peer = scope.get("client")
        context = self._gate.receive(picked, peer[0] if peer else None, path=path)
        if path.startswith(self._probes.paths) and self._probes.are_routed(scope, path):
            context.is_excluded, context.deadline = True, None
        if scope.get("method") == "OPTIONS":
            context.is_preflight = is_preflight("OPTIONS", Headers(scope=scope))
        context.source = scope
        scope[SCOPE_KEY] = context
        return context

    def _watch(self, exchange: Exchange, deadline: Deadline) -> None:
        try:  # `running_loop`, written out: every request with a deadline passes here
            loop, wheel = asyncio.get_running_loop(), self._wheel
        except RuntimeError:
            raise needs_asyncio("ResilienceMiddleware") from None
        if wheel is None or wheel.loop is not loop:
            wheel = self._wheel = DeadlineWheel(loop, self._ring)
        exchange.due = due = wheel.slot_for(deadline)
        due[exchange] = call_of(loop)

    def _ring(self, exchange: Exchange, call: Call) -> None:
        exchange.timer = Timer(exchange, call, self._answer)
        exchange.timer.fire()

    async def _is_dealt_with(self, exchange: Exchange, error: BaseException) -> bool:
        """End the watch over an application that raised, and return whether nobody else need know."""
        exchange.forget()
        try:
            if exchange.timer is not None and await exchange.timer.swallows(error):
                return True
            if exchange.started and exchange.context.is_late(error):
                if exchange.abandoned:  # its client has had the 504
                    return True
                raise broken_off() from None
        except BrokenOffError:
            self._gate.log_broken_off(exchange.context)
            raise
        return isinstance(error, Exception) and await self._answered(exchange, error)

    async def _answered(self, exchange: Exchange, error: Exception) -> bool:
        """Answer `error` if nobody has, and return whether that was all there is to it.

        An unhandled error is answered too, and goes on: the server logs its traceback, once.
        """
        is_answer = isinstance(worst_of(error), ANSWERS)
        if exchange.started or not is_answer:
            # The server logs it when we have left, and then nothing knows any more whose request it was.
            _log.error("request %s ended by an unhandled %s", exchange.context.request_id, type(error).__name__)
        if exchange.started:
            return False
        if is_answer or not self._app_answers_faults:
            # Servers close a connection whose application raised; a client not told would lose its next request.
            exchange.closes = not is_answer
            await self._answer(exchange, error)
        return is_answer

    async def _answer(self, exchange: Exchange, error: Exception) -> None:
        await exchange.answer(await self._response(exchange.scope, error))

    async def _response(self, scope: Scope, error: Exception) -> ASGIApp:
        """Return what the application's own handler says of `error`, else its envelope, with the CORS headers due."""
        handler, handled = own_handler_within(scope.get("app"), error)
        if handler is None:
            return through_cors(self._cors, respond(scope, envelope_of(error, **ids_of(scope))))
        return through_cors(self._cors, await call(handler, Request(scope), handled))

    async def _serve_inside(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a mounted application under one that has all this already: only its errors are left to do."""
        if not self._is_acquainted:
            self._is_acquainted = True
            self._app_answers_faults = adopt_fault_handler(scope.get("app"))
        is_started = closes = False

        async def watched(message: Message) -> None:
            nonlocal is_started
            if message["type"] == "http.response.start":
                is_started = True
                if closes:
                    message = {**message, "headers": [*message.get("headers", ()), CLOSE]}
            await send(message)

        try:
            await self.app(scope, receive, watched)
        except Exception as error:
            is_answer = isinstance(worst_of(error), ANSWERS)
            if not is_started and (is_answer or not self._app_answers_faults):
                # The server will, and nobody outside knows that it will.
                closes = not is_answer and scope.get("http_version", "1.1").startswith("1")
                response = await self._response(scope, error)
                await response(scope, receive, watched)
                if is_answer:
                    return
            raise

    async def _attend(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Accompany a websocket: known, counted and drained, but neither limited nor timed - it is not one request."""
        context = self._receive(scope, path_of(scope))
        context.deadline = None

        with context:
            self._gate.enter(context, takes_permit=False)
            socket = Socket(context.request_id, self.resilience.lifecycle, send)
            try:
                await self.app(scope, receive, socket.send)
            finally:
                socket.end()
                self._gate.leave(context)
                context.source = None


def _connection(context: RequestContext) -> HTTPConnection:
    return HTTPConnection(context.source)
