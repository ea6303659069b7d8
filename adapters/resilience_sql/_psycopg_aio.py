"""Connections of psycopg 3 for an `AsyncPool`."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, LiteralString

import psycopg
from psycopg.pq import TransactionStatus

from resilience.pool import Connector
from resilience_sql._cut_short_aio import or_abort
from resilience_sql._psycopg_state import Settings, abort, arguments_of, left_open, needs_rollback

__all__ = ("aio_psycopg_connector",)

_Connection = psycopg.AsyncConnection[Any]
_CLOSE_LIMIT = 0.5


def aio_psycopg_connector(
    conninfo: str = "",
    *,
    configure: Callable[[_Connection], Awaitable[object]] | None = None,
    discard_all: bool = False,
    **arguments: Any,
) -> Connector[_Connection]:
    """Return a connector for an `AsyncPool` of `psycopg.AsyncConnection`.

    It behaves as `psycopg_connector` does. If a task is cancelled in a query, psycopg cancels the query at the server
    and takes its answer, and the connection is rolled back; if that fails, the connection is closed. So no borrower
    meets the answer of another one.

    For the arguments see `psycopg_connector`; `configure` is a coroutine function here.

    Raises:
        ConfigurationError: libpq cannot read `conninfo`.

    Example:
        >>> from resilience import AsyncPool
        >>> connector = aio_psycopg_connector("host=127.0.0.1 dbname=shop")
        >>> pool = AsyncPool(connector, maximum_pool_size=20, name="shop")
    """
    kind = _AsyncConnections(conninfo, arguments_of(conninfo, arguments), configure, discard_all=discard_all)
    return Connector(connect=kind.connect, close=_close, abort=abort, check=_check, reset=kind.reset)


class _AsyncConnections:
    """Makes connections, and makes them clean again."""

    def __init__(
        self,
        conninfo: str,
        arguments: dict[str, Any],
        configure: Callable[[_Connection], Awaitable[object]] | None,
        *,
        discard_all: bool,
    ) -> None:
        self._conninfo, self._arguments, self._configure = conninfo, arguments, configure
        self._discards_all = discard_all

    async def connect(self) -> _Connection:
        """Return a new connection."""
        connection: _Connection = await psycopg.AsyncConnection.connect(self._conninfo, **self._arguments)
        try:
            if self._configure is not None:
                await self._configure(connection)
            if needs_rollback(connection):
                raise left_open()  # noqa: TRY301 - one way to close it
        except BaseException:
            await connection.close()
            raise
        self._settings = Settings(connection)  # those of all connections are the same
        return connection

    async def reset(self, connection: _Connection) -> None:
        """Make a connection clean for the next borrower, or raise."""
        await or_abort(self._reset(connection), partial(abort, connection))

    async def _reset(self, connection: _Connection) -> None:
        if needs_rollback(connection):
            await connection.rollback()
        for name, value in self._settings.changed(connection):
            await getattr(connection, f"set_{name}")(value)
        if self._discards_all:
            await _execute_alone(connection, "DISCARD ALL")


async def _check(connection: _Connection) -> bool:
    """Return whether the server answers. A borrower may have left the connection in any state."""
    return await or_abort(_is_alive(connection), partial(abort, connection))


async def _is_alive(connection: _Connection) -> bool:
    status = connection.info.transaction_status
    if status in (TransactionStatus.ACTIVE, TransactionStatus.UNKNOWN):
        return False
    if status is TransactionStatus.IDLE:
        await _execute_alone(connection, "")
    else:
        await connection.rollback()
    return True


async def _execute_alone(connection: _Connection, statement: LiteralString) -> None:
    """Execute a statement outside a transaction, on an idle connection."""
    autocommit = connection.autocommit
    await connection.set_autocommit(True)
    try:
        await connection.execute(statement, prepare=False)
    finally:
        if not connection.closed:
            await connection.set_autocommit(autocommit)


async def _close(connection: _Connection) -> None:
    """Close a connection. If another task still waits for an answer on it, end that wait first.

    The loop watches the socket for that task. Its number is given to the next connection as soon as it is closed.
    """
    if connection.lock.locked():
        abort(connection)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_CLOSE_LIMIT), connection.lock:
                pass
    await connection.close()
