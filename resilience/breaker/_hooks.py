"""pybreaker's four listener hooks, driven from our events."""

from __future__ import annotations

import functools
import logging
import weakref
from types import FunctionType
from typing import TYPE_CHECKING, Any

import pybreaker

from resilience.errors import named

if TYPE_CHECKING:
    from collections.abc import Callable

    from resilience.events import Event

__all__ = ("Hooks", "has_hooks", "label")

_log = logging.getLogger("resilience")
_HOOKS = ("before_call", "success", "failure", "state_change")
_TRANSITIONS = ("breaker.opened", "breaker.half_opened", "breaker.closed")
_ENGINE = "resilience._engine."
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


def has_hooks(listener: object) -> bool:
    """Whether `listener` is to be told in pybreaker's way, by descent or by having all four hooks."""
    is_one = isinstance(listener, pybreaker.CircuitBreakerListener)
    return is_one or all(callable(getattr(listener, hook, None)) for hook in _HOOKS)


class Hooks:
    """The pybreaker listeners of one breaker. What they raise is logged and changes nothing for the caller.

    The breaker is held weakly: it holds these, and its memory has to be free as soon as it is dropped.
    """

    __slots__ = ("_breaker", "_silent", "listeners")

    def __init__(self, breaker: pybreaker.CircuitBreaker) -> None:
        self._breaker = weakref.ref(breaker)
        self.listeners: tuple[pybreaker.CircuitBreakerListener, ...] = ()
        """Empty for most: callers look before they call a hook."""
        self._silent: weakref.WeakSet[Callable[..., Any]] | None = None  # most breakers decorate nothing

    def keep_silent(self, guarded: Any) -> None:
        """Remember a decorated function whose calls nobody is told of, so that it can still be changed."""
        if self._silent is None:
            self._silent = weakref.WeakSet()
        self._silent.add(guarded.__func__ if isinstance(guarded, staticmethod | classmethod) else guarded)

    def announce(self, through: Callable[..., Any]) -> None:
        """Have the functions decorated so far make their calls `through`; those who have no listeners pay nothing."""
        for guarded in list(self._silent or ()):
            known = guarded.__wrapped__  # type: ignore[attr-defined]  # the engine's wrappers have it
            _redirect(guarded, known, functools.partial(through, known), set())
        self._silent = None

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
            breaker = self._breaker()
            if breaker is not None:
                before, after = (label(breaker, facts[end]) for end in ("before", "after"))
                self._each("state_change", before, after)

    def _each(self, hook: str, /, *args: Any, **kwargs: Any) -> None:
        breaker = self._breaker()
        for listener in self.listeners:
            try:
                getattr(listener, hook)(breaker, *args, **kwargs)
            except Exception:  # noqa: BLE001 - a listener's failure is its own
                _log.exception("pybreaker listener %s failed in %s", named(listener), hook)


def _redirect(guarded: Any, known: Any, through: Any, seen: set[int]) -> None:
    """Put `through` where closures of the engine hold the function `known`."""
    for cell in guarded.__closure__ or ():
        held = cell.cell_contents
        if held is known:
            cell.cell_contents = through
        elif isinstance(held, FunctionType) and str(held.__module__).startswith(_ENGINE) and id(held) not in seen:
            _redirect(held, known, through, seen | {id(held)})
