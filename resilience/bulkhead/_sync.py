"""Waiting for a place in a thread."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from resilience.bulkhead._machine import Arrival

if TYPE_CHECKING:
    from resilience.bulkhead._queue import Queue

__all__ = ("enter",)


class _ThreadWaiter:
    __slots__ = ("_latch",)

    def __init__(self) -> None:
        self._latch = threading.Lock()
        self._latch.acquire()

    def wake(self) -> None:
        self._latch.release()

    def wait(self, seconds: float) -> bool:
        return self._latch.acquire(timeout=seconds)


def enter(queue: Queue, seconds: float) -> Arrival:
    """Get a place, blocking up to `seconds` for one. Returns ADMITTED, REFUSED, or QUEUED for "waited in vain"."""
    waiter = _ThreadWaiter()
    arrival = queue.arrive(waiter)
    if arrival is not Arrival.QUEUED:
        return arrival
    try:
        handed = waiter.wait(seconds)
    except BaseException:
        queue.abandon(waiter)
        raise
    return Arrival.ADMITTED if handed or not queue.withdraw(waiter) else Arrival.QUEUED
