"""The timeout: what a call may take, in either colour."""

from __future__ import annotations

import contextvars
import functools
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import AbstractAsyncContextManager
from datetime import timedelta
from typing import Any, ParamSpec, TypeVar, cast

from resilience._executor import Executor, Work
from resilience.clock import Clock, monotonic
from resilience.errors import BulkheadFullError, DeadlineExceededError, RunningWork
from resilience.events import Emitter
from resilience.options import CLOCK, checked
from resilience.policy import Named
from resilience.timeout._deadline import Deadline
from resilience.timeout._options import TimeoutOptions

__all__ = ("Timeout",)

P = ParamSpec("P")
R = TypeVar("R")


class Timeout(Named):
    """Gives each call `seconds` (a number, timedelta, or "800ms"), then raises `DeadlineExceededError`.

    A coroutine is cancelled. A blocking function cannot be: it runs in a thread of our own (with the caller's context
    variables), the caller returns on time, and the thread stays occupied until the function really ends. At most
    `max_threads` such calls are under way at once; one more gets `BulkheadFullError` at once. A `Bulkhead` directly
    outside keeps its place for the late thread as well. A `TimeoutError` raised by the function itself stays what it
    is (L10). Inside the call `Deadline.current()` tells what remains, and a sooner deadline already in force wins.
    """

    kind = "timeout"

    def __init__(
        self,
        seconds: float | str | timedelta = 30.0,
        *,
        max_threads: int = 64,
        name: str | None = None,
        clock: Clock = monotonic,
    ) -> None:
        super().__init__(name)
        self.options = TimeoutOptions(seconds=cast("float", seconds), max_threads=max_threads)
        self._clock: Clock = checked(clock, "clock", CLOCK)
        self.events = Emitter()
        self._executor = Executor(self.options.max_threads)
        self.line: Any = None  # the awaiting shell's, of the loop that used it last

    @property
    def busy_threads(self) -> int:
        """Blocking calls under way, those past their time included."""
        return self._executor.busy

    def around(self, call: Callable[P, R], /) -> Callable[P, R]:
        """Run the blocking `call` in a thread and stop waiting for it in time."""

        def timed(*args: P.args, **kwargs: P.kwargs) -> R:
            seconds, deadline = self.begin()
            with deadline:
                work = Work(functools.partial(call, *args, **kwargs), contextvars.copy_context())
            self._start(work)
            if not work.wait(seconds):
                raise self.exceeded(seconds, RunningWork(work.add_done_callback))
            if work.error is None:
                return cast("R", work.result)
            error, work.error = work.error, None  # the thread may hold on to its work a moment longer
            try:
                raise error
            finally:
                del error  # its traceback refers to this frame: no cycle through it

        return timed

    def around_async(self, call: Callable[P, Awaitable[R]], /) -> Callable[P, Coroutine[Any, Any, R]]:
        """Cancel the awaiting `call` in time."""
        from resilience.timeout import _aio  # noqa: PLC0415 - only what awaits pays for asyncio

        return _aio.around_async(self, call)

    def scope(self) -> AbstractAsyncContextManager[None]:
        """Time a block: `async with timeout.scope():`."""
        from resilience.timeout import _aio  # noqa: PLC0415 - only what awaits pays for asyncio

        return _aio.Scope(self)

    def begin(self) -> tuple[float, Deadline]:
        """Return the seconds this call gets and the deadline they make; raise where none are left."""
        seconds, now, outer = self.options.seconds, self._clock(), Deadline.current()
        if outer is not None and (remaining := outer.remaining()) < seconds:
            if remaining <= 0:
                raise DeadlineExceededError("the deadline had passed before the call", policy=self.name, seconds=0.0)
            seconds = remaining
        return seconds, Deadline(now + seconds, clock=self._clock)

    def exceeded(self, seconds: float, running: RunningWork | None = None) -> DeadlineExceededError:
        """Return the error of a call that took longer than `seconds`, having told the listeners."""
        self.events.emit("timeout.elapsed", self.name, self._clock(), "warning", seconds=seconds)
        message = f"{self.name} allows {seconds:g} s"
        return DeadlineExceededError(message, policy=self.name, seconds=seconds, running=running)

    def _start(self, work: Work) -> None:
        if not self._executor.submit(work):
            self.events.emit("timeout.rejected", self.name, self._clock(), "warning", threads=self.options.max_threads)
            message = f"{self.name} has {self.options.max_threads} blocking calls under way"
            raise BulkheadFullError(message, policy=self.name)

    def __repr__(self) -> str:
        return f"<Timeout {self.name!r} {self.options.seconds:g} s>"
