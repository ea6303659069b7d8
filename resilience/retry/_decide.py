"""The decision after an attempt: is another one worth it, after which wait, and is anything against it."""

from __future__ import annotations

from collections.abc import Callable

from resilience._support.retry_after import asked_by, in_seconds
from resilience._support.user_calls import UserCall, UserCalls
from resilience.budget import RetryBudget
from resilience.events import Emitter
from resilience.options import is_plain_callable
from resilience.retry._backoff import above_floor, backoff
from resilience.retry._machine import NOT_RETRYABLE, Attempts, GiveUp, stop_reason
from resilience.retry._options import RetryOptions
from resilience.retry._predicates import Predicate, RetryableErrors, RetryAnswer, normalize
from resilience.retry._switches import SWITCHES
from resilience.retry._tenacity import TenacityStrategies
from resilience.timeout import Deadline

__all__ = ("RetryDecision",)


class RetryDecision:
    """Everything that one retry asks before another attempt, in order."""

    def __init__(
        self,
        options: RetryOptions,
        errors: RetryableErrors,
        on_result: Predicate | None,
        retry_after: Callable[..., object] | None,
        tenacity: TenacityStrategies | None,
        budget: RetryBudget | None,
        random: Callable[[], float],
        events: Emitter,
    ) -> None:
        self._options = options
        self._errors = errors
        self._on_result = on_result
        self._retry_after = retry_after
        self._tenacity = tenacity
        self._budget = budget
        self._random = random
        self._events = events
        is_timeout = options.retry_after_max is None and options.timeout is not None
        self._floor_too_high = GiveUp("timeout" if is_timeout else "wait")
        functions = [each for each in (on_result, retry_after) if each is not None]
        self.awaits = (
            errors.awaits or (tenacity is not None and tenacity.awaits) or not all(map(is_plain_callable, functions))
        )
        """Whether a function to be asked is a coroutine function."""
        self.asks = tenacity is not None or retry_after is not None
        """Whether there is a function to ask even if it is known that the outcome is worth another attempt."""

    def at_once(
        self, attempts: Attempts, error: Exception | None, result: object, now: float, answer: RetryAnswer
    ) -> float | GiveUp | None:
        """Return what `next_wait` returns, if `answer` is known and the retry `asks` no function of the user."""
        wait = self._wait(attempts, error, result, answer if SWITCHES.is_active else False, None)
        if wait is None or isinstance(wait, GiveUp):
            return wait
        refused = self._against(attempts, now, wait)
        if refused is not None:
            return refused
        attempts.record(error, result, wait)
        if SWITCHES.no_waits:
            attempts.skipped += wait
        return wait

    def next_wait(
        self, attempts: Attempts, error: Exception | None, result: object, now: float, answer: RetryAnswer | None
    ) -> UserCalls[float | GiveUp | None]:
        """Return the seconds to wait before another attempt, why there is none, or None for an accepted result.

        Args:
            attempts: The attempts so far. If the answer is a wait, the next attempt is recorded in it.
            error: The error that the attempt raised, or None if it returned.
            result: The result of the attempt, if it returned.
            now: The time, in seconds of the clock of the retry.
            answer: Whether the outcome is worth another attempt (a number is the wait), or None if that is not known
                yet. A retry with tenacity strategies always passes None.
        """
        tenacity, asked = self._tenacity, None
        if not SWITCHES.is_active:
            answer = False
        elif answer is None:
            answer = yield from self._classify(attempts, error, result, now + attempts.skipped)
        if answer is not False and not attempts.is_last:
            if answer is True and tenacity is not None and tenacity.wait is not None:
                answer = max(0.0, float((yield UserCall(tenacity.wait, attempts.state))))
            if self._retry_after is not None:
                asked = in_seconds((yield UserCall(self._retry_after, result if error is None else error)))
        wait = self._wait(attempts, error, result, answer, asked)
        if wait is None or isinstance(wait, GiveUp):
            return wait
        if tenacity is not None and (yield from tenacity.stops(attempts, wait)):
            return GiveUp("stop")
        refused = self._against(attempts, now, wait)
        if refused is not None:
            return refused
        if tenacity is not None:
            yield from tenacity.before_sleep(attempts, wait)
        attempts.record(error, result, wait)
        if SWITCHES.no_waits:
            attempts.skipped += wait
        return wait

    def _wait(
        self, attempts: Attempts, error: Exception | None, result: object, answer: RetryAnswer, asked: float | None
    ) -> float | GiveUp | None:
        """Return the wait if the outcome is worth another attempt. The time that the server asked for is a floor."""
        if answer is False:
            return None if error is None else NOT_RETRYABLE
        if attempts.is_last:
            return GiveUp("started")
        options = self._options
        wait = backoff(options, attempts.number, attempts.previous, self._random) if answer is True else answer
        floor = asked_by(result if error is None else error) if asked is None else asked
        if not floor:
            return wait
        if floor < 0:
            return GiveUp("pushback")
        if floor > options.max_retry_after:  # a shorter sleep would end in another refusal
            return self._floor_too_high
        return max(wait, above_floor(options, floor, self._random))

    def _against(self, attempts: Attempts, now: float, wait: float) -> GiveUp | None:
        """Return the limit that forbids another attempt after `wait`. The budget comes last, because it is spent."""
        deadline, skipped = Deadline.current(), attempts.skipped
        remaining = None if deadline is None else deadline.remaining() - skipped
        max_attempts = SWITCHES.max_attempts() if SWITCHES.no_waits else None
        reason = stop_reason(self._options, attempts, now + skipped, wait, remaining, max_attempts)
        if reason is not None:
            return GiveUp(reason)
        if self._budget is not None:
            if not self._budget.spend(retrying=attempts.is_retrying, events=self._events):
                return GiveUp("budget")
            attempts.is_retrying = True  # before a function of the user may raise
        return None

    def _classify(
        self, attempts: Attempts, error: Exception | None, result: object, now: float
    ) -> UserCalls[RetryAnswer]:
        tenacity = self._tenacity
        if tenacity is None:
            return (yield from self._ask(error, result))
        tenacity.update_state(attempts, error, result, now)
        answer: RetryAnswer
        if tenacity.raised_try_again(error):
            answer = True
        elif tenacity.retry is None:
            answer = yield from self._ask(error, result)
        else:
            # tenacity's default, every Exception, would sleep out the open time of a circuit breaker inside.
            is_out = self._errors.is_unnamed_refusal(error) or self._errors.is_unwanted_timeout(error)
            # tenacity takes any true value for a yes.
            answer = not is_out and bool((yield UserCall(tenacity.retry, attempts.state)))
        if answer is not False:
            yield from tenacity.after(attempts)
        return answer

    def _ask(self, error: Exception | None, result: object) -> UserCalls[RetryAnswer]:
        if error is not None:
            return (yield from self._errors.ask(error))
        return self._on_result is not None and normalize((yield UserCall(self._on_result, result)))
