"""One connection of a pool with its times, and a borrower."""

from __future__ import annotations

from typing import Any, Generic, TypeVar

__all__ = ("Borrower", "PoolEntry")

C = TypeVar("C")


class PoolEntry(Generic[C]):
    """One connection, and its times in monotonic seconds."""

    __slots__ = (
        "alive_at",
        "borrowed_at",
        "connection",
        "expires_at",
        "fresh_until",
        "idle_since",
        "is_reported",
        "reason",
        "stack",
    )

    def __init__(self, connection: C, now: float, expires_at: float) -> None:
        self.connection = connection
        self.borrowed_at = now
        self.idle_since = now
        self.alive_at = now
        """The last moment at which it worked: the end of a use, or of a check."""
        self.fresh_until = expires_at
        self.expires_at = expires_at
        self.reason = "max_lifetime"
        """Why it is closed once it has expired."""
        self.is_reported = False
        """Whether its present borrower was reported as a leak."""
        self.stack: object = None
        """The stack of its present borrower, if leaks are looked for."""


class Borrower:
    """The asker for an entry. It gets an `entry` or an `error`."""

    __slots__ = ("entry", "error", "since")

    entry: PoolEntry[Any] | None
    error: BaseException | None
    since: float
    """When it joined the queue."""
