"""The rank of an attempt: by the options `on` and `acceptable`, and by the rules of our own errors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

from resilience._support.matching import known
from resilience.errors import (
    ConfigurationError,
    Problem,
    RejectedError,
    ResilienceError,
    cut_off_by_caller,
    leaves,
)
from resilience.hedge._machine import Rank, RankedOutcome
from resilience.options import Opaque, checked, is_plain_callable
from resilience.policy import Substitute

__all__ = ("AcceptRule", "HedgeOn")

HedgeOn: TypeAlias = type[Exception] | tuple[type[Exception], ...]
_ACCEPTABLE = Opaque("a predicate over the result (not a coroutine function)", is_plain_callable)


class AcceptRule:
    """Ranks the results of attempts by `acceptable`, and their errors by `on`.

    A refusal by one of our own policies (L4) and an error that says it is not retryable start no other attempt, unless
    a class in `on` names them. An attempt that the deadline of the caller cut off never does. An exception group starts
    another attempt if every error in it does, or if a class in `on` names the group and it contains no refusal.
    """

    def __init__(self, on: HedgeOn, acceptable: Callable[[Any], object]) -> None:
        kinds: tuple[Any, ...] = on if isinstance(on, tuple) else (on,)
        if not kinds or not all(isinstance(kind, type) and issubclass(kind, Exception) for kind in kinds):
            raise ConfigurationError([Problem("on", on, "an Exception class, or a tuple of them")])
        self._on: tuple[type[Exception], ...] = kinds
        self._named = tuple(kind for kind in kinds if issubclass(kind, ResilienceError))
        self._acceptable: Callable[[Any], object] = checked(acceptable, "acceptable", _ACCEPTABLE)

    def __call__(self, attempt: int, result: Any, error: BaseException | None) -> RankedOutcome:
        """Return the outcome of an attempt with its rank. An exception of `acceptable` is not caught."""
        if error is not None:
            return RankedOutcome(attempt, self._rank(error), None, error)
        # An awaitable from a plain function is not a result yet: the engine makes the call again, awaiting.
        is_good = hasattr(type(result), "__await__") or self._acceptable(result)
        if is_good and is_good is not True:
            known(self._acceptable, is_good)
        return RankedOutcome(attempt, Rank.ANSWERED if is_good else Rank.UNACCEPTABLE, result)

    def _rank(self, error: BaseException) -> Rank:
        if isinstance(error, Substitute):
            return Rank.SUBSTITUTED
        if not isinstance(error, Exception):
            return Rank.INTERRUPTED
        if isinstance(error, BaseExceptionGroup):
            return self._rank_of_group(leaves(error), is_named=isinstance(error, self._on))
        unnamed = self._unnamed_rank(error)
        if unnamed is not None:
            return unnamed
        return Rank.FAILED if isinstance(error, self._on) else Rank.ANSWERED

    def _unnamed_rank(self, error: BaseException) -> Rank | None:
        """Return the rank of an error that `on` must name and does not name; None for any other error."""
        if cut_off_by_caller(error) is not None:
            return Rank.REFUSED
        if not isinstance(error, ResilienceError) or isinstance(error, self._named):
            return None
        if isinstance(error, RejectedError):
            return Rank.REFUSED
        return None if error.retryable else Rank.ANSWERED

    def _rank_of_group(self, errors: list[BaseException], *, is_named: bool) -> Rank:
        ranks = {self._unnamed_rank(each) if is_named else self._rank(each) for each in errors}
        for rank in (Rank.ANSWERED, Rank.REFUSED):  # another attempt would not change this one
            if rank in ranks:
                return rank
        return Rank.FAILED
