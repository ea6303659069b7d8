"""Clients of a server that drains: a router that polls readiness, and clients that it sends there."""

from __future__ import annotations

import contextlib
import http.client
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

__all__ = ("Asking", "Crowd", "Http", "Tally")

PATIENCE = 20.0
"""Seconds after which a client gives up and counts its request as lost."""
_PAUSE = 0.02


class Asking(Protocol):
    """A protocol that clients use. Each method is called from several threads."""

    def is_ready(self) -> bool:
        """Return whether the service is ready. False also if it does not answer."""
        ...

    def ask(self, seconds: float) -> bool:
        """Request `seconds` of work, on a connection of its own. Raises if the answer is not complete."""
        ...

    def converse(self, goes_on: Callable[[], bool], tell: Callable[[Exception | None], None]) -> None:
        """Send requests on one connection, as long as `goes_on()`, and report how each request ended."""
        ...


@dataclass
class Tally:
    """The number of requests sent, and the errors of requests without an answer."""

    answered: int = 0
    lost: list[str] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def tell(self, error: Exception | None) -> None:
        """Count one request."""
        with self._lock:
            if error is None:
                self.answered += 1
            else:
                self.lost.append(f"{type(error).__name__}: {error}"[:200])


class Http:
    """HTTP/1.1."""

    def __init__(self, port: int) -> None:
        self._port = port

    def _open(self, timeout: float = PATIENCE) -> contextlib.closing[http.client.HTTPConnection]:
        return contextlib.closing(http.client.HTTPConnection("127.0.0.1", self._port, timeout=timeout))

    def is_ready(self) -> bool:
        """Ask `/readyz`."""
        try:
            with self._open(2) as connection:
                return _status(connection, "/readyz") == http.HTTPStatus.OK
        except (OSError, http.client.HTTPException):
            return False

    def ask(self, seconds: float) -> bool:
        """Ask on a new connection."""
        with self._open() as connection:
            return _expect(connection, f"/slow/{seconds}" if seconds else "/work")

    def converse(self, goes_on: Callable[[], bool], tell: Callable[[Exception | None], None]) -> None:
        """Keep the connection until the server says that it closes it."""
        while goes_on():
            with self._open() as connection:
                while goes_on() and _reported(tell, lambda: _expect(connection, "/work")):
                    time.sleep(_PAUSE)


def _status(connection: http.client.HTTPConnection, path: str) -> int:
    connection.request("GET", path)
    answer = connection.getresponse()
    answer.read()
    return answer.status


def _expect(connection: http.client.HTTPConnection, path: str) -> bool:
    """Return whether the connection can be used again. Raises `AssertionError` for an unexpected answer."""
    connection.request("GET", path)
    answer = connection.getresponse()
    assert (answer.status, b"done" in answer.read()) == (200, True), answer.status
    return not answer.will_close


def _reported(tell: Callable[[Exception | None], None], ask: Callable[[], bool]) -> bool:
    try:
        goes_on = ask()
    except Exception as error:  # noqa: BLE001 - any error of a client is a result
        tell(error)
        return False
    tell(None)
    return goes_on


class Crowd:
    """Several clients on new connections, one on a kept connection, one with a long request, and a router."""

    def __init__(self, service: Asking) -> None:
        self._service = service
        self.routed, self.late, self.long = Tally(), Tally(), Tally()
        self.noticed: float | None = None
        """When the router found the service not ready."""
        self._is_routed = True
        self._threads: list[threading.Thread] = []
        self._end = time.monotonic() + PATIENCE

    def come(self, number: int) -> None:
        """Start clients that the router sends: `number` on new connections, and one on a kept connection."""
        for _ in range(number):
            self._add(self._visit)
        self._add(self._converse)
        self._add(self._look)

    def ask_long(self, seconds: float) -> None:
        """Start a long request."""
        self._add(lambda: _reported(self.long.tell, lambda: self._service.ask(seconds)))

    def insist(self, until: float) -> None:
        """Start a client that ignores the router until then."""
        self._add(lambda: self._insist(until))

    def join(self) -> None:
        """Wait for the last answer."""
        for thread in self._threads:
            thread.join(PATIENCE)
            assert not thread.is_alive()

    def _add(self, work: Callable[[], object]) -> None:
        self._threads.append(threading.Thread(target=work))
        self._threads[-1].start()

    def _comes(self) -> bool:
        return self._is_routed and time.monotonic() < self._end

    def _visit(self) -> None:
        while self._comes():
            _reported(self.routed.tell, lambda: self._service.ask(0))
            time.sleep(_PAUSE)

    def _converse(self) -> None:
        self._service.converse(self._comes, self.routed.tell)

    def _insist(self, until: float) -> None:
        while time.monotonic() < until:
            _reported(self.late.tell, lambda: self._service.ask(0))
            time.sleep(_PAUSE)

    def _look(self) -> None:
        while self._comes():
            if not self._service.is_ready():
                self.noticed = time.monotonic()
                self._is_routed = False
            time.sleep(_PAUSE)
