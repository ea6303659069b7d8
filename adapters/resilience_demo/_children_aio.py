"""The servers of the demo, as child processes. Each `Child` ends only its own process."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import sys
import tempfile
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import IO, Self

from resilience_demo._parent_watch import GRACE

__all__ = ("BrokenStageError", "Child", "Children")

START = 30.0
"""Seconds within which a server must start."""
_POLL_INTERVAL = 0.05
_MAX_LOG_TAIL = 2000
"""Characters of its log that a failed server's error quotes."""
_TRIES = 3


class BrokenStageError(Exception):
    """A server did not start, or ended while the demo needed it."""


class Child:
    """One process, its port, and its standard error."""

    def __init__(self, name: str, process: asyncio.subprocess.Process, log: IO[bytes]) -> None:
        self.name = name
        self.process = process
        self.port = 0
        self.may_end = False
        """Whether the script ends this process. `Children.watch` then ignores its end."""
        self._log = log

    @property
    def description(self) -> str:
        """The name, address and process id."""
        return f"{self.name} on 127.0.0.1:{self.port} (pid {self.process.pid})"

    async def lines(self) -> AsyncIterator[str]:
        """Yield the lines of its standard output until the process closes it."""
        assert self.process.stdout is not None  # noqa: S101 - every child is started with a pipe
        async for line in self.process.stdout:
            yield line.decode()

    async def take_port(self) -> None:
        """Read the port on which the process listens from its first line of output."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(START):
                async for line in self.lines():
                    self.port = int(json.loads(line)["port"])
                    return
        raise BrokenStageError(self.failure())

    async def listens(self) -> None:
        """Wait until the process accepts connections on its port."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(START):
                while self.process.returncode is None:
                    with contextlib.suppress(OSError):
                        _, writer = await asyncio.open_connection("127.0.0.1", self.port)
                        writer.close()
                        return
                    await asyncio.sleep(0.02)
        raise BrokenStageError(self.failure())

    @property
    def log_text(self) -> str:
        """The text of its standard error so far. Empty after `stop`."""
        if self._log.closed:
            return ""
        size = os.fstat(self._log.fileno()).st_size
        # `pread` does not move the offset at which the child writes.
        return os.pread(self._log.fileno(), size, 0).decode(errors="replace")

    def failure(self) -> str:
        """Return how the process failed, with the end of its standard error."""
        said = self.log_text.strip()[-_MAX_LOG_TAIL:]
        status = self.process.returncode
        how = "does not answer" if status is None else f"ended with status {status}"
        return f"{self.name} {how}" + (f":\n{said}" if said else "")

    async def stop(self) -> None:
        """Send SIGTERM, and SIGKILL if the process has not ended after `GRACE` seconds."""
        if self.process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self.process.terminate()
            try:
                async with asyncio.timeout(GRACE):
                    await self.process.wait()
            except TimeoutError:
                await self.kill()
        self._log.close()

    async def kill(self) -> None:
        """Send SIGKILL to the process and to the processes that it started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)  # the process leads its own group
        await self.process.wait()


class Children:
    """All child processes. The end of the `async with` block stops every one, also after an error or a cancellation."""

    def __init__(self) -> None:
        self.running: list[Child] = []

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await asyncio.gather(*(child.stop() for child in self.running))

    async def serve(self, name: str, path: Path, *pipelines: str, environ: Mapping[str, str] | None = None) -> Child:
        """Start the example at `path` under uvicorn. It reports the events of `pipelines`."""
        command = (sys.executable, "-m", "resilience_demo._serve", str(path), *pipelines)
        child = await self._start(name, command, environ)
        await child.take_port()
        return child

    async def valkey(self, binary: Path) -> Child | None:
        """Start Valkey without persistence. Return None if it does not start on this machine."""
        for _ in range(_TRIES):  # another process can take the port before Valkey binds it
            port = _free_port()
            quiet = ("--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--loglevel", "warning")
            valkey = (str(binary), "--port", str(port), *quiet)
            child = await self._start("Valkey", (sys.executable, "-m", "resilience_demo._parent_watch", *valkey))
            child.port = port
            if await _pongs(child):
                return child
            self.running.remove(child)
            await child.stop()
        return None

    async def run(self, name: str, port: int, *command: str, environ: Mapping[str, str]) -> Child:
        """Start a program and wait until it listens on `port`."""
        watched = (sys.executable, "-m", "resilience_demo._parent_watch", *command)
        child = await self._start(name, watched, environ)
        child.port = port
        await child.listens()
        return child

    async def watch(self) -> None:
        """Wait until a process ends that the script does not end, and raise `BrokenStageError`."""
        while True:
            for child in self.running:
                if child.process.returncode is not None and not child.may_end:
                    raise BrokenStageError(child.failure())
            await asyncio.sleep(_POLL_INTERVAL)

    async def _start(self, name: str, command: tuple[str, ...], environ: Mapping[str, str] | None = None) -> Child:
        log = tempfile.TemporaryFile()  # noqa: SIM115 - `stop` closes it; the file has no name that could remain
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=log,
            env=environ,
            process_group=0,  # Ctrl-C signals only the demo, which then stops its children
        )
        child = Child(name, process, log)
        self.running.append(child)
        return child


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
        return port


async def _pongs(child: Child) -> bool:
    """Return whether the server answers a PING within `START` seconds."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(START):
            while child.process.returncode is None:
                with contextlib.suppress(OSError):
                    reader, writer = await asyncio.open_connection("127.0.0.1", child.port)
                    writer.write(b"PING\r\n")
                    reply = await reader.readline()
                    writer.close()
                    return reply.startswith(b"+PONG") and child.process.returncode is None
                await asyncio.sleep(0.02)
    return False
