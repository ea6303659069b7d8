"""One thread that starts the maintenance of all pools of the process, and ends their late attempts to connect.

The thread calls nothing of a user. The methods that it calls hand their work over to a thread of the executor.
"""

from __future__ import annotations

import heapq
import itertools
import math
import queue
import threading
import weakref
from collections.abc import Callable
from typing import Any

from resilience._support.fork import renew_after_fork
from resilience.clock import monotonic

__all__ = ("TIMER", "PoolTimer")

_RIGHT = (None,)


class PoolTimer:
    """Calls methods at given moments. It keeps no object alive: the call of an object that is gone is left out."""

    def __init__(self) -> None:
        self.after_fork()
        renew_after_fork(self)

    def after_fork(self) -> None:
        """Have no thread: a forked child does not inherit it."""
        self._inbox: queue.SimpleQueue[tuple[float, int, weakref.WeakMethod[Any], tuple[Any, ...]]] = (
            queue.SimpleQueue()
        )
        self._numbers = itertools.count()  # calls for the same moment stay in order, and are never compared
        self._right: list[None] = [*_RIGHT]

    def call_in(self, seconds: float, method: Callable[..., object], *arguments: object) -> None:
        """Have `method(*arguments)` called in `seconds`; never, if they are infinite. It must not raise or block.

        The seconds are real ones, whatever clock a pool has. Safe in finalizers and signal handlers: a `SimpleQueue` is
        reentrant.
        """
        at = monotonic() + max(0.0, seconds)
        self._inbox.put((at, next(self._numbers), weakref.WeakMethod(method), arguments))
        if self._right:
            self._start()

    def _start(self) -> None:
        right = self._right
        try:
            del right[-1]  # an operator: no two threads get it
        except IndexError:
            return
        thread = threading.Thread(target=self._run, args=(self._inbox,), name="resilience-pool", daemon=True)
        try:
            thread.start()
        except RuntimeError:  # the system starts no more threads: the next call tries again
            right += _RIGHT

    def _run(self, inbox: queue.SimpleQueue[Any]) -> None:
        due: list[tuple[float, int, weakref.WeakMethod[Any], tuple[Any, ...]]] = []
        while True:
            wait = max(0.0, due[0][0] - monotonic()) if due else None
            try:
                heapq.heappush(due, inbox.get(timeout=None if wait is None else min(wait, threading.TIMEOUT_MAX)))
            except queue.Empty:
                at, _, weak, arguments = heapq.heappop(due)
                method = weak() if math.isfinite(at) else None
                if method is not None:
                    method(*arguments)
                del method  # the thread keeps no pool alive while it waits


TIMER = PoolTimer()
