"""The awaiting shell of the fallback: `_sync.py` with `await`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, cast

from resilience.fallback._ending import STANDS, Ending
from resilience.policy import Substitute

if TYPE_CHECKING:
    from resilience.fallback._policy import Fallback

__all__ = ("around_async",)

P = ParamSpec("P")
R = TypeVar("R")


def around_async(
    fallback: Fallback, call: Callable[P, Awaitable[R]], leading_args: int, *, is_inner: bool = False
) -> Callable[P, Coroutine[Any, Any, R]]:
    """Return `call` with a stand-in for what will not do: as its result, or as a `Substitute` where `is_inner`."""
    on, judges = fallback.on, fallback.on_result is not None

    async def covered(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            result = await call(*args, **kwargs)
        except Exception as error:
            if error not in on:
                raise
            value = await _instead(fallback, Ending(error), args[leading_args:], kwargs)
            if value is STANDS:
                raise
            if is_inner:
                raise Substitute(value, error=error) from error
            return cast("R", value)
        if not judges or fallback.accepts(result):
            return result
        value = await _instead(fallback, Ending(None, result), args[leading_args:], kwargs)
        if value is STANDS:
            return result
        if is_inner:
            raise Substitute(value, result=result)
        return cast("R", value)

    return covered


async def _instead(fallback: Fallback, ending: Ending, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Return what stands in, STANDS where nothing does; raise what the error was translated into."""
    try:
        for value, function in fallback.alternatives:
            try:
                if function is None:
                    answer = value
                else:
                    arguments = (args, kwargs) if fallback.pass_call else ((), {})
                    answer = function(ending.outcome, *arguments[0], **arguments[1])
                    if hasattr(type(answer), "__await__"):
                        answer = await answer
            except Exception as failure:
                if ending.is_translated(failure):
                    fallback.answered(ending)
                    raise
            else:
                fallback.answered(ending)
                return answer
        fallback.gave_up(ending)
        return STANDS
    finally:
        del ending  # the tracebacks of its failures refer to this frame: no cycle through it
