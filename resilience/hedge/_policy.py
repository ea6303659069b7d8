"""The hedge policy: a second attempt if the first one is slow."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any, ParamSpec, TypeVar, cast

from resilience._support.awaiting import CoroutineFunction
from resilience._support.executor import Executor
from resilience.budget import CallCounter, RetryBudget, as_budget
from resilience.clock import Clock, monotonic
from resilience.events import Emitter
from resilience.hedge import _sync
from resilience.hedge._accept import AcceptRule, HedgeOn
from resilience.hedge._options import HedgeOptions
from resilience.hedge._races import Races
from resilience.idempotency import is_idempotent
from resilience.options import CLOCK, checked
from resilience.policy import Named

__all__ = ("Hedge",)

P = ParamSpec("P")
R = TypeVar("R")


def _accept_all(_result: object) -> bool:
    return True


class Hedge(Named):
    """Makes a second attempt if the first one is slow, and gives the caller the first acceptable answer.

    Only functions marked with `resilience.idempotent` are hedged; other functions are called without a hedge. The next
    attempt starts `delay` after the latest one, or at once when an attempt has failed. Without `delay`, the hedge
    learns it: the `quantile` of the latencies of the last `sliding_window` answers. No call is hedged before
    `minimum_samples` answers are known.

    An error of `on`, or a result that `acceptable` rejects, lets the other attempts go on. Any other error is the
    answer. If no attempt does better, the caller gets the last rejected result, or the last error with the others as a
    note. A refusal by a policy of ours starts no further attempt, unless `on` names its class.

    A coroutine that lost is cancelled, and the call waits for its end, at most `cancel_timeout`. A blocking function
    that lost cannot be stopped: it keeps one of `max_threads` threads until it ends. If no thread is free, a call is
    made in the thread of the caller, without a hedge. A `Bulkhead` that is to count losers belongs inside. The idea is
    from Dean and Barroso, "The Tail at Scale" (CACM 56, 2, 2013).

    Args:
        delay: The time without an answer before the next attempt, as seconds, timedelta or text ("100ms"). 0 starts all
            attempts at once. None (the default) means the learned quantile.
        quantile: The share of answers that come before a learned delay is over, 0.5 to 0.999.
        max_hedges: Attempts beside the first one, 1 to 10.
        acceptable: A predicate over the result; false lets the other attempts go on.
        on: An `Exception` class, or a tuple of them: errors that let the other attempts go on.
        budget: A `RetryBudget`, or the name of one. It limits hedges together with retries.
        minimum_samples: Answers that must be known before a learned delay is used.
        sliding_window: The latest answers that a delay is learned from.
        cancel_timeout: The longest wait for cancelled attempts to end.
        max_threads: Attempts of blocking calls that may run at once, losers included.
        name: A name for events and snapshots; the default is `<pipeline>.hedge`.
        clock: Returns the time in seconds.

    Raises:
        ConfigurationError: An option has a wrong value.

    Example:
        >>> from resilience import Hedge, Pipeline, idempotent
        >>> search = Pipeline("search", Hedge("100ms"))
        >>> @search
        ... @idempotent
        ... def find(words: str) -> str:
        ...     return words.upper()
        >>> find("lamp")
        'LAMP'
    """

    kind = "hedge"

    def __init__(
        self,
        delay: float | str | timedelta | None = None,
        *,
        quantile: float = 0.95,
        max_hedges: int = 1,
        acceptable: Callable[[Any], object] = _accept_all,
        on: HedgeOn = Exception,
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
        self._races = Races(
            self.name, self.options, AcceptRule(on, acceptable), self.budget, checked(clock, "clock", CLOCK)
        )
        self._executor = Executor(self.options.max_threads)
        self._is_made = True

    @property
    def events(self) -> Emitter:
        """The emitter of this hedge. Hedges that one setting configures, such as one per method, can share it."""
        return self._races.events

    @events.setter
    def events(self, events: Emitter) -> None:
        self._races.events = events

    def renamed(self) -> None:
        """Use the new name in events and notes."""
        self._races.name = self.name

    @property
    def delay(self) -> float | None:
        """Seconds without an answer before a hedge starts; None while too few answers are known."""
        return self._races.delay

    @property
    def busy_threads(self) -> int:
        """Blocking attempts that run now, losers included."""
        return self._executor.busy

    @property
    def lingering(self) -> int:
        """Cancelled attempts that did not end within `cancel_timeout` and still run."""
        return len(self._races.lingering)

    @property
    def is_idle(self) -> bool:
        """Whether no attempt runs after its call: no thread is busy, and no attempt lingers."""
        return not self.busy_threads and not self.lingering

    def applies_to(self, fn: object) -> bool:
        """Whether calls of `fn` are hedged: only if it is marked with `resilience.idempotent`."""
        return is_idempotent(fn)

    def bind(self, policies: tuple[object, ...]) -> None:
        """Count no calls at the budget if another policy of the pipeline does, or each call would count twice."""
        counters = [policy for policy in policies if isinstance(policy, CallCounter)]
        if self.budget is not None and any(counter.budget is self.budget for counter in counters):
            self._races.counts_calls = False  # in every pipeline: to count too few calls is the safe mistake

    def around(self, call: Callable[P, R], /) -> Callable[P, R]:
        """Return the blocking `call` hedged: each attempt runs in a thread."""

        def guard(attempt: Callable[P, R], /) -> Callable[P, R]:
            return _sync.around(self._races, self._executor, attempt)

        return guard(call) if Emitter.observer is None else Emitter.observer.trace_attempts(self, call, guard)

    def around_async(self, call: Callable[P, Awaitable[R]], /) -> CoroutineFunction[P, R]:
        """Return the awaiting `call` hedged: each attempt runs in a task."""
        from resilience.hedge import _aio  # noqa: PLC0415 - it imports asyncio, which blocking programs do without

        def guard(attempt: Callable[P, Awaitable[R]], /) -> CoroutineFunction[P, R]:
            return _aio.around_async(self._races, self, attempt)

        if Emitter.observer is None:
            return guard(call)
        return cast("CoroutineFunction[P, R]", Emitter.observer.trace_attempts(self, call, guard))

    def snapshot(self) -> dict[str, Any]:
        """Return the counts, the delay in force, the learned latencies, and attempts that outlived their call."""
        left = {"busy_threads": self.busy_threads, "lingering": self.lingering}
        return {"delay": self.delay, **self._races.statistics.snapshot(), **left}

    def __repr__(self) -> str:
        delay = self.delay
        after = "still learning" if delay is None else f"after {delay:g} s"
        return f"<Hedge {self.name!r} {after}>"
