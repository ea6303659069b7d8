"""Connections of psycopg 3 for a `Pool`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, LiteralString

import psycopg
from psycopg.pq import TransactionStatus

from resilience.pool import Connector
from resilience_sql._psycopg_state import Settings, abort, arguments_of, left_open, needs_rollback

__all__ = ("psycopg_connector",)

_Connection = psycopg.Connection[Any]
_CLOSE_LIMIT = 1.0


def psycopg_connector(
    conninfo: str = "",
    *,
    configure: Callable[[_Connection], object] | None = None,
    discard_all: bool = False,
    **arguments: Any,
) -> Connector[_Connection]:
    """Return a connector for a `Pool` of `psycopg.Connection`.

    - A connection that comes back is rolled back if a transaction is open. **The pool commits nothing**: commit in the
      block, or use `connection.transaction()`. This differs from `psycopg_pool`, whose block commits.
    - Settings that the borrower changed (`autocommit`, `isolation_level`, `read_only`, `deferrable`, `row_factory`,
      `cursor_factory`, `prepare_threshold`) are set back.
    - A connection with a query or COPY in progress is closed, and so is a connection that the server has ended.
    - A connection is checked by an empty query, without a transaction.
    - `abort` shuts the socket down, which does not block. A query in another thread fails with `OperationalError`.

    Args:
        conninfo: The server, as for `psycopg.connect`.
        configure: Called with each new connection, before it is lent. It must leave no transaction open. Default: none.
        discard_all: Whether a connection that comes back gets `DISCARD ALL`, which removes temporary tables, session
            variables, LISTEN, advisory locks and prepared statements. It costs a round trip. Default: False.
        arguments: Further arguments of `psycopg.connect`. `connect_timeout` is 5 s if neither `conninfo` nor
            `PGCONNECT_TIMEOUT` has it: libpq has no limit by default.

    Raises:
        ConfigurationError: libpq cannot read `conninfo`.

    Example:
        >>> from resilience import Pool
        >>> connector = psycopg_connector("host=127.0.0.1 dbname=shop", application_name="orders")
        >>> pool = Pool(connector, maximum_pool_size=20, name="shop")  # connects with the first borrower
    """
    kind = _Connections(conninfo, arguments_of(conninfo, arguments), configure, discard_all=discard_all)
    return Connector(connect=kind.connect, close=_close, abort=abort, check=_check, reset=kind.reset)


class _Connections:
    """Makes connections, and makes them clean again."""

    def __init__(
        self,
        conninfo: str,
        arguments: dict[str, Any],
        configure: Callable[[_Connection], object] | None,
        *,
        discard_all: bool,
    ) -> None:
        self._conninfo, self._arguments, self._configure = conninfo, arguments, configure
        self._discards_all = discard_all

    def connect(self) -> _Connection:
        """Return a new connection."""
        connection: _Connection = psycopg.connect(self._conninfo, **self._arguments)
        try:
            if self._configure is not None:
                self._configure(connection)
            if needs_rollback(connection):
                raise left_open()  # noqa: TRY301 - one way to close it
        except BaseException:
            connection.close()
            raise
        self._settings = Settings(connection)  # those of all connections are the same
        return connection

    def reset(self, connection: _Connection) -> None:
        """Make a connection clean for the next borrower, or raise."""
        if needs_rollback(connection):
            connection.rollback()
        for name, value in self._settings.changed(connection):
            setattr(connection, name, value)
        if self._discards_all:
            _execute_alone(connection, "DISCARD ALL")


def _check(connection: _Connection) -> bool:
    """Return whether the server answers. A borrower may have left the connection in any state."""
    status = connection.info.transaction_status
    if status in (TransactionStatus.ACTIVE, TransactionStatus.UNKNOWN):
        return False
    if status is TransactionStatus.IDLE:
        _execute_alone(connection, "")
    else:
        connection.rollback()
    return True


def _execute_alone(connection: _Connection, statement: LiteralString) -> None:
    """Execute a statement outside a transaction, on an idle connection."""
    autocommit = connection.autocommit
    connection.autocommit = True
    try:
        connection.execute(statement, prepare=False)
    finally:
        if not connection.closed:
            connection.autocommit = autocommit


def _close(connection: _Connection) -> None:
    """Close a connection. libpq is not thread-safe: a check that hangs in another thread must end first."""
    lock = connection.lock
    if not lock.acquire(blocking=False):
        abort(connection)
        if not lock.acquire(timeout=_CLOSE_LIMIT):
            return  # the thread that has it is the last one to use it: the connection is closed with its last reference
    try:
        connection.close()
    finally:
        lock.release()
