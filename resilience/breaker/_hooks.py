"""pybreaker's four listener hooks, driven from our events."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import pybreaker

if TYPE_CHECKING:
    from collections.abc import Callable

    from resilience.events import Event

__all__ = ("Hooks", "label")

_log = logging.getLogger("resilience")
_TRANSITIONS = ("breaker.opened", "breaker.half_opened", "breaker.closed")
_LABELS: dict[str, type[pybreaker.CircuitBreakerState]] = {
    pybreaker.STATE_CLOSED: pybreaker.CircuitClosedState,
    pybreaker.STATE_OPEN: pybreaker.CircuitOpenState,
    pybreaker.STATE_HALF_OPEN: pybreaker.CircuitHalfOpenState,
}


def label(breaker: pybreaker.CircuitBreaker, state: str) -> Any:
    """Return pybreaker's state object for `state`, as a label: ours decides nothing."""
    made = object.__new__(_LABELS[state])
    pybreaker.CircuitBreakerState.__init__(made, breaker, state)
    return made


class Hooks:
    """The pybreaker listeners of one breaker. What they raise is logged and changes nothing for the caller."""

    def __init__(self, breaker: pybreaker.CircuitBreaker) -> None:
        self._breaker = breaker
        self.listeners: tuple[pybreaker.CircuitBreakerListener, ...] = ()
        """Empty for most: callers look before they call a hook."""

    def before_call(self, func: Callable[..., Any], /, *args: Any, **kwargs: Any) -> None:
        """Tell that an admitted call is about to be made."""
        self._each("before_call", func, *args, **kwargs)

    def success(self) -> None:
        """Tell that a call went well."""
        self._each("success")

    def failure(self, error: BaseException) -> None:
        """Tell that a call failed in a way that counts."""
        self._each("failure", error)

    def on_event(self, event: Event) -> None:
        """Turn a transition into `state_change`."""
        facts = event.facts
        if event.kind in _TRANSITIONS and "shadow" not in facts and facts["before"] != facts["after"]:
            before, after = (label(self._breaker, facts[end]) for end in ("before", "after"))
            self._each("state_change", before, after)

    def _each(self, hook: str, /, *args: Any, **kwargs: Any) -> None:
        for listener in self.listeners:
            try:
                getattr(listener, hook)(self._breaker, *args, **kwargs)
            except Exception:  # noqa: BLE001 - a listener's failure is its own
                _log.exception("pybreaker listener %r failed in %s", listener, hook)
