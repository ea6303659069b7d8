"""The threads of one membership: from the first partner until the last one leaves, a close, or a fork.

The threads hold the fleet by a weak reference while they wait, so that a connection that the program drops takes its
fleet and its threads along.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Protocol
from weakref import ref

from resilience.fleet._wires import Wires

__all__ = ("Membership", "RoundMaker")


class RoundMaker(Protocol):
    """The fleet as its round thread sees it."""

    def advance(self, membership: Membership, /) -> float | None:
        """Make a round if it is due; return the seconds to wait for the next one, None at the end."""
        ...


class Membership:
    """The round thread and the listening thread of a fleet, and the means to wake and to end them."""

    def __init__(self) -> None:
        self.wire = Wires()
        self.is_nudged = False
        self.is_closing = False
        self.listened_to: frozenset[str] = frozenset()
        self.closed = threading.Event()
        # Taken by the thread that waits. A lock: its release is one step, which signal handlers may take as well.
        self._alarm = threading.Lock()
        self._alarm.acquire()

    def begin(self, fleet: RoundMaker, listen: Callable[[], None]) -> str | None:
        """Start both threads; return why the system starts no more threads, None if it has started them.

        Args:
            fleet: Makes the rounds; kept by a weak reference.
            listen: The body of the listening thread.
        """
        known = ref(fleet)
        try:
            threading.Thread(target=_beat, args=(known, self), name="resilience-fleet", daemon=True).start()
            threading.Thread(target=listen, name="resilience-fleet-listen", daemon=True).start()
        except RuntimeError as error:
            self.end()
            return str(error)
        return None

    def wake(self) -> None:
        """Let the round thread look for work. Never blocks."""
        try:
            self._alarm.release()
        except RuntimeError:  # it is awake, or will be
            return

    def nudge(self) -> None:
        """Make a round now. Never blocks."""
        self.is_nudged = True
        self.wake()

    def wait(self, seconds: float) -> None:
        """Wait until `wake`, for `seconds` at most."""
        self._alarm.acquire(timeout=seconds)

    def end(self) -> None:
        """End both threads."""
        self.is_closing = True
        self.wire.close()
        self.closed.set()


def _beat(known: ref[RoundMaker], membership: Membership) -> None:
    """Make rounds until the membership ends. The body of the round thread."""
    try:
        while True:
            fleet = known()
            pause = fleet.advance(membership) if fleet is not None else None
            del fleet
            if pause is None:
                return
            membership.wait(pause)
    finally:
        membership.end()
