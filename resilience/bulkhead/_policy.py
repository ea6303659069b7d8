"""The bulkhead: how many calls may be under way at once."""

from __future__ import annotations

import functools
import sys
from datetime import timedelta
from typing import Any, cast

from resilience.bulkhead._admission import PLACE, Admission
from resilience.bulkhead._options import BulkheadOptions
from resilience.clock import Clock, monotonic
from resilience.errors import running_behind
from resilience.options import CLOCK, checked
from resilience.policy import PolicyBase

__all__ = ("Bulkhead",)


class Bulkhead(Admission, PolicyBase):
    """Lets `max_concurrent_calls` calls be under way at once and refuses the others with `BulkheadFullError`.

    With `max_wait` above 0 a caller waits that long, at most until the deadline in force, first come first served
    across threads and tasks; beyond `max_waiting` callers in line one more is refused at once. So is one that cannot
    succeed: those in line who will wait as long as it does, or longer, need more time than it has even if each held
    its place no longer than the shortest call of the last 30 to 60 seconds. `retry_after` is then that time.

    A place is given back when the call ends, however it ends - for a blocking call that outlived a `Timeout` directly
    inside, or was interrupted there, when its thread really ends (L9). With `shadow=True` nothing is refused and nobody
    waits; every call that finds no place is reported as it would have been with `max_wait=0`.
    """

    kind = "bulkhead"
    limit_option = "max_concurrent_calls"

    def __init__(
        self,
        max_concurrent_calls: int = 25,
        max_wait: float | str | timedelta = 0,
        *,
        max_waiting: int = 1000,
        shadow: bool = False,
        name: str | None = None,
        clock: Clock = monotonic,
    ) -> None:
        self.options = BulkheadOptions.of(
            max_concurrent_calls=max_concurrent_calls,
            max_wait=cast("float", max_wait),
            max_waiting=max_waiting,
            shadow=shadow,
        )
        clock = checked(clock, "clock", CLOCK)
        super().__init__(name, max_concurrent_calls, self.options.max_wait, max_waiting, clock, shadow=shadow)

    settles_once = True
    admit = Admission.enter  # pyright: ignore[reportAssignmentType] - a Bulkhead is both, so `self` fits
    admit_blocking = Admission.enter_blocking
    admit_awaiting = Admission.enter_awaiting

    def on_success(self, permit: Any, _result: Any, /) -> None:
        """Give the place back."""
        if self._queue is None:
            permit += PLACE  # an operator: where an interrupt is raised from here, it came before
        else:
            self._queue.give_back(permit)

    def on_failure(self, permit: Any, error: Exception, /) -> None:
        """Give the place back, when the work has really ended."""
        running = running_behind(error)
        if running is None:
            self.leave(permit)
        else:
            running.add_done_callback(functools.partial(self.leave, permit))

    def on_abandon(self, permit: Any, /) -> None:
        """Give the place back, when the work has really ended."""
        interrupt = sys.exception()  # it ends the wait for a thread, not the thread
        running = None if isinstance(interrupt, Exception) else running_behind(interrupt)
        if running is None:
            self.leave(permit)
        else:
            running.add_done_callback(functools.partial(self.leave, permit))

    def __repr__(self) -> str:
        shadow = ", shadow" if self._shadow else ""
        return f"<Bulkhead {self.name!r} {self.concurrent_calls}/{self._limit}{shadow}>"
