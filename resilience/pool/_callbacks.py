"""The callbacks of a blocking pool, each in a thread of its own, so that a callback that hangs holds up no borrower."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from contextvars import Context
from functools import partial
from typing import Any, Generic, Protocol, TypeVar, cast

from resilience._support.executor import Executor, Work
from resilience._support.log_writer import write_line
from resilience.errors import PoolError, one_line
from resilience.pool._connector import Connector, close_by_method
from resilience.pool._options import PoolOptions

__all__ = ("BlockingBreaker", "BlockingCallbacks")

C = TypeVar("C")

Done = Callable[[Any, BaseException | None], None]
"""Takes a new connection, or None and the error of connecting."""


class BlockingBreaker(Protocol):
    """A `CircuitBreaker`, or a `Pipeline`, around connecting."""

    def call(self, function: Callable[[], Any], /) -> Any:
        """Return `function()`, or raise a refusal."""
        ...


class BlockingCallbacks(Generic[C]):
    """Runs the callbacks of `connector`.

    Args:
        name: The name of the pool, for errors.
        connector: The callbacks.
        options: The options of the pool.
        breaker: Guards `connect`, None for no guard.
    """

    def __init__(
        self, name: str, connector: Connector[C], options: PoolOptions, breaker: BlockingBreaker | None
    ) -> None:
        self._name = name
        self._connect = connector.connect if breaker is None else partial(breaker.call, connector.connect)
        self._close = close_by_method if connector.close is None else connector.close
        self._abort = connector.abort
        self._check, self.reset = connector.check, connector.reset
        self.has_check, self.discard_on = connector.check is not None, connector.discard_on
        # A connect that hangs keeps its thread. At the bound, attempts fail at once.
        self._connecting = Executor(options.max_creating + options.maximum_pool_size)
        # Those of its own: a check that finds no thread would take a connection that works for a dead one.
        self._checking = Executor(2 * options.maximum_pool_size)
        self._closing = Executor(options.maximum_pool_size)
        self._left: deque[C] = deque(maxlen=10 * options.maximum_pool_size)  # to be closed when a thread is free

    def connect(self, done: Done) -> Work:
        """Begin to connect. `done` is called in the thread that has connected, or here if no thread is free."""
        work = Work(partial(self._connect_and, done), Context())
        shortage = self._connecting.submit(work)
        if shortage is not None:
            done(None, PoolError(f"pool {self._name!r} cannot connect: {shortage.value}", pool=self._name))
        return work

    def _connect_and(self, done: Done) -> None:
        try:
            connection = self._connect()
            if connection is None or hasattr(type(connection), "__await__"):
                raise TypeError(f"connect of pool {self._name!r} returned {type(connection).__name__}")  # noqa: TRY301 - one way for all errors
        except BaseException as error:  # noqa: BLE001 - the pool gets it, SystemExit too
            done(None, error)
            return
        done(connection, None)

    def is_alive(self, connection: C, seconds: float) -> bool:
        """Return whether `check` finds the connection alive within `seconds`."""
        check = cast("Callable[[C], Any]", self._check)
        work = Work(partial(check, connection), Context())
        if self._checking.submit(work) is not None:
            return False
        return work.wait(seconds) and work.error is None and work.result is not False

    def clean(self, connection: C) -> bool:
        """Return whether `reset` has made the connection clean. It runs here, in the thread of the borrower."""
        if self.reset is None:
            return False
        try:
            self.reset(connection)
        except Exception as error:  # noqa: BLE001 - the connection is closed: the borrower has its result already
            self._report("reset", error)
            return False
        return True

    def close(self, connection: C) -> Work | None:
        """Close a connection in the background. If no thread is free, abort it here, or close it when one is free."""
        work = Work(partial(self._close_and_more, connection), Context())
        if self._closing.submit(work) is None:
            return work
        if self._abort is not None:
            self.abort(connection)
            return None
        self._left.append(connection)
        again = Work(self._close_left, Context())  # every thread may have become free meanwhile
        return again if self._closing.submit(again) is None else None

    def _close_and_more(self, connection: C) -> None:
        self._close_or_abort(connection)
        self._close_left()

    def _close_left(self) -> None:
        while True:
            try:
                connection = self._left.popleft()
            except IndexError:
                return
            self._close_or_abort(connection)

    def _close_or_abort(self, connection: C) -> None:
        try:
            self._close(connection)
        except BaseException as error:  # noqa: BLE001 - the connection is gone either way
            self._report("close", error)
            self.abort(connection)

    def abort(self, connection: C) -> None:
        """End a connection at once, if it can be."""
        if self._abort is None:
            return
        try:
            self._abort(connection)
        except Exception as error:  # noqa: BLE001 - the connection is gone either way
            self._report("abort", error)

    def _report(self, what: str, error: BaseException) -> None:
        write_line(logging.DEBUG, f"{what} of a connection of pool {one_line(repr(self._name))} failed", error=error)
