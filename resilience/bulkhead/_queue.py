"""The line of those who may wait for a place: threads and tasks of any loop, in one line."""

from __future__ import annotations

import threading
from collections import deque
from typing import TypeAlias

from resilience._fork import renew_after_fork
from resilience.bulkhead._machine import Arrival, Places
from resilience.clock import Clock

__all__ = ("Permit", "Queue", "Waiter")


class Waiter:
    """One caller in line."""

    __slots__ = ("places",)

    places: Places[Waiter]
    """What it waits for: a forked child has others."""

    def wake(self) -> None:
        """Tell the caller that it has a place; raises RuntimeError if there is nobody left to tell."""
        raise NotImplementedError


Permit: TypeAlias = tuple[Places[Waiter], float]
"""A place, and since when it is held."""


class Queue:
    """The machine under a lock that is held for its decisions only."""

    def __init__(self, total: int, max_waiting: int, clock: Clock) -> None:
        self._total, self._max_waiting, self._clock = total, max_waiting, clock
        self.after_fork()
        renew_after_fork(self)

    def after_fork(self) -> None:
        """Forget the parent's callers: their places are not ours to give back."""
        self._lock = threading.RLock()  # guards the places; re-entrant, for finalizers that make calls
        self._is_at_work = False  # so that such a call knows that it comes in the midst of a change
        self._places: Places[Waiter] = Places(self._total, self._max_waiting)
        self._leaving: deque[tuple[Places[Waiter], Waiter | None, float | None]] = deque()

    @property
    def inside(self) -> int:
        """Places in use."""
        return self._places.inside

    @property
    def waiting(self) -> int:
        """Callers in line."""
        return self._places.waiting

    def take(self) -> Permit | None:
        """Take a place if one is free."""
        with self._lock:
            places = self._places
            is_taken = places.take()
        if self._leaving:
            self._settle()
        return (places, self._clock()) if is_taken else None

    def arrive(self, waiter: Waiter, patience: float) -> Arrival:
        """Take a place, or join the line for up to `patience` seconds."""
        now = self._clock()
        with self._lock:
            places = waiter.places = self._places
            if self._is_at_work:  # nobody could ever be told: waiting would keep the lock
                return Arrival.ADMITTED if places.take() else Arrival.HOPELESS
            self._is_at_work = True
            try:
                arrival = places.arrive(waiter, now, now + patience)
            finally:
                self._is_at_work = False
        if self._leaving:
            self._settle()
        return arrival

    def permit(self, waiter: Waiter) -> Permit:
        """Return the permit of a waiter that has been handed a place."""
        return waiter.places, self._clock()

    def withdraw(self, waiter: Waiter) -> bool:
        """Leave the line; False if a place has been handed over meanwhile."""
        with self._lock:
            self._is_at_work = True
            try:
                is_out = self._places.withdraw(waiter)
            finally:
                self._is_at_work = False
        self._settle()
        return is_out

    def abandon(self, waiter: Waiter) -> None:
        """Leave for good, passing on a place that was handed over meanwhile."""
        self._leaving.append((waiter.places, waiter, None))
        self._settle()

    def give_back(self, permit: Permit) -> None:
        """Return a place to the longest waiting caller that can still be told."""
        places, since = permit
        held = self._clock() - since
        if self._leaving or not self._begin():
            self._leaving.append((places, None, held))
        else:  # the same as below, for one
            try:
                woken = self._depart(places, None, held)
            finally:
                self._is_at_work = False
                self._lock.release()
            if woken is not None:
                self._wake(woken)
        if self._leaving:
            self._settle()

    def resize(self, total: int) -> None:
        """Change the number of places."""
        with self._lock:
            self._is_at_work, self._total = True, total
            try:
                woken = self._places.resize(total)
            finally:
                self._is_at_work = False
        for waiter in woken:
            self._wake(waiter)
        self._settle()

    def least_wait(self) -> float:
        """Return how long the line takes if all goes well and nobody in it gives up."""
        with self._lock:
            wait = self._places.least_wait(self._clock())
        self._settle()
        return wait

    def _settle(self) -> None:
        """Let go of those who leave, unless somebody holds the lock: then it does so when done.

        Leaving must not wait for the lock: a generator or coroutine that nobody finished leaves when the garbage
        collector closes it, at any moment, in any thread - in the very one, perhaps, that holds the lock.
        """
        while self._leaving and self._begin():
            try:
                woken = self._depart(*self._leaving.popleft()) if self._leaving else None
            finally:
                self._is_at_work = False
                self._lock.release()
            if woken is not None:
                self._wake(woken)

    def _begin(self) -> bool:
        """Take the lock, unless somebody holds it: another thread, or this one in the midst of a change."""
        if not self._lock.acquire(blocking=False):
            return False
        if self._is_at_work:
            self._lock.release()
            return False
        self._is_at_work = True
        return True

    def _depart(self, places: Places[Waiter], waiter: Waiter | None, held: float | None) -> Waiter | None:
        if places is not self._places or (waiter is not None and places.withdraw(waiter)):
            return None
        return places.give_back(self._clock(), held)

    def _wake(self, waiter: Waiter) -> None:
        try:
            waiter.wake()
        except RuntimeError:  # its event loop is closed: that caller will never run
            self._leaving.append((waiter.places, None, None))
