"""tenacity's strategies, deciding in its terms while our engine loops.

Nothing here runs, and tenacity is not imported, unless a strategy was given; a call that succeeds at once never gets
here (unless `retry=` may judge results).
"""

from __future__ import annotations

import sys
import weakref
from collections.abc import Callable, Iterator
from typing import Any

from resilience.errors import ConfigurationError, Problem
from resilience.options import is_plain_callable
from resilience.policy import Replace
from resilience.retry._asking import Asking
from resilience.retry._machine import Attempts, Outcome

__all__ = ("Strategies", "Strategy")

Strategy = Callable[[Any], Any]
"""Takes a `tenacity.RetryCallState`."""
_PARTS = ("retries", "stops", "strategies", "wait_funcs")
"""Where tenacity's combinations keep what they combine."""


class Strategies:
    """The tenacity callables given, by the names `tenacity.Retrying` knows them under."""

    def __init__(self, owner: Any, given: dict[str, Strategy | None]) -> None:
        # Weak: it holds these, and its memory has to be free as soon as it is dropped.
        self._owner: Callable[[], Any] = weakref.ref(owner)
        self._given = {option: _checked(option, each) for option, each in given.items() if each is not None}
        self.awaits = not all(map(is_plain_callable, self._given.values()))
        self.judges_results = "retry" in self._given and _looks_at_results(self._given["retry"])

    def named(self) -> Iterator[type]:
        """Yield the exception classes that `retry=` names: whoever names one means to decide about it."""
        strategy = self._given.get("retry")
        for part in (strategy, *_parts(strategy)):
            kinds = getattr(part, "exception_types", ())
            yield from (kind for kind in (kinds if isinstance(kinds, tuple) else (kinds,)) if isinstance(kind, type))

    def __bool__(self) -> bool:
        return bool(self._given)

    def __iter__(self) -> Iterator[str]:
        return iter(self._given)

    def get(self, option: str) -> Strategy | None:
        """Return what was given under this name."""
        return self._given.get(option)

    def ask(self, option: str, record: Any) -> Asking[Any]:
        """Ask what was given under this name, if anything was."""
        strategy = self._given.get(option)
        return None if strategy is None else (yield strategy, record)

    def is_asked_again(self, error: Exception | None) -> bool:
        """Whether the call itself asked for another attempt, in tenacity's way."""
        from tenacity import TryAgain  # noqa: PLC0415 - only calls judged by a strategy need it

        return isinstance(error, TryAgain)

    def record(self, attempts: Attempts, outcome: Outcome, now: float) -> Any:
        """Return the call's `RetryCallState` as of `now`.

        It is one object from attempt to attempt, as in tenacity. It knows no function and no arguments: policies never
        see them.
        """
        record = attempts.record
        if record is None:
            from tenacity import RetryCallState  # noqa: PLC0415 - only calls judged by a strategy need it

            record = attempts.record = RetryCallState(self._owner(), None, (), {})
            record.start_time = attempts.started
        error = outcome.error
        if error is None:
            record.set_result(outcome.result)
        else:
            record.set_exception((type(error), error, error.__traceback__))
        record.outcome_timestamp = now
        return record

    def announce(self, record: Any, wait: float) -> Asking[None]:
        """Say that another attempt follows after `wait`, and make ready for it."""
        from tenacity import RetryAction  # noqa: PLC0415 - only calls judged by a strategy need it

        record.next_action, record.upcoming_sleep = RetryAction(wait), wait
        record.idle_for += wait
        yield from self.ask("before_sleep", record)
        record.prepare_for_next_attempt()

    def last_word(self, record: Any) -> Asking[Replace | None]:
        """Return what the caller gets instead of the last outcome, where `retry_error_callback` says."""
        if "retry_error_callback" not in self._given:
            return None
        return Replace((yield from self.ask("retry_error_callback", record)))


def _checked(option: str, strategy: Any) -> Strategy:
    if not callable(strategy):
        raise ConfigurationError([Problem(option, strategy, "a tenacity strategy: a callable taking a RetryCallState")])
    if is_plain_callable(strategy):
        for part in _parts(strategy):
            if not is_plain_callable(part):  # the combination would take its coroutine for a yes
                expected = "plain strategies inside a plain one; combine coroutine functions with tenacity.asyncio's"
                raise ConfigurationError([Problem(option, part, expected)])
    return strategy  # type: ignore[no-any-return]  # callable is all that is known of it


def _parts(strategy: Any) -> Iterator[Any]:
    """Yield what a strategy of tenacity's is made of, to the bottom."""
    if not type(strategy).__module__.startswith("tenacity"):
        return
    parts = [part for name in _PARTS for part in getattr(strategy, name, ())]
    for part in (*parts, *filter(None, [getattr(strategy, "predicate", None)])):
        yield part
        yield from _parts(part)


def _looks_at_results(strategy: Any) -> bool:
    """Whether `strategy` may want to retry a call that returned: those on exceptions alone cost a success nothing."""
    tenacity, awaiting = sys.modules.get("tenacity"), sys.modules.get("tenacity.asyncio.retry")
    if tenacity is None:
        return True
    if isinstance(strategy, tenacity.retry_any):
        return any(map(_looks_at_results, strategy.retries))
    if isinstance(strategy, tenacity.retry_all):
        return all(map(_looks_at_results, strategy.retries))
    homes = [home for home in (tenacity, awaiting) if home is not None]
    return getattr(type(strategy), "__call__", None) not in [home.retry_if_exception.__call__ for home in homes]  # noqa: B004 - the method itself
