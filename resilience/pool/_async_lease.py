"""A lease of an `AsyncPool`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, Protocol, Self, TypeVar

from resilience.pool._entry import Borrower, PoolEntry
from resilience.pool._lease import held_already, not_held

if TYPE_CHECKING:
    import asyncio
    from types import TracebackType

__all__ = ("AsyncBorrowing", "AsyncLease", "AsyncLoan")

C = TypeVar("C")


class _AsyncLender(Protocol[C]):
    """The lending of an async pool, as its loans see it."""

    @property
    def name(self) -> str:
        """The name of the pool."""
        ...

    def take(self, loan: AsyncLoan[C], /) -> bool:
        """Give the loan an idle entry; return whether there is one."""
        ...

    async def lend(self, loan: AsyncLoan[C], /) -> None:
        """Give the loan an entry, or raise."""
        ...

    def put_back(self, loan: AsyncLoan[C], /) -> bool:
        """Take the entry of a loan back at once; return whether that was simple."""
        ...

    async def take_back(self, loan: AsyncLoan[C], error: BaseException | None = None, /) -> None:
        """Take the entry of a loan back."""
        ...

    def take_away(self, loan: AsyncLoan[C], reason: str, /) -> None:
        """Take the entry of a loan back, to be closed."""
        ...

    def lose(self, entry: PoolEntry[C], /) -> None:
        """Take an entry back whose loan was dropped."""
        ...


class AsyncLoan(Borrower, Generic[C]):
    """A borrower that is a task, from its question to the return of the connection."""

    __slots__ = ("_pool", "arrival", "by_deadline", "timeout")

    entry: PoolEntry[C] | None

    def __init__(self, pool: _AsyncLender[C], timeout: float | None) -> None:
        self.entry = None
        self._pool = pool
        self.timeout = timeout
        """The longest wait of this borrower in seconds, None for that of the pool."""
        self.by_deadline = False

    def is_of(self, pool: object) -> bool:
        """Whether this loan is one of `pool`."""
        return self._pool is pool

    def prepare(self, loop: asyncio.AbstractEventLoop) -> None:
        """Make `arrival` a future that `wake` resolves."""
        self.error = None
        self.arrival: asyncio.Future[None] = loop.create_future()

    def wake(self) -> None:
        """Let the waiting task go on."""
        if not self.arrival.done():  # else it was cancelled, and passes its entry on
            self.arrival.set_result(None)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is not None or not self._pool.put_back(self):
            await self._pool.take_back(self, error)

    def __del__(self) -> None:
        if self.entry is not None:
            self._pool.lose(self.entry)


class AsyncBorrowing(AsyncLoan[C]):
    """Borrows when the block begins: `async with pool.connection() as connection:`."""

    __slots__ = ()

    async def __aenter__(self) -> C:
        if self.entry is not None:
            raise held_already(self._pool.name)
        if not self._pool.take(self):
            await self._pool.lend(self)
        entry: PoolEntry[C] = self.entry  # type: ignore[assignment]  # `lend` has raised otherwise
        return entry.connection


class AsyncLease(AsyncLoan[C]):
    """The right to use `connection` until `release()` or `discard()`. `AsyncPool.acquire` returns it.

    A lease can be released once. In an `async with` block it is released at the end, unless the block has done so. If a
    lease is dropped without a release, the pool closes its connection: it cannot know who still uses it.
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

    async def release(self) -> None:
        """Give the connection back, for the next borrower.

        Raises:
            PoolError: The lease has been released already.
        """
        await self._pool.take_back(self)

    async def discard(self) -> None:
        """Give the connection back, to be closed: it is broken, or in a state that no other borrower may meet.

        Raises:
            PoolError: The lease has been released already.
        """
        self._pool.take_away(self, "discarded")

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self.entry is not None:
            await super().__aexit__(kind, error, traceback)

    def __repr__(self) -> str:
        return f"<AsyncLease of pool {self._pool.name!r}{'' if self.entry is not None else ', released'}>"
