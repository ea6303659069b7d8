"""One address for several instances, like a Service of Kubernetes: new connections go to those that are ready."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import Callable, Mapping
from typing import Self

from resilience_demo._tasks_aio import first_of
from resilience_demo.chain._readiness_aio import NOBODY, readiness

__all__ = ("Service",)

_INTERVAL = 0.1
_CHUNK = 65_536
_READY = 200
_MISSES = 3
"""Questions in a row without an answer after which an instance is left out, as Kubernetes counts them."""


class Service:
    """Carries bytes between clients and instances, knowing nothing of HTTP; repeats nothing, and hides nothing.

    `told` hears when an instance is taken in or left out. Leaving the `async with` block breaks off what is carried.
    """

    def __init__(self, instances: Mapping[str, int], told: Callable[[str, bool], object]) -> None:
        self._instances = instances
        self._told = told
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
        """Ask one instance ten times a second, and believe what it says at once; silence only when it lasts."""
        missed = 0
        while True:
            status = await readiness(self._instances[name])
            missed = missed + 1 if status == NOBODY else 0
            if missed in {0, _MISSES}:
                self._put(name, is_ready=status == _READY)
            await asyncio.sleep(_INTERVAL)

    def _put(self, name: str, *, is_ready: bool) -> None:
        if is_ready != (name in self._ready):
            (self._ready.add if is_ready else self._ready.discard)(name)
            self._told(name, is_ready)

    def _take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._keep(asyncio.ensure_future(self._carry(reader, writer)))

    def _keep(self, task: asyncio.Task[None]) -> None:
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Connect a client with the instance whose turn it is, until either of them has enough."""
        ready = sorted(self._ready)
        with contextlib.suppress(OSError), contextlib.closing(writer):
            if ready:
                name = ready[next(self._turns) % len(ready)]
                back, forth = await asyncio.open_connection("127.0.0.1", self._instances[name])
                with contextlib.closing(forth):
                    await first_of(_pour(reader, forth), _pour(back, writer))


async def _pour(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    while data := await source.read(_CHUNK):
        target.write(data)
        await target.drain()
