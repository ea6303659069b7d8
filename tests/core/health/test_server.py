"""Probes on a port of their own, and which process has the port."""

from __future__ import annotations

import contextlib
import http.client
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from resilience.errors import ConfigurationError
from resilience.health import Health, HealthServer
from resilience.health._server import _MAX_CONNECTIONS

pytestmark = [pytest.mark.servers, pytest.mark.everywhere]


def ask(port: int, path: str = "/livez", method: str = "GET", **headers: str) -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request(method, path, headers=headers)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    finally:
        connection.close()


def wait(condition: Callable[[], Any], limit: float = 10.0) -> None:
    patience = time.monotonic() + limit
    while not condition():
        assert time.monotonic() < patience
        time.sleep(0.02)


@pytest.fixture
def health() -> Health:
    return Health()


@pytest.fixture
def server(health: Health) -> Iterator[HealthServer]:
    with HealthServer(health, 0) as server:
        yield server


def test_answers(health: Health, server: HealthServer) -> None:
    """It answers GET and HEAD of the probes as every adapter does, and nothing else."""
    health.add("db", lambda: False)
    assert ask(server.port) == (200, "ok")
    assert ask(server.port, "/readyz")[0] == ask(server.port, "/readyz/db")[0] == 503
    assert ask(server.port, "/readyz?exclude=db") == (200, "ok")
    assert ask(server.port, "/livez", "HEAD") == (200, "")
    assert ask(server.port, "/livez?verbose", Accept="application/json")[1].startswith('{"status": "ok"')
    assert ask(server.port, "/")[0] == 404
    assert ask(server.port, "/livez", "POST")[0] == 501


@pytest.mark.parametrize(
    ("request_line", "status"),
    [
        (b"GET /livez HTTP/1.0", b"HTTP/1.0 200 OK"),
        (b"POST /livez HTTP/1.1", b"HTTP/1.0 501 Not Implemented"),
        (b"secret /livez HTTP/1.1", b"HTTP/1.0 501 Not Implemented"),
        (b"GET /livez HTTP/1.1\r\n" + b"X: secret\r\n" * 101, b"HTTP/1.0 431 Request Header Fields Too Large"),
        (b"GET /livez HTTP/9.9", None),  # no status line: HTTP/0.9, as far as the server can know
        (b"GET secret /livez HTTP/1.0", None),
    ],
)
def test_tells_nothing_about_itself(server: HealthServer, request_line: bytes, status: bytes | None) -> None:
    """No answer names the software or repeats the request."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=5) as connection:
        connection.sendall(request_line + b"\r\n\r\n")
        received = b"".join(iter(lambda: connection.recv(4096), b""))
    if status is not None:
        head, _, body = received.partition(b"\r\n\r\n")
        assert head.split(b"\r\n")[0] == status
        assert b"\r\nContent-Type: text/plain; charset=utf-8\r\n" in head
        assert head.endswith(b"\r\nContent-Length: %d" % len(body))
    assert not [word for word in (b"Python", b"\r\nserver:", b"<", b"secret") if word.lower() in received.lower()]


def test_silent_clients_keep_no_probe_out(server: HealthServer) -> None:
    """Any number of clients that send nothing, or no HTTP, do not stop a probe from being answered."""
    idle = [socket.create_connection(("127.0.0.1", server.port), timeout=5) for _ in range(40)]
    idle[0].sendall(b"\x00\xff nonsense\r\n\r\n")
    idle[1].close()
    for _ in range(3):
        assert ask(server.port) == (200, "ok")
    for connection in idle:
        connection.close()


def test_a_request_in_drops_ends(server: HealthServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that sends a byte now and then has as much time as a client that sends nothing."""
    monkeypatch.setattr("resilience.health._http_request._REQUEST_TIMEOUT", 0.5)
    since = time.monotonic()
    with socket.create_connection(("127.0.0.1", server.port), timeout=5) as slow:
        slow.sendall(b"GET /livez HTTP/1.0\r\nX-Drops: ")
        with contextlib.suppress(OSError):
            while time.monotonic() - since < 10:
                slow.sendall(b"a")
                time.sleep(0.02)
                slow.settimeout(0.001)
                with contextlib.suppress(TimeoutError):
                    if slow.recv(1) == b"":
                        break
                slow.settimeout(5)
    assert 0.3 < time.monotonic() - since < 5
    assert ask(server.port) == (200, "ok")


