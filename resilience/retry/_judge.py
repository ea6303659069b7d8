"""Whether there is another attempt, and after which wait."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from resilience._support.retry_after import asked_by, in_seconds
from resilience.budget import RetryBudget
from resilience.events import Emitter
from resilience.options import is_plain_callable
from resilience.retry._asking import Asking
from resilience.retry._backoff import backoff, upward
from resilience.retry._machine import NOT_RETRYABLE, Attempts, GiveUp, Outcome, next_attempt
from resilience.retry._notes import short
from resilience.retry._options import RetryOptions
from resilience.retry._predicate import Predicate, Retryable, Wanted, understood
from resilience.retry._switch import are_waits_skipped, is_active, most_attempts
from resilience.retry._tenacity import Strategies
from resilience.timeout import Deadline

__all__ = ("Judge",)


class Judge:
    """Everything a retry was told, asked in order: is it worth it, how long to wait, is there anything against it."""

    def __init__(
        self,
        options: RetryOptions,
        retryable: Retryable,
        on_result: Predicate | None,
        retry_after: Callable[[Any], Any] | None,
        strategies: Strategies,
        budget: RetryBudget | None,
        randomness: Callable[[], float],
        events: Emitter,
    ) -> None:
        self._options = options
        self._retryable = retryable
        self._on_result = on_result
        self._retry_after = retry_after
        self._strategies = strategies
        self._budget = budget
        self._random = randomness
        self._events = events
        asked = [each for each in (on_result, retry_after) if each is not None]
        self.awaits = retryable.awaits or strategies.awaits or not all(map(is_plain_callable, asked))

    def answer(
        self, attempts: Attempts, outcome: Outcome, now: float, wanted: Wanted | None
    ) -> Asking[float | GiveUp | None]:
        """Return the seconds to wait, why to give up, or None for a result that is fine.

        `wanted` is what `on_result` or the class of the error has said, if it was asked already.
        """
        nothing = None if outcome.error is None else NOT_RETRYABLE
        if not is_active():
            return nothing
        now += attempts.skipped
        record = self._strategies.record(attempts, outcome, now) if self._strategies else None
        if wanted is None:
            wanted = yield from self._wanted(outcome, record)
        if wanted is False:
            return nothing
        yield from self._strategies.ask("after", record)
        if attempts.is_last:
            return GiveUp("started")
        wait = yield from self._wait(attempts, outcome, record, wanted)
        return wait if isinstance(wait, GiveUp) else (yield from self._granted(attempts, outcome, record, now, wait))

    def _wanted(self, outcome: Outcome, record: Any) -> Asking[Wanted]:
        if record is not None and self._strategies.is_asked_again(outcome.error):
            return True
        if self._strategies.get("retry") is not None:
            # tenacity's own default, any Exception at all, would sleep out the open time of the circuit breaker inside.
            if self._retryable.is_unasked_refusal(outcome.error):
                return False
            return bool((yield from self._strategies.ask("retry", record)))  # tenacity takes any truth for a yes
        if outcome.error is not None:
            return (yield from self._retryable.asked(outcome.error))
        return self._on_result is not None and understood((yield self._on_result, outcome.result))

    def _wait(self, attempts: Attempts, outcome: Outcome, record: Any, wanted: Wanted) -> Asking[float | GiveUp]:
        """Return the wait the predicate named, else tenacity's, else our own; a server's word is a floor for each."""
        if wanted is not True:
            wait = wanted
        elif self._strategies.get("wait") is not None:
            wait = max(0.0, float((yield from self._strategies.ask("wait", record))))
        else:
            wait = backoff(self._options, attempts.number, attempts.previous, self._random)
        asked = None if self._retry_after is None else in_seconds((yield self._retry_after, outcome.value))
        floor = asked_by(outcome.value) if asked is None else asked
        if floor is None or floor == 0:
            return wait
        if floor < 0:
            return GiveUp("pushback")
        if floor > self._options.longest_asked:  # sleeping less than the server asked for would only be refused again
            return GiveUp("timeout" if self._options.retry_after_max is None and self._options.timeout else "wait")
        return max(wait, upward(self._options, floor, self._random))

    def _granted(
        self, attempts: Attempts, outcome: Outcome, record: Any, now: float, wait: float
    ) -> Asking[float | GiveUp]:
        if record is not None:
            record.upcoming_sleep = wait
            if (yield from self._strategies.ask("stop", record)):
                return GiveUp("stop")
        deadline = Deadline.current()
        remaining = None if deadline is None else deadline.remaining() - attempts.skipped
        answer = next_attempt(self._options, attempts, now, wait, remaining, most_attempts())
        if isinstance(answer, GiveUp):
            return answer
        if self._budget is not None:
            if not self._budget.spend(retrying=attempts.is_retrying, tell=self._events):
                return GiveUp("budget")
            attempts.is_retrying = True  # before anything of the user's may raise
        if record is not None:
            yield from self._strategies.announce(record, wait)
        attempts.remember(f"{short(outcome)}, then waited {wait:.3f} s")
        attempts.go_on(wait, is_skipped=are_waits_skipped())
        return wait
