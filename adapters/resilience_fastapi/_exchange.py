"""One request and its answer: every message of the answer passes here, and the deadline ends what takes too long.

If the deadline passes before an answer has begun, the client gets a 504 on time. An endpoint that awaits is cancelled
once, as `asyncio.timeout` would: its `finally` blocks may await. An endpoint in a worker thread cannot be stopped. To
cancel its task would only hide the thread, which would go on after its place in the bulkhead and in AnyIO's limiter had
been given away, and threads without bound would follow. So the client gets the 504, and the request keeps its place
until the thread returns.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from contextvars import Context, copy_context
from typing import Any, TypeAlias

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from resilience.errors import DeadlineExceededError
from resilience.server import RequestContext, ServerGate
from resilience_fastapi._framework_internals import SERVER_LOGGERS, waits_for_thread
from resilience_fastapi._scope import ServedRoutes, template_of

__all__ = (
    "CLOSE",
    "SCOPE_KEY",
    "ASGIExchange",
    "BrokenOffError",
    "ExchangeTimer",
    "RunningCall",
    "broken_off",
    "log_request",
    "running_call",
    "with_request_id",
)

SCOPE_KEY = "resilience"
"""The key of the `RequestContext` in the ASGI scope."""

REQUEST_ID = b"x-request-id"
_LENGTH = len(REQUEST_ID)
CLOSE = (b"connection", b"close")
_QUOTA = {"RateLimit-Policy": b"ratelimit-policy", "RateLimit": b"ratelimit"}
_LAST = frozenset({"http.response.body", "http.response.pathsend"})
_NOT_FOUND = 404
_RETRY_AFTER = 0.05
"""Seconds until the timer looks again whether a thread has returned."""


def _is_last(message: Message) -> bool:
    return message["type"] in _LAST and not message.get("more_body", False)


def with_request_id(given: Iterable[tuple[bytes, bytes]], request_id: str) -> list[tuple[bytes, bytes]]:
    """Return the headers with `request_id`, in place of any id that the application has set."""
    headers = list(given)
    for name, _ in headers:
        if len(name) == _LENGTH and name.lower() == REQUEST_ID:
            headers = [line for line in headers if line[0].lower() != REQUEST_ID]
            break
    headers.append((REQUEST_ID, request_id.encode("ascii")))
    return headers


class ASGIExchange:
    """Adds our headers to the answer, and knows how far the answer has come.

    - `started`: the status was sent, so no other answer can be given.
    - `abandoned`: the client already has another answer. Messages of the application are dropped.
    - `is_substitute`: this exchange sends that other answer; the application is still at work on its own.
    - `closes_connection`: the server is about to close the connection, and the client should not use it again.
    - `slot`: the slot of the deadline wheel, until the deadline is met.
    - `timer`: the timer that ends the exchange, once the deadline has passed.
    """

    __slots__ = (
        "_gate",
        "_receive",
        "_routes",
        "_send",
        "abandoned",
        "closes_connection",
        "context",
        "is_substitute",
        "scope",
        "slot",
        "started",
        "timer",
    )

    def __init__(
        self,
        gate: ServerGate,
        context: RequestContext,
        scope: Scope,
        receive: Receive,
        send: Send,
        routes: ServedRoutes | None = None,
    ) -> None:
        self._gate = gate
        self._routes = routes
        self._receive = receive
        self._send = send if context.record is None else _logged_send(gate, context, scope, send)
        self.context = context
        self.scope = scope
        self.started = self.abandoned = self.is_substitute = self.closes_connection = False
        self.slot: dict[ASGIExchange, RunningCall] | None = None
        self.timer: ExchangeTimer | None = None

    def send(self, message: Message) -> Awaitable[None]:
        """Pass a message of the application on. Not a coroutine function: nearly all messages pass unchanged."""
        if self.abandoned:
            return self._drop(message)
        if message["type"] == "http.response.start":
            self.started = True
            if message["status"] == _NOT_FOUND and self._routes is not None and self.context.charges:
                return self._send_not_found(message, self._routes)
            # A copy: an application may use one message, or one list of headers, for all its answers.
            return self._send({**message, "headers": self._with_our_headers(message.get("headers", ()))})
        if self.context.deadline is not None and _is_last(message) and not self.is_substitute:
            return self._send_last(message)
        return self._send(message)

    async def _send_not_found(self, message: Message, routes: ServedRoutes) -> None:
        """Send the beginning of a 404, and pay the request back if no route has served it: its endpoint has not run."""
        if not routes.serve(self.scope):
            await self._gate.arefund(self.context)
        await self._send({**message, "headers": self._with_our_headers(message.get("headers", ()))})

    async def _drop(self, message: Message) -> None:
        """Send nothing. After the last message of an answer, the background tasks of the application follow."""
        if _is_last(message):
            self._gate.response_sent(self.context)

    async def _send_last(self, message: Message) -> None:
        """Send the last message. The deadline is met then, and does not apply to background tasks."""
        await self._send(message)
        self._gate.response_sent(self.context)
        self.leave_slot()

    def leave_slot(self) -> None:
        """End the deadline of this exchange."""
        if self.timer is not None:
            self.timer.stop()
        elif self.slot is not None:
            self.slot.pop(self, None)
            self.slot = None

    async def finish(self) -> None:
        """End the deadline after the application has returned."""
        self.leave_slot()
        if self.timer is not None:
            await self.timer.finish()

    async def respond(self, response: ASGIApp) -> None:
        """Send an answer of our own, with our headers."""
        await response(self.scope, self._receive, self.send)

    def substitute(self) -> ASGIExchange:
        """Drop all further messages of the application, and return an exchange that sends another answer."""
        self.abandoned = self.started = True
        other = ASGIExchange(self._gate, self.context, self.scope, self._receive, self._send)
        other.is_substitute = True
        return other

    def _with_our_headers(self, given: Iterable[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
        headers = with_request_id(given, self.context.request_id)
        if self._gate.options.rate_limit_headers and self.context.charges:
            headers += [(_QUOTA[name], text.encode("ascii")) for name, text in self._gate.quota_headers(self.context)]
        # Hop-by-hop headers do not exist in HTTP/2 and later.
        if (self.closes_connection or self._gate.is_closing) and self.scope.get("http_version", "1.1").startswith("1"):
            headers.append(CLOSE)
        return headers


def _logged_send(gate: ServerGate, context: RequestContext, scope: Scope, send: Send) -> Send:
    """Return the server's `send`, with a line in the log for the request once the last byte is out."""

    async def send_logged(message: Message) -> None:
        record = context.record
        if record is not None and message["type"] == "http.response.start":
            record.status = message["status"]
        await send(message)
        if record is not None and _is_last(message):
            log_request(gate, context, scope)

    return send_logged


