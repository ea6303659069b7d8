"""The retry: another attempt, later, if it is worth one."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import random
from collections.abc import Callable
from datetime import timedelta
from typing import Any, cast

from resilience.budget import RetryBudget
from resilience.clock import Clock, monotonic
from resilience.errors import ConfigurationError, Problem
from resilience.events import Emitter
from resilience.options import CLOCK, Opaque, checked, is_plain_callable
from resilience.policy import Again, PolicyBase
from resilience.retry._backoff import backoff
from resilience.retry._machine import Attempts, GiveUp, next_attempt
from resilience.retry._options import RetryOptions
from resilience.retry._predicate import On, Retryable
from resilience.retry._tenacity import Strategies, Strategy
from resilience.timeout import Deadline

__all__ = ("Retry",)

_RANDOMNESS = Opaque("a function without arguments that returns a number from 0 to 1", is_plain_callable)


class Retry(PolicyBase):
    """Makes up to `attempts` calls in all while they raise one of `on`, with growing, jittered waits between them.

    The words are stamina's; `wait`, `stop`, `retry` and `before_sleep` take any tenacity strategy and decide in place
    of ours. `timeout` bounds the whole (no wait is begun that would pass it or the deadline in force); a `retry_after`
    on the error is a floor for the wait; `budget` caps the share of retries among the calls in flight. When it gives up
    the last error itself is raised, with a note of what was tried. `on` is an exception class, a predicate (which may
    return the wait it wants), or a tuple of them.
    """

    kind = "retry"
    retries = True

    def __init__(
        self,
        attempts: int | None = 3,
        on: On | tuple[On, ...] = Exception,
        *,
        timeout: float | str | timedelta | None = None,
        wait_initial: float | str | timedelta = 0.1,
        wait_max: float | str | timedelta = 5.0,
        wait_jitter: float | str | timedelta = 1.0,
        wait_exp_base: float = 2.0,
        budget: RetryBudget | None = None,
        wait: Strategy | None = None,
        stop: Strategy | None = None,
        retry: Strategy | None = None,
        before_sleep: Strategy | None = None,
        name: str | None = None,
        clock: Clock = monotonic,
        randomness: Callable[[], float] = random.random,
    ) -> None:
        super().__init__(name)
        options = RetryOptions(
            attempts=attempts,
            timeout=cast("float | None", timeout),
            wait_initial=cast("float", wait_initial),
            wait_max=cast("float", wait_max),
            wait_jitter=cast("float", wait_jitter),
            wait_exp_base=wait_exp_base,
        )
        # tenacity's stop decides alone; what stands beside it is checked like anything else.
        self.options = options if stop is None else dataclasses.replace(options, attempts=None)
        if not isinstance(budget, RetryBudget | None):
            raise ConfigurationError([Problem("budget", budget, "a RetryBudget, or None")])
        self._is_retryable = Retryable(on)
        self._strategies = Strategies(self, wait, stop, retry, before_sleep)
        self._budget = budget
        self._clock: Clock = checked(clock, "clock", CLOCK)
        self._random: Callable[[], float] = checked(randomness, "randomness", _RANDOMNESS)
        self.events = Emitter()
        self._use_only_what_is_needed()

    def _use_only_what_is_needed(self) -> None:
        # A step that is not overridden costs a successful call nothing, so each is put in place only where it matters.
        if self.options.timeout is not None or self._strategies or self._budget is not None:
            self.admit = self._begin  # type: ignore[method-assign]  # see above
        if self._strategies.retry is not None or self._budget is not None:
            self.on_success = self._judge  # type: ignore[method-assign]  # see above

    def _begin(self) -> Attempts | float:
        if self._budget is None:
            return self._clock()
        self._budget.enter()
        return Attempts(self._clock())

    def _judge(self, permit: Any, result: Any, /) -> Again | None:
        if self._strategies.retry is None:
            self._leave(permit)
            return None
        return self._decide(permit, None, result)

    def on_failure(self, permit: Any, error: Exception, /) -> Again | None:
        """Decide about another attempt."""
        return self._decide(permit, error)

    def on_abandon(self, permit: Any, /) -> None:
        """Take the call out of the budget."""
        self._leave(permit)

    def _decide(self, permit: Any, error: Exception | None, result: Any = None) -> Again | None:
        now = self._clock()
        attempts = self._attempts(permit, now)
        try:
            verdict = self._verdict(attempts, error, result, now)
        except BaseException:  # a predicate or callback of the user's
            self._leave(attempts)
            raise
        if verdict is None:
            self._leave(attempts)
        return verdict

    def _verdict(self, attempts: Attempts, error: Exception | None, result: Any, now: float) -> Again | None:
        record = self._strategies.record(attempts, error, result, now) if self._strategies else None
        if record is not None and self._strategies.retry is not None:
            wanted: bool | float = bool(self._strategies.retry(record))  # tenacity takes any truth for a yes
        else:
            wanted = error is not None and self._is_retryable(error)
        if wanted is False:
            if error is not None and attempts.number > 1:
                self._exhausted(attempts, error, GiveUp("not retryable"), now)
            return None
        return self._again(attempts, record, error, now, None if wanted is True else wanted)

    def _again(
        self, attempts: Attempts, record: Any, error: Exception | None, now: float, wait: float | None
    ) -> Again | None:
        if wait is None:
            wait = self._wait(attempts, record)
        answer = self._next(attempts, record, error, now, wait)
        if isinstance(answer, GiveUp):
            self._exhausted(attempts, error, answer, now)
            return None
        number = attempts.number
        attempts.slept += answer
        attempts.number += 1  # before anything of the user's may raise: from here on the budget counts a retry
        if record is not None and self._strategies.before_sleep is not None:
            self._announce(record, answer)
        self.events.emit("retry.scheduled", self.name, now, "warning", attempt=number, wait=answer, error=error)
        return Again(answer, attempts)

    def _next(
        self, attempts: Attempts, record: Any, error: Exception | None, now: float, wait: float
    ) -> float | GiveUp:
        if record is not None and self._strategies.stop is not None:
            record.upcoming_sleep = wait
            if self._strategies.stop(record):
                return GiveUp("stop")
        deadline = Deadline.current()
        remaining = None if deadline is None else deadline.remaining()
        answer = next_attempt(self.options, attempts, now, wait, _floor(error), remaining)
        if isinstance(answer, GiveUp) or self._budget is None:
            return answer
        return answer if self._budget.spend(retrying=attempts.number > 1) else GiveUp("budget")

    def _wait(self, attempts: Attempts, record: Any) -> float:
        if record is None or self._strategies.wait is None:
            return backoff(self.options, attempts.number, self._random)
        return max(0.0, float(self._strategies.wait(record)))

    def _announce(self, record: Any, wait: float) -> None:
        from tenacity import RetryAction  # noqa: PLC0415 - only where tenacity's callback was given

        record.next_action, record.upcoming_sleep = RetryAction(wait), wait
        cast("Strategy", self._strategies.before_sleep)(record)

    def _exhausted(self, attempts: Attempts, error: Exception | None, why: GiveUp, now: float) -> None:
        elapsed = now - attempts.started
        if error is not None and attempts.number > 1:
            note = f"{self.name}: gave up after {attempts.number} attempts in {elapsed:.3f} s ({why.reason})"
            with contextlib.suppress(
                Exception
            ):  # what cannot take one (a frozen dataclass) is still the caller's error
                error.add_note(note)
        facts = {"attempts": attempts.number, "reason": why.reason, "elapsed": elapsed, "error": error}
        self.events.emit("retry.exhausted", self.name, now, "error", **facts)

    def _leave(self, permit: Any) -> None:
        """Take the call out of the budget: its outcome is the caller's."""
        if self._budget is not None:
            self._budget.leave(retrying=isinstance(permit, Attempts) and permit.number > 1)

    def _attempts(self, permit: Any, now: float) -> Attempts:
        """Return the record of this call, made at its first failure: a success needs none."""
        if isinstance(permit, Attempts):
            return permit
        return Attempts(now if permit is None else permit)

    def __repr__(self) -> str:
        return f"<Retry {self.name!r} attempts={self.options.attempts}>"


def _floor(error: Exception | None) -> float | None:
    """Return the seconds a server asked us to stay away, as our errors and many others' say in `retry_after`."""
    asked = getattr(error, "retry_after", None)
    if isinstance(asked, int | float) and not isinstance(asked, bool) and 0 < asked < math.inf:
        return asked
    return None
