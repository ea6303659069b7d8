"""Internals of SQLAlchemy that the engine pools rely on. No other file relies on any, except as a subclass must.

A pool class overrides `_do_get` and `_do_return_conn`, as all pools of SQLAlchemy do, and calls `_create_connection`
and `_creator` of its base. These are there in SQLAlchemy 2.0 and 2.1, and so are:

- `_ConnectionRecord._is_hard_or_soft_invalidated`: `is_stale`. If it goes, SQLAlchemy itself replaces a stale
  connection, in the thread of the borrower and without our limit of time.
- `Dialect._do_ping_w_event`: `answers`. If it goes, `Dialect.do_ping` answers, without the event `handle_error`.
- `Pool._dialect`: the engine may set it after the pool was made. It has `is_async`, `do_rollback` and `do_ping`.
- `Pool._orig_logging_name`, `_reset_on_return` and `_dispatch`: what `recreate` of each pool hands on.
- `await_only` and `greenlet_spawn` of `sqlalchemy.util`: how a dialect for asyncio waits.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

from sqlalchemy.pool import ConnectionPoolEntry, Pool
from sqlalchemy.util import await_only, greenlet_spawn

from resilience_sql._sockets import shut_down

__all__ = ("answers", "await_only", "greenlet_spawn", "handed_on", "is_stale", "shut_down_driver")


def is_stale(record: ConnectionPoolEntry) -> bool:
    """Return whether a record has no connection any more, or one that was invalidated."""
    if record.dbapi_connection is None:
        return True
    judge: Callable[[], bool] | None = getattr(record, "_is_hard_or_soft_invalidated", None)
    return judge is not None and judge()


def answers(pool: Pool, record: ConnectionPoolEntry) -> bool:
    """Ping the database, and leave no transaction open.

    Raises:
        Exception: An error of the driver that is no disconnection.
    """
    dialect = cast("Any", pool)._dialect  # noqa: SLF001 - see above
    ping = getattr(dialect, "_do_ping_w_event", None) or dialect.do_ping
    is_alive = bool(ping(record.dbapi_connection))
    if is_alive:
        dialect.do_rollback(record.dbapi_connection)
    return is_alive


def handed_on(pool: Pool) -> dict[str, Any]:
    """Return the arguments of a pool's base class, for a pool that takes its place."""
    inside = cast("Any", pool)
    return {
        "echo": pool.echo,
        "logging_name": inside._orig_logging_name,  # noqa: SLF001 - see above
        "reset_on_return": inside._reset_on_return,  # noqa: SLF001 - see above
        "_dispatch": pool.dispatch,
        "dialect": inside._dialect,  # noqa: SLF001 - see above
    }


def shut_down_driver(record: ConnectionPoolEntry) -> bool:
    """End the connection of a record without waiting, if its driver shows a socket, as psycopg and psycopg2 do.

    Return False if it shows none. A record without a connection needs no end.
    """
    if record.dbapi_connection is None:
        return True
    descriptor = getattr(record.driver_connection, "fileno", None)
    if descriptor is None:
        return False
    shut_down(descriptor())
    return True
