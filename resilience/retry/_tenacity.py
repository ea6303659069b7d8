"""tenacity's strategies, deciding in its terms while our engine loops.

Nothing here runs, and tenacity is not imported, unless a strategy was given; a call that succeeds at once never gets
here (unless `retry=` may judge results).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from resilience.errors import ConfigurationError, Problem
from resilience.options import is_plain_callable
from resilience.retry._machine import Attempts

__all__ = ("Strategies",)

Strategy = Callable[[Any], Any]


class Strategies:
    """The tenacity callables given, each taking a `tenacity.RetryCallState`."""

    def __init__(
        self,
        owner: Any,
        wait: Strategy | None,
        stop: Strategy | None,
        retry: Strategy | None,
        before_sleep: Strategy | None,
    ) -> None:
        self._owner = owner
        self.wait = _callable("wait", wait)
        self.stop = _callable("stop", stop)
        self.retry = _callable("retry", retry)
        self.before_sleep = _callable("before_sleep", before_sleep)

    def __bool__(self) -> bool:
        return any((self.wait, self.stop, self.retry, self.before_sleep))

    def record(self, attempts: Attempts, error: Exception | None, result: Any, now: float) -> Any:
        """Return a `RetryCallState` as of `now`. It knows no function and no arguments: policies never see them."""
        from tenacity import RetryCallState  # noqa: PLC0415 - only calls judged by a strategy need it

        record = RetryCallState(self._owner, None, (), {})
        if error is None:
            record.set_result(result)
        else:
            record.set_exception((type(error), error, error.__traceback__))
        record.attempt_number, record.idle_for = attempts.number, attempts.slept
        record.start_time, record.outcome_timestamp = attempts.started, now
        return record


def _callable(option: str, strategy: Strategy | None) -> Strategy | None:
    if strategy is None:
        return None
    if not callable(strategy):
        raise ConfigurationError([Problem(option, strategy, "a tenacity strategy: a callable taking a RetryCallState")])
    if not is_plain_callable(strategy):
        raise ConfigurationError(
            [Problem(option, strategy, "a plain callable: coroutine strategies are not supported")]
        )
    return strategy
