"""One probe over one connection, with the HTTP server of the standard library."""

from __future__ import annotations

import io
import socket
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from resilience.health._reply import Reply, error_reply

if TYPE_CHECKING:
    from socketserver import BaseServer

__all__ = ("Answer", "answer")

Answer = Callable[[str, str, str | None], Reply]
"""Returns the response to a path, a query and an `Accept` header."""

_REQUEST_TIMEOUT = 5.0
"""Seconds in which the client must send its whole request, and take the response."""


class _ServerState(NamedTuple):
    """Stands for the `server` of the standard library's handler: how to answer, and whom to notify of a request."""

    answer: Answer
    on_request: Callable[[], object]


class _RequestReader(io.RawIOBase):
    """Limits the time for the whole request. A socket's own timeout limits each `recv`, so drops would never end."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._deadline = time.monotonic() + _REQUEST_TIMEOUT

    def readable(self) -> bool:
        """Return True."""
        return True

    def readinto(self, buffer: Any, /) -> int:
        """Receive into `buffer`. Raises TimeoutError after the deadline."""
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("the request is not complete")
        self._connection.settimeout(left)
        return self._connection.recv_into(buffer)


class _ProbeHandler(BaseHTTPRequestHandler):
    """Reads one request and answers it."""

    timeout = _REQUEST_TIMEOUT

    def setup(self) -> None:
        """Read through a `_RequestReader`."""
        super().setup()
        self.rfile.close()
        self.rfile = io.BufferedReader(_RequestReader(self.connection))

    def do_GET(self) -> None:
        """Answer with the body."""
        self._answer(with_body=True)

    def do_HEAD(self) -> None:
        """Answer without the body."""
        self._answer(with_body=False)

    def _answer(self, *, with_body: bool) -> None:
        state = cast("_ServerState", self.server)
        state.on_request()
        path, _, query = self.path.partition("?")
        self._send(state.answer(path, query, self.headers.get("Accept")), with_body=with_body)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:  # noqa: ARG002 - the base class passes them
        """Refuse a request that is no probe. The base class would name itself and repeat the request (L16)."""
        self._send(error_reply(code), with_body=self.command != "HEAD")

    def _send(self, reply: Reply, *, with_body: bool) -> None:
        self.connection.settimeout(_REQUEST_TIMEOUT)
        self.send_response_only(reply.status)
        for name, value in reply.headers.items():
            self.send_header(name, value)
        self.end_headers()
        if with_body:
            self.wfile.write(reply.body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class calls it so
        """Write nothing: a probe comes each second."""


def answer(connection: socket.socket, respond: Answer, on_request: Callable[[], object]) -> None:
    """Read a request, call `on_request`, and send the response.

    Raises:
        OSError: The client has gone, or takes more than 5 s.
    """
    _ProbeHandler(connection, ("", 0), cast("BaseServer", _ServerState(respond, on_request)))
