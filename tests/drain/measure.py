"""The drain of one server under load, in each of three ways."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Iterator
from concurrent import futures
from dataclasses import dataclass
from pathlib import Path

from clients import Asking, Crowd, Http
from redis_process import free_port
from rpcs import Rpc
from server_process import ServerProcess
from servers import Server

__all__ = (
    "DELAY",
    "LONG",
    "PATIENT",
    "SHORT_LIMIT",
    "STUCK",
    "Drained",
    "Forced",
    "Hurried",
    "Measured",
    "drain",
    "force",
    "hurry",
    "measure",
)

APPS = Path(__file__).parent / "apps"
DELAY = 1.0
"""`drain_delay`, in seconds."""
LONG = 1.6
"""Seconds of the request that is in flight when the signal comes. Longer than the delay."""
LIMIT = 8.0
"""The server's own limit in experiments that must not reach it."""
SHORT_LIMIT = 1.0
PATIENT = 4.0
"""The delay of a server that gets a second signal."""
_BRIEF = 0.3
STUCK = 12.0
_CLIENTS = 4
_HEARD = "slow one begins"
_AGAIN = 0.7
"""Longer than the parent of `uvicorn --workers` takes to pass a signal on."""


@dataclass(frozen=True, kw_only=True)
class Left:
    """How a process ended."""

    lost: tuple[str, ...]
    """The errors of requests that should have been answered."""
    took: float
    """Seconds from SIGTERM to the end of the process."""
    status: int
    output: str

    @property
    def hooks_ran(self) -> bool:
        """Whether the stop hooks ran, in one worker at least."""
        return "stop hook" in self.output


@dataclass(frozen=True, kw_only=True)
class Drained(Left):
    """The result of a drain under load."""

    answered: int
    """Answered requests of clients that the router sent, and of the long request."""
    late: int
    """Requests answered on connections opened after the signal, by the client that ignores the router."""
    noticed: float
    """Seconds from the signal until a probe found the service not ready."""


@dataclass(frozen=True, kw_only=True)
class Hurried(Left):
    """The result of a second SIGTERM, to all processes of a server with a long delay."""


@dataclass(frozen=True, kw_only=True)
class Forced(Left):
    """The result for a server with a request that does not end, at the server's own limit."""

    stuck: int
    """The number of those requests that were cut off."""


@dataclass(frozen=True)
class Measured:
    """One row of the matrix."""

    server: Server
    drained: Drained
    hurried: Hurried
    forced: Forced


def measure(server: Server, folder: Path) -> Measured:
    """Run a server three times, side by side: each spends most of its time waiting."""
    folders = [folder / name for name in ("drained", "hurried", "forced")]
    for each in folders:
        each.mkdir()
    with futures.ThreadPoolExecutor(3) as pool:
        drained, hurried, forced = (
            pool.submit(drain, server, folders[0]),
            pool.submit(hurry, server, folders[1]),
            pool.submit(force, server, folders[2]),
        )
        return Measured(server, drained.result(), hurried.result(), forced.result())


@contextlib.contextmanager
def _serving(server: Server, folder: Path, delay: float, limit: float) -> Iterator[tuple[ServerProcess, Asking]]:
    """Run it, and wait until it is ready."""
    port = free_port()
    known = {
        "PYTHONPATH": os.pathsep.join([str(APPS), os.environ.get("PYTHONPATH", "")]),
        "RESILIENCE_LIFECYCLE__DRAIN_DELAY": f"{delay:g}s",
        "RESILIENCE_LIFECYCLE__DRAIN_TIMEOUT": f"{limit:g}s",
        "RESILIENCE_LIFECYCLE__DRAIN_FILE": str(folder / "drain"),
        "HOME": str(folder),
    }
    process = ServerProcess([sys.executable, *server.command(port, limit)], APPS, known, port, folder / "output.txt")
    try:
        service: Asking = Rpc(port) if server.is_grpc else Http(port)
        end = time.monotonic() + 20
        while process.output.count("loaded") < server.loads or not service.is_ready():
            assert time.monotonic() < end, process.output
            time.sleep(0.05)
        yield process, service
    finally:
        process.kill()


def drain(server: Server, folder: Path) -> Drained:
    """Drain a server under load, and count the requests lost until its end."""
    with _serving(server, folder, DELAY, LIMIT) as (process, service):
        crowd = Crowd(service)
        crowd.ask_long(LONG)
        process.says(_HEARD)
        crowd.come(_CLIENTS)
        time.sleep(_BRIEF)
        sent = _tell(server, process, folder)
        crowd.insist(until=sent + DELAY * 0.6)
        begun = _ask_to_end(server, process, sent)
        status = process.ended(20)
        took = time.monotonic() - begun
        crowd.join()
        lost = (*crowd.routed.lost, *crowd.late.lost, *crowd.long.lost)
        assert crowd.noticed is not None, process.output
        assert crowd.long.answered + len(crowd.long.lost) == 1
        return Drained(
            lost=lost,
            took=took,
            status=status,
            output=process.output,
            answered=crowd.routed.answered + crowd.long.answered,
            late=crowd.late.answered,
            noticed=crowd.noticed - sent,
        )


def _tell(server: Server, process: ServerProcess, folder: Path) -> float:
    """Begin the drain as Kubernetes does: by the signal, or by the file that `preStop` makes before the signal."""
    if not server.takes_file:
        return process.tell()
    (folder / "drain").touch()
    return time.monotonic()


def _ask_to_end(server: Server, process: ServerProcess, sent: float) -> float:
    """Send SIGTERM, if the drain began by the file, after `preStop` has lasted as long as the delay."""
    if not server.takes_file:
        return sent
    time.sleep(max(0.0, sent + DELAY - time.monotonic()))
    return process.tell()


def hurry(server: Server, folder: Path) -> Hurried:
    """Send a second signal, and measure its effect."""
    with _serving(server, folder, PATIENT, LIMIT) as (process, service):
        crowd = Crowd(service)
        crowd.ask_long(LONG)
        process.says(_HEARD)
        sent = process.tell()
        time.sleep(_AGAIN)
        process.tell_all()
        status = process.ended(20)
        took = time.monotonic() - sent
        crowd.join()
        return Hurried(lost=tuple(crowd.long.lost), took=took, status=status, output=process.output)


def force(server: Server, folder: Path) -> Forced:
    """Drain the server while one of its requests does not end."""
    with _serving(server, folder, _BRIEF, SHORT_LIMIT) as (process, service):
        stuck, crowd = Crowd(service), Crowd(service)
        stuck.ask_long(STUCK)
        process.says(_HEARD)
        crowd.ask_long(_BRIEF)
        time.sleep(_BRIEF / 3)
        sent = process.tell()
        status = process.ended(20)
        took = time.monotonic() - sent
        crowd.join()
        stuck.join()
        return Forced(
            lost=tuple(crowd.long.lost), took=took, status=status, output=process.output, stuck=len(stuck.long.lost)
        )
