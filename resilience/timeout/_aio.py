"""The awaiting shell: a timer of the loop cancels the task, and the cancellation becomes our error.

No task and, as a rule, no timer per call. Accounting of cancellations as in `asyncio.timeout` (CPython 3.11): a
cancellation from elsewhere that arrives together with ours stays a cancellation.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Coroutine
from contextvars import Context
from types import TracebackType
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from resilience.errors import running_behind
from resilience.running import needs_asyncio
from resilience.timeout._deadline import FRAME, Enforced, lift
from resilience.timeout._moving import Patience

if TYPE_CHECKING:
    from resilience.timeout._policy import Timeout

__all__ = ("Scope", "around_async")

P = ParamSpec("P")
R = TypeVar("R")


class _Line:
    """Calls of one loop with the same allowance, oldest first: one timer serves all of them.

    A timer a call is most of what a timeout would cost (a heap of handles, compared in Python), and nearly every one is
    cancelled. Equal allowances end in the order they began, so only the oldest has to be watched.
    """

    __slots__ = ("calls", "is_watched", "loop")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.calls: dict[_Timed, None] = {}
        self.is_watched = False

    def watch(self, seconds: float) -> None:
        self.is_watched = True
        # The context of the call that happens to come first must not outlive it.
        self.loop.call_later(seconds, self._look, context=Context())

    def _look(self) -> None:
        self.is_watched, late = False, []
        for timed in self.calls:
            remaining = timed.remaining()
            if remaining > 0:
                self.watch(remaining)
                break
            late.append(timed)
        for timed in late:
            del self.calls[timed]
            timed.expire()


def _new_line(lines: dict[asyncio.AbstractEventLoop, _Line], loop: asyncio.AbstractEventLoop) -> _Line:
    """Return the line of a loop that had none, and forget those of loops that are closed."""
    for known in [*lines]:
        if known.is_closed():
            lines.pop(known, None)
    line = lines[loop] = _Line(loop)
    return line


class _Timed(Enforced):
    """The deadline of one awaiting call: in force from the start, until `leave`."""

    __slots__ = (
        "_cancelling",
        "_handle",
        "_has_expired",
        "_holds",
        "_is_due",
        "_line",
        "_patience",
        "_seconds",
        "_task",
        "_timeout",
    )

    def __init__(self, timeout: Timeout, seconds: float) -> None:
        try:  # `running_loop`, written out: most calls of a service pass here
            loop = asyncio.get_running_loop()
        except RuntimeError:
            raise needs_asyncio(timeout) from None
        task = asyncio.current_task(loop)
        if task is None:
            raise needs_asyncio(timeout)
        self._timeout, self._seconds = timeout, seconds
        self._task: asyncio.Task[Any] | None = task
        self._cancelling = task.cancelling()
        self._has_expired = self._is_due = False
        self._holds = 0
        self._clock = clock = timeout.clock
        self.at = clock() + seconds
        if seconds != timeout.options.seconds:  # cut short by a sooner deadline: it does not fit into the line
            limit = timeout.limit(seconds)
            FRAME.set((limit, self, FRAME.get()))
            self._line, self._patience = None, Patience(limit)
            self._handle: asyncio.Handle | None = loop.call_later(seconds, self.expire)
            return
        FRAME.set((self, self, FRAME.get()))  # the soonest: `allowance` saw to it
        self._handle = None
        self._line = line = timeout.lines.get(loop) or _new_line(timeout.lines, loop)
        line.calls[self] = None
        if not line.is_watched:
            line.watch(seconds)

    @property
    def span(self) -> float:
        """The seconds of the call."""
        return self._seconds

    @property
    def limit(self) -> float:
        """The moment at which the timeout itself would end the call."""
        longest = self._timeout.options.seconds
        return math.inf if longest is None else self.at - self._seconds + longest

    def leave(self, error: BaseException | None) -> None:
        """Stop the timer; raise ours where it was the timer that ended the call."""
        if self._line is not None:
            self._line.calls.pop(self, None)
        if self._handle is not None:
            self._handle.cancel()
        lift(self)
        # Tasks started inside may live on, and their context knows this deadline: it must not keep the task alive.
        task, self._task = self._task, None
        if self._has_expired and task is not None:
            ours = task.uncancel() <= self._cancelling
            if ours and isinstance(error, asyncio.CancelledError):
                raise self._timeout.exceeded(self._seconds, running_behind(error)) from error

    def expire(self) -> None:
        """Cancel the task, its time is up; later, where it is shielded."""
        if self._holds:
            self._is_due = True
        elif self._task is not None and not self._goes_on():
            self._has_expired = True
            self._task.cancel()

    def _goes_on(self) -> bool:
        """Whether the deadline that cuts this call short has moved; if so, expire later."""
        if self._line is not None or not (more := self._patience.more()):
            return False
        self._seconds, self.at = self._seconds + more, self.at + more
        if more < math.inf:
            self._handle = asyncio.get_running_loop().call_later(more, self.expire)
        return True

    def hold(self) -> bool:
        try:
            is_own = self._task is not None and asyncio.current_task() is self._task
        except RuntimeError:  # a thread without a loop
            return False
        if is_own and not self._has_expired:
            self._holds += 1
            return True
        return False

    def release(self) -> None:
        self._holds -= 1
        if self._is_due and not self._holds and self._task is not None:
            # Not at once: a task that cancels itself and then ends the call without waiting would stay cancelled.
            self._handle = self._task.get_loop().call_soon(self.expire)


class Scope:
    """`async with scope:` - the block gets what `timeout` allows, and `DeadlineExceededError` after that."""

    __slots__ = ("_timed", "_timeout")

    def __init__(self, timeout: Timeout) -> None:
        self._timeout = timeout
        self._timed: _Timed | None = None

    async def __aenter__(self) -> None:
        self.enter()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._timed is not None:
            self._timed.leave(error)

    def enter(self) -> None:
        """Start the timer and put the deadline in force."""
        seconds = self._timeout.allowance()
        self._timed = None if seconds is None else _Timed(self._timeout, seconds)


def around_async(timeout: Timeout, inner: Callable[P, Awaitable[R]]) -> Callable[P, Coroutine[Any, Any, R]]:
    """Return `inner` with the allowance of `timeout` for each call."""

    async def call(*args: P.args, **kwargs: P.kwargs) -> R:
        seconds = timeout.allowance()
        if seconds is None:
            return await inner(*args, **kwargs)
        timed = _Timed(timeout, seconds)
        try:
            # No dictionary where there are no keywords, as in the drivers.
            result = await (inner(*args, **kwargs) if kwargs else inner(*args))  # type: ignore[call-arg]  # see above
        except BaseException as error:
            timed.leave(error)
            raise
        timed.leave(None)
        return result

    return call
