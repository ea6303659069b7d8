"""What both colours of psycopg connections have in common: arguments, states, and settings that a borrower may change.

One attribute is used that psycopg 3.1 to 3.3 has but does not document: `Connection.lock`, which a thread or task holds
during each operation. The two `_close` functions look at it, so that libpq is not used by two threads at once.
"""

from __future__ import annotations

import contextlib
import os
from typing import Any, TypeAlias

import psycopg
from psycopg.conninfo import conninfo_to_dict
from psycopg.pq import TransactionStatus

from resilience.errors import ConfigurationError, Problem
from resilience_sql._sockets import shut_down

__all__ = ("AnyConnection", "Settings", "abort", "arguments_of", "left_open", "needs_rollback")

AnyConnection: TypeAlias = "psycopg.Connection[Any] | psycopg.AsyncConnection[Any]"

CONNECT_TIMEOUT = 5
"""Seconds for one address of the server, if neither arguments nor environment name a time: libpq has no limit."""

_OPEN = (TransactionStatus.INTRANS, TransactionStatus.INERROR)
_FOR_TRANSACTIONS = ("autocommit", "isolation_level", "read_only", "deferrable")
_FOR_CURSORS = ("row_factory", "cursor_factory", "prepare_threshold")


def arguments_of(conninfo: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments for `connect`, with a limit of time.

    Raises:
        ConfigurationError: libpq cannot read `conninfo`.
    """
    try:
        named = conninfo_to_dict(conninfo)
    except psycopg.Error:
        # Neither the text nor the reason of libpq is shown: both may have the password.
        expected = "a connection string of libpq, such as 'host=db dbname=shop' or 'postgresql://user@db/shop'"
        raise ConfigurationError([Problem("conninfo", "***", expected)]) from None
    if "connect_timeout" in named or "PGCONNECT_TIMEOUT" in os.environ:
        return arguments
    return {"connect_timeout": CONNECT_TIMEOUT, **arguments}


def needs_rollback(connection: AnyConnection) -> bool:
    """Return whether a transaction is open.

    Raises:
        OperationalError: A query or COPY is in the midst of it, or the connection is lost: it cannot be lent again.
    """
    status = connection.info.transaction_status
    if status is TransactionStatus.IDLE:
        return False
    if status in _OPEN:
        return True
    raise psycopg.OperationalError(f"the connection came back in the transaction status {status.name}")


def left_open() -> psycopg.ProgrammingError:
    """Return the error of a `configure` that began a transaction."""
    return psycopg.ProgrammingError("`configure` left a transaction open: commit it, or set `autocommit` for it")


def abort(connection: AnyConnection) -> None:
    """End a connection without I/O that can block.

    Only the socket is shut down. `PQfinish` frees memory that the thread of a borrower may use at this moment; the
    owner, or the garbage collector, calls it.
    """
    with contextlib.suppress(psycopg.Error):  # closed already
        shut_down(connection.fileno())


class Settings:
    """The settings of a new connection, which a borrower may have changed when it comes back.

    Args:
        connection: A connection that no borrower has had.
    """

    def __init__(self, connection: AnyConnection) -> None:
        self._for_transactions = [(name, getattr(connection, name)) for name in _FOR_TRANSACTIONS]
        self._for_cursors = [(name, getattr(connection, name)) for name in _FOR_CURSORS]

    def changed(self, connection: AnyConnection) -> list[tuple[str, Any]]:
        """Set those back that are for cursors, and return those for transactions that the shell has to set back.

        The connection must be idle: psycopg changes the latter between transactions only.
        """
        for name, value in self._for_cursors:
            if getattr(connection, name) is not value:
                setattr(connection, name, value)
        return [(name, value) for name, value in self._for_transactions if getattr(connection, name) != value]
