"""A pool of threads and a pool of tasks behind the same words, for tests that state one law for both."""

from __future__ import annotations

import asyncio
import contextvars
import time
from collections.abc import Callable
from typing import Any, Self

from resilience import AsyncPool, Pool
from resilience.events import Event

__all__ = ("COLOURS", "Driven", "LoopDriver", "ThreadDriver")

_PATIENCE = 10.0


class Driven:
    """A pool, its events, and the ways to use it."""

    pool: Any

    def __init__(self, make: Callable[[], object], **options: Any) -> None:
        self.events: list[Event] = []
        self._prepare(make, options)
        self.pool.events.subscribe(self.events.append)

    def _prepare(self, make: Callable[[], object], options: dict[str, Any]) -> None:
        raise NotImplementedError

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exit: object) -> None:
        self.close()

    def kinds(self) -> list[str]:
        """Return the events so far, without those of single connections."""
        return [event.kind for event in self.events if not event.kind.startswith("pool.connection_")]

    def until(self, is_so: Callable[[], object], what: str = "it does not come about") -> None:
        """Let the pool work until `is_so()`."""
        end = time.monotonic() + _PATIENCE
        while not is_so():
            assert time.monotonic() < end, f"{what}: {self.pool.snapshot()}"
            self.let_work()

    def let_work(self) -> None:
        """Let the background of the pool work for a moment."""
        raise NotImplementedError

    def acquire(self, timeout: Any = None) -> Any:
        """Borrow."""
        raise NotImplementedError

    def release(self, lease: Any) -> None:
        """Give back."""
        raise NotImplementedError

    def discard(self, lease: Any) -> None:
        """Give back, to be closed."""
        raise NotImplementedError

    def block(self, within: Callable[[Any], object]) -> None:
        """Run `within(connection)` in a block."""
        raise NotImplementedError

    def start(self) -> None:
        """Start the pool."""
        raise NotImplementedError

    def close(self, timeout: Any = 5.0) -> None:
        """Close the pool."""
        raise NotImplementedError


class ThreadDriver(Driven):
    """A `Pool`."""

    def _prepare(self, make: Callable[[], object], options: dict[str, Any]) -> None:
        self.pool = Pool(make, **options)

    def let_work(self) -> None:
        time.sleep(0.001)

    def acquire(self, timeout: Any = None) -> Any:
        return self.pool.acquire(timeout)

    def release(self, lease: Any) -> None:
        lease.release()

    def discard(self, lease: Any) -> None:
        lease.discard()

    def block(self, within: Callable[[Any], object]) -> None:
        with self.pool.connection() as connection:
            within(connection)

    def start(self) -> None:
        self.pool.start()

    def close(self, timeout: Any = 5.0) -> None:
        self.pool.close(timeout)


def _awaitable(function: Callable[..., object]) -> Callable[..., Any]:
    async def awaited(*arguments: object) -> object:
        return function(*arguments)

    return awaited


class LoopDriver(Driven):
    """An `AsyncPool` on a loop that runs while the test asks for something. Its callbacks are given as functions."""

    def _prepare(self, make: Callable[[], object], options: dict[str, Any]) -> None:
        self.runner = asyncio.Runner()
        for name in {"check", "reset"} & set(options):
            options[name] = _awaitable(options[name])
        self.pool = AsyncPool(_awaitable(make), **options)

    def run(self, work: Any) -> Any:
        """Run a coroutine on the loop of the pool."""
        return self.runner.run(work, context=contextvars.copy_context())

    def let_work(self) -> None:
        self.runner.run(asyncio.sleep(0.001))

    def acquire(self, timeout: Any = None) -> Any:
        return self.run(self.pool.acquire(timeout))

    def release(self, lease: Any) -> None:
        self.run(lease.release())

    def discard(self, lease: Any) -> None:
        self.run(lease.discard())

    def block(self, within: Callable[[Any], object]) -> None:
        async def block() -> None:
            async with self.pool.connection() as connection:
                within(connection)

        self.run(block())

    def start(self) -> None:
        self.run(self.pool.start())

    def close(self, timeout: Any = 5.0) -> None:
        self.run(self.pool.close(timeout))

    def __exit__(self, *_exit: object) -> None:
        self.close()
        self.runner.close()


COLOURS = {"threads": ThreadDriver, "tasks": LoopDriver}
