"""Connections of redis-py that are bounded in time and size, and that the next use replaces after an outage.

redis-py bounds each `recv`. A server that sends a byte now and then keeps a caller for as long as it likes, and a
server that sends without end fills the memory. Here a whole reply has one deadline and one size. (Event loops bound a
whole exchange instead: `LoopTimeout` in `_pool_aio.py`.)

A pool of redis-py keeps connections to the address that a name had when they were made. After a failover by name these
lead to the demoted server for as long as it lives. So an outage ends a *generation*: each older connection is closed
when a caller takes it from the pool, and the new one resolves the name again. A connection in use is not touched.
"""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final

from resilience.redis._errors import CLUSTER

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer, WriteableBuffer
    from redis.asyncio.connection import AbstractConnection as _AsyncBase
    from redis.connection import AbstractConnection as _Base
else:
    _Base = _AsyncBase = object

__all__ = ("MAX_REPLY", "BoundedSocket", "Generations", "bounded", "bounded_async")

_log = logging.getLogger("resilience")

MAX_REPLY: Final = 1024 * 1024
"""Bytes of the largest reply. Limiters need about ten."""


class Generation:
    """The connections made between two outages; compared by identity."""

    __slots__ = ("is_cluster_node", "is_server_asked")

    def __init__(self) -> None:
        self.is_server_asked = False
        self.is_cluster_node = False


class Generations:
    """The present generation of one `RedisConnection`. No lock: each step is one assignment.

    Args:
        is_asked: Whether no connection asks its server for the mode, because that is known.
    """

    def __init__(self, *, is_asked: bool = False) -> None:
        self.current = Generation()
        self.current.is_server_asked = is_asked
        self._is_reported = False

    def renew(self) -> None:
        """Begin a new generation: no connection that exists is used again."""
        self.current = Generation()

    def claim_question(self) -> bool:
        """Whether the caller is the one that asks the server of this generation for its mode."""
        generation = self.current
        is_first, generation.is_server_asked = not generation.is_server_asked, True
        return is_first

    def note_server(self, hello: object) -> None:
        """Read the reply to HELLO: names and values in turn (RESP 2). Logs a node of a cluster, once."""
        if not isinstance(hello, Sequence) or isinstance(hello, str | bytes):
            return
        facts = dict(zip(map(_text, hello[::2]), map(_text, hello[1::2]), strict=False))
        self.current.is_cluster_node = facts.get("mode") == "cluster"
        if self.current.is_cluster_node and not self._is_reported:
            self._is_reported = True
            _log.warning("Redis will not serve all limiters: %s", CLUSTER)


def _text(value: object) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


class BoundedSocket:
    """A socket on which all that is received for one reply shares one deadline and `MAX_REPLY` bytes.

    The first `recv` of a reply runs under the socket's own timeout. Nearly all replies come in one piece, and these
    need no further system call. All other members are those of the socket.
    """

    def __init__(self, wrapped: socket.socket) -> None:
        self._socket = wrapped
        self._timeout = wrapped.gettimeout()
        self._received = 0
        self._is_shortened = False
        self._is_first = True
        self._due = 0.0

    def begin_reply(self) -> None:
        """Start the deadline and the size of a reply."""
        if self._is_shortened:
            self.settimeout(self._timeout)
        self._received, self._is_first = 0, True
        self._due = time.monotonic() + (self._timeout or 0)

    def settimeout(self, seconds: float | None) -> None:
        """Set the bound on a reply, and start it anew. None waits without a bound, 0 does not wait."""
        self._timeout, self._is_shortened, self._is_first = seconds, False, True
        self._due = time.monotonic() + (seconds or 0)
        self._socket.settimeout(seconds)

    def recv(self, size: int, *flags: int) -> bytes:
        """Receive up to `size` bytes of a reply. Raises TimeoutError past its deadline, OSError past its size."""
        self._shorten()
        data = self._socket.recv(size, *flags)
        self._count(len(data))
        return data

    def recv_into(self, buffer: WriteableBuffer, *more: int) -> int:
        """Receive into `buffer`, as redis-py does with hiredis."""
        self._shorten()
        size = self._socket.recv_into(buffer, *more)
        self._count(size)
        return size

    def sendall(self, data: ReadableBuffer, *flags: int) -> None:
        """Send all of `data`, within the socket's timeout."""
        if self._is_shortened:
            self.settimeout(self._timeout)
        self._socket.sendall(data, *flags)

    def _shorten(self) -> None:
        if self._is_first or not self._timeout:
            self._is_first = False
            return
        left = self._due - time.monotonic()
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


class BoundedConnection(_Base):
    """The part that is added to a blocking class of redis-py (TCP, TLS, Unix socket)."""

    def __init__(self, *args: Any, generations: Generations, **settings: Any) -> None:
        self._generations = generations
        self._generation: Generation | None = None
        super().__init__(*args, **settings)

    def connect(self) -> None:
        """Connect if there is no connection, or one of a past generation. The pool calls it before each use."""
        current = self._generations.current
        if self._generation is not current:
            self.disconnect()  # type: ignore[no-untyped-call]  # redis-py leaves it untyped
        super().connect()  # type: ignore[no-untyped-call]  # redis-py leaves it untyped
        if not current.is_server_asked and self._generations.claim_question():
            self._ask_server()

    def _connect(self) -> Any:  # a socket; redis-py's stubs say that the abstract method returns None
        self._generation = self._generations.current
        connect: Callable[[], socket.socket] = super()._connect  # type: ignore[safe-super]  # abstract in the base alone
        return BoundedSocket(connect())

    def _ask_server(self) -> None:
        from redis.exceptions import ResponseError  # noqa: PLC0415 - an extra

        try:
            self.send_command("HELLO", 2)  # type: ignore[no-untyped-call]  # redis-py leaves it untyped
            self._generations.note_server(self.read_response())
        except ResponseError:  # a proxy may not know it, and an ACL may forbid it
            return

    def read_response(self, *args: Any, **options: Any) -> Any:
        """Read a reply, all of it within one timeout."""
        connected: BoundedSocket | None = self._sock
        if connected is not None:
            connected.begin_reply()
        return super().read_response(*args, **options)


class BoundedAsyncConnection(_AsyncBase):
    """The part that is added to an awaiting class of redis-py (TCP, TLS, Unix socket)."""

    def __init__(self, *args: Any, generations: Generations, **settings: Any) -> None:
        self._generations = generations
        self._generation: Generation | None = None
        super().__init__(*args, **settings)

    async def connect(self) -> None:
        """Connect if there is no connection, or one of a past generation. The pool calls it before each use."""
        current = self._generations.current
        if self._generation is not current:
            await self.disconnect(nowait=True)
            self._generation = current
        await super().connect()  # type: ignore[no-untyped-call]  # redis-py leaves it untyped
        if not current.is_server_asked and self._generations.claim_question():
            await self._ask_server()

    async def _ask_server(self) -> None:
        from redis.exceptions import ResponseError  # noqa: PLC0415 - an extra

        try:
            await self.send_command("HELLO", 2)
            self._generations.note_server(await self.read_response())
        except ResponseError:  # a proxy may not know it, and an ACL may forbid it
            return


def bounded(kind: type[Any]) -> type[Any]:
    """Return redis-py's `kind` of blocking connection with the bounds of this module."""
    return type(f"Bounded{kind.__name__}", (BoundedConnection, kind), {})


def bounded_async(kind: type[Any]) -> type[Any]:
    """Return redis-py's `kind` of awaiting connection, replaced after an outage."""
    return type(f"Bounded{kind.__name__}", (BoundedAsyncConnection, kind), {})
