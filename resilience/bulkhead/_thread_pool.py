"""The thread pool: a limited number of threads for the blocking calls of one dependency."""

from __future__ import annotations

import contextlib
import contextvars
import functools
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import TYPE_CHECKING, Any, NoReturn, ParamSpec, TypeVar, cast

from resilience._support.awaiting import CoroutineFunction
from resilience._support.executor import Executor, Work
from resilience.bulkhead._admission import Admission
from resilience.bulkhead._concurrency_limit import ConcurrencyLimit
from resilience.bulkhead._options import ThreadPoolOptions
from resilience.clock import Clock, monotonic
from resilience.errors import (
    ConfigurationError,
    DeadlineExceededError,
    Problem,
    RunningWork,
    running_behind,
    said_by,
    span,
)
from resilience.options import CLOCK, checked, is_plain_callable
from resilience.running import running_loop
from resilience.timeout import Deadline, DeadlineTimer, DeadlineWait, LateWork, allowed_by_service

if TYPE_CHECKING:
    import asyncio

__all__ = ("ThreadPoolBulkhead",)

P = ParamSpec("P")
R = TypeVar("R")
_BLOCKING = "a blocking function: a coroutine belongs to the event loop it was made in, not to a thread of ours"


class _PooledCall(Work):
    """One call in a thread of the pool. It owns the place of the call, from before the place is taken."""

    __slots__ = ("_give_back", "held", "running")

    def __init__(self, call: Callable[[], object], give_back: Callable[[object], None]) -> None:
        super().__init__(call, contextvars.copy_context())
        self._give_back = give_back
        self.held: list[object] = []
        """The permit, until it is given back."""
        self.running: RunningWork | None = None

    def run(self) -> None:
        """Make the call, and note the work that goes on after it."""
        super().run()
        with contextlib.suppress(BaseException):  # the caller gets the error of the call, whatever this look raises
            self.running = running_behind(self.error)

    def leave(self) -> None:
        """Give the place back, once nothing of the call runs any more."""
        super().leave()
        if self.running is None:
            self._release()
        else:
            self.running.add_done_callback(self._release)

    def _release(self) -> None:
        held = self.held
        if held:
            permit = held[-1]
            del held[-1]
            self._give_back(permit)


