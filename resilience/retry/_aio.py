"""The awaiting twin of `_asking.py`."""

from __future__ import annotations

from typing import Any, TypeVar

from resilience.retry._asking import Asking

__all__ = ("answered",)

T = TypeVar("T")


async def answered(decision: Asking[T]) -> T:
    """Return what was decided, having called every function it asked and awaited what was awaitable."""
    answer: Any = None
    while True:
        try:
            ask, about = decision.send(answer)
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]  # a generator's result is untyped on its way out
        answer = ask(about)
        if hasattr(type(answer), "__await__"):
            answer = await answer
