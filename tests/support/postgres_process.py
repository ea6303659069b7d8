"""A real PostgreSQL for tests: one that is given, or a process of our own on loopback, without the rights of root."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from typing import TypedDict
from urllib.parse import urlencode

from psycopg.conninfo import conninfo_to_dict
from redis_process import free_port

__all__ = ("PostgresProcess", "PostgresServer", "find_binaries")


class _Rights(TypedDict, total=False):
    """The user of a process, as `subprocess` takes it."""

    user: str
    group: int
    extra_groups: list[int]


_USERS = ("postgres", "nobody")
_SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "max_connections": "60",
    "shared_buffers": "16MB",
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "autovacuum": "off",
    "max_wal_senders": "0",
}


def find_binaries() -> Path | None:
    """Return the folder of `initdb` and `postgres`: on the path, or where Debian's package has it."""
    found = shutil.which("postgres")
    homes = [Path(found).resolve().parent] if found else []
    homes += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    return next((home for home in homes if (home / "initdb").exists() and (home / "postgres").exists()), None)


class PostgresServer:
    """A server that is given by its address, such as `host=db user=test` or `postgresql://test@db/test`."""

    def __init__(self, conninfo: str) -> None:
        self._conninfo = conninfo

    @property
    def conninfo(self) -> str:
        """The address for psycopg."""
        return self._conninfo

    @property
    def url(self) -> str:
        """The address for SQLAlchemy, which gets the parts from libpq's."""
        parts = {name: str(value) for name, value in conninfo_to_dict(self.conninfo).items()}
        return f"postgresql+psycopg:///?{urlencode(parts)}"


class PostgresProcess(PostgresServer):
    """A server that can be shut down at once and started again on the same port.

    PostgreSQL does not run as root: if the tests do, the server runs as another user of this system.
    """

    def __init__(self, binaries: Path) -> None:
        self._binaries = binaries
        self._user = next((name for name in _USERS if _has_user(name)), None) if os.geteuid() == 0 else None
        self._home = Path(tempfile.mkdtemp(prefix="postgres-", dir="/tmp"))  # that of pytest is closed to other users
        if self._user is not None:
            shutil.chown(self._home, self._user)
        self.port = free_port()
        super().__init__(f"host=127.0.0.1 port={self.port} user=postgres dbname=postgres")
        self._process: subprocess.Popen[bytes] | None = None
        data = ["--pgdata", str(self._home / "data")]
        self._run("initdb", *data, "--no-sync", "--no-locale", "--encoding=UTF8", "--auth=trust", "--username=postgres")

    def start(self) -> None:
        """Start the server, and wait until it accepts connections."""
        settings = [f"--{name}={value}" for name, value in {**_SETTINGS, "port": str(self.port)}.items()]
        with (self._home / "server.log").open("ab") as log:
            command = [str(self._binaries / "postgres"), "-D", str(self._home / "data"), *settings]
            self._process = subprocess.Popen(command, stdout=log, stderr=log, cwd="/", **self._rights())
        until = time.monotonic() + 20
        while not self._is_ready():
            if time.monotonic() > until or self._process.poll() is not None:
                raise TimeoutError((self._home / "server.log").read_text())
            time.sleep(0.01)

    def stop_at_once(self) -> None:
        """Shut the server down without a farewell to its clients ("immediate shutdown")."""
        if self._process is not None:
            self._process.send_signal(signal.SIGQUIT)
            self._process.wait(20)
            self._process = None

    def remove(self) -> None:
        """Stop the server, and delete its data."""
        self.stop_at_once()
        shutil.rmtree(self._home, ignore_errors=True)

    def _is_ready(self) -> bool:
        # A server that accepts connections answers a startup packet with "R", one that still starts with "E".
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1) as probe:
            payload = b"\x00\x03\x00\x00user\x00postgres\x00database\x00postgres\x00\x00"
            probe.settimeout(1)
            probe.sendall((len(payload) + 4).to_bytes(4, "big") + payload)
            return probe.recv(1) == b"R"
        return False

    def _run(self, program: str, *arguments: str) -> None:
        command = [str(self._binaries / program), *arguments]
        subprocess.run(command, check=True, capture_output=True, cwd="/", timeout=60, **self._rights())

    def _rights(self) -> _Rights:
        if self._user is None:
            return {}
        return {"user": self._user, "group": pwd.getpwnam(self._user).pw_gid, "extra_groups": []}


def _has_user(name: str) -> bool:
    with contextlib.suppress(KeyError):
        return bool(pwd.getpwnam(name))
    return False
