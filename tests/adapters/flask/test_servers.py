"""What only real servers show: gunicorn's workers, signals, busy threads, monkey-patching."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.servers

HERE = Path(__file__).parent
WORKERS = {
    "sync": ["-k", "sync"],
    "gthread": ["-k", "gthread", "--threads", "4"],
    "gevent": ["-k", "gevent"],
}


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


class Server:
    """One gunicorn, ended by its own handle."""

    def __init__(self, directory: Path, *arguments: str, **settings: str) -> None:
        self.port, self.said, self.log = free_port(), directory / "said", directory / "log"
        self.said.touch()
        known = {name: value for name, value in os.environ.items() if not name.startswith("RESILIENCE_")}
        command = [sys.executable, "-m", "gunicorn", "--chdir", str(HERE), "-b", f"127.0.0.1:{self.port}"]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [*command, *arguments, "served_shop:create()"],
                env={**known, "SAID": str(self.said), "HOME": str(directory), **settings},
                stdout=log,
                stderr=log,
            )
        self.wait(lambda: self.get("/livez").status == 200)

    def wait(self, holds: Callable[[], Any], limit: float = 15.0) -> None:
        patience = time.monotonic() + limit
        while True:
            with contextlib.suppress(OSError, http.client.HTTPException):
                if holds():
                    return
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < patience, self.log.read_text()
            time.sleep(0.05)

    def get(self, path: str, port: int | None = None, timeout: float = 10, **headers: str) -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", port or self.port, timeout=timeout)
        try:
            connection.request("GET", path, headers=headers)
            return Answer(connection.getresponse())
        finally:
            connection.close()

    def end(self, limit: float = 15) -> int:
        """Send SIGTERM and return the exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(limit)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait(10)


class Answer:
    def __init__(self, answer: http.client.HTTPResponse) -> None:
        self.status, self.headers, self.body = answer.status, answer.headers, answer.read()

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Server]]:
    """Start servers, and end them with the test."""
    with contextlib.ExitStack() as stack:

        def build(*arguments: str, **settings: str) -> Server:
            server = Server(tmp_path, *arguments, **settings)
            stack.callback(server.close)
            return server

        yield build


@pytest.mark.everywhere
@pytest.mark.parametrize("worker", WORKERS)
def test_serves_and_drains(start: Any, worker: str) -> None:
    """Under each kind of worker all is as in process; at SIGTERM what is in flight is finished and stop hooks run."""
    server = start(*WORKERS[worker], "-w", "1", RESILIENCE_SERVER__DEADLINE="10s")
    root = server.get("/", **{"X-Request-ID": "abc"})
    assert (root.status, root.json["request_id"], root.headers["X-Request-ID"]) == (200, "abc", "abc")
    missing, failed = server.get("/nowhere"), server.get("/fails")
    assert (missing.status, missing.json["code"]) == (404, "NOT_FOUND")
    assert (failed.status, failed.json["code"], failed.headers.get_all("Content-Type")) == (
        500,
        "INTERNAL",
        ["application/json"],
    )
    assert [server.get("/limited").status for _ in range(6)] == [200] * 5 + [429]
    assert (server.get("/stream").body, len(server.get("/file").body)) == (b"01234", 100_000)
    with pytest.raises(http.client.IncompleteRead):
        server.get("/breaks")
    server.wait(lambda: server.get("/in-flight").body == b"1")
    assert b"secret" not in b"".join(answer.body for answer in (root, missing, failed))
    with ThreadPoolExecutor(1) as client:
        slow = client.submit(server.get, "/slow/1.0")
        server.wait(lambda: "slow" in server.said.read_text())
        assert server.end() == 0
        assert (slow.result(5).status, slow.result(5).body) == (200, b"done")
    assert server.said.read_text().split() == ["slow", "stopped"]


