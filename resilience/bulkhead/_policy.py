"""The bulkhead: a limit on the calls that are in flight at once."""

from __future__ import annotations

import dataclasses
import functools
import sys
from collections.abc import Awaitable
from datetime import timedelta
from typing import TYPE_CHECKING, cast

from resilience.bulkhead._admission import Admission
from resilience.bulkhead._concurrency_limit import ConcurrencyLimit
from resilience.bulkhead._options import BulkheadOptions
from resilience.clock import Clock, monotonic
from resilience.errors import RunningWork, running_behind
from resilience.options import CLOCK, checked
from resilience.policy import PolicyBase

if TYPE_CHECKING:
    from resilience._engine._steps import Steps

__all__ = ("Bulkhead",)


class Bulkhead(ConcurrencyLimit, PolicyBase):
    """Lets `max_concurrent_calls` calls be in flight at once, and refuses others with `BulkheadFullError`.

    With `max_wait` above 0 a caller waits for a place, at most until the deadline in force. Callers are served in the
    order in which they came, across threads and tasks. A caller is refused at once if `max_waiting` callers wait
    already, or if it cannot get a place in time. That is so if the callers before it, which wait at least as long, need
    more time than it has, even if each holds its place no longer than the shortest call of the last 30 to 60 seconds.
    The `retry_after` of the error is that time.

    A place is given back when the call ends, however it ends. If a blocking call outlives a `Timeout` directly inside,
    or is interrupted there, the place is given back when its thread ends (L9).

    Args:
        max_concurrent_calls: The number of calls that may be in flight at once, at least 1.
        max_wait: The longest wait for a place: seconds, a `timedelta`, or text such as `"250ms"`. 0 (the default)
            refuses at once.
        max_waiting: The number of callers that may wait, at least 1.
        shadow: Whether to refuse no call, let no caller wait, and report each call that finds no place, as it would
            be refused with `max_wait=0`.
        name: The name in events, errors and snapshots. None takes it from the first pipeline that holds the policy.
        clock: The clock that measures waits and calls, in seconds.

    Raises:
        ConfigurationError: An option has the wrong type or value.

    Example:
        >>> from resilience import Bulkhead, BulkheadFullError, Pipeline
        >>> reports = Pipeline("reports", Bulkhead(max_concurrent_calls=1))
        >>> @reports
        ... def render(depth):
        ...     return depth and render(depth - 1)  # a second call, while the first one is in flight
        >>> try:
        ...     render(1)
        ... except BulkheadFullError as error:
        ...     print(error)
        bulkhead 'reports.bulkhead': all 1 places are taken and none may wait

    The names of the options are those of resilience4j.
    """

    kind = "bulkhead"
    settles_once = True
    options: BulkheadOptions
    _limit_option = "max_concurrent_calls"

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
        admission = Admission(
            type(self).__name__,
            self.kind,
            self._limit_option,
            self.kind,
            max_concurrent_calls,
            self.options.max_wait,
            max_waiting,
            checked(clock, "clock", CLOCK),
            shadow=shadow,
        )
        super().__init__(name, admission)

    @property
    def waits(self) -> bool:
        """Whether a caller may wait for a place."""
        return self._admission.waits

    def choose_steps(self, steps: Steps) -> Steps:
        """Let the engine enter and leave directly: a call through a method of this class would cost as much again."""
        admission = self._admission
        if not admission.waits:
            return dataclasses.replace(steps, admit=admission.enter, on_success=admission.leave)
        return dataclasses.replace(
            steps,
            admit_blocking=admission.enter_blocking,
            admit_awaiting=admission.enter_awaiting,
            on_success=admission.leave,
        )

    def admit(self) -> object:
        """Take a place, or raise `BulkheadFullError`."""
        return self._admission.enter()

    def admit_blocking(self) -> object:
        """Take a place, and block this thread for it if `max_wait` allows."""
        return self._admission.enter_blocking()

    def admit_awaiting(self) -> Awaitable[object]:
        """Take a place, and suspend this task for it if `max_wait` allows."""
        return self._admission.enter_awaiting()

    def on_success(self, permit: object, _result: object, /) -> None:
        """Give the place back."""
        self._admission.leave(permit)

    def on_failure(self, permit: object, error: Exception, /) -> None:
        """Give the place back, once the work has ended."""
        self._leave_after(running_behind(error), permit)

    def on_abandon(self, permit: object, /) -> None:
        """Give the place back, once the work has ended."""
        interrupt = sys.exception()  # it ends the wait for a thread, not the thread
        self._leave_after(None if isinstance(interrupt, Exception) else running_behind(interrupt), permit)

    def _leave_after(self, running: RunningWork | None, permit: object) -> None:
        if running is None:
            self._admission.leave(permit)
        else:
            running.add_done_callback(functools.partial(self._admission.leave, permit))

    def __repr__(self) -> str:
        shadow = ", shadow" if self.options.shadow else ""
        return f"<Bulkhead {self.name!r} {self.concurrent_calls}/{self.limit}{shadow}>"
