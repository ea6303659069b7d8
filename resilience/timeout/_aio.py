"""The awaiting shell: a timer of the loop cancels the task, and the cancellation becomes our error.

One `call_later` per call, no task. Accounting of cancellations as in `asyncio.timeout` (CPython 3.11): a cancellation
from elsewhere that arrives together with ours stays a cancellation.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from types import TracebackType
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

if TYPE_CHECKING:
    from resilience.timeout._policy import Timeout

__all__ = ("Scope", "around_async")

P = ParamSpec("P")
R = TypeVar("R")


class Scope:
    """`async with scope:` - the block gets what `timeout` allows, and `DeadlineExceededError` after that."""

    __slots__ = ("_cancelling", "_deadline", "_expired", "_handle", "_seconds", "_task", "_timeout")

    def __init__(self, timeout: Timeout) -> None:
        self._timeout = timeout
        self._expired = False

    async def __aenter__(self) -> None:
        self.enter()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.leave(error)

    def enter(self) -> None:
        """Start the timer and put the deadline in force."""
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("a timeout has to be used inside a task")
        self._task, self._cancelling = task, task.cancelling()
        self._seconds, self._deadline = self._timeout.begin()
        self._deadline.__enter__()
        self._handle = task.get_loop().call_later(self._seconds, self._expire)

    def leave(self, error: BaseException | None) -> None:
        """Stop the timer; raise ours where it was the timer that ended the block."""
        self._handle.cancel()
        self._deadline.__exit__(None, None, None)
        if not self._expired:
            return
        ours = self._task.uncancel() <= self._cancelling
        if ours and isinstance(error, asyncio.CancelledError):
            raise self._timeout.exceeded(self._seconds) from error

    def _expire(self) -> None:
        self._expired = True
        self._task.cancel()


def around_async(timeout: Timeout, inner: Callable[P, Awaitable[R]]) -> Callable[P, Coroutine[Any, Any, R]]:
    """Return `inner` with the allowance of `timeout` for each call."""

    async def call(*args: P.args, **kwargs: P.kwargs) -> R:
        scope = Scope(timeout)
        scope.enter()
        try:
            result = await inner(*args, **kwargs)
        except BaseException as error:
            scope.leave(error)
            raise
        scope.leave(None)
        return result

    return call
