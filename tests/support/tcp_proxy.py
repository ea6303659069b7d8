"""A TCP proxy on loopback: it can move to another server, answer in its place, and spoil, delay or drop replies."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Self

__all__ = ("TcpProxy",)


class TcpProxy:
    """Passes connections on to `target`, a port of this machine.

    A connection keeps the server that was the target when it was made, as one made by name does. Its threads end when
    the proxy is closed.
    """

    def __init__(self, target: int, backlog: int | None = None) -> None:
        self.target = target
        self.connections = 0
        self.pause = 0.0
        """Seconds before each byte of a reply; 0 passes a reply on as it comes."""
        self.latency = 0.0
        """Seconds by which each reply is late: what a server far away adds to a round trip."""
        self.spoil: Callable[[bytes], tuple[bytes, bool]] | None = None
        """Returns what to pass on instead of a reply, and whether the connection ends after it."""
        self._answer: bytes | None = None
        self._generation = 0
        self._open: list[socket.socket] = []
        self._accepts = threading.Event()
        self._accepts.set()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=backlog)
        self.port: int = self._listener.getsockname()[1]
        self.url = f"redis://127.0.0.1:{self.port}/0"
        threading.Thread(target=self._accept, daemon=True).start()

    def answer_instead(self, line: bytes) -> None:
        """On each connection that is open now, answer every request with `line`; new ones reach the server."""
        self._answer, self._generation = line, self._generation + 1

    @contextlib.contextmanager
    def full_queue(self) -> Iterator[None]:
        """End all connections and accept none. The queue of the kernel is full, so connecting gets no answer at all."""
        self._accepts.clear()
        self.cut()
        fillers = []
        for _ in range(64):  # the kernel rounds the length of the queue up, and one connection may be accepted already
            filler = socket.socket()
            fillers.append(filler)
            filler.settimeout(0.05)
            try:
                filler.connect(("127.0.0.1", self.port))
            except TimeoutError:
                break
        try:
            yield
        finally:
            for filler in fillers:
                filler.close()
            self._accepts.set()

    def cut(self) -> None:
        """End all connections."""
        for each in list(self._open):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """End all connections, and take no more."""
        self._accepts.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()
        for each in list(self._open):
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
            self._accepts.wait()
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
                if self.spoil is not None:
                    data, is_last = self.spoil(data)
                    if is_last:
                        client.sendall(data)
                        break
                if not self.pause:
                    client.sendall(data)
                    continue
                for number in range(len(data)):
                    time.sleep(self.pause)
                    client.sendall(data[number : number + 1])
            client.shutdown(socket.SHUT_WR)