def log_request(gate: ServerGate, context: RequestContext, scope: Scope) -> None:
    """Write the line of a request whose answer has ended, unless it is written."""
    if context.record is not None:
        context.record.route = template_of(scope) if "endpoint" in scope else None
        gate.log_request(context, scope["method"])


RunningCall: TypeAlias = "tuple[asyncio.Task[Any], int, Context]"
"""The task that serves a request, the number of cancellations it had before, and its context variables."""


def running_call(loop: asyncio.AbstractEventLoop) -> RunningCall:
    """Return the call that runs here."""
    task = asyncio.current_task(loop)
    assert task is not None  # noqa: S101 - an ASGI application is always called in a task
    return task, task.cancelling(), copy_context()


class ExchangeTimer:
    """Ends one exchange whose deadline has passed.

    If no answer has begun, the client gets a 504. An answer that has begun is broken off: the server closes the
    connection.
    """

    __slots__ = (
        "_before",
        "_context",
        "_exchange",
        "_handle",
        "_is_cancelled",
        "_loop",
        "_reply",
        "_send_error",
        "_task",
    )

    def __init__(
        self,
        exchange: ASGIExchange,
        call: RunningCall,
        send_error: Callable[[ASGIExchange, Exception], Coroutine[Any, Any, None]],
    ) -> None:
        self._task, self._before, self._context = call
        self._exchange = exchange
        self._send_error = send_error
        self._loop = self._task.get_loop()
        self._reply: asyncio.Task[None] | None = None
        self._is_cancelled = False
        self._handle: asyncio.TimerHandle | None = None

    def fire(self) -> None:
        """Send a 504 if no answer has begun, and stop the application."""
        if not self._exchange.started:
            error = DeadlineExceededError("the deadline passed before the answer was complete", policy="server")
            reply = self._send_error(self._exchange.substitute(), error)
            self._reply = self._loop.create_task(reply, context=self._context)
        self._cancel()

    def _cancel(self) -> None:
        if waits_for_thread(self._task.get_coro()):
            self._handle = self._loop.call_later(_RETRY_AFTER, self._cancel)
        else:
            self._is_cancelled = True
            self._task.cancel()

    def stop(self) -> None:
        """Do not cancel the application any more."""
        if self._handle is not None:
            self._handle.cancel()

    async def finish(self) -> None:
        """End the timer after the application has returned, which may have swallowed the cancellation."""
        self.stop()
        if self._is_cancelled:
            self._task.uncancel()
        if self._reply is not None:
            await self._reply

    async def absorbs_cancellation(self, error: BaseException) -> bool:
        """End the timer after the application has raised, and return whether `error` is the timer's cancellation.

        Raises `BrokenOffError` if it is, and the answer had begun before the deadline passed.
        """
        self.stop()
        is_cancellation = isinstance(error, asyncio.CancelledError)
        # As in asyncio.timeout: a cancellation by another caller that came at the same time must go on.
        is_ours = self._is_cancelled and self._task.uncancel() <= self._before and is_cancellation
        if is_ours and self._reply is None:
            raise broken_off() from None
        if self._reply is not None:
            if is_ours or isinstance(error, Exception):
                await self._reply
            else:
                self._reply.cancel()
        return is_ours


class BrokenOffError(DeadlineExceededError):
    """Raised into the server, which closes the connection: the client sees that the answer is incomplete.

    Layers around ours see an error too, and not an application that returned in the midst of its answer.
    """


class _WithoutBrokenOff(logging.Filter):
    """Drops the server's log record of a `BrokenOffError`: the gate logs one line, and a client can cause many."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Let all other records pass."""
        return record.exc_info is None or not isinstance(record.exc_info[1], BrokenOffError)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _WithoutBrokenOff)

    def __hash__(self) -> int:
        return hash(_WithoutBrokenOff)


def broken_off() -> BrokenOffError:
    """Return the error that ends an answer which has begun."""
    for name in SERVER_LOGGERS:
        logging.getLogger(name).addFilter(_WithoutBrokenOff())  # added once: all of them are equal
    return BrokenOffError("the deadline passed before the answer was complete", policy="server")
