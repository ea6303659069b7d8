"""Callers in threads: one makes the call, the others block until it has come to something."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, cast

from resilience._sharing import unhashable
from resilience.policy import Substitute
from resilience.singleflight._machine import Flight
from resilience.singleflight._outcome import Outcome, Told, outcome_of
from resilience.singleflight._space import Space, under_way, waiting_for
from resilience.singleflight._time import covers, deadline_for, in_force, join, ran_short
from resilience.timeout import Deadline

if TYPE_CHECKING:
    from resilience.singleflight._policy import SingleFlight

__all__ = ("around",)

P = ParamSpec("P")
R = TypeVar("R")


class _Waiter:
    __slots__ = ("_latch", "_told")

    def __init__(self) -> None:
        self._latch = threading.Lock()
        self._latch.acquire()
        self._told: Outcome | Told = Told.AGAIN

    def tell(self, told: Outcome | Told) -> None:
        self._told = told
        self._latch.release()

    def wait(self, seconds: float | None = None) -> bool:
        return self._latch.acquire(timeout=-1 if seconds is None else min(seconds, threading.TIMEOUT_MAX))

    def take(self) -> Outcome | Told:
        return self._told


class _Line:
    """One function's callers."""

    def __init__(self, single: SingleFlight, space: Space) -> None:
        self._single, self._space = single, space

    def board(self, key: Hashable, mine: Flight[_Waiter], *, is_second: bool) -> Flight[_Waiter]:
        """Return the flight to join, or `mine` where the call is this caller's to make.

        For the second time a caller joins only a call that begins with all the time that this caller has.
        """
        try:
            found = self._space.flights.setdefault(key, mine)
        except TypeError as error:
            raise unhashable(self._single.name, key, error) from None
        if found.epoch != mine.epoch or (is_second and not covers(found, Deadline.current())):
            self._space.flights[key] = found = mine
        return found

    def follow(self, key: Hashable, flight: Flight[_Waiter]) -> Outcome | Told:
        """Wait for what `flight` comes to, as long as the deadline in force allows."""
        deadline, waiter = Deadline.current(), _Waiter()
        patience = self._single.patience(deadline)
        if not flight.join(waiter):
            return Told.AGAIN
        try:
            join(flight, deadline)
            is_told = patience.outlast(waiter.wait)
        except BaseException:
            if not flight.leave(waiter) and waiter.wait() and waiter.take() is Told.YOUR_TURN:
                self.hand_over(key, flight)
            raise
        if not is_told and flight.leave(waiter):
            raise self._single.exceeded(patience.seconds)
        if not is_told:
            waiter.wait()  # it is being told at this moment
        told = waiter.take()
        is_too_short = flight.ran_short and isinstance(told, Outcome) and not covers(flight, deadline)
        return Told.TOO_SHORT if is_too_short else told

    def lead(self, call: Callable[..., Any], key: Hashable, flight: Flight[_Waiter], args: Any, kwargs: Any) -> Any:
        """Make the call, for everybody who comes meanwhile."""
        flight.maker = threading.get_ident()
        token, has_landed = under_way.set((*under_way.get(), flight)), False
        self._single.calls += 1
        try:
            try:
                with in_force(flight):
                    result = call(*args, **kwargs)
            except (Exception, Substitute) as error:
                self.land(key, flight, None, error)
                has_landed = True
                raise
            self.land(key, flight, result)
            has_landed = True
            return result
        finally:
            under_way.reset(token)
            if not has_landed:  # interrupted, wherever: nobody may be left waiting
                self.hand_over(key, flight)

    def land(
        self, key: Hashable, flight: Flight[_Waiter], result: Any, error: Exception | Substitute | None = None
    ) -> None:
        """Tell those who wait what the call came to."""
        self._space.take_out(key, flight)
        flight.ran_short = ran_short(flight.deadline, result, error)
        waiters = flight.land()
        if waiters:
            told = outcome_of(result, error)
            for waiter in waiters:
                waiter.tell(told)

    def hand_over(self, key: Hashable, flight: Flight[_Waiter]) -> None:
        """Have the next in line make the call."""
        self._space.take_out(key, flight)
        heir = flight.hand_over()
        if heir is not None:
            self._space.flights.setdefault(key, flight)
            heir.tell(Told.YOUR_TURN)


def around(single: SingleFlight, space: Space, call: Callable[P, R]) -> Callable[P, R]:
    """Return `call`, made once for callers that come while it is under way."""
    line, keys = _Line(single, space), space.keys

    def shared(*args: P.args, **kwargs: P.kwargs) -> R:
        key = keys(args, kwargs)
        before: Flight[Any] | None = None  # the flight that had too little time for this caller
        while True:
            deadline = deadline_for(Deadline.current(), before)
            mine: Flight[_Waiter] = Flight(single.epoch, threading.get_ident(), deadline)
            flight = line.board(key, mine, is_second=before is not None)
            if flight is mine:
                return cast("R", line.lead(call, key, flight, args, kwargs))
            with waiting_for(flight) as is_ring:  # waiting would be waiting for itself, as for a finalizer's call
                is_own = is_ring or flight.maker == threading.get_ident()
                told = Told.ALONE if is_own else line.follow(key, flight)
            if isinstance(told, Outcome):
                single.shared += 1
                return cast("R", told.deliver())
            if told is Told.YOUR_TURN:
                return cast("R", line.lead(call, key, flight, args, kwargs))
            if told is Told.TOO_SHORT:
                before = flight
            if told is Told.ALONE:
                return call(*args, **kwargs)

    return shared
