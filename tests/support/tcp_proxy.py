"""A TCP proxy on loopback: it can move to another server, answer in its place, and pass replies on in drops."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from typing import Self

__all__ = ("TcpProxy",)


class TcpProxy:
    """Passes connections on to `target`, a port of this machine.

    A connection keeps the server that was the target when it was made, as one made by name does. Its threads end when
    the proxy is closed.
    """

    def __init__(self, target: int) -> None:
        self.target = target
        self.connections = 0
        self.pause = 0.0
        """Seconds before each byte of a reply; 0 passes a reply on as it comes."""
        self.latency = 0.0
        """Seconds by which each reply is late: what a server far away adds to a round trip."""
        self._answer: bytes | None = None
        self._generation = 0
        self._open: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.url = f"redis://127.0.0.1:{self.port}/0"
        threading.Thread(target=self._accept, daemon=True).start()

    def answer_instead(self, line: bytes) -> None:
        """On each connection that is open now, answer every request with `line`; new ones reach the server."""
        self._answer, self._generation = line, self._generation + 1

    def close(self) -> None:
        """End all connections, and take no more."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for each in list(self._open):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            try:
                server = socket.create_connection(("127.0.0.1", self.target), timeout=5)
            except OSError:
                client.close()
                continue
            server.settimeout(None)
            self._open += [client, server]
            threading.Thread(target=self._requests, args=(client, server, self._generation), daemon=True).start()
            threading.Thread(target=self._replies, args=(server, client), daemon=True).start()

    def _requests(self, client: socket.socket, server: socket.socket, generation: int) -> None:
        with contextlib.suppress(OSError):
            while data := client.recv(65_536):
                if self._answer is not None and generation < self._generation:
                    client.sendall(self._answer)
                else:
                    server.sendall(data)
            server.shutdown(socket.SHUT_WR)

    @staticmethod
    def _rest(server: socket.socket) -> bytes:
        """Return what has come since: it is as late as the piece before it."""
        try:
            return server.recv(1_048_576, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return b""

    def _replies(self, server: socket.socket, client: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := server.recv(65_536):
                if self.latency:
                    time.sleep(self.latency)
                    data += self._rest(server)
                if not self.pause:
                    client.sendall(data)
                    continue
                for number in range(len(data)):
                    time.sleep(self.pause)
                    client.sendall(data[number : number + 1])
            client.shutdown(socket.SHUT_WR)
