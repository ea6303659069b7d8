"""The blocking shell of the fallback; `_aio.py` is the same with `await`."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, cast

from resilience._support.matching import known
from resilience.fallback._ending import STANDS, Ending
from resilience.policy import Substitute

if TYPE_CHECKING:
    from resilience.fallback._policy import Fallback

__all__ = ("around",)

P = ParamSpec("P")
R = TypeVar("R")


def around(fallback: Fallback, call: Callable[P, R], leading_args: int, *, is_inner: bool = False) -> Callable[P, R]:
    """Return `call` with a stand-in for what will not do: as its result, or as a `Substitute` where `is_inner`."""
    on, judges = fallback.on, fallback.on_result is not None

    def covered(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            result = call(*args, **kwargs)
        except Exception as error:
            if error not in on:
                raise
            value = _instead(fallback, Ending(error), args[leading_args:], kwargs)
            if value is STANDS:
                raise
            if is_inner:
                raise Substitute(value, error=error) from error
            return cast("R", value)
        if not judges or fallback.accepts(result):
            return result
        value = _instead(fallback, Ending(None, result), args[leading_args:], kwargs)
        if value is STANDS:
            return result
        if is_inner:
            raise Substitute(value, result=result)
        return cast("R", value)

    return covered


def _instead(fallback: Fallback, ending: Ending, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Return what stands in, STANDS where nothing does; raise what the error was translated into."""
    try:
        for value, function in fallback.alternatives:
            try:
                if function is None:
                    answer = value
                elif fallback.pass_call:
                    answer = function(ending.outcome, *args, **kwargs)
                else:
                    answer = function(ending.outcome)
            except Exception as failure:
                if ending.is_translated(failure):
                    fallback.answered(ending)
                    raise
            else:
                known(function, answer, "wrap_async says that a call is awaited")  # this one blocks
                fallback.answered(ending)
                return answer
        fallback.gave_up(ending)
        return STANDS
    finally:
        del ending  # the tracebacks of its failures refer to this frame: no cycle through it
