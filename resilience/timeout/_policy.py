"""The timeout: a limited time for each call, in both colours."""

from __future__ import annotations

import contextvars
import functools
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from datetime import timedelta
from typing import Any, NoReturn, ParamSpec, TypeVar, cast

from resilience._support.awaiting import CoroutineFunction
from resilience._support.executor import Executor, Shortage, Work
from resilience.clock import Clock, monotonic
from resilience.errors import DeadlineExceededError, RunningWork
from resilience.options import CLOCK, checked
from resilience.policy import Named
from resilience.timeout._deadline import Deadline
from resilience.timeout._options import TimeoutOptions
from resilience.timeout._time_limit import TimeLimit
from resilience.timeout._waiting import DeadlineWait

__all__ = ("Timeout",)

P = ParamSpec("P")
R = TypeVar("R")


class Timeout(Named):
    """Gives each call `seconds`, then raises `DeadlineExceededError`.

    A coroutine is cancelled. A blocking function cannot be stopped: it runs in a thread of this library, with the
    caller's context variables. The caller returns on time, and the thread stays occupied until the function ends (L9).
    A call that finds `max_threads` such calls in flight gets `BulkheadFullError` at once, and so does a call for which
    the system starts no thread. A `Bulkhead` directly outside keeps its place until the late thread has ended, too.
    A `TimeoutError` that the function itself raises is passed on as it is (L10).

    A sooner deadline in force wins. The call then ends `margin` earlier than that deadline, which leaves the caller
    this much time to handle the error. If nothing is left after the margin, the call is not made (`is_before_call`).
    Inside the call, `Deadline.current()` is the deadline of the call.

    Args:
        seconds: The time of one call: seconds, a `timedelta`, or text such as `"800ms"`. Above 0. None if only the
            deadline in force counts; a call without one is then neither timed nor moved to a thread.
        margin: The time to keep back from the deadline in force, in the same notation. 0 or more.
        max_threads: The number of blocking calls that may be in flight at once, late ones included.
        name: The name in events, errors and snapshots. None takes it from the first pipeline that holds the policy.
        clock: The clock that measures the time, in seconds.

    Raises:
        ConfigurationError: An option has the wrong type or value.

    Example:
        >>> import time
        >>> from resilience import DeadlineExceededError, Pipeline, Timeout
        >>> search = Pipeline("search", Timeout("10ms"))
        >>> try:
        ...     search.call(time.sleep, 0.1)
        ... except DeadlineExceededError as error:
        ...     print(error)
        timeout 'search.timeout': the call took longer than 0.01 s
    """

    kind = "timeout"

    def __init__(
        self,
        seconds: float | str | timedelta | None = 30.0,
        *,
        margin: float | str | timedelta = 0,
        max_threads: int = 64,
        name: str | None = None,
        clock: Clock = monotonic,
    ) -> None:
        super().__init__(name)
        self.options = TimeoutOptions.of(
            seconds=cast("float | None", seconds), margin=cast("float", margin), max_threads=max_threads
        )
        self.time_limit = TimeLimit(self.name, self.options, checked(clock, "clock", CLOCK))
        """The time, the errors and the counts of this policy, for another policy that ends its calls in its own way."""
        self.events = self.time_limit.events
        self._executor = Executor(self.options.max_threads)
        self._is_made = True

    def renamed(self) -> None:
        """Use the new name in errors and events."""
        self.time_limit.name = self.name

    @property
    def elapsed_calls(self) -> int:
        """Calls so far that took longer than they were allowed."""
        return self.time_limit.elapsed_calls

    @property
    def busy_threads(self) -> int:
        """Blocking calls in flight, late ones included."""
        return self._executor.busy

    @property
    def late_threads(self) -> int:
        """Blocking calls in flight whose callers have stopped waiting."""
        return len(self.time_limit.late)

    @property
    def is_idle(self) -> bool:
        """Whether no thread is at work. Before that, a successor of this policy would exceed `max_threads`."""
        return not self.busy_threads

    def snapshot(self) -> dict[str, Any]:
        """Return how many threads are at work and how many of them are late, and how many calls took too long."""
        return {"busy_threads": self.busy_threads, "late_threads": self.late_threads, "elapsed": self.elapsed_calls}

    def around(self, call: Callable[P, R], /) -> Callable[P, R]:
        """Run the blocking `call` in a thread, and stop waiting for it in time."""
        limit = self.time_limit

        def timed(*args: P.args, **kwargs: P.kwargs) -> R:
            seconds = limit.allowance()
            if seconds is None:
                return call(*args, **kwargs)
            if seconds == limit.seconds:
                at = limit.clock() + seconds
                deadline, wait = Deadline(at, limit=at, clock=limit.clock), None
            else:  # cut short by a sooner deadline, which may move
                deadline, wait = self._until_sooner_deadline(seconds)
            context = contextvars.copy_context()
            context.run(deadline.__enter__)  # in the copy alone: an interrupt leaves no deadline in force here
            work, is_started = Work(functools.partial(call, *args, **kwargs), context), False
            try:
                self._start(work)
                is_started = True
                if not (work.wait(seconds) if wait is None else wait.run(work.wait)):
                    self._give_up(work, seconds if wait is None else wait.seconds or seconds)
            except BaseException as interrupt:
                if is_started or not work.cancel():
                    RunningWork(work.add_done_callback).note(interrupt)
                raise
            if work.error is None:
                return cast("R", work.result)
            error, work.error = work.error, None  # the thread may keep its work a moment longer
            if isinstance(error, DeadlineExceededError):
                limit.note_end_inside(error, seconds)
            try:
                raise error
            finally:
                del error  # its traceback refers to this frame: no cycle through it

        return timed

    def around_async(self, call: Callable[P, Awaitable[R]], /) -> CoroutineFunction[P, R]:
        """Cancel the awaiting `call` in time."""
        from resilience.timeout import _aio  # noqa: PLC0415 - it imports asyncio

        return _aio.around_async(self.time_limit, call)

    def scope(self) -> AbstractAsyncContextManager[None]:
        """Return a context manager that cancels a block in time: `async with timeout.scope():`."""
        from resilience.timeout import _aio  # noqa: PLC0415 - it imports asyncio

        return _aio.TimedBlock(self.time_limit)

    def _until_sooner_deadline(self, seconds: float) -> tuple[Deadline, DeadlineWait]:
        limit = self.time_limit
        if limit.late.reserves_threads(limit.max_threads):
            raise limit.refusal("late", f"{self.name}: calls that outlived their callers take half its threads")
        deadline = limit.deadline(seconds)
        wait = DeadlineWait(deadline)
        wait.seconds = seconds  # the wait begins now: the time that these lines took counts for the caller
        return deadline, wait

    def _give_up(self, work: Work, seconds: float) -> NoReturn:
        raise self.time_limit.exceeded(seconds, self.time_limit.late.add(work))

    def _start(self, work: Work) -> None:
        shortage = self._executor.submit(work)
        if shortage is Shortage.PLACES:
            message = f"{self.name} has {self.options.max_threads} blocking calls in flight"
            raise self.time_limit.refusal("threads", message)
        if shortage is not None:
            raise self.time_limit.refusal("system", f"{self.name}: {shortage.value} for a blocking call")

    def __repr__(self) -> str:
        seconds, margin = self.options.seconds, self.options.margin
        allowed = "by the deadline in force" if seconds is None else f"{seconds:g} s"
        return f"<Timeout {self.name!r} {allowed}{f', {margin:g} s before the deadline' if margin else ''}>"
