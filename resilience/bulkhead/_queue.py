"""The places and the queue of a bulkhead, safe for threads: threads and tasks of any event loop wait in one queue.

The lock is held for one decision of the machine at a time. Three kinds of code must not wait for it, because they may
run in the very thread that holds it:

- *Finalizers.* The garbage collector closes an abandoned generator or coroutine at any moment, in any thread. Its place
  is released then, and its code may make another call through the same bulkhead. So a release only appends to
  `_released`. The thread that can take the lock processes that list; if another thread holds the lock, it does so
  before it is done (`_process`). A call that finds the machine in the midst of a change (`_is_changing`) does not wait.
- *Interrupts.* A signal handler may raise between any two bytecodes at which CPython looks for signals: when a function
  begins, when a C function has returned, and at a jump back. Code that must be all or nothing is therefore written in
  operators, or in a method that a `try` of its caller covers as a whole.
- *Forked children*, which get fresh places and a fresh lock.
"""

from __future__ import annotations

import threading
from collections import deque
from typing import TYPE_CHECKING, Any

from resilience._support.fork import renew_after_fork
from resilience.bulkhead._machine import Arrival, Places
from resilience.clock import Clock

if TYPE_CHECKING:
    import asyncio

__all__ = ("PlacePermit", "PlaceQueue", "PlaceWaiter", "TaskWaiter", "ThreadWaiter")


class PlacePermit:
    """A place, or the wish for one; made before the place is taken, so that an interrupt loses neither."""

    __slots__ = ("places",)

    def __init__(self, places: Places[Any]) -> None:
        self.places = places
        """The places to which it belongs: a forked child has others."""


class PlaceWaiter(PlacePermit):
    """One caller in the queue."""

    __slots__ = ()

    def wake(self) -> None:
        """Let the caller go on, for it has a place; may be called twice. Raises RuntimeError if the caller is gone."""
        raise NotImplementedError


class ThreadWaiter(PlaceWaiter):
    """A caller that blocks its thread."""

    __slots__ = ("_latch",)

    def __init__(self, places: Places[Any]) -> None:
        super().__init__(places)
        self._latch = threading.Lock()
        self._latch.acquire()

    def wake(self) -> None:
        """Let the thread go on."""
        if self._latch.locked():
            self._latch.release()

    def wait(self, seconds: float) -> bool:
        """Block up to `seconds`; return whether the caller was woken."""
        return self._latch.acquire(timeout=seconds)


