"""Waiting for a place in a thread."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

from resilience.bulkhead._machine import Arrival
from resilience.bulkhead._queue import Waiter

if TYPE_CHECKING:
    from resilience.bulkhead._admission import Admission
    from resilience.bulkhead._machine import Places
    from resilience.bulkhead._queue import Permit, Queue

__all__ = ("enter",)


class _ThreadWaiter(Waiter):
    __slots__ = ("_latch",)

    def __init__(self, places: Places[Any]) -> None:
        super().__init__(places)
        self._latch = threading.Lock()
        self._latch.acquire()

    def wake(self) -> None:
        if self._latch.locked():
            self._latch.release()

    def wait(self, seconds: float) -> bool:
        return self._latch.acquire(timeout=seconds)


def enter(admission: Admission, queue: Queue) -> Permit:
    """Return a permit, blocking this thread for as long as the admission allows."""
    permit = queue.take()
    if permit is not None:
        return permit
    waiter, patience = _ThreadWaiter(queue.places), admission.patience()
    try:
        arrival = queue.arrive(waiter, patience)
        if arrival is Arrival.QUEUED and (waiter.wait(patience) or not queue.withdraw(waiter)):
            arrival = Arrival.ADMITTED
        return admission.judge(arrival, waiter, patience)
    except BaseException:
        queue.abandon(waiter)
        raise
