"""The hedge: a second attempt where the first one is late."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Coroutine
from datetime import timedelta
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, cast

from resilience._support.executor import Executor
from resilience._support.notes import annotate
from resilience.budget import RetryBudget, as_budget
from resilience.clock import Clock, monotonic
from resilience.errors import shown
from resilience.events import Emitter
from resilience.hedge._judge import Judge, Kinds
from resilience.hedge._machine import Ending, Outcome, Race
from resilience.hedge._options import HedgeOptions
from resilience.hedge._tally import Tally
from resilience.idempotency import is_idempotent
from resilience.options import CLOCK, checked
from resilience.policy import Named
from resilience.timeout import Deadline

if TYPE_CHECKING:
    from asyncio import Task

__all__ = ("Hedge",)

P = ParamSpec("P")
R = TypeVar("R")


def _every(_result: Any) -> bool:
    return True


class Hedge(Named):
    """Asks again where an answer is late, and gives the caller the first acceptable one.

    Only functions marked with `resilience.idempotent` are hedged; others are called as if there were no hedge. The next
    attempt, up to `max_hedges` of them, starts after `delay` (seconds, timedelta, "100ms"; 0 sends all at once), or at
    once when an attempt has failed. Without `delay` it is the `quantile` of the latencies of the last `sliding_window`
    answers; no call is hedged before `minimum_samples` of them are known. An error of `on` or a result that
    `acceptable` turns down lets the other attempts go on; any other error is the answer. If no attempt does better, the
    caller gets the last such result, or the last error with the others as notes. What one of our own policies refused
    starts no further attempt (name its class in `on` to have it so). `budget` limits hedges together with retries.

    A coroutine that lost is cancelled and waited for, at most `cancel_timeout`. A blocking function that lost cannot be
    stopped: its thread is one of `max_threads` until it ends, and where none is free a call is made in the caller's own
    thread, without a hedge. A `Bulkhead` that is to count losers belongs inside. After Dean and Barroso, "The Tail at
    Scale" (CACM 56, 2, 2013).
    """

    kind = "hedge"

    def __init__(
        self,
        delay: float | str | timedelta | None = None,
        *,
        quantile: float = 0.95,
        max_hedges: int = 1,
        acceptable: Callable[[Any], object] = _every,
        on: Kinds = Exception,
        budget: RetryBudget | str | None = None,
        minimum_samples: int = 100,
        sliding_window: int = 500,
        cancel_timeout: float | str | timedelta = 1.0,
        max_threads: int = 64,
        name: str | None = None,
        clock: Clock = monotonic,
    ) -> None:
        super().__init__(name)
        self.budget = as_budget(budget)
        """Shared with retries and other hedges, or None."""
        self.options = HedgeOptions.of(
            delay=cast("float | None", delay),
            quantile=quantile,
            max_hedges=max_hedges,
            minimum_samples=minimum_samples,
            sliding_window=sliding_window,
            cancel_timeout=cast("float", cancel_timeout),
            max_threads=max_threads,
            budget=None if self.budget is None else self.budget.name,
        )
        self._judge = Judge(on, acceptable)
        self._counts_calls = self.budget is not None
        self.clock: Clock = checked(clock, "clock", CLOCK)
        self.events = Emitter()
        self.executor = Executor(self.options.max_threads)
        self.lingering: set[Task[Any]] = set()  # cancelled, but not ended in time; a loop keeps no task alive itself
        self._tally = Tally(self.options)

    @property
    def delay(self) -> float | None:
        """Seconds without an answer after which a call is hedged now; None while too little is known."""
        return self._tally.slow if self.options.delay is None else self.options.delay

    @property
    def busy_threads(self) -> int:
        """Blocking attempts under way, those that lost included."""
        return self.executor.busy

    @property
    def is_idle(self) -> bool:
        """Whether nothing of its calls goes on: no thread is at work, and no attempt lingers."""
        return not self.busy_threads and not self.lingering

    def applies_to(self, fn: Any) -> bool:
        """Whether calls of `fn` are hedged: it was marked as one that may be called twice."""
        return is_idempotent(fn)

    def bind(self, policies: tuple[Any, ...]) -> None:
        """Leave the counting of calls to a retry on the same budget: two would count each call twice."""
        if self.budget is not None and any(_counts_for(self.budget, policy) for policy in policies):
            self._counts_calls = False  # in every pipeline: to count a call too little is the careful mistake

    def around(self, call: Callable[P, R], /) -> Callable[P, R]:
        """Make each attempt of the blocking `call` in a thread, and return with the first acceptable one."""
        from resilience.hedge import _sync  # noqa: PLC0415 - what only awaits needs none of it

        return _sync.around(self, call)

    def around_async(self, call: Callable[P, Awaitable[R]], /) -> Callable[P, Coroutine[Any, Any, R]]:
        """Make each attempt of the awaiting `call` in a task, and return with the first acceptable one."""
        from resilience.hedge import _aio  # noqa: PLC0415 - only what awaits pays for asyncio

        return _aio.around_async(self, call)

    def begin(self) -> Race:
        """Count a call as begun. It has a single attempt while too little is known to hedge it."""
        delay, now = self.delay, self.clock()
        race = Race(math.inf, 1, now) if delay is None else Race(delay, 1 + self.options.max_hedges, now)
        if self.budget is not None and self._counts_calls:
            self.budget.enter()
            race.is_counted = True
        return race

    def leave(self, race: Race) -> None:
        """Count a call as ended, however it did; once, if it is done again after an interrupt."""
        if self.budget is not None and race.is_counted:
            self.budget.leave(retrying=False, call=race)
        self._tally.close(race, self.clock())

    def allows(self, race: Race) -> bool:
        """Whether the attempt that is due may be made; if so it is in the budget until `release`."""
        reason = self._objection()
        if reason is not None:
            self.suppress(race, reason)
        return reason is None

    def _objection(self) -> str | None:
        deadline = Deadline.current()
        if deadline is not None and deadline.remaining() <= (self._tally.typical or 0.0):
            return "deadline"  # not even every other answer would come in time
        if self.budget is not None and not self.budget.spend_extra(tell=self.events):
            return "budget"
        return None

    def release(self) -> None:
        """Take a hedge that has really ended out of the budget."""
        if self.budget is not None:
            self.budget.release_extra()

    def suppress(self, race: Race, reason: str) -> None:
        """Do without the attempt that is due."""
        now = self.clock()
        race.deny(now)
        self._tally.suppress(reason)
        self.events.emit("hedge.suppressed", self.name, now, reason=reason)

    def started(self, race: Race) -> int:
        """Count an attempt as started; return its number."""
        now = self.clock()
        number = race.start(now)
        if number > 1:
            self.events.emit("hedge.started", self.name, now, attempt=number, after=now - race.began)
        return number

    def ended(self, race: Race, attempt: int, result: Any, error: BaseException | None) -> None:
        """Judge how an attempt ended."""
        race.end(self._judge(attempt, result, error), self.clock())

    def handed_on(self, race: Race) -> Any:
        """Return, or raise, what the caller gets."""
        best, failures = cast("Outcome", race.best), race.failures
        race.forget()
        if best.attempt > 1 and best.ending is Ending.ANSWERED:
            now = self.clock()
            self._tally.win()
            self.events.emit("hedge.won", self.name, now, attempt=best.attempt, latency=now - race.began)
        if best.error is None:
            return best.result
        if best.ending < Ending.SUBSTITUTED:
            _annotate(best.error, self.name, race.started, failures)
        failures, error, best.error = [], best.error, None
        try:
            raise error
        finally:
            del error  # its traceback refers to this frame: no cycle through it

    def linger(self, tasks: list[Task[Any]]) -> None:
        """Leave to themselves cancelled attempts that did not end in time, but keep them alive."""
        self.lingering.update(tasks)
        count = len(tasks)
        self.events.emit("hedge.lingering", self.name, self.clock(), "warning", attempts=count)

    def snapshot(self) -> dict[str, Any]:
        """Return the counts so far, the delay in force and what is learned, and attempts that outlived their call."""
        left = {"busy_threads": self.busy_threads, "lingering": len(self.lingering)}
        return {"delay": self.delay, **self._tally.snapshot(), **left}

    def __repr__(self) -> str:
        delay = self.delay
        after = "still learning" if delay is None else f"after {delay:g} s"
        return f"<Hedge {self.name!r} {after}>"


def _counts_for(budget: RetryBudget, policy: Any) -> bool:
    return getattr(policy, "kind", "") == "retry" and getattr(policy, "budget", None) is budget


def _annotate(error: BaseException, name: str, attempts: int, failures: list[Outcome]) -> None:
    others = "; ".join(f"attempt {each.attempt}: {shown(each.error)}" for each in failures if each.error is not error)
    if others:
        begins = f"{name}: no acceptable answer in "
        annotate(error, begins, [f"{begins}{attempts} attempts; {others}"])
