"""The retry: another attempt, later, if it is worth one."""

from __future__ import annotations

import dataclasses
import random
import threading
from collections.abc import Callable
from datetime import timedelta
from typing import Any, cast

from resilience._support.fork import renew_after_fork
from resilience._support.matching import refuse_awaitable
from resilience.budget import RetryBudget, as_budget
from resilience.clock import Clock, monotonic
from resilience.errors import ConfigurationError, Problem
from resilience.events import Emitter
from resilience.idempotency import is_idempotent
from resilience.options import CLOCK, Opaque, checked, is_plain_callable
from resilience.policy import NO_RESULT, Decision, Pending, PolicyBase, RetryAfter, Verdict
from resilience.retry._asking import ADVICE, Asking, answered
from resilience.retry._judge import Judge
from resilience.retry._machine import NOT_RETRYABLE, Attempts, GiveUp, Outcome, Tally
from resilience.retry._notes import annotate, short
from resilience.retry._options import RetryOptions
from resilience.retry._predicate import On, Predicate, Retryable, Wanted, understood
from resilience.retry._switch import are_waits_skipped
from resilience.retry._tenacity import Strategies, Strategy

__all__ = ("Retry",)

_RANDOMNESS = Opaque("a function without arguments that returns a number from 0 to 1", is_plain_callable)
_FUNCTION = Opaque("a function that takes the result, or for retry_after the error or result", callable)


