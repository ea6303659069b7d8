"""The callbacks of an async pool, each with a limit of time."""

from __future__ import annotations

import asyncio
import logging
import math
import weakref
from collections.abc import Awaitable, Callable
from typing import Any, Generic, TypeVar, cast

from resilience._support.log_writer import write_line
from resilience.errors import one_line
from resilience.pool._connector import Connector, close_by_method

__all__ = ("AwaitingCallbacks", "call_later")

C = TypeVar("C")


class AwaitingCallbacks(Generic[C]):
    """Runs the callbacks of `connector`.

    Args:
        name: The name of the pool, for errors.
        connector: The callbacks.
        longest: The longest time for one check, reset or close, in seconds.
        guarded_connect: The coroutine function that connects, with the breaker around it.
    """

    def __init__(
        self, name: str, connector: Connector[C], longest: float, guarded_connect: Callable[[], Awaitable[Any]]
    ) -> None:
        self._name, self._longest = name, longest
        self._connect = guarded_connect
        self._check, self._reset, self._abort = connector.check, connector.reset, connector.abort
        self._close = close_by_method if connector.close is None else connector.close
        self.has_check, self.has_reset = connector.check is not None, connector.reset is not None
        self.discard_on = connector.discard_on

    async def connect(self) -> C:
        """Return a new connection."""
        connection: C | None = await self._connect()
        if connection is None:
            raise TypeError(f"connect of pool {self._name!r} returned None")
        return connection

    async def is_alive(self, connection: C, seconds: float = math.inf) -> bool:
        """Return whether `check` finds the connection alive. A cancellation of the caller is raised as it is."""
        check = cast("Any", self._check)
        try:
            async with asyncio.timeout(min(seconds, self._longest)):
                return await check(connection) is not False
        except Exception:  # noqa: BLE001 - a connection that cannot be checked is dead
            return False

    async def clean(self, connection: C) -> bool:
        """Return whether `reset` has made the connection clean."""
        try:
            async with asyncio.timeout(self._longest):
                await cast("Any", self._reset)(connection)
        except Exception as error:  # noqa: BLE001 - the connection is closed: the borrower has its result already
            self._report("reset", error)
            return False
        return True

    async def close(self, connection: C) -> None:
        """Close a connection; abort it if that fails, takes too long, or is cancelled."""
        is_closed = False
        try:
            async with asyncio.timeout(self._longest):
                pending = self._close(connection)
                if isinstance(pending, Awaitable):
                    await pending
            is_closed = True
        except Exception as error:  # noqa: BLE001 - the connection is gone either way
            self._report("close", error)
        finally:
            if not is_closed:
                self.abort(connection)

    def abort(self, connection: C) -> None:
        """End a connection at once, if it can be."""
        if self._abort is not None:
            try:
                self._abort(connection)
            except Exception as error:  # noqa: BLE001 - the connection is gone either way
                self._report("abort", error)

    def _report(self, what: str, error: BaseException) -> None:
        write_line(logging.DEBUG, f"{what} of a connection of pool {one_line(repr(self._name))} failed", error=error)


def call_later(loop: asyncio.AbstractEventLoop, seconds: float, method: Callable[[], object]) -> asyncio.TimerHandle:
    """Call `method` of a pool later. The loop keeps no pool alive that is no longer used."""
    return loop.call_later(seconds, _call, weakref.WeakMethod(method))


def _call(method: weakref.WeakMethod[Callable[[], object]]) -> None:
    found = method()
    if found is not None:
        found()
