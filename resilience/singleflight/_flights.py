"""The flights of one policy: what all callers share, which flights are in flight, and which of them wait for others."""

from __future__ import annotations

import os
import threading
from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any
from weakref import ref

from resilience._support.fork import renew_after_fork, reset_after_test
from resilience._support.measured import Measured, Measurement
from resilience._support.sharing import Keys
from resilience.errors import DeadlineExceededError
from resilience.singleflight._machine import Flight
from resilience.timeout import Deadline, DeadlineWait, allowed_by_service

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop

__all__ = ("FlightGroup", "LoopFlights", "ThreadFlights", "current_flights", "waiting_for")

current_flights: ContextVar[tuple[object, ...]] = ContextVar("resilience_flights", default=())
"""The flights that this code runs in: a call that waited for one of them would wait for itself."""
_waits: dict[object, tuple[tuple[object, ...], object]] = {}
"""The waits for flights from inside of others: each as the flights it is inside of, and the flight it waits for."""

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_waits.clear)  # only threads of the parent wait


@contextmanager
def waiting_for(flight: object) -> Iterator[bool]:
    """Wait for `flight` in the block. The value is True if that would be a wait for oneself: then do not wait.

    That is so if `flight` is one that this code runs in, or waits, directly or through others, for such a flight.
    """
    inside, wait = current_flights.get(), object()
    if inside:
        _waits[wait] = inside, flight  # before looking: if two calls come to wait for each other, one of them sees it
    try:
        yield bool(inside) and _leads_back(flight, inside)
    finally:
        _waits.pop(wait, None)


def _leads_back(flight: object, inside: tuple[object, ...]) -> bool:
    reached, waits = [flight], list(_waits.values())
    for known in reached:
        if known in inside:
            return True
        reached += [wanted for within, wanted in waits if known in within and wanted not in reached]
    return False


class FlightGroup(Measured):
    """What all callers of one `SingleFlight` share: its counts, its epoch, and how long a follower may wait."""

    def __init__(self, name: str, max_wait: float | None) -> None:
        self.name = name
        """The name of the policy; a pipeline may change it."""
        self._max_wait = max_wait
        self.epoch = 0
        """How often the flights in flight were closed to further callers."""
        self.calls = 0
        """Calls that were made."""
        self.shared = 0
        """Callers that got the outcome of a call that another caller made."""
        reset_after_test(self)

    def after_test(self) -> None:
        """Start with no counts."""
        self.calls = self.shared = 0

    def measure(self) -> Measurement:
        """Return the calls that were made, and the callers that got the outcome of a call of another caller."""
        return Measurement("singleflight", self.name, {"made": self.calls, "shared": self.shared})

    def wait(self, deadline: Deadline | None) -> DeadlineWait:
        """Return how long a follower with this `deadline` may wait.

        Raises:
            DeadlineExceededError: No time is left.
        """
        wait = DeadlineWait(deadline, self._max_wait)
        if not wait.seconds and wait.seconds is not None:
            raise self.exceeded(0.0)
        return wait

    def exceeded(self, seconds: float | None) -> DeadlineExceededError:
        """Return the error of a caller whose time was up while it waited."""
        message = f"{self.name}: the call of another caller did not end in time"
        allowed = None if seconds is None else allowed_by_service(seconds, self._max_wait)
        return DeadlineExceededError(message, policy=self.name, seconds=seconds, allowed=allowed)


class ThreadFlights:
    """The flights of the blocking calls of one function.

    They are looked up without a lock, because finding a key may run the user's `__hash__` and `__eq__`. `setdefault`
    decides which caller makes the call, and only that caller removes its flight again.
    """

    def __init__(self, keys: Keys) -> None:
        self.keys = keys
        self.after_fork()
        renew_after_fork(self)

    def after_fork(self) -> None:
        """Forget the flights of the parent's threads: they never end here."""
        self.in_flight: dict[Hashable, Flight[Any]] = {}

    def remove(self, key: Hashable, flight: Flight[Any]) -> None:
        """Let no further caller join `flight`."""
        in_flight = self.in_flight
        if in_flight.get(key) is flight:
            in_flight.pop(key, None)


class LoopFlights(threading.local):
    """The flights of the awaiting calls of one function, in the event loop that this thread runs.

    Tasks of different loops cannot wait for one call, so each loop has flights of its own.
    """

    _loop: ref[AbstractEventLoop] | None = None
    _in_flight: dict[Hashable, Any]

    def of_loop(self, loop: AbstractEventLoop) -> dict[Hashable, Any]:
        """Return the flights of `loop`, which is running in this thread."""
        if self._loop is None or self._loop() is not loop:
            self._loop, self._in_flight = ref(loop), {}
        return self._in_flight
