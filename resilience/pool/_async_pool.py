"""The pool of asyncio."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol, Self, TypeVar, Unpack

from resilience.clock import Clock, monotonic
from resilience.options import Opaque, checked, seconds
from resilience.pool._async_lease import AsyncBorrowing, AsyncLease, AsyncLoan
from resilience.pool._connector import AWAITING, Connector, connector_of
from resilience.pool._core import Length, PoolArguments, PoolCore, options_of
from resilience.pool._face import PoolFace

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop
    from types import TracebackType

    from resilience.pool._aio import TaskLending

__all__ = ("AsyncPool",)

C = TypeVar("C")


class _AwaitingBreaker(Protocol):
    """A `CircuitBreaker` around connecting."""

    def call_async(self, function: Callable[[], Awaitable[Any]], /) -> Awaitable[Any]:
        """Return the result of `function()`, or raise a refusal."""
        ...


_BREAKER = Opaque("a CircuitBreaker", lambda given: callable(getattr(given, "call_async", None)))


class AsyncPool(PoolFace[C]):
    """Lends connections to the tasks of one event loop: fair, bounded, and honest about why it has none.

    `async with pool.connection() as connection:` borrows one and gives it back. It behaves as `Pool` does, with these
    differences:

    - The pool belongs to the event loop that uses it first. In another loop it raises `ConfigurationError`.
    - A cancelled borrower loses no connection, and a cancellation is never swallowed. If a block is cancelled, a reply
      may be outstanding: the connection is closed unless `reset` makes it clean.
    - `check`, `reset` and `close` run for at most `validation_timeout`, in tasks that a cancellation of the borrower
      does not end.

    Args:
        connect: A coroutine function that returns a new connection; or a `Connector`, which has the other callbacks.
        close: Closes a connection; plain or a coroutine function. Default: its method `aclose` or `close`, if any.
        abort: A plain function that ends a connection at once. The pool calls it if `close` fails or takes too long.
            Default: none.
        check: A coroutine function that raises, or returns False, if a connection does not work. Default: none.
        reset: A coroutine function that makes a connection clean for the next borrower. Default: none.
        breaker: A `CircuitBreaker` around `connect`. Default: none.
        name: The name in errors, events and figures, 1 to 100 characters.
        clock: Returns monotonic seconds.
        options: See `PoolOptions`. Durations are seconds, a `timedelta`, or text such as `"250ms"`.

    Raises:
        ConfigurationError: A callback or an option has the wrong type or value, or two options do not fit.

    Example:
        >>> import asyncio
        >>> async def main():
        ...     async def connect():
        ...         return ["a connection"]
        ...     async with AsyncPool(connect, maximum_pool_size=2, name="ledger") as pool:
        ...         async with pool.connection() as connection:
        ...             return connection, pool.snapshot()["in_use"]
        >>> asyncio.run(main())
        (['a connection'], 1)
    """

    def __init__(
        self,
        connect: Callable[[], Awaitable[C]] | Connector[C],
        *,
        close: Callable[[C], Any] | None = None,
        abort: Callable[[C], Any] | None = None,
        check: Callable[[C], Awaitable[Any]] | None = None,
        reset: Callable[[C], Awaitable[Any]] | None = None,
        breaker: _AwaitingBreaker | None = None,
        name: str = "pool",
        clock: Clock = monotonic,
        **options: Unpack[PoolArguments],
    ) -> None:
        from resilience.pool._aio import TaskLending  # noqa: PLC0415 - a blocking program never imports asyncio

        connector = connector_of(connect, AWAITING, close=close, abort=abort, check=check, reset=reset)
        core: PoolCore[C, AsyncLoan[C]] = PoolCore(name, connector, options_of(options), clock)
        guard = None if breaker is None else checked(breaker, "breaker", _BREAKER)
        guarded = connector.connect if guard is None else partial(guard.call_async, connector.connect)
        self._lending: TaskLending[C] = TaskLending(core, guarded)
        super().__init__(core, self._lending)

    def connection(self, timeout: Length | None = None) -> AsyncBorrowing[C]:
        """Return an async context manager that borrows a connection for its block.

        Args:
            timeout: The longest wait: seconds, a `timedelta` or text; 0 takes an idle connection or fails. Default:
                `connection_timeout`.

        Raises:
            PoolTimeoutError: No connection was free in time (when the block begins, as for the other errors). It is a
                `PoolExhaustedError` if other borrowers had all connections.
            PoolSaturatedError: `max_waiting` borrowers wait already.
            PoolClosedError: The pool is closed.
            CircuitOpenError: The breaker around connecting is open, and the pool is empty.
            ConfigurationError: The pool belongs to another event loop.
        """
        return AsyncBorrowing(self._lending, None if timeout is None else seconds(timeout, "timeout"))

    async def acquire(self, timeout: Length | None = None) -> AsyncLease[C]:  # noqa: ASYNC109 - as in `Pool`
        """Borrow a connection until `await lease.release()`. Prefer `connection()`, which cannot forget it.

        For the argument and the errors see `connection`.
        """
        lease = AsyncLease(self._lending, None if timeout is None else seconds(timeout, "timeout"))
        if not self._lending.take(lease):
            await self._lending.lend(lease)
        return lease

    @property
    def loop(self) -> AbstractEventLoop | None:
        """The event loop that the pool belongs to, None before its first use. If it is closed, call `reopen()`."""
        return self._lending.loop

    async def release(self, lease: AsyncLease[C]) -> None:
        """Give the connection of `lease` back, as `await lease.release()` does.

        Raises:
            PoolError: The lease has been released already, or belongs to another pool.
        """
        if not lease.is_of(self._lending):
            raise self._core.foreign()
        await lease.release()

    async def start(self) -> Self:
        """Begin to connect up to `minimum_idle`, in the background.

        With `initialization_fail_timeout` set, it waits for a first connection: 0 makes one attempt, a time above 0
        tries until then. A pool that is not started begins with the first borrower.

        Raises:
            PoolTimeoutError: No connection was made within `initialization_fail_timeout`. Its cause is the last error.
            PoolClosedError: The pool is closed.
            ConfigurationError: The pool belongs to another event loop.
        """
        await self._lending.start()
        return self

    async def close(self, timeout: Length = 5.0) -> None:  # noqa: ASYNC109 - as in `Pool`
        """Lend nothing any more, wait for the connections in use, and close all. A second call waits as well.

        Borrowers that wait get `PoolClosedError` at once. A connection that comes back later is closed then.

        Args:
            timeout: The longest wait for connections in use: seconds, a `timedelta` or text. After it, `abort` ends
                them, if given.

        Raises:
            ConfigurationError: `timeout` is not a duration, or the pool belongs to another event loop, which is open.
        """
        await self._lending.close(seconds(timeout, "timeout"))

    def close_from_thread(self, timeout: Length = 5.0) -> None:
        """Close the pool from blocking code: wait until its event loop, in another thread, has done so.

        In the thread of the loop this begins the close, and does not wait. If the loop does not run, the connections
        are aborted: nothing can be awaited.

        Args:
            timeout: The longest wait for connections in use: seconds, a `timedelta` or text.

        Raises:
            ConfigurationError: `timeout` is not a duration.
        """
        from resilience.pool._blocking_aio import close_in_loop  # noqa: PLC0415 - a blocking program never imports asyncio

        close_in_loop(self._lending, seconds(timeout, "timeout"))

    async def aclose(self) -> None:
        """Close the pool as `close()` does; the name that `contextlib.aclosing` and stop hooks look for."""
        await self.close()

    async def __aenter__(self) -> Self:
        return await self.start()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()
