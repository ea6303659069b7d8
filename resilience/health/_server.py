"""Probes on a port of their own: answered while all threads of the web server are busy (L18)."""

from __future__ import annotations

import contextlib
import errno
import functools
import logging
import os
import socket
import threading
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from resilience.errors import ConfigurationError, Problem, one_line
from resilience.options import Text, Whole, checked

if TYPE_CHECKING:
    from types import TracebackType

    from resilience.health._reply import Reply

__all__ = ("HealthServer",)

_log = logging.getLogger("resilience")
_PORT, _HOST = Whole(0, 65_535), Text("an address of this machine", longest=255)
_RETRY_INTERVAL = 1.0
_MAX_CONNECTIONS = 16
_SHUTDOWN_TIMEOUT = 0.25
"""Seconds in which a thread notices that its connection was shut down, and frees its place."""


class _Pages(Protocol):
    """What is served: a `Health`, or one page."""

    def handle(self, path: str, query: str, accept: str | None, /) -> Reply:
        """Answer a request."""
        ...


def _false() -> bool:
    return False


class HealthServer:
    """A small HTTP server in a thread of its own that answers the probes of `health`, and nothing else.

    If the port is taken, usually by another worker of the same service, the process goes on without it. It takes the
    port over within about a second after that becomes free: see `is_listening`.

    A process that forks before it has served a request is a server's master: it hands the port over to its children. A
    process that forks later keeps the port.

    Args:
        health: Answers the probes: a `Health`, or another object with its `handle`.
        port: 0 takes a free port. The attribute `port` has its number.
        host: The address to listen on.
        before: Called before each answer.
        serves: Returns whether this process has served a request.

    Raises:
        ConfigurationError: The address cannot be used, for another reason than that the port is taken.
        RuntimeError: The system starts no more threads.
    """

    def __init__(
        self,
        health: _Pages,
        port: int,
        host: str = "127.0.0.1",
        *,
        before: Callable[[], object] = _false,
        serves: Callable[[], bool] = _false,
    ) -> None:
        self.port: int = checked(port, "port", _PORT)
        self.host: str = checked(host, "host", _HOST)
        self._health, self._before, self._serves = health, before, serves
        self._renew()
        self._listener = self._bind()
        try:
            self._start()
        except RuntimeError:  # no more threads: an open port that never answers would be worse than a closed one
            self._stop()
            raise
        _servers.add(self)

    def _renew(self) -> None:
        self._closing = threading.Event()
        self._places = threading.Semaphore(_MAX_CONNECTIONS)
        self._unread: deque[socket.socket] = deque()
        """Connections whose request has not arrived, the oldest first."""

    @property
    def is_listening(self) -> bool:
        """Whether this process has the port."""
        return self._listener is not None

    def close(self) -> None:
        """Close the port. May be called twice."""
        _servers.discard(self)
        self._stop()

    def __enter__(self) -> HealthServer:  # noqa: PYI034 - never subclassed
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def after_fork(self) -> None:
        """Take the port over in a worker. In any other child, close it."""
        listener, self._listener = self._listener, None
        if listener is not None:
            listener.close()
        self._renew()
        if not self._serves():
            with contextlib.suppress(ConfigurationError):  # raised once already, when the server was made
                self._listener = self._bind()
            try:
                self._start()
            except RuntimeError as error:
                self._stop()
                _log.error("port %s for health is closed in process %s: %s", self.port, os.getpid(), one_line(error))

    def after_fork_in_parent(self) -> None:
        """Hand the port over to the worker."""
        if not self._serves():
            self._stop()

    def _stop(self) -> None:
        self._closing.set()
        listener, self._listener = self._listener, None
        if listener is not None:
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)  # `close` alone does not wake a thread that waits in `accept`
            listener.close()

    def _bind(self) -> socket.socket | None:
        """Return a socket that listens, None if the port is taken."""
        family = socket.AF_INET6 if ":" in self.host else socket.AF_INET
        try:
            listener = socket.create_server((self.host, self.port), family=family)
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                return None
            expected = f"an address this process may listen on ({error.strerror or error})"
            raise ConfigurationError([Problem("host and port", f"{self.host}:{self.port}", expected)]) from error
        self.port = listener.getsockname()[1]
        return listener

    def _start(self) -> None:
        threading.Thread(target=self._run, args=(self._closing,), name="resilience-health", daemon=True).start()

    def _run(self, closing: threading.Event) -> None:
        if self._listener is None:
            _log.info("port %s for health is taken; process %s waits for it", self.port, os.getpid())
        while not closing.is_set():
            listener = self._listener
            if listener is not None:
                self._accept_from(listener)
            elif not closing.wait(_RETRY_INTERVAL):
                self._take_over(closing)

    def _take_over(self, closing: threading.Event) -> None:
        with contextlib.suppress(ConfigurationError):
            self._listener = self._bind()
        if closing.is_set():
            self._stop()

    def _accept_from(self, listener: socket.socket) -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                if self._listener is listener:  # not closed: the process may have no more file descriptors
                    self._closing.wait(_RETRY_INTERVAL)
                return
            if self._take_place():
                self._start_answer(connection)
            else:
                connection.close()

    def _take_place(self) -> bool:
        """Take one of the places. If all are taken, shut down the oldest connection without a request.

        So clients that connect and send nothing keep no probe out.
        """
        if self._places.acquire(blocking=False):
            return True
        with contextlib.suppress(IndexError, OSError):
            self._unread.popleft().shutdown(socket.SHUT_RDWR)
        return self._places.acquire(timeout=_SHUTDOWN_TIMEOUT)

    def _start_answer(self, connection: socket.socket) -> None:
        self._unread.append(connection)
        try:
            threading.Thread(target=self._answer, args=(connection,), daemon=True).start()
        except RuntimeError:  # no more threads: this client has to try again, and the port stays open
            with connection:
                self._free_place(connection)

    def _free_place(self, connection: socket.socket) -> None:
        self._request_arrived(connection)
        self._places.release()

    def _request_arrived(self, connection: socket.socket) -> None:
        with contextlib.suppress(ValueError):  # `_take_place` has just shut it down
            self._unread.remove(connection)

    def _answer(self, connection: socket.socket) -> None:
        from resilience.health._http_request import answer  # noqa: PLC0415 - http.server costs 20 ms, and few have such a port

        try:
            with connection, contextlib.suppress(OSError):  # the client may have gone
                self._before()
                answer(connection, self._health.handle, functools.partial(self._request_arrived, connection))
        finally:
            self._free_place(connection)


_servers: set[HealthServer] = set()
"""The servers that are not closed. A master that has handed its port over holds no other reference to its server."""


def _after_fork_in_parent() -> None:
    for server in list(_servers):
        server.after_fork_in_parent()


def _after_fork_in_child() -> None:
    for server in list(_servers):
        server.after_fork()


# Not by `renew_after_fork`: this starts a thread, so the work of `threading` itself after a fork has to come first, and
# these functions run in the order in which the modules were imported.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child)
