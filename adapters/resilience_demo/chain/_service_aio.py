"""One address for several instances, like a Service of Kubernetes: it connects clients to ready instances."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import Callable, Mapping
from typing import Self

from resilience_demo._tasks_aio import first_of
from resilience_demo.chain._readiness_aio import NO_ANSWER, readiness

__all__ = ("Service",)

_INTERVAL = 0.1
_CHUNK = 65_536
_READY = 200
_MISSES = 3
"""Consecutive probes without an answer after which an instance is unready (`failureThreshold` of Kubernetes)."""


class Service:
    """Forwards bytes between clients and instances. It does not parse HTTP, and it repeats no request.

    The service calls `on_change(name, is_ready)` when an instance becomes ready or unready. The end of the
    `async with` block closes all connections.
    """

    def __init__(self, instances: Mapping[str, int], on_change: Callable[[str, bool], object]) -> None:
        self._instances = instances
        self._on_change = on_change
        self._ready: set[str] = set()
        self._turns = itertools.count()
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._take, "127.0.0.1", 0)
        self.port: int = self._server.sockets[0].getsockname()[1]
        for name in self._instances:
            self._keep(asyncio.ensure_future(self._watch(name)))
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    @property
    def is_complete(self) -> bool:
        """Whether every instance is ready."""
        return len(self._ready) == len(self._instances)

    async def _watch(self, name: str) -> None:
        """Probe one instance ten times a second.

        An answer counts at once. Missing answers count after `_MISSES` in a row.
        """
        missed = 0
        while True:
            status = await readiness(self._instances[name])
            missed = missed + 1 if status == NO_ANSWER else 0
            if missed in {0, _MISSES}:
                self._set_ready(name, is_ready=status == _READY)
            await asyncio.sleep(_INTERVAL)

    def _set_ready(self, name: str, *, is_ready: bool) -> None:
        if is_ready != (name in self._ready):
            (self._ready.add if is_ready else self._ready.discard)(name)
            self._on_change(name, is_ready)

    def _take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._keep(asyncio.ensure_future(self._forward(reader, writer)))

    def _keep(self, task: asyncio.Task[None]) -> None:
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Connect a client to the next ready instance until either side closes its connection."""
        ready = sorted(self._ready)
        with contextlib.suppress(OSError), contextlib.closing(writer):
            if ready:
                name = ready[next(self._turns) % len(ready)]
                back, forth = await asyncio.open_connection("127.0.0.1", self._instances[name])
                with contextlib.closing(forth):
                    await first_of(_copy(reader, forth), _copy(back, writer))


async def _copy(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    while data := await source.read(_CHUNK):
        target.write(data)
        await target.drain()