@pytest.mark.realtime
@pytest.mark.parametrize("worker", ["gthread", "gevent"])
def test_socket_stays_open_for_the_delay(start: Any, worker: str) -> None:
    """For `drain_delay` after SIGTERM readiness is 503, new connections are served, and requests in flight finish."""
    server = start(*WORKERS[worker], "-w", "1", RESILIENCE_LIFECYCLE__DRAIN_DELAY="2s")
    assert server.get("/readyz").status == 200
    with ThreadPoolExecutor(1) as client:
        slow = client.submit(server.get, "/slow/0.5")
        server.wait(lambda: "slow" in server.said.read_text())
        begin = time.monotonic()
        server.process.send_signal(signal.SIGTERM)
        server.wait(lambda: server.get("/readyz").status == 503)
        assert (server.get("/livez").status, server.get("/").status) == (200, 200)
        assert time.monotonic() - begin < 2
        assert slow.result(5).status == 200
    assert server.process.wait(15) == 0
    assert time.monotonic() - begin >= 2


def test_busy_workers_answer_on_the_side_port(start: Any) -> None:
    """While every thread of a worker is busy, the main port keeps probes waiting and the side port answers."""
    side = free_port()
    server = start("-k", "gthread", "--threads", "2", "-w", "1", SIDE_PORT=str(side))
    with ThreadPoolExecutor(3) as clients:
        busy = [clients.submit(server.get, "/slow/1.0") for _ in range(3)]
        server.wait(lambda: server.said.read_text().count("slow") == 2)
        with pytest.raises(TimeoutError):
            server.get("/livez", timeout=0.5)
        assert server.get("/livez", side, timeout=0.5).status == server.get("/readyz", side).status == 200
        assert [each.result(10).status for each in busy] == [200] * 3


@pytest.mark.parametrize("preload", [(), ("--preload",)], ids=["", "preload"])
def test_side_port_goes_from_worker_to_worker(start: Any, preload: tuple[str, ...]) -> None:
    """Of several workers one has the side port, never the master; when it dies another takes it over."""
    side = free_port()
    server = start("-k", "gthread", "-w", "2", *preload, SIDE_PORT=str(side))
    server.wait(lambda: server.get("/livez", side).status == 200)
    first = listener_of(side)
    assert first is not None
    assert first != server.process.pid
    os.kill(first, signal.SIGKILL)
    server.wait(lambda: listener_of(side) not in {None, first, server.process.pid})
    server.wait(lambda: server.get("/livez", side).status == 200)
    assert server.end() == 0


def listener_of(port: int) -> int | None:
    """Return the process that listens on `port`, as Linux tells."""
    if not Path("/proc/net/tcp").exists():
        pytest.skip("no /proc here")
    wanted = f"0100007F:{port:04X}"
    rows = (line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:])
    inodes = {f"socket:[{row[9]}]" for row in rows if row[1] == wanted and row[3] == "0A"}
    for entry in Path("/proc").glob("[0-9]*/fd/*"):
        with contextlib.suppress(OSError):
            if str(entry.readlink()) in inodes:
                return int(entry.parts[2])
    return None


def test_gevent_patches_all_of_it(start: Any) -> None:
    """With gevent's locks and threads, places and limits are as exact as without, and requests know who they are."""
    side = free_port()
    server = start(*WORKERS["gevent"], "-w", "1", SIDE_PORT=str(side), RESILIENCE_SERVER__MAX_CONCURRENT_REQUESTS="5")
    with ThreadPoolExecutor(20) as clients:
        answers = list(clients.map(server.get, ["/busy"] * 40))
        names = [f"id-{number}" for number in range(5)]
        known = [answer.json for answer in clients.map(lambda name: server.get("/", **{"X-Request-ID": name}), names)]
    statuses = [answer.status for answer in answers]
    assert set(statuses) <= {200, 503}
    assert max(int(answer.body) for answer in answers if answer.status == 200) == 5
    assert statuses.count(503) > 0
    assert {one["request_id"] for one in known if "request_id" in one} <= {*names}
    assert server.get("/in-flight").body == b"1"
    assert server.get("/livez", side).status == 200
