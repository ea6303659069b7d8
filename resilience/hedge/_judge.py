"""How good what an attempt came to is, by the caller's own words and by ours."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from resilience._support.matching import known
from resilience.errors import (
    ConfigurationError,
    Problem,
    RejectedError,
    ResilienceError,
    cut_off_by_caller,
    leaves,
)
from resilience.hedge._machine import Ending, Outcome
from resilience.options import Opaque, checked, is_plain_callable
from resilience.policy import Substitute

__all__ = ("Judge", "Kinds")

Kinds = type[Exception] | tuple[type[Exception], ...]
_ACCEPTABLE = Opaque("a predicate over the result (not a coroutine function)", is_plain_callable)


class Judge:
    """Rules on results by `acceptable`, on errors by `on`.

    Our own refusals (L4) and errors that say they are not retryable start no other attempt unless asked for by class;
    an attempt that the caller's deadline cut off never does.
    An exception group starts one if every error in it does, or if a class in `on` names the group and no refusal is in.
    """

    def __init__(self, on: Kinds, acceptable: Callable[[Any], object]) -> None:
        kinds: tuple[Any, ...] = on if isinstance(on, tuple) else (on,)
        if not kinds or not all(isinstance(kind, type) and issubclass(kind, Exception) for kind in kinds):
            raise ConfigurationError([Problem("on", on, "an Exception class, or a tuple of them")])
        self._on: tuple[type[Exception], ...] = kinds
        self._asked_for = tuple(kind for kind in kinds if issubclass(kind, ResilienceError))
        self._acceptable: Callable[[Any], object] = checked(acceptable, "acceptable", _ACCEPTABLE)

    def __call__(self, attempt: int, result: Any, error: BaseException | None) -> Outcome:
        """Return the outcome of an attempt; what `acceptable` raises goes through."""
        if error is not None:
            return Outcome(attempt, self._ending(error), None, error)
        # Something to await, from a plain function, has not happened yet: the engine starts it again, awaiting.
        is_good = hasattr(type(result), "__await__") or self._acceptable(result)
        if is_good and is_good is not True:
            known(self._acceptable, is_good)
        return Outcome(attempt, Ending.ANSWERED if is_good else Ending.UNACCEPTABLE, result)

    def _ending(self, error: BaseException) -> Ending:
        if isinstance(error, Substitute):
            return Ending.SUBSTITUTED
        if not isinstance(error, Exception):
            return Ending.INTERRUPTED
        if isinstance(error, BaseExceptionGroup):
            return self._ending_of_group(leaves(error), is_named=isinstance(error, self._on))
        barred = self._barred(error)
        if barred is not None:
            return barred
        return Ending.FAILED if isinstance(error, self._on) else Ending.ANSWERED

    def _barred(self, error: BaseException) -> Ending | None:
        """Return the ending of an error that has to be asked for by class and was not, None for any other error."""
        if cut_off_by_caller(error) is not None:
            return Ending.REFUSED
        if not isinstance(error, ResilienceError) or isinstance(error, self._asked_for):
            return None
        if isinstance(error, RejectedError):
            return Ending.REFUSED
        return None if error.retryable else Ending.ANSWERED

    def _ending_of_group(self, errors: list[BaseException], *, is_named: bool) -> Ending:
        endings = {self._barred(each) if is_named else self._ending(each) for each in errors}
        for ending in (Ending.ANSWERED, Ending.REFUSED):  # one such error is there after another attempt, too
            if ending in endings:
                return ending
        return Ending.FAILED