def test_more_callers_than_it_takes(health: Health, server: HealthServer) -> None:
    """Above a fixed number of connections the next one is closed, so threads are bounded."""
    go_on = threading.Event()
    health.add("stuck", lambda: go_on.wait(5), timeout="4s")
    asking = [threading.Thread(target=ask, args=(server.port, "/readyz")) for _ in range(16)]
    for thread in asking:
        thread.start()
    wait(lambda: not server._places._value and not server._unread)
    with socket.create_connection(("127.0.0.1", server.port), timeout=5) as late:
        assert late.recv(1) == b""
    go_on.set()
    for thread in asking:
        thread.join(5)
    assert answers(server.port)


def test_no_thread_is_one_answer_less(server: HealthServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the system starts no thread, the connection is closed, and the port stays open with all its places."""

    def refuse(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        for _ in range(2 * _MAX_CONNECTIONS):
            with socket.create_connection(("127.0.0.1", server.port), timeout=5) as connection:
                assert connection.recv(1) == b""
    assert ask(server.port) == (200, "ok")
    wait(lambda: server._places._value == _MAX_CONNECTIONS and not server._unread)


def answers(port: int) -> bool:
    try:
        return ask(port)[0] == 200
    except (OSError, http.client.HTTPException):
        return False


def test_hanging_check_delays_no_other_probe(health: Health, server: HealthServer) -> None:
    """While one probe waits for a check that hangs, another is answered."""
    go_on = threading.Event()
    health.add("stuck", lambda: go_on.wait(5), timeout="4s")
    waiting = threading.Thread(target=ask, args=(server.port, "/readyz"))
    waiting.start()
    assert ask(server.port) == (200, "ok")
    assert waiting.is_alive()
    go_on.set()
    waiting.join(5)


def test_taken_port_is_taken_over(health: Health, server: HealthServer) -> None:
    """If the port is taken, the process goes on without it, and takes it over soon after it is free."""
    with HealthServer(health, server.port) as second:
        assert (server.is_listening, second.is_listening) == (True, False)
        server.close()
        server.close()
        assert not server.is_listening
        wait(lambda: second.is_listening)
        assert ask(second.port) == (200, "ok")
    wait(lambda: not answers(second.port))


@pytest.mark.parametrize(
    ("port", "host"),
    [(-1, "127.0.0.1"), (70_000, "127.0.0.1"), ("x", "127.0.0.1"), (0, "192.0.2.1"), (0, "no.such.host.")],
)
def test_bad_addresses(health: Health, port: Any, host: str) -> None:
    """An address that cannot be used is refused at once."""
    with pytest.raises(ConfigurationError):
        HealthServer(health, port, host)


def test_ipv6(health: Health) -> None:
    """An IPv6 address works if the machine has one."""
    try:
        server = HealthServer(health, 0, "::1")
    except ConfigurationError:
        pytest.skip("no IPv6 here")
    with server, socket.create_connection(("::1", server.port), timeout=5) as connection:
        connection.sendall(b"GET /livez HTTP/1.0\r\n\r\n")
        assert connection.recv(4096).startswith(b"HTTP/1.0 200")


MASTER = """
import os, signal, sys, time
from resilience.health import Health, HealthOptions, HealthServer

def tell_pid():
    raise RuntimeError(f"pid-{os.getpid()} ")

health = Health(HealthOptions(details=True))
health.add("pid", tell_pid, groups=("live",), failure="warn")
server = HealthServer(health, 0, serves=lambda: sys.argv[1] == "serving")
print(server.port, flush=True)
for _ in range(2):
    pid = os.fork()
    if not pid:
        signal.pause()
    print(pid, flush=True)
signal.pause()
"""


@pytest.mark.parametrize("state", ["starting", "serving"])
def test_fork(state: str) -> None:
    """A master hands the port to its workers, one after the other; a process that has served keeps it."""
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", MASTER, state]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as master:
        assert master.stdout is not None
        port, *workers = (int(master.stdout.readline()) for _ in range(3))
        try:
            if state == "serving":
                assert who_answers(port) == master.pid
            else:
                wait(lambda: who_answers(port) in workers)
                first = who_answers(port)
                os.kill(first, signal.SIGKILL)
                workers.remove(first)
                wait(lambda: who_answers(port) in workers)
        finally:
            for pid in workers:
                os.kill(pid, signal.SIGKILL)
            master.kill()


def who_answers(port: int) -> int:
    try:
        return int(ask(port, "/livez?verbose")[1].split("pid-")[1].split()[0])
    except (OSError, http.client.HTTPException, IndexError):
        return 0
