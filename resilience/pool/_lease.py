"""A lease: the right to use one connection until it is given back."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Generic, Protocol, Self, TypeVar

from resilience.errors import PoolError
from resilience.pool._entry import Borrower, PoolEntry

if TYPE_CHECKING:
    from types import TracebackType

__all__ = ("Borrowing", "Lease", "Loan", "held_already", "not_held")

C = TypeVar("C")


class _Lender(Protocol[C]):
    """The pool of blocking code, as its loans see it."""

    @property
    def name(self) -> str:
        """The name of the pool."""
        ...

    def lend(self, loan: Loan[C], /) -> None:
        """Give the loan an entry, or raise."""
        ...

    def take_back(self, loan: Loan[C], /) -> None:
        """Take the entry of a loan back."""
        ...

    def take_back_after(self, loan: Loan[C], error: BaseException, /) -> None:
        """Take the entry of a loan back whose block has ended with `error`."""
        ...

    def take_away(self, loan: Loan[C], reason: str, /) -> None:
        """Take the entry of a loan back, to be closed."""
        ...

    def lose(self, entry: PoolEntry[C], /) -> None:
        """Take an entry back whose loan was dropped."""
        ...


class Loan(Borrower, Generic[C]):
    """A borrower of blocking code, from its question to the return of the connection.

    It is made before it asks, and gives back whatever it holds when it is dropped: no interrupt loses a connection.
    """

    __slots__ = ("_pool", "by_deadline", "latch", "timeout")

    entry: PoolEntry[C] | None
    by_deadline: bool
    """Whether the deadline in force ends the wait sooner than the pool would."""

    def __init__(self, pool: _Lender[C], timeout: float | None) -> None:
        self.entry = None
        self._pool = pool
        self.timeout = timeout
        """The longest wait of this borrower in seconds, None for that of the pool."""

    def is_of(self, pool: object) -> bool:
        """Whether this loan is one of `pool`."""
        return self._pool is pool

    def prepare(self) -> None:
        """Make `wait` block until `wake`."""
        self.error = None
        self.latch = threading.Lock()
        self.latch.acquire()

    def wait(self, seconds: float) -> None:
        """Block this thread until `wake`, for `seconds` at most."""
        self.latch.acquire(timeout=seconds)

    def wake(self) -> None:
        """Let the waiting thread go on. May be called twice."""
        if self.latch.locked():
            self.latch.release()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is None:
            self._pool.take_back(self)
        else:
            self._pool.take_back_after(self, error)

    def __del__(self) -> None:
        if self.entry is not None:
            self._pool.lose(self.entry)


class Borrowing(Loan[C]):
    """Borrows when the block begins: `with pool.connection() as connection:`."""

    __slots__ = ()

    def __enter__(self) -> C:
        if self.entry is not None:
            raise held_already(self._pool.name)
        self._pool.lend(self)
        entry: PoolEntry[C] = self.entry  # type: ignore[assignment]  # `lend` has raised otherwise
        return entry.connection


class Lease(Loan[C]):
    """The right to use `connection` until `release()` or `discard()`. `Pool.acquire` returns it.

    A lease can be released once. In a `with` block it is released at the end, unless the block has done so; an
    exception out of the block is treated as by `Pool.connection`. If a lease is dropped without a release, the pool
    closes its connection: it cannot know who still uses it.
    """

    __slots__ = ()

    @property
    def connection(self) -> C:
        """The connection.

        Raises:
            PoolError: The lease has been released.
        """
        entry = self.entry
        if entry is None:
            raise not_held(self._pool.name)
        return entry.connection

    def release(self) -> None:
        """Give the connection back, for the next borrower.

        Raises:
            PoolError: The lease has been released already.
        """
        self._pool.take_back(self)

    def discard(self) -> None:
        """Give the connection back, to be closed: it is broken, or in a state that no other borrower may meet.

        Raises:
            PoolError: The lease has been released already.
        """
        self._pool.take_away(self, "discarded")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self.entry is not None:
            super().__exit__(kind, error, traceback)

    def __repr__(self) -> str:
        return f"<Lease of pool {self._pool.name!r}{'' if self.entry is not None else ', released'}>"


def held_already(pool: str) -> PoolError:
    """Return the error of a context manager that is entered again before its block has ended."""
    return PoolError(
        f"pool {pool!r}: this context manager holds a connection already; call connection() for each block", pool=pool
    )


def not_held(pool: str) -> PoolError:
    """Return the error of a lease that is released, or used, after its release."""
    return PoolError(
        f"pool {pool!r}: the lease has been released already; it can be released once, by its owner", pool=pool
    )
