"""A pool for asyncio engines of SQLAlchemy: `create_async_engine(url, poolclass=AsyncAdaptedResiliencePool)`.

SQLAlchemy runs its blocking code in a greenlet of the task. `await_only` there suspends the task, and not the loop;
`greenlet_spawn` makes such a greenlet. The tasks of the pool below connect, check and close by it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, ClassVar

from sqlalchemy.pool import AsyncAdaptedQueuePool, ConnectionPoolEntry

from resilience.pool import AsyncLease, AsyncPool, Connector
from resilience_sql._cut_short_aio import or_abort
from resilience_sql._engine_pool import BETWEEN, CLOSE_LIMIT, Below, ResiliencePool, arguments_of
from resilience_sql._sqlalchemy_internals import answers, await_only, greenlet_spawn, shut_down_driver

__all__ = ("AsyncAdaptedResiliencePool",)


class AsyncAdaptedResiliencePool(ResiliencePool):
    """`ResiliencePool` for `create_async_engine`: a task that waits for a connection does not block the loop.

    It belongs to the event loop that uses it first, until `await engine.dispose()`. In another loop it raises
    `ConfigurationError`. A connection whose proxy is garbage-collected is closed, as SQLAlchemy does it for asyncio.

    For the arguments see `ResiliencePool`.

    Example:
        >>> import asyncio
        >>> from sqlalchemy.ext.asyncio import create_async_engine
        >>> url = "postgresql+psycopg://127.0.0.1/shop"
        >>> engine = create_async_engine(url, poolclass=AsyncAdaptedResiliencePool, max_waiting=200)
        >>> engine.pool.status()
        'AsyncAdaptedResiliencePool: 0 of 15 connections, 0 idle, 0 in use, 0 borrowers wait'
    """

    _is_asyncio = True
    _counterpart: ClassVar[str] = "ResiliencePool for create_engine"
    _dialect = AsyncAdaptedQueuePool._dialect  # noqa: SLF001 - that of a pool without an engine

    def _new_below(self) -> Below:
        async def connect() -> ConnectionPoolEntry:
            return await greenlet_spawn(self._connect)

        async def check(record: ConnectionPoolEntry) -> bool:
            return await or_abort(greenlet_spawn(answers, self, record), partial(shut_down_driver, record))

        async def close(record: ConnectionPoolEntry) -> None:
            await greenlet_spawn(record.close)

        connector: Connector[ConnectionPoolEntry] = Connector(
            connect=connect, close=close, abort=self._abort, check=check if self._checks else None, between=BETWEEN
        )
        return _Tasks(AsyncPool(connector, name=self._name, **arguments_of(self._options)))

    def _close_here(self, record: ConnectionPoolEntry) -> None:
        """Leave a connection to the garbage collector: its close needs a greenlet, and has taken too long there."""


class _Tasks:
    """A pool of records for the tasks of one loop, called in greenlets."""

    def __init__(self, pool: AsyncPool[ConnectionPoolEntry]) -> None:
        self.pool = pool
        self._loop: asyncio.AbstractEventLoop | None = None

    def lend(self, timeout: float | None) -> AsyncLease[ConnectionPoolEntry]:
        """Return a lease."""
        lease = await_only(self.pool.acquire(timeout))
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
        return lease

    def give_back(self, lease: AsyncLease[ConnectionPoolEntry], *, is_fit: bool) -> None:
        """Take a record back.

        A pool without `reset` takes it back in one step, so a cancelled task needs no `await` for it. A record that is
        not fit may come from a finalizer, in any thread and in the midst of a change of the pool: it has to wait.
        """
        if is_fit:
            _run(lease.release())
        elif self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(_run_of, lease.discard)

    def close(self) -> None:
        """Close the idle records, and those in use once they are back. Wait only if no record is in use."""
        if self._loop is not None:
            await_only(self.pool.close(0 if self.pool.snapshot()["in_use"] else CLOSE_LIMIT))


def _run(step: Coroutine[Any, Any, None]) -> None:
    """Run a coroutine that does not suspend."""
    try:
        step.send(None)
    except StopIteration:
        return
    step.close()
    raise RuntimeError("the pool suspended a task that gives a connection back")


def _run_of(method: Callable[[], Coroutine[Any, Any, None]]) -> None:
    _run(method())
