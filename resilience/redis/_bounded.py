"""Connections of redis-py's whose waits are bounded per reply, and that an outage makes new.

redis-py bounds each `recv`: a server that sends a byte now and then keeps a caller for as long as it likes, and one
that sends without end fills the memory. Here a whole reply has one deadline and one size.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from resilience.clock import monotonic
from resilience.redis._generation import Age, Generation

if TYPE_CHECKING:
    from redis.connection import AbstractConnection as _Base
else:
    _Base = object

__all__ = ("MAX_REPLY", "BoundedSocket", "bounded")

MAX_REPLY: Final = 1024 * 1024
"""Bytes of the largest reply. Limiters need some ten."""


class BoundedSocket:
    """A socket on which everything received for one reply shares one deadline and `MAX_REPLY` bytes.

    The first `recv` of a reply runs under the socket's own timeout, so that a reply that comes in one piece, as nearly
    all do, costs no system call more. Anything that is not about receiving is left to the socket.
    """

    def __init__(self, wrapped: socket.socket) -> None:
        self._socket = wrapped
        self._timeout = wrapped.gettimeout()
        self._received = 0
        self._is_shortened = False
        self._is_first = True
        self._due = 0.0

    def begin_reply(self) -> None:
        """Start the time and the size of a reply."""
        if self._is_shortened:
            self.settimeout(self._timeout)
        self._received, self._is_first = 0, True
        self._due = monotonic() + (self._timeout or 0)

    def settimeout(self, seconds: float | None) -> None:
        """Set the bound on a reply, and start it anew. None waits without one, 0 does not wait."""
        self._timeout, self._is_shortened, self._is_first = seconds, False, True
        self._due = monotonic() + (seconds or 0)
        self._socket.settimeout(seconds)

    def recv(self, size: int, *flags: int) -> bytes:
        """Receive up to `size` bytes of a reply. Raises TimeoutError past its deadline, OSError past its size."""
        self._shorten()
        data = self._socket.recv(size, *flags)
        self._count(len(data))
        return data

    def recv_into(self, buffer: Any, *more: int) -> int:
        """Receive into `buffer`, as redis-py does with hiredis."""
        self._shorten()
        size = self._socket.recv_into(buffer, *more)
        self._count(size)
        return size

    def sendall(self, data: Any, *flags: int) -> None:
        """Send all of `data`, within the socket's timeout."""
        if self._is_shortened:
            self.settimeout(self._timeout)
        self._socket.sendall(data, *flags)

    def _shorten(self) -> None:
        if self._is_first or not self._timeout:
            self._is_first = False
            return
        left = self._due - monotonic()
        if left <= 0:
            raise TimeoutError("the reply is not complete")
        self._is_shortened = True
        self._socket.settimeout(left)

    def _count(self, size: int) -> None:
        self._received += size
        if self._received > MAX_REPLY:
            raise OSError(f"a reply of more than {MAX_REPLY} bytes")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._socket, name)


class _Bounded(_Base):
    """What is added to a kind of connection (TCP, TLS, Unix socket)."""

    def __init__(self, *args: Any, generation: Generation, **settings: Any) -> None:
        self._generation = generation
        self._age: Age | None = None
        super().__init__(*args, **settings)

    def connect(self) -> None:
        """Connect where there is no connection, or one of a past generation. The pool calls it before each use."""
        current = self._generation.current
        if self._age is not current:
            self.disconnect()  # type: ignore[no-untyped-call]  # redis-py leaves it untyped
        super().connect()  # type: ignore[no-untyped-call]  # redis-py leaves it untyped
        if not current.is_server_asked and self._generation.claim_question():
            self._ask_server()

    def _connect(self) -> Any:  # a socket; redis-py's stubs say that the abstract method returns None
        self._age = self._generation.current
        connect: Callable[[], socket.socket] = super()._connect  # type: ignore[safe-super]  # abstract in the base alone
        return BoundedSocket(connect())

    def _ask_server(self) -> None:
        from redis.exceptions import ResponseError  # noqa: PLC0415 - an extra

        try:
            self.send_command("HELLO", 2)  # type: ignore[no-untyped-call]  # redis-py leaves it untyped
            self._generation.note_server(self.read_response())
        except ResponseError:  # a proxy may not know it, and an ACL forbid it
            return

    def read_response(self, *args: Any, **options: Any) -> Any:
        """Read a reply, all of it within one timeout."""
        connected: BoundedSocket | None = self._sock
        if connected is not None:
            connected.begin_reply()
        return super().read_response(*args, **options)


def bounded(kind: type[Any]) -> type[Any]:
    """Return redis-py's `kind` of blocking connection with the bounds of this module."""
    return type(f"Bounded{kind.__name__}", (_Bounded, kind), {})
