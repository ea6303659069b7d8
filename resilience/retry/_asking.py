"""Decisions that ask functions of the user's on the way, written once for both colours.

A decision is a generator that yields each function with its argument, and is sent the answer. Here the functions are
called; in `_aio.py` what they return may be awaited too.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any, TypeAlias, TypeVar

from resilience._support.matching import refuse_awaitable

__all__ = ("ADVICE", "Asking", "Question", "answered")

T = TypeVar("T")
ADVICE = "write it as `async def` and guard a coroutine function"
Question: TypeAlias = tuple[Callable[[Any], Any], Any]
Asking: TypeAlias = Generator[Question, Any, T]


def answered(decision: Asking[T]) -> T:
    """Return what was decided, having called every function it asked."""
    answer: Any = None
    while True:
        try:
            ask, about = decision.send(answer)
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]  # a generator's result is untyped on its way out
        answer = ask(about)
        if hasattr(type(answer), "__await__"):
            refuse_awaitable(ask, answer, ADVICE)
