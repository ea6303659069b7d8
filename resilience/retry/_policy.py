"""The retry policy: lock, clock and events around the decision about another attempt."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable
from datetime import timedelta
from typing import Any, TypeAlias, cast

from resilience._engine._steps import Member, Steps
from resilience._support.fork import renew_after_fork
from resilience._support.matching import known
from resilience._support.measured import Measured, Measurement
from resilience._support.notes import annotate
from resilience._support.user_calls import UserCalls, arun, run
from resilience.budget import RetryBudget, as_budget
from resilience.clock import Clock, monotonic
from resilience.errors import ConfigurationError, Problem
from resilience.events import Emitter
from resilience.idempotency import is_idempotent
from resilience.options import CLOCK, Opaque, checked, is_plain_callable
from resilience.policy import NO_RESULT, Decision, Pending, PolicyBase, RetryAfter, Verdict
from resilience.retry._decide import RetryDecision
from resilience.retry._machine import NOT_RETRYABLE, Attempts, GiveUp, RetryCounts
from resilience.retry._nesting import mark_retried
from resilience.retry._options import RetryOptions
from resilience.retry._predicates import On, Predicate, RetryableErrors, RetryAnswer, normalize
from resilience.retry._switches import SWITCHES
from resilience.retry._tenacity import Strategy, TenacityStrategies

__all__ = ("Retry",)

_RANDOMNESS = Opaque("a function without arguments that returns a number from 0 to 1", is_plain_callable)
_FUNCTION = Opaque("a function that takes the result, or for retry_after the error or result", callable)
_Permit: TypeAlias = Attempts | float | None
"""A permit is the record of a call that failed or that a budget counts, else the time at which the call began, or None
if that does not matter."""
_ADVICE = "write it as `async def` and guard a coroutine function"


class Retry(PolicyBase, Measured):
    """Makes a failed call again, after a wait that grows from attempt to attempt and is varied at random.

    A call is made up to `attempts` times in all, while it raises an error of `on`. Refusals of our own policies (such
    as an open circuit) and errors that say they are not retryable are not retried, unless `on` names their class. An
    attempt that a `Timeout` further inside in the same pipeline has ended is retried whatever `on` is, unless
    `on_timeout` is False. If a server asks for a longer wait (`retry_after` on the error, or a `Retry-After` header),
    the retry waits that long. No wait starts that would end after `timeout` or after the deadline in force.

    When the retry gives up, the last error is raised unchanged, with a note that lists the attempts. A last result that
    `on_result` rejected is returned. The names of the options are stamina's. `wait`, `stop`, `retry`, `before_sleep`,
    `after` and `retry_error_callback` take any tenacity strategy, which then decides in place of our option.

    Functions may be coroutine functions if the guarded call is awaited.

    Args:
        attempts: Calls in total, the first included, 1 to 1,000. None sets no limit.
        on: What is retried: an `Exception` class, a predicate over the error, or a tuple of them. A predicate returns
            whether to retry, or the wait (seconds or a timedelta; a negative wait means no).
        timeout: The longest time for all attempts and waits together. None (the default) sets no limit.
        backoff: How waits grow: `"exponential"`, `"linear"`, `"constant"`, or `"decorrelated"` (drawn between
            `wait_initial` and three times the wait before).
        wait_initial: The wait before the second attempt, before jitter.
        wait_max: The longest wait that the backoff chooses. A server may ask for more.
        retry_after_max: The longest wait that a server may ask for. A call that asks for more is given up at once. None
            means `timeout` if it is set, else five minutes.
        wait_jitter: `"full"` (anything from 0 to the wait), `"equal"` (from half of it), `"none"`, or a duration: up to
            this much is added.
        wait_exp_base: The factor from one exponential wait to the next, 1 to 100.
        budget: A `RetryBudget`, or the name of one. It limits the share of retries among the calls in flight.
        idempotent_only: Retry only functions marked with `resilience.idempotent`.
        on_timeout: Whether an attempt is made again that a `Timeout` inside has ended. The call may have done its work
            all the same. `retry=` decides about such an attempt as about any other, but False here comes first.
        on_result: A predicate over the result: true, or a wait, asks for another attempt.
        retry_after: A function that finds the wait a server asked for in the error or result. Below 0 ends the retry.
        wait: A tenacity strategy that computes the wait.
        stop: A tenacity strategy that ends the retry. It replaces `attempts`.
        retry: A tenacity strategy that replaces `on` and `on_result`. For refusals of our own policies it is asked only
            if it, or `on`, names their class.
        before_sleep: Called before each wait.
        after: Called after each attempt that failed.
        retry_error_callback: Called when the retry gives up. The caller gets its result.
        name: A name for events and snapshots; the default is `<pipeline>.retry`.
        clock: Returns the time in seconds.
        randomness: Returns a number in [0, 1), for jitter.

    Raises:
        ConfigurationError: An option has a wrong value, `on_result` is given beside `retry`, or `on` names the class
            that `on_timeout=False` excludes.

    Example:
        >>> from resilience import Pipeline, Retry
        >>> answers = iter([ConnectionError("reset by peer"), "in stock"])
        >>> def stock(item: str) -> str:
        ...     answer = next(answers)
        ...     if isinstance(answer, Exception):
        ...         raise answer
        ...     return answer
        >>> Pipeline("inventory", Retry(attempts=3, on=ConnectionError, wait_initial="1ms"))(stock)("lamp")
        'in stock'
    """

    kind = "retry"
    retries = True
    settles_once = True
    counts_calls = True
    """Whether the budget counts every call of this policy (a `CallCounter`)."""

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
        on_timeout: bool = True,
        on_result: Predicate | None = None,
        retry_after: Callable[[Any], object] | None = None,
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
            on_timeout=on_timeout,
        )
        # With `stop=`, tenacity decides alone; `attempts` is still checked.
        self.options = options if stop is None else dataclasses.replace(options, attempts=None)
        strategies = {"wait": wait, "stop": stop, "retry": retry, "before_sleep": before_sleep, "after": after}
        strategies["retry_error_callback"] = retry_error_callback
        given = {option: strategy for option, strategy in strategies.items() if strategy is not None}
        self._tenacity = TenacityStrategies(self, given) if given else None
        named = () if self._tenacity is None else self._tenacity.named_classes()
        errors = RetryableErrors(on, named, on_timeout=self.options.on_timeout)
        self._use(errors, on_result, retry_after, checked(randomness, "randomness", _RANDOMNESS))
        self._clock: Clock = checked(clock, "clock", CLOCK)
        self.after_fork()
        renew_after_fork(self)
        self._is_made = True

    def _use(
        self,
        errors: RetryableErrors,
        on_result: Predicate | None,
        retry_after: Callable[..., object] | None,
        randomness: Callable[[], float],
    ) -> None:
        for option, value in (("on_result", on_result), ("retry_after", retry_after)):
            if value is not None:
                checked(value, option, _FUNCTION)
        if on_result is not None and self._tenacity is not None and self._tenacity.retry is not None:
            raise ConfigurationError([Problem("on_result", on_result, "None beside retry=, which judges results too")])
        self.events = Emitter()
        self._errors, self._on = errors, errors.names
        self._by_class = errors.by_class if self._tenacity is None else None
        self._on_result = on_result
        self._decision = RetryDecision(
            self.options, errors, on_result, retry_after, self._tenacity, self.budget, randomness, self.events
        )
        self.awaits = self._decision.awaits
        # The last attempt alone: the first one is the path of a passing failure.
        self._marks_after = max(1, (self.options.attempts or 3) - 1)
        self._needs_start = self.options.timeout is not None or self._tenacity is not None
        self._checks_results = on_result is not None or (self._tenacity is not None and self._tenacity.judges_results)

    def choose_steps(self, steps: Steps) -> Steps:
        """Leave out the steps that the options do not need: an absent step costs a successful call nothing."""
        if (type(self).admit, type(self).on_success) != (Retry.admit, Retry.on_success):
            return steps  # a subclass has steps of its own
        is_counted, needs_start = self.budget is not None, self._needs_start
        return dataclasses.replace(
            steps,
            admit=self.admit if is_counted else self._clock if needs_start else None,  # the clock is a frame less
            on_success=self.on_success if self._checks_results else self._end if is_counted else None,
            applies_to=is_idempotent if self.options.idempotent_only else None,
        )

    def bind(self, policies: tuple[Member, ...]) -> None:
        """Find the timeouts inside: they end the attempts of this retry.

        Args:
            policies: All policies of the pipeline that takes the retry in, the outermost first.
        """
        records = [Steps.of(policy) for policy in policies]
        position = [steps.policy is self for steps in records].index(True)
        self._errors.inner_timeouts |= {steps.name for steps in records[position + 1 :] if steps.kind == "timeout"}

    def applies_to(self, fn: object) -> bool:
        """Return whether a call of `fn` may be made again."""
        return not self.options.idempotent_only or is_idempotent(fn)

    def after_fork(self) -> None:
        """Start with a fresh lock and no counts: the calls of the parent never end in the child."""
        self._counts = RetryCounts()

    def after_test(self) -> None:
        """Start with no counts."""
        self._counts = RetryCounts()

    def admit(self) -> _Permit:
        """Return the record of a call that a budget counts, else the time at which the call began, if it matters."""
        if self.budget is None:
            return self._clock() if self._needs_start else None
        attempts = Attempts(self._clock())
        self.budget.enter()
        attempts.is_counted = True
        return attempts

    def _end(self, permit: Attempts, _result: object, /) -> None:
        cast("RetryBudget", self.budget).leave(retrying=permit.is_retrying, call=permit)

    def on_success(self, permit: _Permit, result: object, /) -> Verdict:
        """Decide about a result. A result that is accepted at once costs no record of the call."""
        if result is NO_RESULT or not self._checks_results:
            self._leave_budget(permit)
            return None
        if self.awaits or self._on_result is None or self._tenacity is not None:
            return self._decide(permit, None, result)
        try:
            answer = normalize(known(self._on_result, self._on_result(result), _ADVICE))
        except BaseException:
            self.on_abandon(permit)
            raise
        if answer is not False:
            return self._decide(permit, None, result, answer)
        self._leave_budget(permit)
        return None

    def on_failure(self, permit: _Permit, error: Exception, /) -> Verdict:
        """Decide about another attempt after an error."""
        # While a dependency is out, this is the path of every call: the breaker inside refuses it at once.
        answer = None if self._by_class is None else self._by_class(error)
        if answer is False and getattr(permit, "number", 1) == 1:
            self._leave_budget(permit)
            self._counts.fail(1)
            return None
        return self._decide(permit, error, None, answer)

    def no_more_attempts(self, permit: _Permit, /) -> Attempts:
        """Record that there is no other attempt, however this one ends."""
        attempts = permit if isinstance(permit, Attempts) else Attempts(self._clock() if permit is None else permit)
        attempts.is_last = True
        return attempts

    def on_abandon(self, permit: _Permit, /) -> None:
        """Take the call out of the budget."""
        self._leave_budget(permit)
        if isinstance(permit, Attempts) and permit.is_retry_counted and not permit.is_over:
            permit.is_over = True
            self._counts.abandon(permit.number)

    def _decide(
        self, permit: _Permit, error: Exception | None, result: object, answer: RetryAnswer | None = None
    ) -> Verdict:
        now = self._clock()
        attempts = permit if isinstance(permit, Attempts) else Attempts(now if permit is None else permit)
        decision = self._decision
        try:
            if answer is not None and not decision.asks:
                decided = decision.at_once(attempts, error, result, now, answer)
                verdict = self._settle(attempts, error, result, now, decided)
                if verdict is None:
                    self._leave_budget(attempts)
                return verdict
            asking = self._ask(attempts, error, result, now, answer)
            return Pending(arun(asking)) if self.awaits else run(asking, _ADVICE)
        except BaseException:  # from a function of the user, or an interrupt
            self.on_abandon(attempts)
            raise

    def _ask(
        self, attempts: Attempts, error: Exception | None, result: object, now: float, answer: RetryAnswer | None
    ) -> UserCalls[Decision]:
        """Decide about another attempt with the functions of the user."""
        decided = yield from self._decision.next_wait(attempts, error, result, now, answer)
        verdict: Decision = self._settle(attempts, error, result, now, decided)
        if verdict is None:
            if self._tenacity is not None and isinstance(decided, GiveUp) and decided is not NOT_RETRYABLE:
                verdict = yield from self._tenacity.replacement(attempts)
            self._leave_budget(attempts)  # only now: the call is not over while a function of the user runs
        return verdict

    def _settle(
        self, attempts: Attempts, error: Exception | None, result: object, now: float, decided: float | GiveUp | None
    ) -> RetryAfter | None:
        """Count and report the decision about another attempt."""
        number = attempts.number
        if isinstance(decided, GiveUp):
            attempts.is_over = True
            self._counts.fail(number)
            if decided is not NOT_RETRYABLE or number > 1:
                self._report_exhausted(attempts, error, result, decided.reason, now)
            return None
        if decided is None:
            return None
        number -= 1  # the next attempt is recorded already
        self._counts.retry(number)
        attempts.is_retry_counted = True
        if number == self._marks_after:
            mark_retried(self.name, self.options.attempts, attempts)
        events, observer = self.events, Emitter.observer
        if observer is not None:
            observer.observe("resilience.retry.wait", decided, self.name)
        is_traced = observer is not None and observer.span() is not None
        if events.listeners or events.log.log.has_details or is_traced:  # `wants_details`, inlined
            facts = {"attempt": number, "wait": decided, "error": error}
            events.emit("retry.scheduled", self.name, now, "warning", **facts)
        return RetryAfter(0.0 if SWITCHES.no_waits else decided, attempts)

    def _report_exhausted(
        self, attempts: Attempts, error: Exception | None, result: object, reason: str, now: float
    ) -> None:
        number, elapsed = attempts.number, now - attempts.started + attempts.skipped
        if error is not None and number > 1:
            attempts.record(error, result)
            history, begins = attempts.report(), f"{self.name}: gave up after "
            lines = (f"{begins}{number} attempts in {elapsed:.3f} s ({reason})", *history)
            annotate(error, begins, ["\n  ".join(lines)])
        if self.events.wants("retry.exhausted", now):
            facts = {"attempts": number, "reason": reason, "elapsed": elapsed, "error": error}
            self.events.emit("retry.exhausted", self.name, now, "error", **facts)

    def _leave_budget(self, permit: _Permit) -> None:
        """Take the call out of the budget, once: its outcome is final."""
        if isinstance(permit, Attempts) and permit.is_counted:
            cast("RetryBudget", self.budget).leave(retrying=permit.is_retrying, call=permit)

    def describe(self) -> dict[str, Any]:
        """Return the options, the classes and predicates of `on`, the tenacity strategies given, and the budget."""
        strategies = [] if self._tenacity is None else self._tenacity.names
        budget = None if self.budget is None else self.budget.describe()
        return super().describe() | {"on": self._on, "strategies": strategies, "budget": budget}

    def measure(self) -> Measurement:
        """Return how the calls ended that failed at least once."""
        counts = self._counts.as_data()
        del counts["succeeded_with_retry"]  # not a count that only grows: a call under way is in it
        return Measurement("retry", self.name, counts)

    def snapshot(self) -> dict[str, Any]:
        """Return how the calls ended that failed at least once, and the budget.

        A call that never failed is not counted. A retried call that is still under way counts under
        `succeeded_with_retry` until it fails.
        """
        counts = self._counts.as_data()
        return counts | {"budget": None if self.budget is None else self.budget.snapshot()}

    def __repr__(self) -> str:
        return f"<Retry {self.name!r} attempts={self.options.attempts}>"
