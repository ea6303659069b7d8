"""tenacity's strategies: they decide in tenacity's terms, while our engine makes the attempts.

A retry without a strategy never comes here, and tenacity is not imported. With strategies, a call that succeeds at once
does not come here either, unless `retry=` may judge results.
"""

from __future__ import annotations

import sys
import weakref
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, TypeAlias, cast

from resilience._support.user_calls import UserCall, UserCalls
from resilience.errors import ConfigurationError, Problem
from resilience.options import is_plain_callable
from resilience.policy import Replace
from resilience.retry._machine import Attempts

if TYPE_CHECKING:
    from tenacity import RetryCallState

__all__ = ("Strategy", "TenacityStrategies")

Strategy: TypeAlias = Callable[[Any], Any]
"""Takes a `tenacity.RetryCallState`."""
_PARTS = ("retries", "stops", "strategies", "wait_funcs")
"""The attributes of tenacity's combinations that hold what they combine."""


class TenacityStrategies:
    """The strategies of one retry, under the names of `tenacity.Retrying`. An option that was not given is None."""

    def __init__(self, owner: object, given: Mapping[str, Strategy]) -> None:
        # Weak: the owner holds this object, and its memory has to be free as soon as it is dropped.
        self._owner: Callable[[], Any] = weakref.ref(owner)
        for option, strategy in given.items():
            _check(option, strategy)
        self.names = sorted(given)
        self.wait = given.get("wait")
        self.retry = given.get("retry")
        self._stop = given.get("stop")
        self._after = given.get("after")
        self._before_sleep = given.get("before_sleep")
        self._retry_error_callback = given.get("retry_error_callback")
        self.awaits = not all(map(is_plain_callable, given.values()))
        """Whether a strategy is a coroutine function."""
        self.judges_results = self.retry is not None and _looks_at_results(self.retry)
        """Whether `retry=` may ask for another attempt after a result."""

    def named_classes(self) -> tuple[type, ...]:
        """Return the exception classes that `retry=` names. To name a class is to ask for it."""
        found: list[type] = []
        for part in (self.retry, *_parts(self.retry)):
            kinds = getattr(part, "exception_types", ())
            found += [kind for kind in (kinds if isinstance(kinds, tuple) else (kinds,)) if isinstance(kind, type)]
        return tuple(found)

    def update_state(self, attempts: Attempts, error: Exception | None, result: object, now: float) -> None:
        """Bring the `RetryCallState` of the call up to date: an attempt ended at `now`.

        It is one object for all attempts, as in tenacity. It knows no function and no arguments: a policy never sees
        them.
        """
        from tenacity import RetryCallState  # noqa: PLC0415 - a retry without strategies does not need tenacity

        if attempts.state is None:
            attempts.state = RetryCallState(self._owner(), None, (), {})
            _state(attempts).start_time = attempts.started
        state = _state(attempts)
        if error is None:
            state.set_result(result)
        else:
            state.set_exception((type(error), error, error.__traceback__))
        state.outcome_timestamp = now

    def raised_try_again(self, error: Exception | None) -> bool:
        """Whether the function asked for another attempt by raising `tenacity.TryAgain`."""
        from tenacity import TryAgain  # noqa: PLC0415 - a retry without strategies does not need tenacity

        return isinstance(error, TryAgain)

    def after(self, attempts: Attempts) -> UserCalls[None]:
        """Call `after=`: an attempt has failed."""
        if self._after is not None:
            yield UserCall(self._after, attempts.state)

    def stops(self, attempts: Attempts, wait: float) -> UserCalls[bool]:
        """Return whether `stop=` forbids another attempt after `wait`."""
        _state(attempts).upcoming_sleep = wait
        return self._stop is not None and bool((yield UserCall(self._stop, attempts.state)))

    def before_sleep(self, attempts: Attempts, wait: float) -> UserCalls[None]:
        """Call `before_sleep=`, and prepare the state for the attempt that follows after `wait`."""
        from tenacity import RetryAction  # noqa: PLC0415 - a retry without strategies does not need tenacity

        state = _state(attempts)
        state.next_action, state.upcoming_sleep = RetryAction(wait), wait
        state.idle_for += wait
        if self._before_sleep is not None:
            yield UserCall(self._before_sleep, state)
        state.prepare_for_next_attempt()

    def replacement(self, attempts: Attempts) -> UserCalls[Replace | None]:
        """Return the result of `retry_error_callback=`, which the caller gets in place of the last outcome."""
        if self._retry_error_callback is None:
            return None
        return Replace((yield UserCall(self._retry_error_callback, attempts.state)))


def _state(attempts: Attempts) -> RetryCallState:
    return cast("RetryCallState", attempts.state)  # `update_state` has made it


def _check(option: str, strategy: object) -> None:
    if not callable(strategy):
        raise ConfigurationError([Problem(option, strategy, "a tenacity strategy: a callable taking a RetryCallState")])
    if is_plain_callable(strategy):
        for part in _parts(strategy):
            if not is_plain_callable(part):  # a plain combination takes a coroutine for a yes
                expected = "plain strategies inside a plain one; combine coroutine functions with tenacity.asyncio's"
                raise ConfigurationError([Problem(option, part, expected)])


def _parts(strategy: object) -> Iterator[object]:
    """Yield the strategies that a strategy of tenacity combines, at every depth."""
    if not type(strategy).__module__.startswith("tenacity"):
        return
    parts = [part for name in _PARTS for part in getattr(strategy, name, ())]
    for part in (*parts, *filter(None, [getattr(strategy, "predicate", None)])):
        yield part
        yield from _parts(part)


def _looks_at_results(strategy: Any) -> bool:
    """Whether a `retry=` strategy may ask for another attempt after a result."""
    tenacity, awaiting = sys.modules.get("tenacity"), sys.modules.get("tenacity.asyncio.retry")
    if tenacity is None:
        return True
    if isinstance(strategy, tenacity.retry_any):
        return any(map(_looks_at_results, strategy.retries))
    if isinstance(strategy, tenacity.retry_all):
        return all(map(_looks_at_results, strategy.retries))
    homes = [home for home in (tenacity, awaiting) if home is not None]
    return getattr(type(strategy), "__call__", None) not in [home.retry_if_exception.__call__ for home in homes]  # noqa: B004 - the method itself
