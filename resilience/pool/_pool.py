"""The pool of blocking code."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Self, TypeVar, Unpack

from resilience.clock import Clock, monotonic
from resilience.options import Opaque, checked, seconds
from resilience.pool._callbacks import BlockingBreaker
from resilience.pool._connector import BLOCKING, Connector, connector_of
from resilience.pool._core import Length, PoolArguments, PoolCore, options_of
from resilience.pool._face import PoolFace
from resilience.pool._lease import Borrowing, Lease, Loan
from resilience.pool._lending import ThreadLending

if TYPE_CHECKING:
    from types import TracebackType

__all__ = ("Pool",)

C = TypeVar("C")

_BREAKER = Opaque("a CircuitBreaker, or a Pipeline", lambda given: callable(getattr(given, "call", None)))


class Pool(PoolFace[C]):
    """Lends connections to threads: fair, bounded, and honest about why it has none.

    `with pool.connection() as connection:` borrows one and gives it back. A borrower waits for at most
    `connection_timeout`, or until the deadline in force. Borrowers are served in the order in which they came. The
    connection that came back last is lent first.

    Connecting runs in the background, for at most `connect_timeout` and `max_creating` at once; a hung connect does not
    hold up the others. The pool connects when a borrower waits, and to keep `minimum_idle`.

    A connection is lent again if the block ends normally and `reset`, if given, does not fail. If an `Exception` leaves
    the block, `check` and `reset` decide, if given; without either the connection is closed. If anything else leaves
    the block (`KeyboardInterrupt`, `GeneratorExit`), a reply may be outstanding: the connection is closed unless
    `reset` makes it clean.

    Args:
        connect: Returns a new connection; or a `Connector`, which has the other callbacks too.
        close: Closes a connection. Default: its method `close`, if any.
        abort: Ends a connection at once, without blocking I/O. The pool calls it if `close` fails, or no thread is free
            for it. Default: none.
        check: Raises, or returns False, if a connection does not work. It runs before a connection is lent that was
            not used within `alive_bypass`, and for `keepalive_time`. Default: none.
        reset: Makes a connection clean for the next borrower. It runs in the borrower's thread. Default: none.
        breaker: A `CircuitBreaker` around `connect`. While it is open and the pool is empty, borrowers get its refusal
            at once. Default: none.
        name: The name in errors, events and figures, 1 to 100 characters.
        clock: Returns monotonic seconds.
        options: See `PoolOptions`. Durations are seconds, a `timedelta`, or text such as `"250ms"`.

    Raises:
        ConfigurationError: A callback or an option has the wrong type or value, or two options do not fit.

    Example:
        >>> import sqlite3
        >>> connect = lambda: sqlite3.connect(":memory:", check_same_thread=False)
        >>> pool = Pool(connect, maximum_pool_size=2, name="ledger")
        >>> with pool.connection() as connection:
        ...     connection.execute("select 1 + 1").fetchone()
        (2,)
        >>> pool.close()

    The names of the options are those of HikariCP. A queue of borrowers, attempts that belong to no borrower, and one
    deadline for the whole borrow are as in psycopg_pool.
    """

    def __init__(
        self,
        connect: Callable[[], C] | Connector[C],
        *,
        close: Callable[[C], Any] | None = None,
        abort: Callable[[C], Any] | None = None,
        check: Callable[[C], Any] | None = None,
        reset: Callable[[C], Any] | None = None,
        breaker: BlockingBreaker | None = None,
        name: str = "pool",
        clock: Clock = monotonic,
        **options: Unpack[PoolArguments],
    ) -> None:
        connector = connector_of(connect, BLOCKING, close=close, abort=abort, check=check, reset=reset)
        core: PoolCore[C, Loan[C]] = PoolCore(name, connector, options_of(options), clock)
        guard = None if breaker is None else checked(breaker, "breaker", _BREAKER)
        self._lending: ThreadLending[C] = ThreadLending(core, guard)
        super().__init__(core, self._lending)

    def connection(self, timeout: Length | None = None) -> Borrowing[C]:
        """Return a context manager that borrows a connection for its block.

        Args:
            timeout: The longest wait: seconds, a `timedelta` or text; 0 takes an idle connection or fails. Default:
                `connection_timeout`.

        Raises:
            PoolTimeoutError: No connection was free in time (when the block begins, as for the other errors). It is a
                `PoolExhaustedError` if other borrowers had all connections.
            PoolSaturatedError: `max_waiting` borrowers wait already.
            PoolClosedError: The pool is closed.
            CircuitOpenError: The breaker around connecting is open, and the pool is empty.
        """
        return Borrowing(self._lending, None if timeout is None else seconds(timeout, "timeout"))

    def acquire(self, timeout: Length | None = None) -> Lease[C]:
        """Borrow a connection until `lease.release()`. Prefer `connection()`, which cannot forget it.

        For the argument and the errors see `connection`.
        """
        lease = Lease(self._lending, None if timeout is None else seconds(timeout, "timeout"))
        self._lending.lend(lease)
        return lease

    def release(self, lease: Lease[C]) -> None:
        """Give the connection of `lease` back, as `lease.release()` does.

        Raises:
            PoolError: The lease has been released already, or belongs to another pool.
        """
        if not lease.is_of(self._lending):
            raise self._core.foreign()
        lease.release()

    def start(self) -> Self:
        """Begin to connect up to `minimum_idle`, in the background.

        With `initialization_fail_timeout` set, it waits for a first connection: 0 makes one attempt, a time above 0
        tries until then. A pool that is not started begins with the first borrower.

        Raises:
            PoolTimeoutError: No connection was made within `initialization_fail_timeout`. Its cause is the last error.
            PoolClosedError: The pool is closed.
        """
        self._lending.start()
        return self

    def close(self, timeout: Length = 5.0) -> None:
        """Lend nothing any more, wait for the connections in use, and close all. A second call waits as well.

        Borrowers that wait get `PoolClosedError` at once. A connection that comes back later is closed then.

        Args:
            timeout: The longest wait for connections in use: seconds, a `timedelta` or text. After it, `abort` ends
                them, if given.

        Raises:
            ConfigurationError: `timeout` is not a duration.
        """
        self._lending.close(seconds(timeout, "timeout"))

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()
