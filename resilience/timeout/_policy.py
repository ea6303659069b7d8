"""The timeout: what a call may take, in either colour."""

from __future__ import annotations

import contextvars
import functools
import math
import threading
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import AbstractAsyncContextManager
from datetime import timedelta
from typing import Any, NoReturn, ParamSpec, TypeVar, cast

from resilience._support.executor import Executor, Shortage, Work
from resilience._support.fork import renew_after_fork
from resilience.clock import Clock, monotonic
from resilience.errors import BulkheadFullError, DeadlineExceededError, RunningWork
from resilience.events import Emitter
from resilience.options import CLOCK, checked
from resilience.policy import Named
from resilience.timeout._deadline import FRAME, Deadline, allowed_by_service
from resilience.timeout._late import LateWork
from resilience.timeout._moving import CappedDeadline, MovingDeadline, Patience
from resilience.timeout._options import TimeoutOptions

__all__ = ("Timeout",)

P = ParamSpec("P")
R = TypeVar("R")


class Timeout(Named):
    """Gives each call `seconds` (a number, timedelta, or "800ms"), then raises `DeadlineExceededError`.

    A coroutine is cancelled. A blocking function cannot be: it runs in a thread of our own (with the caller's context
    variables), the caller returns on time, and the thread stays occupied until the function really ends. At most
    `max_threads` such calls are under way at once; one more gets `BulkheadFullError` at once, and so
    does a call for which the system starts no thread. A `Bulkhead` directly outside keeps its place for the late thread
    as well. A `TimeoutError` raised by the function itself stays what it
    is (L10). Inside the call `Deadline.current()` tells what remains.

    A sooner deadline already in force wins, `margin` earlier than it ends: the caller, whose deadline it is, has that
    much left to act on our error. Where nothing is left after the margin the call is not made (`is_before_call`). With
    `seconds=None` only the deadline in force counts; a call without one is neither timed nor moved to a thread.
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
        self.clock: Clock = checked(clock, "clock", CLOCK)
        self.events = Emitter()
        self._executor = Executor(self.options.max_threads)
        self.elapsed_calls = 0
        """Calls that took longer than they were allowed."""
        self.after_fork()
        renew_after_fork(self)

    def after_fork(self) -> None:
        """Forget the parent's calls: neither its threads nor its event loops run here."""
        self._lock = threading.RLock()  # guards the count of elapsed calls; re-entrant, for finalizers
        self._late = LateWork()
        self.lines: dict[Any, Any] = {}  # the awaiting shell's, by event loop

    @property
    def busy_threads(self) -> int:
        """Blocking calls under way, those past their time included."""
        return self._executor.busy

    @property
    def is_idle(self) -> bool:
        """Whether no thread is at work: until then a successor would begin more of them than `max_threads`."""
        return not self.busy_threads

    @property
    def late_threads(self) -> int:
        """Blocking calls that are past their time and still run."""
        return len(self._late)

    def snapshot(self) -> dict[str, Any]:
        """Return the threads at work, those of them that are late, and how many calls took too long so far."""
        return {"busy_threads": self.busy_threads, "late_threads": self.late_threads, "elapsed": self.elapsed_calls}

    def around(self, call: Callable[P, R], /) -> Callable[P, R]:
        """Run the blocking `call` in a thread and stop waiting for it in time."""

        def timed(*args: P.args, **kwargs: P.kwargs) -> R:
            seconds = self.allowance()
            if seconds is None:
                return call(*args, **kwargs)
            if seconds == self.options.seconds:
                now = self.clock()
                limit, patience = Deadline(now + seconds, limit=now + seconds, clock=self.clock), None
            else:  # cut short by a sooner deadline, which may move
                if self._late.keep_out(self.options.max_threads):
                    raise self._refusal("late", f"{self.name}: calls that outlived their callers take half its threads")
                patience = Patience(limit := self.limit(seconds))
                patience.seconds = seconds  # not less the time since
            context = contextvars.copy_context()
            context.run(limit.__enter__)  # in the copy alone: an interrupt leaves no deadline in force behind
            work, is_begun = Work(functools.partial(call, *args, **kwargs), context), False
            try:
                self._start(work)
                is_begun = True
                if not (work.wait(seconds) if patience is None else patience.outlast(work.wait)):
                    self._elapse(work, seconds if patience is None else patience.seconds or seconds)
            except BaseException as interrupt:
                if is_begun or not work.cancel():
                    RunningWork(work.add_done_callback).note(interrupt)
                raise
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

    def allowance(self) -> float | None:
        """Return the seconds a call gets that begins now, None for no limit; raise where none are left."""
        seconds, frame = self.options.seconds, FRAME.get()
        if frame is None or (outer := frame[0]) is None:
            return seconds
        left = outer.remaining() - self.options.margin
        if left <= 0:
            raise self._nothing_left(left + self.options.margin)
        if seconds is None:
            return left if left < math.inf else None  # a deadline that never comes is how a server lifts one
        return left if left < seconds else seconds  # noqa: FURB136 - a call costs more

    def limit(self, seconds: float) -> Deadline:
        """Return the deadline of a call that gets `seconds` from now; it moves with the one that cuts it short."""
        outer, now, own = Deadline.current(), self.clock(), self.options.seconds
        if isinstance(outer, MovingDeadline) and seconds != own:
            cap = Deadline(math.inf if own is None else now + own, clock=self.clock)
            return CappedDeadline(outer, cap, self.options.margin)
        allowed = allowed_by_service(seconds, own)
        return Deadline(now + seconds, limit=None if allowed is None else now + allowed, began=now, clock=self.clock)

    def exceeded(self, seconds: float, running: RunningWork | None = None) -> DeadlineExceededError:
        """Return the error of a call that took longer than `seconds`, having counted it and told the listeners."""
        with self._lock:
            self.elapsed_calls += 1
        self.events.emit("timeout.elapsed", self.name, self.clock(), "warning", seconds=seconds)
        allowed = allowed_by_service(seconds, self.options.seconds)
        message = f"{self.name} allows {seconds:g} s"
        if allowed is not None:
            message = f"{message}: the caller waits no longer"
        return DeadlineExceededError(message, policy=self.name, seconds=seconds, running=running, allowed=allowed)

    def _elapse(self, work: Work, seconds: float) -> NoReturn:
        raise self.exceeded(seconds, self._late.add(work))

    def _nothing_left(self, remaining: float) -> DeadlineExceededError:
        margin = self.options.margin
        facts = {"reason": "deadline", "remaining": remaining, "margin": margin}
        self.events.emit("timeout.rejected", self.name, self.clock(), "warning", **facts)
        message = "the deadline had passed before the call"
        if remaining > 0:
            message = f"{remaining:.3g} s to the deadline are within the margin of {margin:g} s; the call was not made"
        return DeadlineExceededError(message, policy=self.name, seconds=0.0)

    def _start(self, work: Work) -> None:
        shortage = self._executor.submit(work)
        if shortage is Shortage.PLACES:
            raise self._refusal("threads", f"{self.name} has {self.options.max_threads} blocking calls under way")
        if shortage is not None:
            raise self._refusal("system", f"{self.name}: {shortage.value} for a blocking call")

    def _refusal(self, reason: str, message: str) -> BulkheadFullError:
        most = self.options.max_threads
        self.events.emit("timeout.rejected", self.name, self.clock(), "warning", reason=reason, max_threads=most)
        return BulkheadFullError(message, policy=self.name)

    def __repr__(self) -> str:
        seconds, margin = self.options.seconds, self.options.margin
        allowed = "by the deadline in force" if seconds is None else f"{seconds:g} s"
        return f"<Timeout {self.name!r} {allowed}{f', {margin:g} s before the deadline' if margin else ''}>"
