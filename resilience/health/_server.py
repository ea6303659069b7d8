"""Probes on a port of their own: answered while every thread of the web server is busy (L18)."""

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
from typing import TYPE_CHECKING

from resilience.errors import ConfigurationError, Problem, one_line
from resilience.options import Text, Whole, checked

if TYPE_CHECKING:
    from types import TracebackType

    from resilience.health._health import Health

__all__ = ("HealthServer",)

_log = logging.getLogger("resilience")
_PORT, _HOST = Whole(0, 65_535), Text("an address of this machine", longest=255)
_TRY_AGAIN = 1.0
_MOST_AT_ONCE = 16
_GIVING_UP = 0.25
"""Seconds in which a thread notices that its connection was taken away."""


def _nothing() -> bool:
    return False


class HealthServer:
    """A small HTTP server for the probes of `health`, in a thread of its own. Nothing else is answered there.

    Port 0 takes a free one; `port` says which. Where the port is taken, as a rule by another worker of the same
    service, the process goes on without, and takes it over within a second or so of its becoming free: `is_listening`.
    Anything else that is wrong with the address raises `ConfigurationError`.

    A process that forks before it `serves` a request is a server's master: it hands the port over to its children. One
    that forks later keeps it. `before` is called before each answer.
    """

    def __init__(
        self,
        health: Health,
        port: int,
        host: str = "127.0.0.1",
        *,
        before: Callable[[], object] = _nothing,
        serves: Callable[[], bool] = _nothing,
    ) -> None:
        self.port: int = checked(port, "port", _PORT)
        self.host: str = checked(host, "host", _HOST)
        self._health, self._before, self._serves = health, before, serves
        self._renew()
        self._listener = self._bind()
        try:
            self._start()
        except RuntimeError:  # no more threads: a port that is open and silent would be worse than none
            self._stop()
            raise
        _servers.add(self)

    def _renew(self) -> None:
        self._closing = threading.Event()
        self._free = threading.Semaphore(_MOST_AT_ONCE)
        self._silent: deque[socket.socket] = deque()

    @property
    def is_listening(self) -> bool:
        """Whether this process has the port."""
        return self._listener is not None

    def close(self) -> None:
        """Give the port up. May be called twice."""
        _servers.discard(self)
        self._stop()

    def __enter__(self) -> HealthServer:  # noqa: PYI034 - never subclassed
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def after_fork(self) -> None:
        """Begin again in a worker; in any other child the port is none of ours."""
        listener, self._listener = self._listener, None
        if listener is not None:
            listener.close()
        self._renew()
        if not self._serves():
            with contextlib.suppress(ConfigurationError):  # said once, where the server was made
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
                listener.shutdown(socket.SHUT_RDWR)  # closing alone wakes nobody who waits in accept()
            listener.close()

    def _bind(self) -> socket.socket | None:
        """Return a socket that listens; None where the port is taken."""
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
                self._serve(listener)
            elif not closing.wait(_TRY_AGAIN):
                self._take_over(closing)

    def _take_over(self, closing: threading.Event) -> None:
        with contextlib.suppress(ConfigurationError):
            self._listener = self._bind()
        if closing.is_set():
            self._stop()

    def _serve(self, listener: socket.socket) -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                if self._listener is listener:  # not closed: out of file descriptors, for one
                    self._closing.wait(_TRY_AGAIN)
                return
            if self._has_room():
                self._hear(connection)
            else:
                connection.close()

    def _hear(self, connection: socket.socket) -> None:
        self._silent.append(connection)
        try:
            threading.Thread(target=self._answer, args=(connection,), daemon=True).start()
        except RuntimeError:  # no more threads: one caller has to ask again, and the port is there when there are some
            with connection:
                self._let_go(connection)

    def _let_go(self, connection: socket.socket) -> None:
        """Give the place back."""
        self._no_longer_silent(connection)
        self._free.release()

    def _no_longer_silent(self, connection: socket.socket) -> None:
        with contextlib.suppress(ValueError):  # his place has just been given away
            self._silent.remove(connection)

    def _has_room(self) -> bool:
        """Take a place; whoever has said nothing for longest gives his up, so that silence keeps no probe out."""
        if self._free.acquire(blocking=False):
            return True
        with contextlib.suppress(IndexError, OSError):
            self._silent.popleft().shutdown(socket.SHUT_RDWR)
        return self._free.acquire(timeout=_GIVING_UP)

    def _answer(self, connection: socket.socket) -> None:
        from resilience.health._http import answer  # noqa: PLC0415 - http.server costs 20 ms, and few have such a port

        try:
            with connection, contextlib.suppress(OSError):  # whoever asked may be gone
                self._before()
                answer(connection, self._health, functools.partial(self._no_longer_silent, connection))
        finally:
            self._let_go(connection)


_servers: set[HealthServer] = set()
"""Those not closed. Held here, for a master that has handed its port over holds nothing else of the server."""


def _hand_over() -> None:
    for server in list(_servers):
        server.after_fork_in_parent()


def _take_up() -> None:
    for server in list(_servers):
        server.after_fork()


# Not by renew_after_fork: this starts a thread, so what `threading` itself does after a fork has to come first, and
# these run in the order in which the modules were imported.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_parent=_hand_over, after_in_child=_take_up)
