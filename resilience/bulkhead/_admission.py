"""The admission of calls: a limited number of places and, if callers may wait, the queue for them.

Both bulkheads have one such object. Without a queue, the free places are items of a list: to take one and to put it
back is a single operator each, so there is no lock on the way of a call, and no count that an interrupt could spoil.
(`list.pop` would not do: CPython looks for signals when a C function has returned, and the item would be lost.)
"""

from __future__ import annotations

import threading
from typing import Any, cast

from resilience._support.fork import renew_after_fork
from resilience._support.measured import Measured, Measurement
from resilience.bulkhead._machine import Arrival
from resilience.bulkhead._queue import PlacePermit, PlaceQueue, PlaceWaiter, TaskWaiter, ThreadWaiter
from resilience.clock import Clock
from resilience.errors import BulkheadFullError
from resilience.events import Emitter
from resilience.running import running_loop
from resilience.timeout import Deadline

__all__ = ("Admission",)

_PLACE = (None,)
"""One place, to be added to the free ones."""


class _NoPlace:
    """The permit of a call that was admitted without a place, in shadow mode: to give it back changes nothing."""

    def __iadd__(self, _place: tuple[None]) -> _NoPlace:  # noqa: PYI034 - there is one, and none inherits
        return self


_NO_PLACE = _NoPlace()


