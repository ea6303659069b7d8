"""One clock for all policies of the process, which a test can stop and move."""

from __future__ import annotations

import sys
import time

from resilience import clock
from resilience.clock import Clock

__all__ = ("PROCESS_CLOCK", "ProcessClock")


class ProcessClock:
    """The monotonic clock of the process, or another clock that a test puts in its place.

    It never goes back: if a test moves its clock by an hour, this clock is ahead of the real one by an hour from then
    on.
    """

    def __init__(self) -> None:
        self._other: Clock | None = None
        self._ahead = 0.0

    def __call__(self) -> float:
        """Return the time in seconds."""
        return time.monotonic() + self._ahead if self._other is None else self._other()

    def use(self, other: Clock | None) -> None:
        """Show the time of `other` from now on, or the real time if it is None."""
        self._ahead = self() - time.monotonic()
        self._other = other

    def install(self) -> None:
        """Become the clock of each policy that is given none, in modules that are imported from now on."""
        clock.monotonic = self

    def modules_without(self) -> list[str]:
        """Return the modules of the toolkit that were imported before `install`: they have kept the real clock."""
        return sorted(
            name
            for name, module in tuple(sys.modules.items())
            if name.startswith("resilience") and vars(module).get("monotonic") is time.monotonic
        )


PROCESS_CLOCK = ProcessClock()
