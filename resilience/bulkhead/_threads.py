"""The thread pool: blocking calls in threads of their own, so many at once."""

from __future__ import annotations

import contextlib
import contextvars
import functools
from collections.abc import Awaitable, Callable, Coroutine
from datetime import timedelta
from typing import Any, NoReturn, ParamSpec, TypeVar, cast

from resilience._support.executor import Executor, Work
from resilience.bulkhead._admission import Admission
from resilience.bulkhead._options import ThreadPoolOptions
from resilience.clock import Clock, monotonic
from resilience.errors import (
    ConfigurationError,
    DeadlineExceededError,
    Problem,
    RunningWork,
    running_behind,
    said_by,
)
from resilience.options import CLOCK, checked, is_plain_callable
from resilience.timeout import Deadline, DeadlineWait, LateWork, allowed_by_service

__all__ = ("Isolated", "ThreadPoolBulkhead")

P = ParamSpec("P")
R = TypeVar("R")
_BLOCKING = "a blocking function: a coroutine belongs to the event loop it was made in, not to a thread of ours"


class Isolated(Work):
    """One call in a thread of the pool. It owns the place of the call in the bulkhead, from before it is taken."""

    __slots__ = ("_give_back", "held", "running")

    def __init__(self, call: Callable[[], Any], give_back: Callable[[Any], None]) -> None:
        super().__init__(call, contextvars.copy_context())
        self._give_back = give_back
        self.held: list[Any] = []
        """The permit, until it is given back."""
        self.running: RunningWork | None = None

    def run(self) -> None:
        """Make the call, and note what goes on behind it."""
        super().run()
        with contextlib.suppress(BaseException):  # its caller is told of the error, whatever that does
            self.running = running_behind(self.error)

    def leave(self) -> None:
        """Give the place back, once nothing of the call runs any more."""
        super().leave()
        if self.running is None:
            self._let_go()
        else:
            self.running.add_done_callback(self._let_go)

    def _let_go(self) -> None:
        held = self.held
        if held:
            permit = held[-1]
            del held[-1]
            self._give_back(permit)


class ThreadPoolBulkhead(Admission):
    """Runs blocking calls in at most `max_threads` threads of its own: however slow, they take no other thread.

    The caller waits for its result, with its context variables visible in the thread. Where no thread is free it waits
    up to `max_wait`, first come first served, and is refused with `BulkheadFullError` as by a `Bulkhead`; a caller that
    is cancelled or interrupted in line leaves nothing behind. At the deadline in force the caller gets
    `DeadlineExceededError`, while the thread stays taken until the function ends.

    For awaiting callers the call leaves the event loop: `await pipeline.acall(blocking, ...)`, or a function wrapped by
    `pipeline.wrap_async`. All policies inside of this one then run in the thread too, in their blocking form. A
    coroutine function is refused with `ConfigurationError`. An idle thread ends after ten seconds.
    """

    kind = "thread_pool"
    limit_option = "max_threads"

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
        super().__init__(name, max_threads, self.options.max_wait, max_waiting, checked(clock, "clock", CLOCK))
        self._executor = Executor(None)  # the places are the bound, and it can be changed

    def after_fork(self) -> None:
        """Forget the parent's calls: they never end here."""
        super().after_fork()
        self._late = LateWork()

    def applies_to(self, fn: Any, /) -> bool:
        """Refuse what makes coroutines; asked when a function is wrapped, and with None for a block."""
        if callable(fn) and not is_plain_callable(fn):
            raise ConfigurationError([Problem(self.name, fn, _BLOCKING)])
        return True

    def around(self, call: Callable[P, R], /) -> Callable[P, R]:
        """Run the blocking `call` in a thread of the pool, and block until it has ended."""
        enter = self.enter_blocking if self.waits else self.enter

        def isolated(*args: P.args, **kwargs: P.kwargs) -> R:
            work, is_begun = Isolated(functools.partial(call, *args, **kwargs), self.leave), False
            try:
                work.held = [enter()]
                patience = self.start(work)
                is_begun = True
                has_ended = patience.run(work.wait)
            except BaseException as interrupt:
                if is_begun or not work.cancel():
                    RunningWork(work.add_done_callback).note(interrupt)
                raise
            if not has_ended:
                self.exceeded(work, patience.seconds)
            return cast("R", self.outcome(work))

        return isolated

    def run_in_threads(self, call: Callable[P, R], /) -> Callable[P, Coroutine[Any, Any, R]]:
        """Run the blocking `call` in a thread of the pool, and await its end."""
        from resilience.bulkhead import _threads_aio  # noqa: PLC0415 - only what awaits pays for asyncio

        return _threads_aio.run_in_threads(self, call)

    def around_async(self, call: Callable[P, Awaitable[R]], /) -> Callable[P, Coroutine[Any, Any, R]]:
        """Refuse: a chain offers what is blocking to `run_in_threads`, and this would be a coroutine."""
        raise ConfigurationError([Problem(self.name, call, _BLOCKING)])

    def start(self, work: Isolated) -> DeadlineWait:
        """Start `work`, which holds its permit; return how long its caller may wait."""
        patience = self._patience()
        shortage = self._executor.submit(work)
        if shortage is not None:  # not of places: the executor has no bound of its own
            raise self._refusal("system", f"{self.name}: {shortage.value} for a call")
        return patience

    def _patience(self) -> DeadlineWait:
        patience = DeadlineWait(Deadline.current())
        if patience.seconds == 0.0:
            message = "the deadline had passed before the call"
            raise DeadlineExceededError(message, policy=self.name, seconds=0.0)
        if self._late.reserves_threads(self.limit):
            raise self._refusal("late", f"{self.name}: calls that outlived their callers take half its threads")
        return patience

    def exceeded(self, work: Isolated, seconds: float | None) -> NoReturn:
        """Tell the caller that its time is up."""
        self.events.emit("thread_pool.elapsed", self.name, self._clock(), "warning", seconds=seconds)
        message = f"{self.name}: the deadline passed while the call was under way"
        allowed = None if seconds is None else allowed_by_service(seconds)
        facts: dict[str, Any] = {"seconds": seconds, "running": self._late.add(work), "allowed": allowed}
        raise DeadlineExceededError(message, policy=self.name, **facts)

    def outcome(self, work: Isolated) -> Any:
        """Return or raise what became of a call that has ended."""
        # A driver inside of us raises what it finds to be awaitable; directly inside of us it would be the result.
        awaitable = work.result if work.error is None else said_by(work.error, "awaitable")
        if hasattr(type(awaitable), "__await__"):
            self._refuse(awaitable)
        if work.error is None:
            return work.result
        error, work.error = work.error, None  # the thread may hold on to its work a moment longer
        try:
            raise error
        finally:
            del error  # its traceback refers to this frame: no cycle through it

    def _refuse(self, awaitable: Any) -> NoReturn:
        with contextlib.suppress(Exception):
            awaitable.close()  # a coroutine that has not begun: nothing of it will run, anywhere
        raise ConfigurationError([Problem(self.name, awaitable, f"the result of {_BLOCKING}")])

    def __repr__(self) -> str:
        return f"<ThreadPoolBulkhead {self.name!r} {self.concurrent_calls}/{self._limit}>"
