"""The words of the pool machine: an entry, a borrower, and their possible states.

Age. An entry is not used after `expires_at`. `drain`, `close`, and `resize` to fewer set that moment to the past. So
the way back has one comparison for all reasons to close an entry, and an entry in use is never taken from its borrower.
Until `fresh_until` an entry is lent without a check.

Outcomes. The machine leaves lists for the shell, which works them off after a step: `handed`, the borrowers that have
an entry or an error now and must be woken; `doomed`, the entries to close, each with the reason; and `found`, the
entries that were reported as leaks and came back after all, each with its time in use.
"""

from __future__ import annotations

from enum import Enum
from typing import Any, Generic, NamedTuple, TypeVar

from resilience.pool._connecting import Attempt

__all__ = ("BorrowOutcome", "Borrower", "PoolEntry", "PoolState", "Round")

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


class PoolState(Enum):
    """Whether a pool lends."""

    OPEN = "open"
    SUSPENDED = "suspended"
    CLOSED = "closed"


class BorrowOutcome(Enum):
    """The outcome of `PoolMachine.arrive` for a borrower."""

    LENT = "lent"
    QUEUED = "queued"
    SATURATED = "saturated"
    REFUSED = "refused"
    """The circuit breaker refuses to connect, and the pool is empty: see `connecting.last_error`."""
    CLOSED = "closed"


class Round(NamedTuple, Generic[C]):
    """The findings of a round of maintenance.

    Attributes:
        due: Entries set aside, to be checked and given to `restore`.
        suspects: Entries that look lost, each with its time in use.
        late: Attempts to connect that take too long, to be given to `failed`.
    """

    due: list[PoolEntry[C]]
    suspects: list[tuple[PoolEntry[C], float]]
    late: list[Attempt]
