"""One request and its answer: every message of the answer passes here, and nothing is held back or repeated."""

from __future__ import annotations

from collections.abc import Awaitable, Iterable
from typing import TYPE_CHECKING, Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from resilience.server import RequestContext, ServerGate

if TYPE_CHECKING:
    from resilience_fastapi._deadline import Timer

__all__ = ("CLOSE", "REQUEST_ID", "SCOPE_KEY", "Exchange", "identified")

SCOPE_KEY = "resilience"
"""Where the request's `RequestContext` stands in the ASGI scope."""

REQUEST_ID = b"x-request-id"
_LENGTH = len(REQUEST_ID)
CLOSE = (b"connection", b"close")
_QUOTA = {"RateLimit-Policy": b"ratelimit-policy", "RateLimit": b"ratelimit"}
_LAST = frozenset({"http.response.body", "http.response.pathsend"})


def _is_last(message: Message) -> bool:
    return message["type"] in _LAST and not message.get("more_body", False)


def identified(given: Iterable[tuple[bytes, bytes]], request_id: str) -> list[tuple[bytes, bytes]]:
    """Return the headers with `request_id`, in place of any id that the application has set."""
    headers = list(given)
    for name, _ in headers:
        if len(name) == _LENGTH and name.lower() == REQUEST_ID:
            headers = [line for line in headers if line[0].lower() != REQUEST_ID]
            break
    headers.append((REQUEST_ID, request_id.encode("ascii")))
    return headers


class Exchange:
    """Adds our headers to the answer and knows how far it has come.

    `started`: the status is out, so no other answer can be given. `abandoned`: the client already has another answer,
    and what the application still says goes nowhere. `stands_in`: this is that other answer, and the application is
    still at work on its own. `closes`: the server is about to close the connection, and the client had better not use
    it again. `due`: where it stands until its deadline is met; `timer`: what ends it once that has been missed.
    """

    __slots__ = (
        "_gate",
        "_receive",
        "_send",
        "abandoned",
        "closes",
        "context",
        "due",
        "scope",
        "stands_in",
        "started",
        "timer",
    )

    def __init__(self, gate: ServerGate, context: RequestContext, scope: Scope, receive: Receive, send: Send) -> None:
        self._gate = gate
        self._receive = receive
        self._send = send
        self.context = context
        self.scope = scope
        self.started = self.abandoned = self.stands_in = self.closes = False
        self.due: dict[Exchange, Any] | None = None
        self.timer: Timer | None = None

    def send(self, message: Message) -> Awaitable[None]:
        """Pass on what the application says. No coroutine of our own: nearly all messages only pass."""
        if self.abandoned:
            return self._drop(message)
        if message["type"] == "http.response.start":
            self.started = True
            # A copy: an application may keep one message, or one list of headers, for all its answers.
            return self._send({**message, "headers": self._headed(message.get("headers", ()))})
        if self.context.deadline is not None and _is_last(message) and not self.stands_in:
            return self._complete(message)
        return self._send(message)

    async def _drop(self, message: Message) -> None:
        """Send nothing. What follows the last of the answer is background tasks, as ever."""
        if _is_last(message):
            self._gate.response_sent(self.context)

    async def _complete(self, message: Message) -> None:
        """Send the last of the answer. Then the deadline is met, and background tasks may take their time."""
        await self._send(message)
        self._gate.response_sent(self.context)
        self.forget()

    def forget(self) -> None:
        """Have nothing more done about the deadline."""
        if self.timer is not None:
            self.timer.stop()
        elif self.due is not None:
            self.due.pop(self, None)
            self.due = None

    async def settle(self) -> None:
        """End the watch over an application that returned with the deadline still to come, or past."""
        self.forget()
        if self.timer is not None:
            await self.timer.settle()

    async def answer(self, response: ASGIApp) -> None:
        """Give an answer of our own, through the same door."""
        await response(self.scope, self._receive, self.send)

    def abandon(self) -> Exchange:
        """Let the application speak to nobody from now on; the exchange returned speaks to the client."""
        self.abandoned = self.started = True
        other = Exchange(self._gate, self.context, self.scope, self._receive, self._send)
        other.stands_in = True
        return other

    def _headed(self, given: Iterable[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
        headers = identified(given, self.context.request_id)
        if self._gate.options.rate_limit_headers and self.context.charges:
            headers += [(_QUOTA[name], text.encode("ascii")) for name, text in self._gate.quota_headers(self.context)]
        # Hop-by-hop headers do not exist in HTTP/2 and later.
        if (self.closes or self._gate.is_closing) and self.scope.get("http_version", "1.1").startswith("1"):
            headers.append(CLOSE)
        return headers
