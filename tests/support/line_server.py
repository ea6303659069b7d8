"""A server on loopback that answers lines, with TLS or without. It can push, hang up and stop."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from typing import Self

__all__ = ("LineServer",)


class LineServer:
    """Answers `<line>` with `ok <line>`, and `slow` not at all. Each connection has a thread.

    Args:
        context: The TLS context of a server. Default: no TLS.
        port: The port. Default: a free one.
    """

    def __init__(self, context: ssl.SSLContext | None = None, port: int = 0) -> None:
        self._context = context
        self.accepted = 0
        self.farewells = 0
        """Connections that ended in good order: over TLS, with its farewell."""
        self.open: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", port))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                self.accepted += 1
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError), contextlib.ExitStack() as stack:
            stack.callback(connection.close)
            if self._context is not None:
                connection = self._context.wrap_socket(connection, server_side=True, suppress_ragged_eofs=False)
                stack.callback(connection.close)
            self.open.append(connection)
            while True:
                received = connection.recv(1000)
                if not received:
                    self.farewells += 1
                    return
                if received != b"slow\n":
                    connection.sendall(b"ok " + received)

    def push(self, text: bytes) -> None:
        """Send bytes that no client has asked for."""
        for connection in self.open:
            connection.sendall(text)

    def hang_up(self) -> None:
        """End all connections."""
        for connection in self.open:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        self.open.clear()

    def close(self) -> None:
        """Accept no connection any more, and end all."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # wakes the thread in `accept`
        self._listener.close()
        self.hang_up()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