class TaskWaiter(PlaceWaiter):
    """A caller that suspends its task, on any event loop of asyncio."""

    __slots__ = ("_future", "_loop")

    def __init__(self, places: Places[Any], loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(places)
        self._loop = loop
        self._future: asyncio.Future[bool] = self._loop.create_future()

    def wake(self) -> None:
        """Let the task go on. A closed loop raises RuntimeError, and the place goes to the next caller."""
        self._loop.call_soon_threadsafe(self._resolve, True)

    async def wait(self, seconds: float) -> bool:
        """Suspend the task up to `seconds`; return whether the caller was woken."""
        timer = self._loop.call_later(seconds, self._resolve, False)
        try:
            return await self._future
        finally:
            timer.cancel()

    def _resolve(self, is_woken: bool) -> None:  # noqa: FBT001 - the value of a future
        if not self._future.done():
            self._future.set_result(is_woken)


class PlaceQueue:
    """The machine under its lock."""

    def __init__(self, total: int, max_waiting: int, clock: Clock) -> None:
        self._total, self._max_waiting, self._clock = total, max_waiting, clock
        self.after_fork()
        renew_after_fork(self)

    def after_fork(self) -> None:
        """Forget the parent's callers: their places are not for the child to give back."""
        self._lock: Any = threading.RLock()  # re-entrant, for the calls of finalizers
        self._is_changing = False  # so that such a call knows that it comes in the midst of a change
        self.places: Places[PlacePermit] = Places(self._total, self._max_waiting)
        self._released: deque[tuple[PlacePermit, bool]] = deque()  # each with whether its place was used
        self._to_wake: deque[PlaceWaiter] = deque()  # callers that have a place and do not know it yet

    @property
    def held(self) -> int:
        """Places in use."""
        return self.places.held

    @property
    def waiting(self) -> int:
        """Callers in the queue."""
        return self.places.waiting

    def take(self) -> PlacePermit | None:
        """Take a place if one is free."""
        permit = PlacePermit(self.places)
        try:
            now = self._clock()
            with self._lock:
                is_taken = permit.places.take(permit, now)
            if self._released or self._to_wake:
                self._process()
        except BaseException:
            self.abandon(permit)
            raise
        return permit if is_taken else None

    def arrive(self, waiter: PlaceWaiter, seconds: float) -> Arrival:
        """Take a place, or join the queue for up to `seconds`."""
        now, places = self._clock(), waiter.places
        with self._lock:
            if self._is_changing:  # a finalizer's call: a wait here would keep the lock, and no thread could end it
                return Arrival.ADMITTED if places.take(waiter, now) else Arrival.HOPELESS
            self._is_changing = True
            try:
                arrival = places.arrive(waiter, now, now + seconds)
            finally:
                self._is_changing = False
        if self._released or self._to_wake:
            self._process()
        return arrival

    def withdraw(self, waiter: PlaceWaiter) -> bool:
        """Leave the queue. Return False if a place was handed over meanwhile."""
        with self._lock:
            self._is_changing = True
            try:
                is_out = waiter.places.withdraw(waiter)
            finally:
                self._is_changing = False
        self._process()
        return is_out

    def abandon(self, permit: PlacePermit) -> None:
        """Leave the queue and release a place taken meanwhile, in whichever state an interrupt has left the caller."""
        self._released.append((permit, False))
        self._process()

    def release(self, permit: PlacePermit) -> None:
        """Give a place back; it goes to the longest waiting caller that can still be woken."""
        self._released.append((permit, True))
        self._process()

    def resize(self, total: int) -> None:
        """Change the number of places."""
        with self._lock:
            self._is_changing, self._total = True, total
            try:
                admitted: Any = self.places.resize(total, self._clock())  # permits that wait are waiters
                self._to_wake += admitted
            finally:
                self._is_changing = False
        self._process()

    def minimum_wait(self) -> float:
        """Return the seconds that the queue takes if all goes well and no caller gives up."""
        with self._lock:
            wait = self.places.minimum_wait(self._clock())
        self._process()
        return wait

    def _process(self) -> None:
        """Take released places back and wake their next holders, unless another thread holds the lock and does so."""
        while self._released or self._to_wake:
            if not self._process_locked():
                return

    def _process_locked(self) -> bool:
        """Process one release. Return False if the lock is held. No loop: a jump back is a look for signals."""
        if not self._try_lock():
            return False
        try:
            self._process_one()
        finally:
            self._is_changing = False
            self._lock.release()
        return True

    def _process_one(self) -> None:
        """Take one place back and wake its next holder. An interrupt leaves the rest to the next caller of `_process`.

        A method of its own: Python 3.13 leaves the jump back of a loop, at which it looks for signals, out of the `try`
        that the loop stands in.
        """
        if self._released:
            permit, is_used = self._released[0]
            admitted = self._take_back(permit, is_used)  # no `*`: 3.11 looks for signals when such a call has returned
            # Operators alone: either all of it is still to do, or the new holder is on the list.
            if admitted is not None:
                self._to_wake += (admitted,)
            del self._released[0]
        while self._to_wake:
            self._wake(self._to_wake[0])
            del self._to_wake[0]

    def _try_lock(self) -> bool:
        """Take the lock. Return False if another thread holds it, or this one in the midst of a change."""
        lock, is_owned = self._lock, self._lock._is_owned  # noqa: SLF001 - `threading.Condition` calls it as well
        if is_owned():  # a finalizer's call: the change that it interrupts processes the release when done
            return False
        try:
            if not lock.acquire(blocking=False):
                return False
        except BaseException:  # an interrupt: the return value of `acquire` is lost
            if is_owned():
                lock.release()
            raise
        self._is_changing = True
        return True

    def _take_back(self, permit: PlacePermit, is_used: bool) -> PlaceWaiter | None:  # noqa: FBT001 - from the deque
        places = permit.places
        if places is not self.places or places.withdraw(permit):
            return None
        now = self._clock()
        admitted: PlaceWaiter | None = places.release(permit, now, is_used=is_used)
        return admitted  # no call after the change: an interrupt would lose the answer

    def _wake(self, waiter: PlaceWaiter) -> None:
        try:
            waiter.wake()
        except RuntimeError:  # its event loop is closed: that caller never runs again
            self._released.append((waiter, False))
