"""Real servers of small applications, each on a Unix socket of its own: no port can be taken by another test."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import httpx2

__all__ = ("SERVERS", "Server", "end", "wait_for")

HERE = Path(__file__).parents[1] / "adapters"
SERVERS = {
    "uvicorn": ["uvicorn", "--app-dir", str(HERE), "--uds", "{socket}", "served_small:asgi"],
    "gunicorn": ["gunicorn", "--chdir", str(HERE), "--bind", "unix:{socket}", "-k", "gthread", "served_small:wsgi"],
    "gunicorn-uvicorn": [
        "gunicorn", "--chdir", str(HERE), "--bind", "unix:{socket}", "-k", "uvicorn_worker.UvicornWorker",
        "served_small:asgi",
    ],
    "gunicorn-sync": ["gunicorn", "--chdir", str(HERE), "--bind", "unix:{socket}", "-k", "sync", "served_small:wsgi"],
    "gunicorn-gevent": [
        "gunicorn", "--chdir", str(HERE), "--bind", "unix:{socket}", "-k", "gevent", "served_small:wsgi",
    ],
    "hypercorn": ["hypercorn", "--bind", "unix:{socket}", "served_small:asgi"],
}  # fmt: skip
"""The command of each, for the applications `asgi` and `wsgi` of `tests/adapters/served_small.py`."""
if importlib.util.find_spec("gunicorn.asgi") is not None:  # older ones have no worker of their own for ASGI
    SERVERS["gunicorn-asgi"] = [
        "gunicorn", "--chdir", str(HERE), "--bind", "unix:{socket}", "-k", "asgi", "served_small:asgi",
    ]  # fmt: skip


class Server:
    """One server on a Unix socket, ended by its own handle."""

    def __init__(self, directory: Path, name: str, **settings: str) -> None:
        self.path = directory / "shop.sock"
        self.log = directory / "log"
        known = {name: value for name, value in os.environ.items() if not name.startswith("RESILIENCE_")}
        command = [word.format(socket=self.path) for word in SERVERS[name]]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", *command],
                cwd=HERE,
                env={**known, "HOME": str(directory), "PYTHONPATH": str(HERE), **settings},
                stdout=log,
                stderr=log,
            )
        wait_for(self.listens, self.process, self.log)  # httpx2 leaks the socket of a connection that is refused
        self.client = httpx2.Client(transport=httpx2.HTTPTransport(uds=str(self.path)), base_url="http://shop.example")
        wait_for(lambda: self.get("/livez").status_code == 200, self.process, self.log)

    def listens(self) -> bool:
        with socket.socket(socket.AF_UNIX) as probe:
            probe.connect(str(self.path))
        return True

    def get(self, path: str = "/", forwarded: str | None = None) -> httpx2.Response:
        return self.client.get(path, headers={} if forwarded is None else {"X-Forwarded-For": forwarded})

    @property
    def output(self) -> str:
        return self.log.read_text()

    def close(self) -> None:
        self.client.close()
        end(self.process)


def wait_for(holds: Callable[[], bool], process: subprocess.Popen[bytes], log: Path) -> None:
    patience = time.monotonic() + 30
    while True:
        with contextlib.suppress(OSError, httpx2.HTTPError):
            if holds():
                return
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < patience, log.read_text()
        time.sleep(0.05)


def end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(15)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(10)
