"""A pool for SQLAlchemy engines: `create_engine(url, poolclass=ResiliencePool)`.

SQLAlchemy asks a pool class for two things: a record of a connection (`_do_get`), and to take the record back
(`_do_return_conn`). Events, reset on return, invalidation and the proxy of a connection are the work of its base class.
Below, a `resilience.Pool` of such records decides who gets which one, and when one is made or closed.
"""

from __future__ import annotations

import dataclasses
from datetime import timedelta
from functools import partial
from typing import Any, ClassVar, Protocol, Self, TypeAlias

from sqlalchemy import exc
from sqlalchemy.pool import ConnectionPoolEntry
from sqlalchemy.pool import Pool as EnginePool

from resilience.clock import monotonic
from resilience.errors import PoolClosedError, PoolError, RejectedError
from resilience.events import Emitter
from resilience.pool import AsyncPool, Connector, Lease, Pool, PoolOptions
from resilience_sql._engine_arguments import options_of_engine
from resilience_sql._engine_errors import UnreachableError, raise_refusal
from resilience_sql._sqlalchemy_internals import answers, handed_on, is_stale, shut_down_driver

__all__ = ("BETWEEN", "CLOSE_LIMIT", "Below", "ResiliencePool", "arguments_of")

Length: TypeAlias = "float | str | timedelta"

_OPTIONS = (
    "minimum_idle",
    "connect_timeout",
    "validation_timeout",
    "idle_timeout",
    "max_lifetime_jitter",
    "keepalive_time",
    "leak_detection_threshold",
    "max_waiting",
    "alive_bypass",
    "max_creating",
)
_GIVEN = ("pool_size", "max_overflow", "timeout", "recycle", "use_lifo", "pre_ping", *_OPTIONS)

BETWEEN = ("resilience_sql", "sqlalchemy")
"""The packages whose frames a leak report leaves out."""
CLOSE_LIMIT = 5.0
"""The longest time for which `dispose` waits until idle connections are closed, in seconds."""


class Below(Protocol):
    """The pool of records below an engine pool, of threads or of tasks. `lease` is the one that `lend` returned."""

    @property
    def pool(self) -> Pool[ConnectionPoolEntry] | AsyncPool[ConnectionPoolEntry]:
        """The pool."""
        ...

    def lend(self, timeout: float | None, /) -> Any:
        """Return a lease, after a wait of `timeout` seconds at most; None for the time of the pool."""

    def give_back(self, lease: Any, *, is_fit: bool) -> None:
        """Take a record back, to be closed unless it is fit."""

    def close(self) -> None:
        """Close the idle records, and those in use once they are back."""


def arguments_of(options: PoolOptions) -> dict[str, Any]:
    """Return options as the arguments of a pool."""
    return {field.name: getattr(options, field.name) for field in dataclasses.fields(options)}


