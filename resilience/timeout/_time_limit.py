"""The time of the calls of a `Timeout`, in both colours: how much a call gets, and the error when the time is up."""

from __future__ import annotations

import math
import threading
from typing import TYPE_CHECKING, Any

from resilience._support.fork import renew_after_fork
from resilience._support.measured import Measured, Measurement
from resilience.clock import Clock
from resilience.errors import BulkheadFullError, DeadlineExceededError, RunningWork
from resilience.events import Emitter
from resilience.timeout._deadline import CURRENT_FRAME, Deadline
from resilience.timeout._late_work import LateWork
from resilience.timeout._moving_deadline import CappedDeadline, MovingDeadline
from resilience.timeout._options import TimeoutOptions
from resilience.timeout._origin import allowed_by_service
from resilience.timeout._waiting import TimerQueue

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop

__all__ = ("OF_A_CLIENT", "TimeLimit")

OF_A_CLIENT = "client"
"""The `policy` of an error of a client that kept the deadline in force itself."""


class TimeLimit(Measured):
    """The part of a `Timeout` that is the same however its calls are ended.

    Another policy may end its calls in its own way, such as a policy for a transport that has timeouts. It then shares
    the `time_limit` of a `Timeout`: its calls get the same time, and are counted and reported in the same way.

    Args:
        name: The name of the policy.
        options: The options of the `Timeout`.
        clock: Returns monotonic seconds.
    """

    def __init__(self, name: str, options: TimeoutOptions, clock: Clock) -> None:
        self.name = name
        """The name of the policy; a pipeline may change it."""
        self.clock = clock
        self.events = Emitter()
        self.seconds, self.margin, self.max_threads = options.seconds, options.margin, options.max_threads
        self.elapsed_calls = 0
        """Calls that took longer than they were allowed."""
        self._refusals: dict[str, int] = {}
        self.late = LateWork()
        """Blocking calls in flight whose callers have stopped waiting."""
        self.after_fork()
        renew_after_fork(self)

    def after_fork(self) -> None:
        """Forget the parent's calls: its event loops do not run here."""
        self._lock = threading.RLock()  # guards the count of elapsed calls; re-entrant, for finalizers
        self.timers: dict[AbstractEventLoop, TimerQueue[Any]] = {}

    def after_test(self) -> None:
        """Forget the calls that took too long."""
        with self._lock:
            self.elapsed_calls = 0
            self._refusals = {}

    def allowance(self) -> float | None:
        """Return the seconds of a call that begins now, None for no limit.

        Raises:
            DeadlineExceededError: Nothing is left before the deadline in force, less the margin.
        """
        seconds, frame = self.seconds, CURRENT_FRAME.get()
        if frame is None or (outer := frame[0]) is None:
            return seconds
        left = outer.remaining() - self.margin
        if left <= 0:
            raise self._nothing_left(left + self.margin)
        if seconds is None:
            return left if left < math.inf else None  # a deadline that never comes: a server lifts its own so
        return left if left < seconds else seconds  # noqa: FURB136 - a call costs more

    def deadline(self, seconds: float) -> Deadline:
        """Return the deadline of a call that gets `seconds` from now; it moves with the deadline that cuts it short."""
        outer, now, own = Deadline.current(), self.clock(), self.seconds
        if isinstance(outer, MovingDeadline) and seconds != own:
            cap = Deadline(math.inf if own is None else now + own, clock=self.clock)
            return CappedDeadline(outer, cap, self.margin)
        allowed = allowed_by_service(seconds, own)
        return Deadline(now + seconds, limit=None if allowed is None else now + allowed, began=now, clock=self.clock)

    def exceeded(self, seconds: float, running: RunningWork | None = None) -> DeadlineExceededError:
        """Count a call that took longer than `seconds`, emit its event, and return its error."""
        self._count(seconds)
        allowed = allowed_by_service(seconds, self.seconds)
        message = f"{self._who}: the call took longer than {seconds:.3g} s"
        if allowed is not None:
            message = f"{message}, and its caller waits no longer"
        return DeadlineExceededError(message, policy=self.name, seconds=seconds, running=running, allowed=allowed)

    def note_end_inside(self, error: DeadlineExceededError, seconds: float) -> None:
        """Count a call that a client inside this policy has ended, its margin before this policy would have.

        Args:
            error: The error of the call. It gets the name of this policy if only the time of the attempt is over, so
                that no `Timeout` outside counts it again. A call that was not made is not counted.
            seconds: The time that the call had.
        """
        if error.policy == OF_A_CLIENT and not error.is_before_call:
            self._count(seconds)
            if error.retryable:
                error.policy = self.name

    def _count(self, seconds: float) -> None:
        with self._lock:
            self.elapsed_calls += 1
        self.events.emit("timeout.elapsed", self.name, self.clock(), "warning", seconds=seconds)

    def _count_refusal(self, reason: str) -> None:
        with self._lock:
            self._refusals[reason] = self._refusals.get(reason, 0) + 1

    def measure(self) -> Measurement:
        """Return the calls that took too long, those that were not made, by reason, and the late threads."""
        counts = {"elapsed": self.elapsed_calls, **self._refusals}
        return Measurement("timeout", self.name, counts, {"late": len(self.late)})

    @property
    def _who(self) -> str:
        return f"timeout {self.events.log.quoted(self.name)}"

    def refusal(self, reason: str, message: str) -> BulkheadFullError:
        """Emit the event of a call that gets no thread, and return its error."""
        self._count_refusal(reason)
        facts = {"reason": reason, "max_threads": self.max_threads}
        self.events.emit("timeout.rejected", self.name, self.clock(), "warning", **facts)
        return BulkheadFullError(message, policy=self.name)

    def _nothing_left(self, remaining: float) -> DeadlineExceededError:
        self._count_refusal("deadline")
        facts = {"reason": "deadline", "remaining": remaining, "margin": self.margin}
        self.events.emit("timeout.rejected", self.name, self.clock(), "warning", **facts)
        message = f"{self._who}: the deadline had passed before the call"
        if remaining > 0:
            margin = f"the margin of {self.margin:g} s"
            message = f"{self._who}: {remaining:.3g} s to the deadline are within {margin}; the call was not made"
        return DeadlineExceededError(message, policy=self.name, seconds=0.0)