class Retry(PolicyBase):
    """Makes up to `attempts` calls in all while they raise one of `on`, with growing, jittered waits between them.

    The words are stamina's; `wait`, `stop`, `retry`, `before_sleep`, `after` and `retry_error_callback` take any
    tenacity strategy and decide in place of ours; about our own refusals `retry` is asked only where their class is
    named. `on` is an exception class, a predicate (which may return the wait it wants), or a tuple of them; `on_result`
    is a predicate over results. `timeout` bounds the whole: no wait is begun that would pass it or the deadline in
    force. What a server asked for (`retry_after` on the error, a `Retry-After` header, or what the function
    `retry_after` finds in the error or result) is a floor for the wait, and below 0 ends the retry. `budget` (an
    object, or the name of one) caps the share of retries among the calls in flight. When it gives up the last error
    itself is raised, with a note of what was tried; a last result is returned as it is. Predicates and strategies may
    be coroutine functions where the call itself is awaited.
    """

    kind = "retry"
    retries = True
    settles_once = True
    applies_to: Callable[[Any], bool]
    """Whether a function's calls may be made again; there only with `idempotent_only`, or every call would be asked."""

    def __init__(
        self,
        attempts: int | None = 3,
        on: On | tuple[On, ...] = Exception,
        *,
        timeout: float | str | timedelta | None = None,
        backoff: str = "exponential",
        wait_initial: float | str | timedelta = 0.1,
        wait_max: float | str | timedelta = 5.0,
        retry_after_max: float | str | timedelta | None = None,
        wait_jitter: float | str | timedelta = "full",
        wait_exp_base: float = 2.0,
        budget: RetryBudget | str | None = None,
        idempotent_only: bool = False,
        on_result: Predicate | None = None,
        retry_after: Callable[[Any], Any] | None = None,
        wait: Strategy | None = None,
        stop: Strategy | None = None,
        retry: Strategy | None = None,
        before_sleep: Strategy | None = None,
        after: Strategy | None = None,
        retry_error_callback: Strategy | None = None,
        name: str | None = None,
        clock: Clock = monotonic,
        randomness: Callable[[], float] = random.random,
    ) -> None:
        super().__init__(name)
        self.budget = as_budget(budget)
        options = RetryOptions.of(
            attempts=attempts,
            timeout=cast("float | None", timeout),
            backoff=backoff,
            wait_initial=cast("float", wait_initial),
            wait_max=cast("float", wait_max),
            retry_after_max=cast("float | None", retry_after_max),
            wait_jitter=cast("float", wait_jitter),
            wait_exp_base=wait_exp_base,
            budget=None if self.budget is None else self.budget.name,
            idempotent_only=idempotent_only,
        )
        # tenacity's stop decides alone; what stands beside it is checked like anything else.
        self.options = options if stop is None else dataclasses.replace(options, attempts=None)
        given = {"wait": wait, "stop": stop, "retry": retry, "before_sleep": before_sleep, "after": after}
        self._strategies = Strategies(self, {**given, "retry_error_callback": retry_error_callback})
        retryable = Retryable(on, tuple(self._strategies.named()))
        self._use(retryable, on_result, retry_after, checked(randomness, "randomness", _RANDOMNESS))
        self._clock: Clock = checked(clock, "clock", CLOCK)
        self.after_fork()
        renew_after_fork(self)
        self._use_only_what_is_needed()

    def _use(self, retryable: Retryable, on_result: Any, retry_after: Any, randomness: Callable[[], float]) -> None:
        for option, value in (("on_result", on_result), ("retry_after", retry_after)):
            if value is not None:
                checked(value, option, _FUNCTION)
        if on_result is not None and self._strategies.get("retry") is not None:
            raise ConfigurationError([Problem("on_result", on_result, "None beside retry=, which judges results too")])
        self.events = Emitter()
        self._on = retryable.names
        self._by_class = None if self._strategies else retryable.by_class
        self._on_result = on_result
        self._judge = Judge(
            self.options, retryable, on_result, retry_after, self._strategies, self.budget, randomness, self.events
        )
        self.awaits = self._judge.awaits

    def _use_only_what_is_needed(self) -> None:
        # A step that is not overridden costs a successful call nothing, so each is put in place only where it matters.
        if self.budget is not None:
            self.admit = self._begin  # type: ignore[method-assign]  # see above
        elif self.options.timeout is not None or self._strategies:
            self.admit = self._clock  # type: ignore[method-assign]  # the permit is when the call began
        if self._on_result is not None or self._strategies.judges_results:
            self.on_success = self._weigh  # type: ignore[method-assign]  # see above
        elif self.budget is not None:
            self.on_success = self._end  # type: ignore[method-assign]  # see above
        if self.options.idempotent_only:
            self.applies_to = is_idempotent

    def after_fork(self) -> None:
        """Start with a fresh lock and no counts: the parent's calls never end here."""
        self._lock = threading.RLock()  # guards the tally; re-entrant, for generators that are closed by the collector
        self._tally = Tally()

    def _begin(self) -> Attempts:
        attempts = Attempts(self._clock())
        cast("RetryBudget", self.budget).enter()
        attempts.is_counted = True
        return attempts

    def _end(self, permit: Attempts, _result: Any, /) -> None:
        cast("RetryBudget", self.budget).leave(retrying=permit.is_retrying, call=permit)

    def _weigh(self, permit: Any, result: Any, /) -> Verdict:
        if result is NO_RESULT:
            self._leave(permit)
            return None
        if self.awaits or self._on_result is None:
            return self._decide(permit, Outcome(None, result))
        try:
            answer = self._on_result(result)
            wanted = understood(answer)
            if wanted is not False and hasattr(type(answer), "__await__"):
                refuse_awaitable(self._on_result, answer, ADVICE)
        except BaseException:
            self.on_abandon(permit)
            raise
        if wanted is not False:
            return self._decide(permit, Outcome(None, result), wanted)
        self._leave(permit)
        return None

    def on_failure(self, permit: Any, error: Exception, /) -> Verdict:
        """Decide about another attempt."""
        # While a dependency is out this is every call: the breaker inside refuses, and that is not retried.
        known = None if self._by_class is None else self._by_class(error)
        if known is False and getattr(permit, "number", 1) == 1:
            self._leave(permit)
            with self._lock:
                self._tally.fail(1)
            return None
        return self._decide(permit, Outcome(error), known)

    def no_more_attempts(self, permit: Any, /) -> Attempts:
        """Take note that there is no other attempt, whatever becomes of this one."""
        attempts = _attempts(permit, self._clock())
        attempts.is_last = True
        return attempts

    def on_abandon(self, permit: Any, /) -> None:
        """Take the call out of the budget."""
        self._leave(permit)
        if isinstance(permit, Attempts) and permit.is_tallied and not permit.is_over:
            permit.is_over = True
            with self._lock:
                self._tally.abandon(permit.number)

    def _decide(self, permit: Any, outcome: Outcome, wanted: Wanted | None = None) -> Verdict:
        now = self._clock()
        attempts = _attempts(permit, now)
        decision = self._decision(attempts, outcome, now, wanted)
        if self.awaits:
            from resilience.retry import _aio  # noqa: PLC0415 - only what awaits needs it

            return Pending(_aio.answered(decision))
        try:
            return answered(decision)
        except BaseException:  # a predicate or callback of the user's
            self.on_abandon(attempts)
            raise

    def _decision(self, attempts: Attempts, outcome: Outcome, now: float, wanted: Wanted | None) -> Asking[Decision]:
        number = attempts.number
        answer = yield from self._judge.answer(attempts, outcome, now, wanted)
        if answer is not None and not isinstance(answer, GiveUp):
            with self._lock:
                self._tally.go_on(number)
                attempts.is_tallied = True
            facts = {"attempt": number, "wait": answer, "error": outcome.error}
            self.events.emit("retry.scheduled", self.name, now, "warning", **facts)
            return RetryAfter(0.0 if are_waits_skipped() else answer, attempts)
        verdict: Decision = None
        if answer is not None:
            self._give_up(attempts, outcome, answer, now)
            if answer is not NOT_RETRYABLE:
                verdict = yield from self._strategies.last_word(attempts.record)
        self._leave(attempts)
        return verdict

    def _give_up(self, attempts: Attempts, outcome: Outcome, why: GiveUp, now: float) -> None:
        number, error = attempts.number, outcome.error
        attempts.is_over = True
        with self._lock:
            self._tally.fail(number)
        if why is NOT_RETRYABLE and number == 1:
            return
        elapsed = now - attempts.started + attempts.skipped
        if error is not None and number > 1:
            attempts.remember(short(outcome))
            annotate(error, self.name, attempts, why.reason, elapsed)
        facts = {"attempts": number, "reason": why.reason, "elapsed": elapsed, "error": error}
        self.events.emit("retry.exhausted", self.name, now, "error", **facts)

    def _leave(self, permit: Any) -> None:
        """Take the call out of the budget, once: its outcome is the caller's."""
        if isinstance(permit, Attempts) and permit.is_counted:
            cast("RetryBudget", self.budget).leave(retrying=permit.is_retrying, call=permit)

    def describe(self) -> dict[str, Any]:
        """Return what this retry was told: options, what it is for, the tenacity strategies given, its budget."""
        told = {"on": self._on, "strategies": sorted(self._strategies)}
        return super().describe() | told | {"budget": None if self.budget is None else self.budget.describe()}

    def snapshot(self) -> dict[str, Any]:
        """Return how calls went that failed at least once, and the budget. Calls that never failed are not counted.

        A retried call still under way is counted under `succeeded_with_retry` until it fails.
        """
        with self._lock:
            counts: dict[str, Any] = self._tally.as_data()
        return counts | {"budget": None if self.budget is None else self.budget.snapshot()}

    def __repr__(self) -> str:
        return f"<Retry {self.name!r} attempts={self.options.attempts}>"


def _attempts(permit: Any, now: float) -> Attempts:
    """Return the record of a call, which is made at its first failure: a success needs none."""
    return permit if isinstance(permit, Attempts) else Attempts(now if permit is None else permit)
