"""The status socket: what a running process shows to its own user."""

from __future__ import annotations

import gc
import json
import os
import socket
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from resilience import Resilience
from resilience.__main__ import main
from resilience.status import PROCESS, StatusSocket, read_status, sockets_of


@pytest.fixture
def path() -> Iterator[str]:
    with tempfile.TemporaryDirectory(prefix="s") as folder:  # pytest's own paths are too long for a socket
        yield str(Path(folder) / "status.sock")


def own(path: str) -> Path:
    return Path(f"{path}.{os.getpid()}")


def toolkit(path: str, **settings: str) -> Resilience:
    named = {f"RESILIENCE_{name.upper()}": text for name, text in settings.items()}
    return Resilience.from_env({"RESILIENCE_STATUS__SOCKET": path, **named})


def test_no_socket_is_opened_unless_it_is_asked_for(tmp_path: Path) -> None:
    """Law: the socket is opt-in."""
    before = threading.active_count()
    Resilience.from_env({}).close()
    assert threading.active_count() == before
    assert list(tmp_path.iterdir()) == []


def test_a_process_shows_all_its_toolkits(path: str) -> None:
    """Law: a socket of mode 0600 has a snapshot of each toolkit; it is removed when the last one closes."""
    first = toolkit(path, service__name="orders")
    second = toolkit(path, service__name="stock", pipeline__p__breaker__fail_max="3")
    second.pipeline("p")
    assert stat.S_IMODE(own(path).stat().st_mode) == 0o600
    state = read_status(str(own(path)))
    assert state["pid"] == os.getpid()
    assert [each["service"] for each in state["toolkits"]] == ["orders", "stock"]
    assert state["toolkits"][1]["pipelines"][0]["policies"][0]["state"] == "closed"
    first.close()
    assert [each["service"] for each in read_status(str(own(path)))["toolkits"]] == ["stock"]
    second.close()
    second.close()
    assert not own(path).exists()


def test_a_toolkit_that_is_dropped_is_shown_no_more(path: str) -> None:
    """Law: the status keeps no toolkit alive."""
    kept = toolkit(path, service__name="kept")
    toolkit(path, service__name="dropped")
    gc.collect()
    shown: Any = PROCESS.state(path)["toolkits"]
    assert [each["service"] for each in shown] == ["kept"]
    kept.close()


def test_clients_that_send_or_read_nothing_do_no_harm(path: str) -> None:
    """Law: a client that sends half a request, reads nothing, or goes away keeps no other client out for long."""
    shown = {"text": "x" * 5_000_000}
    with_socket = StatusSocket(path, lambda: shown)
    hostile = [socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) for _ in range(3)]
    for client in hostile:
        client.connect(str(own(path)))
    hostile[0].sendall(b"GET / HT")
    hostile[1].close()
    assert read_status(str(own(path))) == shown
    for client in hostile:
        client.close()
    with_socket.close()


def test_a_snapshot_that_raises_is_reported_by_its_type(path: str) -> None:
    """Law: a policy of a third party that fails in its snapshot ends no thread, and shows no text of the error."""

    def broken() -> None:
        raise ValueError("password=hunter2")

    status = StatusSocket(path, broken)
    for _ in range(2):
        assert read_status(str(own(path))) == {"pid": os.getpid(), "error": "ValueError", "toolkits": []}
    status.close()


def test_files_of_dead_processes_are_removed(path: str) -> None:
    """Law: a socket file without a process goes; that of a living process, and any other file, stays."""
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    listeners = []
    for process in (dead.pid, os.getppid()):
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listener.bind(f"{path}.{process}")
        listeners.append(listener)
    listeners[0].close()
    Path(f"{path}.notes").write_text("mine")
    Path(f"{path}.{dead.pid + 1_000_000}").write_text("no socket")
    status = StatusSocket(path, dict)
    assert sockets_of(path) == sorted(
        [f"{path}.{os.getppid()}", str(own(path))], key=lambda name: int(name.split(".")[-1])
    )
    assert Path(f"{path}.notes").exists()
    status.close()
    listeners[1].close()


def test_a_directory_that_does_not_exist_stops_no_service(path: str, caplog: pytest.LogCaptureFixture) -> None:
    """Law: a status that cannot be shown is a warning in the log."""
    toolkit(f"{path}/nowhere/x").close()
    assert "no status on" in caplog.text


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this platform")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_each_forked_worker_has_a_socket_of_its_own(path: str) -> None:
    """Law: a forked child shows its own state, and takes its own file away, not that of its parent."""
    parent = toolkit(path, service__name="orders")
    read, write = os.pipe()
    child = os.fork()
    if child == 0:  # pragma: no cover - another process
        status = 1
        try:
            state = read_status(str(own(path)))
            status = 7 if state["pid"] == os.getpid() and state["toolkits"] else 2
            parent.close()
            status = status if not own(path).exists() else 3
        finally:
            os.write(write, b"x")
            os._exit(status)
    os.read(read, 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    assert read_status(str(own(path)))["pid"] == os.getpid()
    parent.close()
    os.close(read)
    os.close(write)


def test_the_command_prints_a_running_service(
    path: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Law: `status` prints each process, pipeline, circuit by host and check; `--json` prints the snapshots."""
    service = toolkit(
        path, service__name="orders", pipeline__bank__breaker__fail_max="1", pipeline__bank__retry__enabled="false"
    )
    with pytest.raises(ZeroDivisionError):
        service.client_pipeline("bank", "api.bank.example").call(lambda: 1 // 0)
    service.health.add("ledger", lambda: True)
    assert main(["status", "--socket", path]) == 0
    out = capsys.readouterr().out
    assert f"process {os.getpid()}\n  service orders" in out
    assert "    pipeline bank\n" in out
    assert "\n        api.bank.example  state=open" in out
    assert "    check ledger  groups=ready  failure=fail  status=unknown" in out
    monkeypatch.setenv("RESILIENCE_STATUS__SOCKET", path)
    assert main(["status", "--json"]) == 0
    (state,) = json.loads(capsys.readouterr().out)
    assert state["toolkits"][0]["service"] == "orders"
    service.close()
    assert main(["status"]) == 1
    assert f"No process shows its state on {path}.*" in capsys.readouterr().out


def test_the_command_says_that_it_needs_a_path(capsys: pytest.CaptureFixture[str]) -> None:
    """Law: without a path the command names the variable."""
    assert main(["status"]) == 1
    assert "RESILIENCE_STATUS__SOCKET" in capsys.readouterr().err


def test_a_process_that_ends_takes_its_file_away(path: str) -> None:
    """Law: a program that ends without closing its toolkit leaves no file behind."""
    code = (
        "import os, sys; from resilience import Resilience; from pathlib import Path\n"
        "toolkit = Resilience.from_env()\n"
        "assert Path(f'{sys.argv[1]}.{os.getpid()}').is_socket()\n"
    )
    environ = {**os.environ, "RESILIENCE_STATUS__SOCKET": path}
    subprocess.run([sys.executable, "-c", code, path], env=environ, check=True, timeout=30)
    assert sockets_of(path) == []
