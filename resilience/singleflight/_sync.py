"""Callers in threads: one makes the call, the others block until it has come to something."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, cast

from resilience._support.sharing import unhashable
from resilience.policy import Substitute
from resilience.singleflight._machine import Flight
from resilience.singleflight._outcome import Outcome, Told, outcome_of
from resilience.singleflight._space import Space, under_way, waiting_for
from resilience.singleflight._time import covers, deadline_for, has_deadline, in_force, join, ran_short
from resilience.timeout import Deadline

if TYPE_CHECKING:
    from resilience.singleflight._policy import SingleFlight

__all__ = ("around",)

P = ParamSpec("P")
R = TypeVar("R")


class _Turn:
    """The right and the duty to make a call and to end its flight: of one caller, and given up only once."""

    __slots__ = ("_right",)

    def __init__(self) -> None:
        self._right: list[None] = [None]

    def give_up(self) -> bool:
        """Return whether it is the one who asks that has to see to the flight."""
        try:
            del self._right[-1]
        except IndexError:
            return False
        return True


class _Waiter(_Turn):
    """A caller in line, who may be told that it is its turn."""

    __slots__ = ("has_left", "latch", "told")

    def __init__(self) -> None:
        super().__init__()
        self.latch = threading.Lock()
        self.latch.acquire()
        self.told: Outcome | Told | None = None
        self.has_left = False

    def tell(self, told: Outcome | Told) -> None:
        if self.told is None:
            self.told = told
            self.latch.release()

    def wait(self, seconds: float | None = None) -> bool:
        return self.latch.acquire(timeout=-1 if seconds is None else min(seconds, threading.TIMEOUT_MAX))


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

    def follow(self, flight: Flight[_Waiter], waiter: _Waiter) -> Outcome | Told:
        """Wait for what `flight` comes to, as long as the deadline in force allows."""
        deadline = Deadline.current()
        patience = self._single.patience(deadline)
        if not flight.join(waiter):
            return Told.AGAIN
        join(flight, deadline)
        if not patience.run(waiter.wait) and flight.leave(waiter):
            raise self._single.exceeded(patience.seconds)
        told = waiter.told or Told.AGAIN  # who is out of the line has been told
        is_too_short = flight.ran_short and isinstance(told, Outcome) and not covers(flight, deadline)
        return Told.TOO_SHORT if is_too_short else told

    def lead(self, call: Callable[..., Any], key: Hashable, flight: Flight[_Waiter], args: Any, kwargs: Any) -> Any:
        """Make the call, for everybody who comes meanwhile."""
        flight.maker = threading.get_ident()
        before = under_way.get()
        self._single.calls += 1
        try:
            under_way.set((*before, flight))
            try:
                if has_deadline(flight):
                    with in_force(flight):
                        result = call(*args, **kwargs)
                else:
                    result = call(*args, **kwargs)
            except (Exception, Substitute) as error:
                self.land(key, flight, None, error)
                raise
            self.land(key, flight, result)
            return result
        finally:
            under_way.set(before)

    def land(
        self, key: Hashable, flight: Flight[_Waiter], result: Any, error: Exception | Substitute | None = None
    ) -> None:
        """Tell those who wait what the call came to."""
        self._space.take_out(key, flight)
        flight.ran_short = ran_short(flight.deadline, result, error)
        flight.is_over = True
        if flight.waiting:
            self.tell(flight, outcome_of(result, error))

    def tell(self, flight: Flight[_Waiter], told: Outcome | Told) -> None:
        """Tell everybody in line; who has been told leaves it only then, so that an interrupt forgets nobody."""
        while (waiter := flight.first()) is not None:
            waiter.tell(told)
            flight.leave(waiter)

    def withdraw(self, key: Hashable, flight: Flight[_Waiter], waiter: _Waiter) -> None:
        """Leave `flight` for good, wherever an interrupt has struck: the line, or the turn to make the call."""
        waiter.has_left = True
        flight.leave(waiter)
        if waiter.told is Told.YOUR_TURN:
            self.settle(key, flight, waiter)

    def settle(self, key: Hashable, flight: Flight[_Waiter], turn: _Turn) -> None:
        """See that nobody waits for a caller that is gone: those in line look again, or the next one makes the call."""
        while turn.give_up():
            with contextlib.suppress(Exception):  # of the key's own methods; what is raised already matters more
                self._space.take_out(key, flight)
            if flight.is_over:
                self.tell(flight, Told.AGAIN)
                return
            heir = self.hand_over(key, flight)
            if heir is None or not heir.has_left:
                return
            turn = heir  # it left in this moment, and may have seen that it is its turn or not

    def hand_over(self, key: Hashable, flight: Flight[_Waiter]) -> _Waiter | None:
        """Have the next in line make the call; return it."""
        while (heir := flight.heir()) is not None:
            self._space.flights.setdefault(key, flight)
            if flight.leave(heir):
                heir.tell(Told.YOUR_TURN)
                break
        return heir


def around(single: SingleFlight, space: Space, call: Callable[P, R]) -> Callable[P, R]:
    """Return `call`, made once for callers that come while it is under way."""
    line, keys = _Line(single, space), space.keys

    def shared(*args: P.args, **kwargs: P.kwargs) -> R:
        key = keys(args, kwargs)
        before: Flight[Any] | None = None  # the flight that had too little time for this caller
        while True:
            deadline, turn = deadline_for(Deadline.current(), before), _Turn()
            mine: Flight[_Waiter] = Flight(single.epoch, threading.get_ident(), deadline)
            try:
                flight = line.board(key, mine, is_second=before is not None)
                if flight is mine:
                    return cast("R", line.lead(call, key, flight, args, kwargs))
            except BaseException:
                line.settle(key, mine, turn)
                raise
            waiter = _Waiter()
            try:
                with waiting_for(flight) as is_ring:  # waiting would be waiting for itself, as for a finalizer's call
                    is_own = is_ring or flight.maker == threading.get_ident()
                    told = Told.ALONE if is_own else line.follow(flight, waiter)
                if told is Told.YOUR_TURN:
                    return cast("R", line.lead(call, key, flight, args, kwargs))
            except BaseException:
                line.withdraw(key, flight, waiter)
                raise
            if isinstance(told, Outcome):
                single.shared += 1
                return cast("R", told.deliver())
            if told is Told.TOO_SHORT:
                before = flight
            if told is Told.ALONE:
                return call(*args, **kwargs)

    return shared
