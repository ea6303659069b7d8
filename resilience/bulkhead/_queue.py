"""The queue of a bulkhead that lets callers wait: threads and tasks of any loop, in one line."""

from __future__ import annotations

import threading
from typing import Protocol

from resilience._fork import renew_after_fork
from resilience.bulkhead._machine import Arrival, Places

__all__ = ("Queue", "Waiter")


class Waiter(Protocol):
    """One caller in line."""

    def wake(self) -> None:
        """Tell the caller that it has a place; raises RuntimeError if there is nobody left to tell."""
        ...


class Queue:
    """The machine under a lock that is held for its decisions only."""

    def __init__(self, total: int, max_waiting: int) -> None:
        self._total, self._max_waiting = total, max_waiting
        self.after_fork()
        renew_after_fork(self)

    def after_fork(self) -> None:
        """Forget the parent's callers: their places are not ours to give back."""
        self._lock = threading.Lock()  # guards the places
        self._places: Places[Waiter] = Places(self._total, self._max_waiting)

    @property
    def free(self) -> int:
        """Places nobody holds."""
        return self._places.free

    @property
    def waiting(self) -> int:
        """Callers in line."""
        return self._places.waiting

    def arrive(self, waiter: Waiter) -> Arrival:
        """Take a place or join the line."""
        with self._lock:
            return self._places.arrive(waiter)

    def withdraw(self, waiter: Waiter) -> bool:
        """Leave the line; False if a place has been handed over meanwhile."""
        with self._lock:
            return self._places.withdraw(waiter)

    def abandon(self, waiter: Waiter) -> None:
        """Leave for good, passing on a place that was handed over meanwhile."""
        if not self.withdraw(waiter):
            self.give_back()

    def give_back(self) -> None:
        """Return a place to the longest waiting caller that can still be told."""
        while True:
            with self._lock:
                waiter = self._places.give_back()
            if waiter is None:
                return
            try:
                waiter.wake()
            except RuntimeError:  # its event loop is closed: that caller will never run
                continue
            return
