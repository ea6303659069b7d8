"""The awaiting call of a timeout: a timer of the loop cancels the task, and the cancellation becomes our error.

There is no task and, as a rule, no timer for each call. Cancellations are accounted for as in `asyncio.timeout`
(CPython 3.11): a cancellation from elsewhere that arrives together with ours stays a cancellation.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from resilience._support.awaiting import CoroutineFunction
from resilience.errors import DeadlineExceededError, running_behind
from resilience.running import needs_asyncio
from resilience.timeout._deadline import CURRENT_FRAME, EnforcedDeadline, leave_frame
from resilience.timeout._waiting import DeadlineWait, TimerQueue

if TYPE_CHECKING:
    from resilience.timeout._time_limit import TimeLimit

__all__ = ("TimedBlock", "around_async")

P = ParamSpec("P")
R = TypeVar("R")


class CallDeadline(EnforcedDeadline):
    """The deadline of one awaiting call: in force from the start until `finish`."""

    __slots__ = (
        "_cancelling",
        "_handle",
        "_has_expired",
        "_is_due",
        "_queue",
        "_seconds",
        "_suspensions",
        "_task",
        "_time",
        "_wait",
    )

    def __init__(self, time: TimeLimit, seconds: float) -> None:
        try:  # `running_loop`, written out: most calls of a service pass here
            loop = asyncio.get_running_loop()
        except RuntimeError:
            raise needs_asyncio(f"Timeout {time.name!r}") from None
        task = asyncio.current_task(loop)
        if task is None:
            raise needs_asyncio(f"Timeout {time.name!r}")
        self._time, self._seconds = time, seconds
        self._task: asyncio.Task[Any] | None = task
        self._cancelling = task.cancelling()
        self._has_expired = self._is_due = False
        self._suspensions = 0
        self._clock = clock = time.clock
        self.at = clock() + seconds
        if seconds != time.seconds:  # cut short by a sooner deadline: the call needs a timer of its own
            deadline = time.deadline(seconds)
            CURRENT_FRAME.set((deadline, self, CURRENT_FRAME.get()))
            self._queue, self._wait = None, DeadlineWait(deadline)
            self._handle: asyncio.Handle | None = loop.call_later(seconds, self.expire)
            return
        CURRENT_FRAME.set((self, self, CURRENT_FRAME.get()))  # the soonest, for `allowance` compared it
        self._handle = None
        self._queue = queue = time.timers.get(loop) or _new_queue(time.timers, loop)
        queue.calls[self] = None
        if not queue.is_watched:
            queue.watch(seconds)

    @property
    def span(self) -> float:
        """The seconds of the call."""
        return self._seconds

    @property
    def limit(self) -> float:
        """The moment at which the timeout itself would end the call."""
        longest = self._time.seconds
        return math.inf if longest is None else self.at - self._seconds + longest

    def finish(self, error: BaseException | None) -> None:
        """Stop the timer. Raise `DeadlineExceededError` if the timer ended the call."""
        if self._queue is not None:
            self._queue.calls.pop(self, None)
        if self._handle is not None:
            self._handle.cancel()
        leave_frame(self)
        # Tasks that were started inside may live on, and their context holds this deadline: it must not hold the task.
        task, self._task = self._task, None
        if error is not None and isinstance(error, DeadlineExceededError):
            self._time.note_end_inside(error, self._seconds)
        if self._has_expired and task is not None:
            is_ours = task.uncancel() <= self._cancelling
            if is_ours and isinstance(error, asyncio.CancelledError):
                raise self._time.exceeded(self._seconds, running_behind(error)) from error

    def expire(self) -> None:
        """Cancel the task, its time is up; later, if it is shielded now."""
        if self._suspensions:
            self._is_due = True
        elif self._task is not None and not self._is_extended():
            self._has_expired = True
            self._task.cancel()

    def _is_extended(self) -> bool:
        """Whether the deadline that cuts this call short has moved; if so, set the timer again."""
        if self._queue is not None or not (more := self._wait.extension()):
            return False
        self._seconds, self.at = self._seconds + more, self.at + more
        if more < math.inf:
            self._handle = asyncio.get_running_loop().call_later(more, self.expire)
        return True

    def suspend(self) -> bool:
        """Do not cancel the task until `resume`; return False in another task, or if it is too late."""
        try:
            is_own = self._task is not None and asyncio.current_task() is self._task
        except RuntimeError:  # a thread without a loop
            return False
        if is_own and not self._has_expired:
            self._suspensions += 1
            return True
        return False

    def resume(self) -> None:
        """End one `suspend`; if the time is up, cancel the task soon."""
        self._suspensions -= 1
        if self._is_due and not self._suspensions and self._task is not None:
            # Not at once: a task that cancels itself and then ends the call without waiting would stay cancelled.
            self._handle = self._task.get_loop().call_soon(self.expire)


def _new_queue(
    timers: dict[asyncio.AbstractEventLoop, TimerQueue[CallDeadline]], loop: asyncio.AbstractEventLoop
) -> TimerQueue[CallDeadline]:
    """Return a new queue for `loop`, and forget the queues of loops that are closed."""
    for known in [*timers]:
        if known.is_closed():
            timers.pop(known, None)
    queue: TimerQueue[CallDeadline] = TimerQueue(loop)
    timers[loop] = queue
    return queue


class TimedBlock:
    """`async with block:` - the block gets the time that `time` allows, then `DeadlineExceededError`."""

    __slots__ = ("_call", "_time")

    def __init__(self, time: TimeLimit) -> None:
        self._time = time
        self._call: CallDeadline | None = None

    async def __aenter__(self) -> None:
        self.start()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._call is not None:
            self._call.finish(error)

    def start(self) -> None:
        """Start the timer and put the deadline in force."""
        seconds = self._time.allowance()
        self._call = None if seconds is None else CallDeadline(self._time, seconds)


def around_async(time: TimeLimit, inner: Callable[P, Awaitable[R]]) -> CoroutineFunction[P, R]:
    """Return `inner`, limited to the time that `time` allows each call."""

    async def timed(*args: P.args, **kwargs: P.kwargs) -> R:
        seconds = time.allowance()
        if seconds is None:
            return await inner(*args, **kwargs)
        call = CallDeadline(time, seconds)
        try:
            # No dictionary if there are no keywords, as in the drivers.
            result = await (inner(*args, **kwargs) if kwargs else inner(*args))  # type: ignore[call-arg]  # see above
        except BaseException as error:
            call.finish(error)
            raise
        call.finish(None)
        return result

    return timed
