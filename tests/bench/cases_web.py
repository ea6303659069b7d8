"""FastAPI with everything on, against the same application without: in process, and under a real uvicorn."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import harness
import samples
import served
from harness import Case, Contender, Sample, Session, Unavailable, Unit

__all__ = ("CASES", "Server")

_HOW = {
    "bare": "one async route that returns a small object",
    "resilience": (
        "install(app): request id, rate limit by address, at most 200 requests at once, a deadline of 10 s, probes, "
        "one shape for errors"
    ),
    "resilience, on Redis": "the same with the rate limit on Redis, with one decision for all requests of a loop turn",
    "resilience, defaults": "install(app) with nothing configured: request id, probes, one shape for errors",
    "slowapi": "SlowAPIASGIMiddleware with a default limit; it does nothing else",
    "slowapi, on Redis": "the same on Redis, which blocks the loop for the round trip",
    "slowapi, BaseHTTPMiddleware": "SlowAPIMiddleware, as in the documentation of slowapi",
    "pyresilience": "its ASGI middleware with rate limit, bulkhead and timeout; one limit for all clients",
}
_BUDGETS = {"resilience": 0.90, "resilience, on Redis": 0.70}
_CONNECTIONS = 8


def _scope() -> dict[str, Any]:
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": "/orders/7",
        "raw_path": b"/orders/7",
        "query_string": b"",
        "root_path": "",
        "headers": [(b"host", b"shop.example"), (b"user-agent", b"bench"), (b"accept", b"*/*")],
        "client": ("192.0.2.7", 50_000),
        "server": ("127.0.0.1", 8000),
        "state": {},
    }


def _inside(name: str) -> Callable[[Session], Sample]:
    """Hand requests straight to the application: no server, no sockets."""

    def build(session: Session) -> Sample:
        app = _prepared(name, session)
        request = {"type": "http.request", "body": b"", "more_body": False}

        async def receive() -> dict[str, Any]:
            return request

        async def send(message: dict[str, Any]) -> None:
            if message.get("status", 200) != 200:
                raise Unavailable(f"answered {message['status']}")

        async def serve(_order: int) -> None:
            await app(_scope(), receive, send)

        return samples.awaits(session, serve)

    return build


def _served(name: str) -> Callable[[Session], Sample]:
    """Start uvicorn with the application; time what its process takes for requests on kept-alive connections."""

    def build(session: Session) -> Sample:
        harness.peer("uvicorn")  # here, so that what is missing is said before a process starts
        _prepared(name, session)
        server = Server(name)
        session.stack.callback(server.close)
        return server.sample

    return build


def _prepared(name: str, session: Session) -> Any:
    if "Redis" in name:
        os.environ[served.REDIS] = session.redis_url
    return served.build(name)


class Server:
    """One server in a process, and as many connections to it as it takes to keep it busy.

    `script` prints the port, and the process that serves where that is another one.
    """

    def __init__(self, name: str, script: str = served.__file__, *, connections: int = _CONNECTIONS) -> None:
        self._process = subprocess.Popen([sys.executable, script, name], stdout=subprocess.PIPE, text=True)
        told = (self._process.stdout.readline() if self._process.stdout else "").split()
        if not told or not told[0].isdigit():
            self.close()
            raise Unavailable("the server did not start")
        self._connections = [
            socket.create_connection(("127.0.0.1", int(told[0])), timeout=10) for _ in range(connections)
        ]
        self._threads = Path(f"/proc/{told[-1] if len(told) > 1 else self._process.pid}/task")

    def sample(self, number: int) -> float:
        """Make that many requests; nanoseconds each, of the server's CPU where the system tells, else elapsed."""
        begin = self._clock()
        for connection in self._connections:
            _ask(connection)
        for turn in range(number):
            connection = self._connections[turn % len(self._connections)]
            _read(connection)
            _ask(connection)
        for connection in self._connections:
            _read(connection)
        return (self._clock() - begin) / (number + len(self._connections))

    def _clock(self) -> int:
        try:
            return sum(int(each.read_text().split()[0]) for each in self._threads.glob("*/schedstat"))
        except OSError:
            return time.perf_counter_ns()

    def close(self) -> None:
        """End the process by its own handle."""
        for connection in getattr(self, "_connections", ()):
            connection.close()
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(10)
        if self._process.stdout is not None:
            self._process.stdout.close()


_REQUEST = b"GET /orders/7 HTTP/1.1\r\nHost: shop.example\r\nUser-Agent: bench\r\nAccept: */*\r\n\r\n"


def _ask(connection: socket.socket) -> None:
    connection.sendall(_REQUEST)


def _read(connection: socket.socket) -> None:
    """Read one response: the application's body is the same each time, and ends with a brace."""
    received = connection.recv(65_536)
    while not received.endswith((b"}", b"}\n")):
        more = connection.recv(65_536)
        if not more:
            raise Unavailable("the server closed the connection")
        received += more
    if b" 200 " not in received[:16]:
        raise Unavailable(f"answered {received[:40]!r}")


def _contenders(how: Callable[[str], Callable[[Session], Sample]], budgets: dict[str, float]) -> tuple[Contender, ...]:
    return tuple(Contender(name, how(name), text, budgets.get(name)) for name, text in _HOW.items() if name != "bare")


CASES = (
    Case(
        "fastapi-uvicorn",
        "FastAPI under uvicorn",
        Contender("bare application", _served("bare"), _HOW["bare"]),
        _contenders(_served, _BUDGETS),
        unit=Unit.SHARE,
        note=(
            f"Real processes on loopback, {_CONNECTIONS} kept-alive connections. A figure is the CPU "
            "time of the server's process for one request, so `a second` is the capacity of one core."
        ),
        smallest=300,  # the system accounts for CPU time in ticks of some milliseconds
        largest=300,
    ),
    Case(
        "fastapi",
        "The same application without a server",
        Contender("bare application", _inside("bare"), _HOW["bare"]),
        _contenders(_inside, {}),
        unit=Unit.SHARE,
        note="Requests reach the application as ASGI calls. The cost of the server is missing in all rows.",
    ),
)