class ThreadPoolBulkhead(ConcurrencyLimit):
    """Runs blocking calls in at most `max_threads` threads of its own: however slow, they take no other thread.

    The caller waits for the result, and its context variables are visible in the thread. If no thread is free, the
    caller waits up to `max_wait`, in the order in which callers came, and is refused with `BulkheadFullError` as by a
    `Bulkhead`. At the deadline in force the caller gets `DeadlineExceededError`, while the thread stays taken until the
    function ends. An idle thread ends after ten seconds.

    For awaiting callers the call leaves the event loop: `await pipeline.acall(blocking, ...)`, or a function wrapped by
    `pipeline.wrap_async`. All policies inside this one then run in the thread too, in their blocking form. A coroutine
    function is refused with `ConfigurationError`.

    Args:
        max_threads: The number of calls that may be in flight at once, each in a thread of its own. At least 1.
        max_wait: The longest wait for a thread: seconds, a `timedelta`, or text such as `"1s"`. 0 refuses at once.
        max_waiting: The number of callers that may wait, at least 1.
        name: The name in events, errors and snapshots. None takes it from the first pipeline that holds the policy.
        clock: The clock that measures waits and calls, in seconds.

    Raises:
        ConfigurationError: An option has the wrong type or value.

    Example:
        >>> from resilience import Pipeline, ThreadPoolBulkhead
        >>> ledger = Pipeline("ledger", ThreadPoolBulkhead(max_threads=10))
        >>> ledger.call(len, "alice")
        5
    """

    kind = "thread_pool"
    options: ThreadPoolOptions
    _limit_option = "max_threads"

    def __init__(
        self,
        max_threads: int = 10,
        max_wait: float | str | timedelta = 1.0,
        *,
        max_waiting: int = 100,
        name: str | None = None,
        clock: Clock = monotonic,
    ) -> None:
        self.options = ThreadPoolOptions.of(
            max_threads=max_threads, max_wait=cast("float", max_wait), max_waiting=max_waiting
        )
        self._clock: Clock = checked(clock, "clock", CLOCK)
        limits = (max_threads, self.options.max_wait, max_waiting)
        names = (type(self).__name__, self.kind, self._limit_option, self.kind)
        super().__init__(name, Admission(*names, *limits, self._clock))
        self._executor = Executor(None)  # the places are the bound, and it can be changed
        self._late = LateWork()

    def applies_to(self, fn: object, /) -> bool:
        """Refuse a function that makes coroutines. Asked when a function is wrapped, and with None for a block."""
        if callable(fn) and not is_plain_callable(fn):
            raise ConfigurationError([Problem(self.name, fn, _BLOCKING)])
        return True

    def around(self, call: Callable[P, R], /) -> Callable[P, R]:
        """Run the blocking `call` in a thread of the pool, and block until it has ended."""
        admission = self._admission
        enter = admission.enter_blocking if admission.waits else admission.enter

        def pooled(*args: P.args, **kwargs: P.kwargs) -> R:
            work, is_started = _PooledCall(functools.partial(call, *args, **kwargs), admission.leave), False
            try:
                work.held = [enter()]
                wait = self._start(work)
                is_started = True
                has_ended = wait.run(work.wait)
            except BaseException as interrupt:
                if is_started or not work.cancel():
                    RunningWork(work.add_done_callback).note(interrupt)
                raise
            return cast("R", self._outcome(work) if has_ended else self._give_up(work, wait.seconds))

        return pooled

    def run_in_threads(self, call: Callable[P, R], /) -> CoroutineFunction[P, R]:
        """Run the blocking `call` in a thread of the pool, and await its end."""
        admission = self._admission

        async def pooled(*args: P.args, **kwargs: P.kwargs) -> R:
            loop = running_loop(self)  # before a thread has begun the call
            work, is_started = _PooledCall(functools.partial(call, *args, **kwargs), admission.leave), False
            try:
                work.held = [await admission.enter_awaiting() if admission.waits else admission.enter()]
                wait = self._start(work)
                is_started = True
                has_ended = await _has_ended(work, wait, loop)
            except BaseException as interrupt:
                if is_started or not work.cancel():
                    RunningWork(work.add_done_callback).note(interrupt)
                raise
            return cast("R", self._outcome(work) if has_ended else self._give_up(work, wait.seconds))

        return pooled

    def around_async(self, call: Callable[P, Awaitable[R]], /) -> CoroutineFunction[P, R]:
        """Refuse: the engine gives blocking functions to `run_in_threads`, and this one makes a coroutine."""
        raise ConfigurationError([Problem(self.name, call, _BLOCKING)])

    def _start(self, work: _PooledCall) -> DeadlineWait:
        """Start `work`, which holds its permit; return how long its caller may wait."""
        wait = DeadlineWait(Deadline.current())
        if wait.seconds == 0.0:
            message = f"thread pool {self.events.log.quoted(self.name)}: the deadline had passed before the call"
            raise DeadlineExceededError(message, policy=self.name, seconds=0.0)
        if self._late.reserves_threads(self.limit):
            message = f"{self.name}: calls that outlived their callers take half its threads"
            raise self._admission.refusal("late", message)
        shortage = self._executor.submit(work)
        if shortage is not None:  # not of places: the executor has no bound of its own
            raise self._admission.refusal("system", f"{self.name}: {shortage.value} for a call")
        return wait

    def _give_up(self, work: _PooledCall, seconds: float | None) -> NoReturn:
        """Answer the caller at its deadline, while the call goes on."""
        self.events.emit("thread_pool.elapsed", self.name, self._clock(), "warning", seconds=seconds)
        after = "" if seconds is None else f" after {span(seconds)}"
        message = f"thread pool {self.events.log.quoted(self.name)}: the deadline passed{after}; the call goes on"
        allowed = None if seconds is None else allowed_by_service(seconds)
        facts: dict[str, Any] = {"seconds": seconds, "running": self._late.add(work), "allowed": allowed}
        raise DeadlineExceededError(message, policy=self.name, **facts)

    def _outcome(self, work: _PooledCall) -> object:
        """Return the result of a call that has ended, or raise its error."""
        # A driver inside this policy raises a result that is awaitable; a call directly inside returns it.
        awaitable = work.result if work.error is None else said_by(work.error, "awaitable")
        if hasattr(type(awaitable), "__await__"):
            self._refuse(awaitable)
        if work.error is None:
            return work.result
        error, work.error = work.error, None  # the thread may keep its work a moment longer
        try:
            raise error
        finally:
            del error  # its traceback refers to this frame: no cycle through it

    def _refuse(self, awaitable: Any) -> NoReturn:
        with contextlib.suppress(Exception):
            awaitable.close()  # a coroutine that has not begun: nothing of it runs, anywhere
        raise ConfigurationError([Problem(self.name, awaitable, f"the result of {_BLOCKING}")])

    def __repr__(self) -> str:
        return f"<ThreadPoolBulkhead {self.name!r} {self.concurrent_calls}/{self.limit}>"


async def _has_ended(work: _PooledCall, wait: DeadlineWait, loop: asyncio.AbstractEventLoop) -> bool:
    """Wait for the end of `work`, as long as `wait` allows; return whether it has ended."""
    future: asyncio.Future[bool] = loop.create_future()
    work.add_done_callback(functools.partial(_wake, loop, future))
    timer = DeadlineTimer(loop, wait, functools.partial(_resolve, future, False))
    try:
        return await future
    finally:
        timer.cancel()


def _wake(loop: asyncio.AbstractEventLoop, future: asyncio.Future[bool]) -> None:
    with contextlib.suppress(RuntimeError):  # the loop is closed: no task waits
        loop.call_soon_threadsafe(_resolve, future, True)


def _resolve(future: asyncio.Future[bool], has_ended: bool) -> None:  # noqa: FBT001 - the value of a future
    if not future.done():
        future.set_result(has_ended)