class ResiliencePool(EnginePool):
    """A pool of a SQLAlchemy engine that is fair, finds leaks, and keeps to the deadline in force.

    Pass it as `poolclass`; the engine, its sessions and its events work as before. These are the differences from
    `QueuePool`:

    - Borrowers are served in the order in which they came, and one more than `max_waiting` is refused at once.
    - A borrower waits for at most `pool_timeout` (30 s), or until the deadline in force. The error is a
      `sqlalchemy.exc.TimeoutError`, and our `PoolTimeoutError` or `PoolSaturatedError` as well.
    - Connecting runs in the background, at most `max_creating` at once and for at most `connect_timeout` each. If the
      database cannot be reached and the pool has no connection, all borrowers get the driver's error at once, and the
      pool does not try again for 0.5 s.
    - A connection beyond `minimum_idle` is closed after `idle_timeout`, not when it comes back. Each is closed at the
      age of `pool_recycle`.
    - `pool_pre_ping` checks a connection that was not used within `alive_bypass`, for at most `validation_timeout`.
    - A forked child has a pool of its own without `dispose`. `dispose(close=False)` does no harm.

    Args:
        creator: Returns a new connection of the driver. The engine passes it.
        pool_size: 1 or more; the pool has at most `pool_size + max_overflow` connections.
        max_overflow: 0 or more.
        timeout: `pool_timeout`: the longest wait of a borrower.
        recycle: `pool_recycle`: the age at which a connection is closed; -1 or None for never. Default: 30 minutes.
        use_lifo: `pool_use_lifo`: True or None. The connection that came back last is always lent first.
        pre_ping: `pool_pre_ping`: whether idle connections are checked before they are lent.
        minimum_idle: Idle connections that the pool keeps ready. Default: 0.
        connect_timeout: Time after which an attempt to connect counts as failed. The driver needs a limit of its own
            (`connect_args`), or the thread goes on.
        validation_timeout: Longest time for one ping. Default: 1 s.
        idle_timeout: Idle time after which a connection is closed, None for never. Default: 10 minutes.
        max_lifetime_jitter: Up to this share of `pool_recycle` is subtracted at random.
        keepalive_time: Idle time after which a connection is checked in the background. It needs `pool_pre_ping=True`.
        leak_detection_threshold: Time in use after which the event `pool.leak_suspected` has the stack of the borrower.
        max_waiting: Borrowers that may wait. Default: 1,000.
        alive_bypass: A connection that was used within this time is not checked.
        max_creating: Attempts to connect at the same time.
        arguments: `echo`, `logging_name` (the name of the pool in errors and events, default "sqlalchemy"),
            `reset_on_return`, `events` and `dialect`, as for each pool of SQLAlchemy.

    Raises:
        ConfigurationError: An argument has the wrong type or value. It has the name that `create_engine` gives it.
        ArgumentError: The engine is one of `create_async_engine`, which needs `AsyncAdaptedResiliencePool`.

    Example:
        >>> import tempfile
        >>> from sqlalchemy import create_engine, text
        >>> engine = create_engine(f"sqlite:///{tempfile.mkdtemp()}/ledger.db", poolclass=ResiliencePool)
        >>> with engine.connect() as connection:
        ...     connection.execute(text("select 1 + 1")).scalar()
        2
        >>> engine.pool.status()
        'ResiliencePool: 1 of 15 connections, 1 idle, 0 in use, 0 borrowers wait'
        >>> engine.dispose()
    """

    _is_asyncio = False  # type: ignore[assignment,unused-ignore]  # as each pool class of SQLAlchemy does
    _counterpart: ClassVar[str] = "AsyncAdaptedResiliencePool for create_async_engine"

    def __init__(
        self,
        creator: Any,
        pool_size: int = 5,
        max_overflow: int = 10,
        timeout: Length = 30.0,
        recycle: Length | None = 1800.0,
        use_lifo: bool | None = None,  # noqa: FBT001 - the name and place that SQLAlchemy gives it
        pre_ping: bool = False,  # noqa: FBT001, FBT002 - see above
        minimum_idle: int = 0,
        connect_timeout: Length = 5.0,
        validation_timeout: Length | None = None,
        idle_timeout: Length | None = 600.0,
        max_lifetime_jitter: float = 0.1,
        keepalive_time: Length | None = None,
        leak_detection_threshold: Length | None = None,
        max_waiting: int = 1000,
        alive_bypass: Length = 0.5,
        max_creating: int = 3,
        **arguments: Any,
    ) -> None:
        values = locals()
        self._given = {name: values[name] for name in _GIVEN}
        self._checks = pre_ping
        options = {name: values[name] for name in _OPTIONS}
        self._options = options_of_engine(
            pool_size=pool_size,
            max_overflow=max_overflow,
            recycle=recycle,
            use_lifo=use_lifo,
            pre_ping=pre_ping,
            connection_timeout=timeout,
            **options,
        )
        super().__init__(creator, **arguments)
        dialect = arguments.get("dialect")
        if dialect is not None and dialect.is_async is not self._is_asyncio:
            raise exc.ArgumentError(f"{type(self).__name__} does not fit this engine: use {self._counterpart}")
        self._name: str = arguments.get("logging_name") or "sqlalchemy"
        self._leases: dict[ConnectionPoolEntry, Any] = {}
        self._is_replaced = False
        """Whether the engine has another pool now. A connection that comes back here has no next borrower."""
        self._below = self._new_below()

    def _new_below(self) -> Below:
        """Return the pool of records below."""
        connector: Connector[ConnectionPoolEntry] = Connector(
            connect=self._connect,
            close=_close,
            abort=self._abort,
            check=partial(answers, self) if self._checks else None,
            between=BETWEEN,
        )
        return _Threads(Pool(connector, name=self._name, **arguments_of(self._options)))

    # What SQLAlchemy calls

    def _do_get(self) -> ConnectionPoolEntry:
        lease = self._lend(None)
        record: ConnectionPoolEntry = lease.connection
        if is_stale(record):
            lease = self._lend_another(lease)
            record = lease.connection
        self._leases[record] = lease
        return record

    def _lend_another(self, lease: Any) -> Any:
        """Return a lease of a connection that was not invalidated while it was idle. Close those that were."""
        until = monotonic() + self._options.connection_timeout
        while is_stale(lease.connection):
            self._below.give_back(lease, is_fit=False)
            lease = self._lend(max(0.0, until - monotonic()))
        return lease

    def _lend(self, timeout: float | None) -> Any:
        while True:
            below = self._below
            try:
                return below.lend(timeout)
            except (PoolError, RejectedError) as error:
                if isinstance(error, PoolClosedError) and below is not self._below:
                    continue  # `dispose` has put another one in its place
                raise_refusal(error)

    def _do_return_conn(self, record: ConnectionPoolEntry) -> None:
        lease = self._leases.pop(record)
        # A record that has lost its connection makes room: a record of SQLAlchemy would connect in the next borrower.
        self._below.give_back(lease, is_fit=not (self._is_replaced or is_stale(record)))

    def dispose(self) -> None:
        """Close the idle connections; those in use are closed when they come back. The pool can be used again."""
        below, self._below = self._below, self._new_below()
        for listener in below.pool.events.listeners:
            self._below.pool.events.subscribe(listener)
        below.close()

    def recreate(self) -> Self:
        """Return a new pool with the arguments, listeners and dialect of this one."""
        made = type(self)(self._creator, **self._given, **handed_on(self))
        for listener in self.events.listeners:
            made.events.subscribe(listener)
        self._is_replaced = True
        return made

    # What the pool below calls

    def _connect(self) -> ConnectionPoolEntry:
        """Make a record with a connection. It runs in a thread of the pool, and so do the `connect` events."""
        try:
            return self._create_connection()
        except Exception as error:
            raise UnreachableError.because_of(error) from error

    def _abort(self, record: ConnectionPoolEntry) -> None:
        if record not in self._leases and not shut_down_driver(record):  # `dispose` leaves borrowers theirs
            self._close_here(record)

    def _close_here(self, record: ConnectionPoolEntry) -> None:
        """Close a connection of a driver that shows no socket, such as SQLite: no thread was free for it."""
        record.close()

    # What an operator reads

    @property
    def events(self) -> Emitter:
        """The events of the pool: `engine.pool.events.subscribe(listener)`. `dispose` keeps the listeners."""
        return self._below.pool.events

    def snapshot(self) -> dict[str, Any]:
        """Return the state and the counts, as `resilience.Pool.snapshot` does."""
        return self._below.pool.snapshot()

    def status(self) -> str:
        """Return the state as one line."""
        now = self.snapshot()
        return (
            f"{type(self).__name__}: {now['total']} of {now['maximum_pool_size']} connections, {now['idle']} idle, "
            f"{now['in_use']} in use, {now['waiting']} borrowers wait"
        )

    def size(self) -> int:
        """Return `pool_size`, as `QueuePool` does."""
        return int(self._given["pool_size"])

    def timeout(self) -> float:
        """Return `pool_timeout` in seconds."""
        return self._options.connection_timeout

    def checkedin(self) -> int:
        """Return the number of idle connections."""
        return int(self.snapshot()["idle"])

    def checkedout(self) -> int:
        """Return the number of connections in use."""
        return int(self.snapshot()["in_use"])

    def overflow(self) -> int:
        """Return the number of connections above `pool_size`, negative if there are fewer."""
        return int(self.snapshot()["total"]) - self.size()


class _Threads:
    """A pool of records for threads."""

    def __init__(self, pool: Pool[ConnectionPoolEntry]) -> None:
        self.pool = pool

    def lend(self, timeout: float | None) -> Lease[ConnectionPoolEntry]:
        """Return a lease."""
        return self.pool.acquire(timeout)

    def give_back(self, lease: Lease[ConnectionPoolEntry], *, is_fit: bool) -> None:
        """Take a record back, to be closed unless it is fit."""
        if is_fit:
            lease.release()
        else:
            lease.discard()

    def close(self) -> None:
        """Close the idle records, and those in use once they are back. Wait only if no record is in use."""
        self.pool.close(0 if self.pool.snapshot()["in_use"] else CLOSE_LIMIT)


def _close(record: ConnectionPoolEntry) -> None:
    record.close()
