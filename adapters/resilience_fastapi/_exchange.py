"""One request and its answer: every message of the answer passes here, and nothing is held back or repeated."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from resilience.inbound import Inbound, RequestContext

__all__ = ("REQUEST_ID", "SCOPE_KEY", "Exchange")

SCOPE_KEY = "resilience"
"""Where the request's `RequestContext` stands in the ASGI scope."""

REQUEST_ID = b"x-request-id"
_CLOSE = (b"connection", b"close")
_QUOTA = {"RateLimit-Policy": b"ratelimit-policy", "RateLimit": b"ratelimit"}
_LAST = frozenset({"http.response.body", "http.response.pathsend"})


class Exchange:
    """Adds our headers to the answer and knows how far it has come.

    `started`: the status is out, so no other answer can be given. `finished`: the last byte is out. `abandoned`: the
    client already has another answer, and what the application still says goes nowhere. `closes`: the server is about
    to close the connection, and the client had better not use it again.
    """

    __slots__ = (
        "_inbound",
        "_receive",
        "_send",
        "abandoned",
        "closes",
        "context",
        "finished",
        "on_finish",
        "scope",
        "started",
    )

    def __init__(self, inbound: Inbound, context: RequestContext, scope: Scope, receive: Receive, send: Send) -> None:
        self._inbound = inbound
        self._receive = receive
        self._send = send
        self.context = context
        self.scope = scope
        self.started = False
        self.finished = False
        self.abandoned = False
        self.closes = False
        self.on_finish: Callable[[], None] | None = None

    async def send(self, message: Message) -> None:
        """Pass on what the application says."""
        if self.abandoned:
            return
        kind = message["type"]
        if kind == "http.response.start":
            self.started = True
            # A copy: an application may keep one message, or one list of headers, for all its answers.
            message = {**message, "headers": self._headed(message.get("headers", ()))}
            await self._send(message)
        elif kind in _LAST and not message.get("more_body", False):
            await self._send(message)
            self.finished = True
            self._inbound.answered(self.context)
            if self.on_finish is not None:
                self.on_finish()
        else:
            await self._send(message)

    async def answer(self, response: ASGIApp) -> None:
        """Give an answer of our own, through the same door."""
        await response(self.scope, self._receive, self.send)

    def abandon(self) -> Exchange:
        """Let the application speak to nobody from now on; the exchange returned speaks to the client."""
        self.abandoned = self.started = True
        return Exchange(self._inbound, self.context, self.scope, self._receive, self._send)

    def _headed(self, given: Iterable[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
        headers = list(given)
        for name, _ in headers:
            if name == REQUEST_ID:
                break
        else:
            headers.append((REQUEST_ID, self.context.request_id.encode("ascii")))
        if self.context.charges:
            headers += [
                (_QUOTA[name], text.encode("ascii")) for name, text in self._inbound.quota_headers(self.context)
            ]
        # Hop-by-hop headers do not exist in HTTP/2 and later.
        if (self.closes or self._inbound.is_closing) and self.scope.get("http_version", "1.1").startswith("1"):
            headers.append(_CLOSE)
        return headers
