"""One text for blocking and awaiting code, if the text calls functions of the user.

The text is a generator. To call a function of the user it yields a `UserCall`, and it receives the result; an
exception of the function is raised at the `yield`. Two drivers run such a generator: `run` in blocking code, where a
function must answer at once, and `arun` in coroutines, where a function may return an awaitable.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any, TypeAlias, TypeVar

from resilience._support.matching import known

__all__ = ("UserCall", "UserCalls", "arun", "run")

T = TypeVar("T")


class UserCall:
    """A call of a function of the user, with its arguments."""

    __slots__ = ("args", "function", "kwargs")

    def __init__(self, function: Callable[..., object], /, *args: object, **kwargs: object) -> None:
        self.function = function
        self.args = args
        self.kwargs = kwargs


UserCalls: TypeAlias = Generator[UserCall, Any, T]


def run(calls: UserCalls[T], advice: str) -> T:
    """Return the result of the generator; make each call that it yields.

    A `StopIteration` that a function raises becomes a `RuntimeError` if the generator does not catch it (PEP 479).

    Args:
        calls: The generator, not started yet.
        advice: Ends the message of the error for an awaitable: what the user can do about it.

    Raises:
        ConfigurationError: A function returned an awaitable.
    """
    try:
        call = next(calls)
        while True:
            try:
                answer = call.function(*call.args, **call.kwargs)
            except Exception as error:  # noqa: BLE001 - the generator decides about it
                call = calls.throw(error)
            else:
                call = calls.send(known(call.function, answer, advice))
    except StopIteration as end:
        return end.value  # type: ignore[no-any-return]  # the result of a generator is untyped here


async def arun(calls: UserCalls[T]) -> T:
    """Return the result of the generator; make each call that it yields, and await a result that is awaitable."""
    try:
        call = next(calls)
        while True:
            try:
                answer: Any = call.function(*call.args, **call.kwargs)
                if hasattr(type(answer), "__await__"):
                    answer = await answer
            except Exception as error:  # noqa: BLE001 - the generator decides about it
                call = calls.throw(error)
            else:
                call = calls.send(answer)
    except StopIteration as end:
        return end.value  # type: ignore[no-any-return]  # the result of a generator is untyped here
