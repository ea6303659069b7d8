"""How connections of a pool of threads are closed in the background, and how `close` waits for the last one."""

from __future__ import annotations

import contextlib
import threading
from functools import partial
from typing import Any, Generic, TypeVar

from resilience._support.executor import Work
from resilience.pool._callbacks import BlockingCallbacks
from resilience.pool._core import PoolCore
from resilience.pool._entry import PoolEntry, PoolState

__all__ = ("PoolClosing",)

C = TypeVar("C")


class PoolClosing(Generic[C]):
    """Closes the connections of one pool.

    Args:
        core: The machine of the pool, and its errors and events.
        callbacks: Runs `close` and `abort`.
    """

    def __init__(self, core: PoolCore[C, Any], callbacks: BlockingCallbacks[C]) -> None:
        self._core, self._callbacks = core, callbacks
        self._all_back = threading.Lock()  # released once a closed pool has no connection any more
        self._all_back.acquire()  # no `Event`: an interrupt in its methods leaves its lock taken
        self._works: dict[Work, None] = {}  # those in the background, each until it has ended

    def close_all(self, doomed: list[tuple[PoolEntry[C], str]]) -> None:
        """Begin to close these connections, each with its reason."""
        try:
            self._close_in_turn(doomed)
        finally:
            machine = self._core.machine
            if doomed:  # after an interrupt
                left = machine.doomed
                left += doomed
            if machine.state is PoolState.CLOSED and not machine.entries and self._all_back.locked():
                with contextlib.suppress(RuntimeError):  # another thread was faster
                    self._all_back.release()

    def _close_in_turn(self, doomed: list[tuple[PoolEntry[C], str]]) -> None:
        while doomed:
            entry, reason = doomed[0]
            del doomed[0]
            self._close(entry, reason)

    def _close(self, entry: PoolEntry[C], reason: str) -> None:
        self.close(entry.connection)
        self._core.report_closed(reason)
        if reason == "lease lost":
            self._core.report_lost(entry)

    def close(self, connection: C) -> None:
        """Close a connection in the background. It need not be one that the machine knows."""
        work = self._callbacks.close(connection)
        if work is not None:
            self._works[work] = None
            work.add_done_callback(partial(self._works.pop, work, None))

    def wait(self, until: float) -> None:
        """Wait for the connections of a closed pool until this moment; abort those that are still in use then.

        It also waits for connections that were closed in the background before the pool was.
        """
        core = self._core
        if core.machine.entries and self._all_back.acquire(timeout=max(0.0, until - core.clock())):
            self._all_back.release()  # for other threads that close the pool
        else:
            for entry in list(core.machine.entries):
                self._callbacks.abort(entry.connection)
        with contextlib.suppress(KeyError):  # the last one has just ended
            while self._works:
                self._works.popitem()[0].wait(max(0.0, until - core.clock()))
