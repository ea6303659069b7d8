"""One probe over one connection, by the standard library's HTTP server."""

from __future__ import annotations

import io
import socket
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from resilience.clock import monotonic
from resilience.health._reply import Reply, refusal

if TYPE_CHECKING:
    from socketserver import BaseServer

    from resilience.health._health import Health

__all__ = ("answer",)

_PATIENCE = 5.0
"""Seconds in which a request has to be complete, and a reply taken."""


class _Asked(NamedTuple):
    """What the standard library calls the server: whom to ask, and whom to tell that there is a question."""

    health: Health
    heard: Callable[[], object]


class _RequestReader(io.RawIOBase):
    """Reads a request, all of it within `_PATIENCE`. A socket's own timeout bounds each `recv`, so drops never end."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._due = monotonic() + _PATIENCE

    def readable(self) -> bool:
        """Return True."""
        return True

    def readinto(self, buffer: Any, /) -> int:
        """Receive into `buffer`. Raises TimeoutError past the deadline."""
        left = self._due - monotonic()
        if left <= 0:
            raise TimeoutError("the request is not complete")
        self._connection.settimeout(left)
        return self._connection.recv_into(buffer)


class _Exchange(BaseHTTPRequestHandler):
    """Reads one request, and answers it."""

    timeout = _PATIENCE

    def setup(self) -> None:
        """Bound the request as a whole."""
        super().setup()
        self.rfile.close()
        self.rfile = io.BufferedReader(_RequestReader(self.connection))

    def do_GET(self) -> None:
        """Answer with the body."""
        self._answer(with_body=True)

    def do_HEAD(self) -> None:
        """Answer without."""
        self._answer(with_body=False)

    def _answer(self, *, with_body: bool) -> None:
        asked = cast("_Asked", self.server)
        asked.heard()
        path, _, query = self.path.partition("?")
        self._send(asked.health.handle(path, query, self.headers.get("Accept")), with_body=with_body)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:  # noqa: ARG002 - the base class says what is given
        """Refuse what is no probe; the base class would name itself, and repeat what was asked (L16)."""
        self._send(refusal(code), with_body=self.command != "HEAD")

    def _send(self, reply: Reply, *, with_body: bool) -> None:
        self.connection.settimeout(_PATIENCE)
        self.send_response_only(reply.status)
        for name, value in reply.headers.items():
            self.send_header(name, value)
        self.end_headers()
        if with_body:
            self.wfile.write(reply.body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class calls it so
        """Say nothing: a probe a second is not news."""


def answer(connection: socket.socket, health: Health, heard: Callable[[], object]) -> None:
    """Read a request, call `heard`, and answer it. Raises OSError for a caller who has gone, or takes more than 5 s."""
    _Exchange(connection, ("", 0), cast("BaseServer", _Asked(health, heard)))
