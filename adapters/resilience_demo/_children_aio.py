"""The servers of the demo: real processes, each ended by its own handle."""

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

from resilience_demo._leash import GRACE

__all__ = ("BrokenStageError", "Child", "Children")

START = 30.0
"""Seconds a server gets to start."""
_GLANCE = 0.05
_LAST_WORDS = 2000
_TRIES = 3


class BrokenStageError(Exception):
    """A server did not start, or ended before its time."""


class Child:
    """One process, its port, and what it wrote to standard error."""

    def __init__(self, name: str, process: asyncio.subprocess.Process, log: IO[bytes]) -> None:
        self.name = name
        self.process = process
        self.port = 0
        self.may_end = False
        """Whether its end is part of the play."""
        self._log = log

    @property
    def words(self) -> str:
        """What runs where."""
        return f"{self.name} on 127.0.0.1:{self.port} (pid {self.process.pid})"

    async def lines(self) -> AsyncIterator[str]:
        """Go through what it says, to its end."""
        assert self.process.stdout is not None  # noqa: S101 - every child is started with a pipe
        async for line in self.process.stdout:
            yield line.decode()

    async def take_port(self) -> None:
        """Read the port it listens on from its first line."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(START):
                async for line in self.lines():
                    self.port = int(json.loads(line)["port"])
                    return
        raise BrokenStageError(self.complaint())

    async def listens(self) -> None:
        """Wait until it takes connections on its port."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(START):
                while self.process.returncode is None:
                    with contextlib.suppress(OSError):
                        _, writer = await asyncio.open_connection("127.0.0.1", self.port)
                        writer.close()
                        return
                    await asyncio.sleep(0.02)
        raise BrokenStageError(self.complaint())

    @property
    def said(self) -> str:
        """What it has written to standard error so far; nothing once it has been stopped."""
        if self._log.closed:
            return ""
        size = os.fstat(self._log.fileno()).st_size
        return os.pread(self._log.fileno(), size, 0).decode(errors="replace")  # where it writes next is not moved

    def complaint(self) -> str:
        """Return why it is not there, in its own last words."""
        said = self.said.strip()[-_LAST_WORDS:]
        status = self.process.returncode
        how = "does not answer" if status is None else f"ended with status {status}"
        return f"{self.name} {how}" + (f":\n{said}" if said else "")

    async def stop(self) -> None:
        """Ask it to end, wait a bounded time, and end it."""
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
        """End it as `kill -9` does, with what it started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)  # it leads a group of its own
        await self.process.wait()


class Children:
    """All of them. Leaving the `async with` block ends every one, whatever the reason for leaving."""

    def __init__(self) -> None:
        self.running: list[Child] = []

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await asyncio.gather(*(child.stop() for child in self.running))

    async def serve(self, name: str, path: Path, *pipelines: str, environ: Mapping[str, str] | None = None) -> Child:
        """Start the example at `path` under uvicorn, to report what `pipelines` do."""
        command = (sys.executable, "-m", "resilience_demo._serve", str(path), *pipelines)
        child = await self._start(name, command, environ)
        await child.take_port()
        return child

    async def valkey(self, binary: Path) -> Child | None:
        """Start Valkey, with nothing kept on disk; None where it does not start on this machine."""
        for _ in range(_TRIES):  # between our finding a free port and its taking it, somebody else may
            port = _free_port()
            quiet = ("--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--loglevel", "warning")
            valkey = (str(binary), "--port", str(port), *quiet)
            child = await self._start("Valkey", (sys.executable, "-m", "resilience_demo._leash", *valkey))
            child.port = port
            if await _pongs(child):
                return child
            self.running.remove(child)
            await child.stop()
        return None

    async def run(self, name: str, port: int, *command: str, environ: Mapping[str, str]) -> Child:
        """Start a program that will listen on `port`, and wait until it does."""
        leashed = (sys.executable, "-m", "resilience_demo._leash", *command)
        child = await self._start(name, leashed, environ)
        child.port = port
        await child.listens()
        return child

    async def watch(self) -> None:
        """Wait until one of them ends before its time, and raise `BrokenStageError`."""
        while True:
            for child in self.running:
                if child.process.returncode is not None and not child.may_end:
                    raise BrokenStageError(child.complaint())
            await asyncio.sleep(_GLANCE)

    async def _start(self, name: str, command: tuple[str, ...], environ: Mapping[str, str] | None = None) -> Child:
        log = tempfile.TemporaryFile()  # noqa: SIM115 - open as long as the process is; it has no name to leave behind
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=log,
            env=environ,
            process_group=0,  # Ctrl-C is for us; we end them in order
        )
        child = Child(name, process, log)
        self.running.append(child)
        return child


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
        return port


async def _pongs(child: Child) -> bool:
    """Tell whether the server answers a PING before its time to start is over."""
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