class Admission(Measured):
    """Admits up to `limit` calls at once. Other callers wait up to `max_wait` seconds, or are refused.

    Args:
        owner: The class of the policy, for errors.
        kind: The kind of the policy, with which its events begin.
        limit_option: The option that sets `limit`, for events.
        name: The name of the policy.
        limit: The number of places.
        max_wait: The longest wait in seconds. 0 refuses at once, and there is no queue.
        max_waiting: The number of callers that may wait.
        clock: The clock of the policy.
        shadow: Whether to admit every call, and only report those that would have been refused.
    """

    def __init__(
        self,
        owner: str,
        kind: str,
        limit_option: str,
        name: str,
        limit: int,
        max_wait: float,
        max_waiting: int,
        clock: Clock,
        *,
        shadow: bool = False,
    ) -> None:
        self._owner, self.kind, self._limit_option = owner, kind, limit_option
        self._title = kind.replace("_", " ")
        self.name = name
        """The name of the policy; a pipeline may change it."""
        self.limit, self._max_wait, self._max_waiting = limit, max_wait, max_waiting
        self._clock, self._shadow = clock, shadow
        self.events = Emitter()
        self._queue = PlaceQueue(limit, max_waiting, clock) if max_wait and not shadow else None
        self.waits = self._queue is not None
        """Whether callers may wait: `enter_blocking` and `enter_awaiting` are then used in place of `enter`."""
        self.rejected_calls = 0
        """Calls refused so far; in shadow mode, calls that would have been."""
        self._refusals: dict[str, int] = {}  # the same by reason
        self.after_fork()
        renew_after_fork(self)

    def after_fork(self) -> None:
        """Forget the parent's calls: they never end here."""
        # Guards the limit, the places owed and the count of refusals; re-entrant, for finalizers that make calls.
        self._lock = threading.RLock()
        self._free: list[None] = [None] * self.limit
        self._owed = 0  # places to take out of use since the limit was lowered

    def after_test(self) -> None:
        """Forget the refusals. Calls in flight keep their places."""
        with self._lock:
            self.rejected_calls = 0
            self._refusals = {}

    @property
    def concurrent_calls(self) -> int:
        """Calls in flight."""
        return self.limit + self._owed - len(self._free) if self._queue is None else self._queue.held

    @property
    def waiting(self) -> int:
        """Callers in the queue."""
        return 0 if self._queue is None else self._queue.waiting

    def enter(self) -> object:
        """Take a place, or raise `BulkheadFullError`. Takes no lock."""
        free = self._free
        try:
            if self._owed:
                self._collect()
            del free[-1]
        except IndexError:
            refusal = self._full("full", "and none may wait")
        else:
            return free
        if self._shadow:
            return _NO_PLACE
        raise refusal

    def enter_blocking(self) -> PlacePermit:
        """Take a place; block this thread for it, up to `max_wait` or the deadline in force."""
        queue = cast("PlaceQueue", self._queue)
        permit = queue.take()
        if permit is not None:
            return permit
        waiter, seconds, began = ThreadWaiter(queue.places), self._seconds_to_wait(), self._clock()
        try:
            arrival = queue.arrive(waiter, seconds)
            if arrival is Arrival.QUEUED and (waiter.wait(seconds) or not queue.withdraw(waiter)):
                arrival = Arrival.ADMITTED
            return self._permit(arrival, waiter, seconds, began)
        except BaseException:
            queue.abandon(waiter)
            raise

    async def enter_awaiting(self) -> PlacePermit:
        """Take a place; suspend this task for it, up to `max_wait` or the deadline in force."""
        queue = cast("PlaceQueue", self._queue)
        permit = queue.take()
        if permit is not None:
            return permit
        waiter = TaskWaiter(queue.places, running_loop(f"{self._owner} {self.name!r}"))
        seconds, began = self._seconds_to_wait(), self._clock()
        try:
            arrival = queue.arrive(waiter, seconds)
            if arrival is Arrival.QUEUED and (await waiter.wait(seconds) or not queue.withdraw(waiter)):
                arrival = Arrival.ADMITTED
            return self._permit(arrival, waiter, seconds, began)
        except BaseException:
            queue.abandon(waiter)
            raise

    def leave(self, permit: Any, _result: object = None, /) -> None:
        """Give a place back."""
        if self._queue is None:
            permit += _PLACE  # an operator: if an interrupt is raised from here, it came before
        else:
            self._queue.release(permit)

    def resize(self, limit: int) -> None:
        """Change the limit. More places go to the callers that wait; fewer come about as calls end."""
        before = self.limit
        if self._queue is None:
            self._resize_free(limit)
        else:
            self.limit = limit
            self._queue.resize(limit)
        self.events.emit(f"{self.kind}.resized", self.name, self._clock(), before=before, after=limit)

    def refusal(self, reason: str, message: str, retry_after: float | None = None) -> BulkheadFullError:
        """Count a call that gets no place, emit its event, and return its error."""
        with self._lock:
            self.rejected_calls += 1
            why = "shadow" if self._shadow else reason
            self._refusals[why] = self._refusals.get(why, 0) + 1
        if self.events.wants(kind := f"{self.kind}.rejected", now := self._clock()):
            facts = {"reason": reason, self._limit_option: self.limit, **({"shadow": True} if self._shadow else {})}
            self.events.emit(kind, self.name, now, "warning", **facts)
        return BulkheadFullError(message, policy=self.name, retry_after=retry_after)

    def measure(self) -> Measurement:
        """Return the refusals by reason, and the calls in flight, waiting and allowed."""
        levels = {"running": self.concurrent_calls, "waiting": self.waiting, "limit": self.limit}
        return Measurement(self.kind, self.name, self._refusals.copy(), levels)

    def _seconds_to_wait(self) -> float:
        deadline = Deadline.current()
        return self._max_wait if deadline is None else min(self._max_wait, deadline.remaining())

    def _permit(self, arrival: Arrival, waiter: PlaceWaiter, seconds: float, began: float) -> PlacePermit:
        """Return the permit of a caller that was admitted; raise the refusal of any other."""
        queue = cast("PlaceQueue", self._queue)
        if Emitter.observer is not None:
            Emitter.observer.observe("resilience.bulkhead.wait", self._clock() - began, self.name, self.kind)
        if arrival is Arrival.ADMITTED:
            return waiter
        shortest = queue.minimum_wait() or None
        if arrival is Arrival.REFUSED:
            raise self._full("line", f"and {self._max_waiting} callers wait", shortest)
        if arrival is Arrival.QUEUED:
            raise self._full("waited", f"and none became free within {seconds:.3g} s", shortest)
        why = "and the deadline has passed" if shortest is None else f"and none can be free within {seconds:.3g} s"
        raise self._full("hopeless", why, shortest)

    def _full(self, reason: str, why: str, retry_after: float | None = None) -> BulkheadFullError:
        who = f"{self._title} {self.events.log.quoted(self.name)}"
        return self.refusal(reason, f"{who}: all {self.limit} places are taken {why}", retry_after)

    def _resize_free(self, limit: int) -> None:
        """Add the places of a higher limit; for a lower one, take places out of use as they come back."""
        with self._lock:
            more = limit - self.limit
            forgiven = min(max(more, 0), self._owed)
            owed, free, added = self._owed + max(-more, 0) - forgiven, self._free, [None] * (more - forgiven)
            # Operators alone: an interrupt finds all of it done or nothing.
            self._owed, self.limit = owed, limit
            free += added

    def _collect(self) -> None:
        """Take the places owed out of use, before any call may have one; raise IndexError if there are too few."""
        with self._lock:
            while self._owed:
                del self._free[-1]
                self._owed -= 1
