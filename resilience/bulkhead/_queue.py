"""The line of those who may wait for a place: threads and tasks of any loop, in one line."""

from __future__ import annotations

import threading
from collections import deque
from typing import Any

from resilience._support.fork import renew_after_fork
from resilience.bulkhead._machine import Arrival, Places
from resilience.clock import Clock

__all__ = ("Permit", "Queue", "Waiter")


class Permit:
    """A place, or the wish for one; made before the place is taken, so that an interrupt loses neither."""

    __slots__ = ("places",)

    def __init__(self, places: Places[Any]) -> None:
        self.places = places
        """What it is for: a forked child has others."""


class Waiter(Permit):
    """One caller in line."""

    __slots__ = ()

    def wake(self) -> None:
        """Tell the caller that it has a place, perhaps twice; raises RuntimeError if there is nobody left to tell."""
        raise NotImplementedError


class Queue:
    """The machine under a lock that is held for its decisions only."""

    def __init__(self, total: int, max_waiting: int, clock: Clock) -> None:
        self._total, self._max_waiting, self._clock = total, max_waiting, clock
        self.after_fork()
        renew_after_fork(self)

    def after_fork(self) -> None:
        """Forget the parent's callers: their places are not ours to give back."""
        self._lock: Any = threading.RLock()  # guards the places; re-entrant, for finalizers that make calls
        self._is_at_work = False  # so that such a call knows that it comes in the midst of a change
        self.places: Places[Permit] = Places(self._total, self._max_waiting)
        self._leaving: deque[tuple[Permit, bool]] = deque()  # with whether the place was used
        self._unwoken: deque[Waiter] = deque()  # callers that have a place since then, and do not know it yet

    @property
    def inside(self) -> int:
        """Places in use."""
        return self.places.inside

    @property
    def waiting(self) -> int:
        """Callers in line."""
        return self.places.waiting

    def take(self) -> Permit | None:
        """Take a place if one is free."""
        permit = Permit(self.places)
        try:
            now = self._clock()
            with self._lock:
                is_taken = permit.places.take(permit, now)
            if self._leaving or self._unwoken:
                self._settle()
        except BaseException:
            self.abandon(permit)
            raise
        return permit if is_taken else None

    def arrive(self, waiter: Waiter, patience: float) -> Arrival:
        """Take a place, or join the line for up to `patience` seconds."""
        now, places = self._clock(), waiter.places
        with self._lock:
            if self._is_at_work:  # nobody could ever be told: waiting would keep the lock
                return Arrival.ADMITTED if places.take(waiter, now) else Arrival.HOPELESS
            self._is_at_work = True
            try:
                arrival = places.arrive(waiter, now, now + patience)
            finally:
                self._is_at_work = False
        if self._leaving or self._unwoken:
            self._settle()
        return arrival

    def withdraw(self, waiter: Waiter) -> bool:
        """Leave the line; False if a place has been handed over meanwhile."""
        with self._lock:
            self._is_at_work = True
            try:
                is_out = waiter.places.withdraw(waiter)
            finally:
                self._is_at_work = False
        self._settle()
        return is_out

    def abandon(self, permit: Permit) -> None:
        """Leave for good, wherever an interrupt has struck: out of the line, and out of a place taken meanwhile."""
        self._leaving.append((permit, False))
        self._settle()

    def give_back(self, permit: Permit) -> None:
        """Return a place to the longest waiting caller that can still be told."""
        self._leaving.append((permit, True))
        self._settle()

    def resize(self, total: int) -> None:
        """Change the number of places."""
        with self._lock:
            self._is_at_work, self._total = True, total
            try:
                woken: Any = self.places.resize(total, self._clock())  # permits that wait are Waiters
                self._unwoken += woken
            finally:
                self._is_at_work = False
        self._settle()

    def least_wait(self) -> float:
        """Return how long the line takes if all goes well and nobody in it gives up."""
        with self._lock:
            wait = self.places.least_wait(self._clock())
        self._settle()
        return wait

    def _settle(self) -> None:
        """Let go of those who leave, unless somebody holds the lock: then it does so when done.

        Leaving must not wait for the lock: a generator or coroutine that nobody finished leaves when the garbage
        collector closes it, at any moment, in any thread - in the very one, perhaps, that holds the lock.
        """
        while self._leaving or self._unwoken:
            if not self._settle_one():
                return

    def _settle_one(self) -> bool:
        """Let go of one that leaves; False if somebody holds the lock. No loop: a jump back is a look for signals."""
        if not self._begin():
            return False
        try:
            self._let_go()
        finally:
            self._is_at_work = False
            self._lock.release()
        return True

    def _let_go(self) -> None:
        """Take back one place, and tell its next holder. An interrupt leaves the rest to the next one that settles.

        A method of its own: Python 3.13 leaves the jump back of a loop, at which it looks for signals, out of the `try`
        that the loop stands in.
        """
        if self._leaving:
            permit, is_used = self._leaving[0]
            woken = self._depart(permit, is_used)  # no `*`: 3.11 looks for signals when such a call has returned
            # Operators alone: either all of it is still to do, or the one that has the place now is on the list.
            if woken is not None:
                self._unwoken += (woken,)
            del self._leaving[0]
        while self._unwoken:
            self._wake(self._unwoken[0])
            del self._unwoken[0]

    def _begin(self) -> bool:
        """Take the lock, unless somebody holds it: another thread, or this one in the midst of a change."""
        lock, is_owned = self._lock, self._lock._is_owned  # noqa: SLF001 - what `threading.Condition` asks as well
        if is_owned():  # a finalizer's call: the change in the midst of which it comes settles when done
            return False
        try:
            if not lock.acquire(blocking=False):
                return False
        except BaseException:  # an interrupt: what `acquire` returned is lost
            if is_owned():
                lock.release()
            raise
        self._is_at_work = True
        return True

    def _depart(self, permit: Permit, is_used: bool) -> Waiter | None:  # noqa: FBT001 - from the deque
        places = permit.places
        if places is not self.places or places.withdraw(permit):
            return None
        now = self._clock()
        woken: Waiter | None = places.give_back(permit, now, is_used=is_used)
        return woken  # no call comes after the change: an interrupt would lose the answer

    def _wake(self, waiter: Waiter) -> None:
        try:
            waiter.wake()
        except RuntimeError:  # its event loop is closed: that caller will never run
            self._leaving.append((waiter, False))
