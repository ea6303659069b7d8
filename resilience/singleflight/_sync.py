"""Callers in threads: one makes the call, the others block until it has ended.

An interrupt (a signal handler that raises) may strike a caller between any two steps. Two rules keep the others going:

- The right to end or hand over a flight is an object of its own, and given up only once (`_LeaderRight`).
- A follower is signalled first and leaves the flight after that, so an interrupt in between forgets no follower.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Hashable
from typing import ParamSpec, TypeVar, cast

from resilience._support.sharing import unhashable
from resilience.policy import Substitute
from resilience.singleflight._flights import FlightGroup, ThreadFlights, current_flights, waiting_for
from resilience.singleflight._machine import Flight
from resilience.singleflight._outcome import FollowerSignal, SharedOutcome, outcome_of
from resilience.singleflight._shared_deadline import covers, extend, has_deadline, in_force, new_deadline, ran_short
from resilience.timeout import Deadline, LatestDeadline

__all__ = ("around",)

P = ParamSpec("P")
R = TypeVar("R")


class _LeaderRight:
    """The right and the duty to make a call and to end its flight. It belongs to one caller."""

    __slots__ = ("_right",)

    def __init__(self) -> None:
        self._right: list[None] = [None]

    def give_up(self) -> bool:
        """Return whether the caller of this method has to end the flight or hand it over: true for one caller only."""
        try:
            del self._right[-1]
        except IndexError:
            return False
        return True


class _Follower(_LeaderRight):
    """A caller that waits, and that may become the leader."""

    __slots__ = ("has_left", "latch", "signal")

    def __init__(self) -> None:
        super().__init__()
        self.latch = threading.Lock()
        self.latch.acquire()
        self.signal: SharedOutcome | FollowerSignal | None = None
        self.has_left = False

    def wake(self, signal: SharedOutcome | FollowerSignal) -> None:
        """End the wait with `signal`; later signals change nothing."""
        if self.signal is None:
            self.signal = signal
            self.latch.release()

    def wait(self, seconds: float | None = None) -> bool:
        """Block until `wake`, up to `seconds`; return whether it came."""
        return self.latch.acquire(timeout=-1 if seconds is None else min(seconds, threading.TIMEOUT_MAX))


class _ThreadCallers:
    """The callers of one function."""

    def __init__(self, group: FlightGroup, flights: ThreadFlights) -> None:
        self._group, self._flights = group, flights

    def join_or_lead(self, key: Hashable, mine: Flight[_Follower], *, is_second: bool) -> Flight[_Follower]:
        """Return the flight to join, or `mine` if this caller has to make the call.

        The second time, a caller joins only a call that begins with all the time that the caller has.
        """
        try:
            found = self._flights.in_flight.setdefault(key, mine)
        except TypeError as error:
            raise unhashable(self._group.name, key, error) from None
        if found.epoch != mine.epoch or (is_second and not covers(found.deadline, Deadline.current())):
            self._flights.in_flight[key] = found = mine
        return found

    def follow(self, flight: Flight[_Follower], follower: _Follower) -> SharedOutcome | FollowerSignal:
        """Wait for the outcome of `flight`, as long as the deadline in force allows."""
        deadline = Deadline.current()
        wait = self._group.wait(deadline)
        if not flight.join(follower):
            return FollowerSignal.LOOK_AGAIN
        extend(flight.deadline, deadline)
        if not wait.run(follower.wait) and flight.leave(follower):
            raise self._group.exceeded(wait.seconds)
        signal = follower.signal or FollowerSignal.LOOK_AGAIN  # a follower that cannot leave has been signalled
        is_too_short = flight.ran_short and isinstance(signal, SharedOutcome) and not covers(flight.deadline, deadline)
        return FollowerSignal.TOO_SHORT if is_too_short else signal

    def lead(
        self,
        call: Callable[..., object],
        key: Hashable,
        flight: Flight[_Follower],
        args: tuple[object, ...],
        kwargs: dict[str, object],
    ) -> object:
        """Make the call, for this caller and all that join meanwhile."""
        flight.leader = threading.get_ident()
        before = current_flights.get()
        self._group.calls += 1
        try:
            current_flights.set((*before, flight))
            try:
                if has_deadline(flight.deadline):
                    with in_force(flight.deadline):
                        result = call(*args, **kwargs)
                else:
                    result = call(*args, **kwargs)
            except (Exception, Substitute) as error:
                self._finish(key, flight, None, error)
                raise
            self._finish(key, flight, result)
            return result
        finally:
            current_flights.set(before)

    def _finish(
        self, key: Hashable, flight: Flight[_Follower], result: object, error: Exception | Substitute | None = None
    ) -> None:
        """Give the followers the outcome of the call."""
        self._flights.remove(key, flight)
        flight.ran_short = ran_short(flight.deadline, result, error)
        flight.is_over = True
        if flight.waiting:
            self._wake_all(flight, outcome_of(result, error))

    def _wake_all(self, flight: Flight[_Follower], signal: SharedOutcome | FollowerSignal) -> None:
        while (follower := flight.first()) is not None:
            follower.wake(signal)
            flight.leave(follower)

    def withdraw(self, key: Hashable, flight: Flight[_Follower], follower: _Follower) -> None:
        """Leave `flight` for good, wherever an interrupt has struck: while waiting, or as its new leader."""
        follower.has_left = True
        flight.leave(follower)
        if follower.signal is FollowerSignal.LEAD:
            self.step_down(key, flight, follower)

    def step_down(self, key: Hashable, flight: Flight[_Follower], right: _LeaderRight) -> None:
        """Let no follower wait for a leader that is gone: the followers look again, or the next one makes the call."""
        while right.give_up():
            with contextlib.suppress(Exception):  # of the key's own methods; the error that is raised matters more
                self._flights.remove(key, flight)
            if flight.is_over:
                self._wake_all(flight, FollowerSignal.LOOK_AGAIN)
                return
            successor = self._hand_over(key, flight)
            if successor is None or not successor.has_left:
                return
            right = successor  # it left at this moment, and may or may not have seen that it leads

    def _hand_over(self, key: Hashable, flight: Flight[_Follower]) -> _Follower | None:
        """Have the next follower make the call; return it."""
        while (successor := flight.successor()) is not None:
            self._flights.in_flight.setdefault(key, flight)
            if flight.leave(successor):
                successor.wake(FollowerSignal.LEAD)
                break
        return successor


def around(group: FlightGroup, flights: ThreadFlights, call: Callable[P, R]) -> Callable[P, R]:
    """Return `call`, made once for callers that come while it is in flight."""
    callers, keys = _ThreadCallers(group, flights), flights.keys

    def shared(*args: P.args, **kwargs: P.kwargs) -> R:
        key = keys(args, kwargs)
        before: LatestDeadline | None = None  # that of a call with too little time for this caller
        while True:
            deadline, right = new_deadline(Deadline.current(), before), _LeaderRight()
            mine: Flight[_Follower] = Flight(group.epoch, threading.get_ident(), deadline)
            try:
                flight = callers.join_or_lead(key, mine, is_second=before is not None)
                if flight is mine:
                    return cast("R", callers.lead(call, key, flight, args, kwargs))
            except BaseException:
                callers.step_down(key, mine, right)
                raise
            follower = _Follower()
            try:
                with waiting_for(flight) as is_circular:  # a finalizer's call may wait for the call of its own thread
                    is_own = is_circular or flight.leader == threading.get_ident()
                    signal = FollowerSignal.CALL_ALONE if is_own else callers.follow(flight, follower)
                if signal is FollowerSignal.LEAD:
                    return cast("R", callers.lead(call, key, flight, args, kwargs))
            except BaseException:
                callers.withdraw(key, flight, follower)
                raise
            if isinstance(signal, SharedOutcome):
                group.shared += 1
                return cast("R", signal.deliver())
            if signal is FollowerSignal.TOO_SHORT:
                before = flight.deadline
            if signal is FollowerSignal.CALL_ALONE:
                return call(*args, **kwargs)

    return shared
