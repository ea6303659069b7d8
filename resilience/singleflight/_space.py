"""The calls of one function that are under way, by key, and which of them wait for others."""

from __future__ import annotations

import os
import threading
from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any
from weakref import ref

from resilience._support.fork import renew_after_fork
from resilience._support.sharing import Keys
from resilience.singleflight._machine import Flight

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop

__all__ = ("LoopSpace", "Space", "under_way", "waiting_for")

under_way: ContextVar[tuple[object, ...]] = ContextVar("resilience_flights", default=())
"""The flights this code runs in: a call that would wait for one of them would wait for itself."""
_waits: dict[object, tuple[tuple[object, ...], object]] = {}
"""Waits for flights from inside of others, each as those it is inside of and the one it is for."""

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_waits.clear)  # whoever waits is a thread of the parent's


@contextmanager
def waiting_for(flight: object) -> Iterator[bool]:
    """Wait for `flight` in the block, unless told that `flight` waits in the end for one that this code runs in."""
    inside, wait = under_way.get(), object()
    if inside:
        _waits[wait] = inside, flight  # before looking: of two that come to wait for each other at once, one sees it
    try:
        yield bool(inside) and _leads_back(flight, inside)
    finally:
        _waits.pop(wait, None)


def _leads_back(flight: object, inside: tuple[object, ...]) -> bool:
    """Whether `flight` is one of `inside`, or waits for one that is, or for one that waits for one, and so on."""
    reached, waits = [flight], list(_waits.values())
    for known in reached:
        if known in inside:
            return True
        reached += [wanted for within, wanted in waits if known in within and wanted not in reached]
    return False


class Space:
    """Flights of blocking calls.

    Looked up without a lock, since finding a key may run the user's `__hash__` and `__eq__`: `setdefault` decides who
    makes the call, and only who makes it takes its flight out again.
    """

    def __init__(self, keys: Keys) -> None:
        self.keys = keys
        self.after_fork()
        renew_after_fork(self)

    def after_fork(self) -> None:
        """Forget what the parent's threads had under way: it never ends here."""
        self.flights: dict[Hashable, Flight[Any]] = {}

    def take_out(self, key: Hashable, flight: Flight[Any]) -> None:
        """Have nobody join `flight` any more."""
        flights = self.flights
        if flights.get(key) is flight:
            flights.pop(key, None)


class LoopSpace(threading.local):
    """Flights of awaiting calls, of the event loop this thread runs: tasks of different loops cannot wait for one."""

    _loop: ref[AbstractEventLoop] | None = None
    _flights: dict[Hashable, Any]

    def flights_of(self, loop: AbstractEventLoop) -> dict[Hashable, Any]:
        """Return the flights of `loop`, which is running in this thread."""
        if self._loop is None or self._loop() is not loop:
            self._loop, self._flights = ref(loop), {}
        return self._flights
