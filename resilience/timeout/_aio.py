"""The awaiting shell: a timer of the loop cancels the task, and the cancellation becomes our error.

No task and, as a rule, no timer per call. Accounting of cancellations as in `asyncio.timeout` (CPython 3.11): a
cancellation from elsewhere that arrives together with ours stays a cancellation.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from contextvars import Context
from types import TracebackType
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

if TYPE_CHECKING:
    from resilience.timeout._policy import Timeout

__all__ = ("Scope", "around_async")

P = ParamSpec("P")
R = TypeVar("R")


class _Line:
    """Scopes of one loop with the same allowance, oldest first: one timer serves all of them.

    A timer a call is most of what a timeout would cost (a heap of handles, compared in Python), and nearly every one is
    cancelled. Equal allowances end in the order they began, so only the oldest has to be watched.
    """

    __slots__ = ("_is_watched", "_scopes", "loop")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._scopes: dict[Scope, None] = {}
        self._is_watched = False

    def join(self, scope: Scope, seconds: float) -> None:
        self._scopes[scope] = None
        if not self._is_watched:
            self._is_watched = True
            # The context of the call that happens to come first must not outlive it.
            self.loop.call_later(seconds, self._look, context=Context())

    def leave(self, scope: Scope) -> None:
        self._scopes.pop(scope, None)

    def _look(self) -> None:
        self._is_watched, late = False, []
        for scope in self._scopes:
            remaining = scope.remaining()
            if remaining > 0:
                self._is_watched = True
                self.loop.call_later(remaining, self._look)
                break
            late.append(scope)
        for scope in late:
            del self._scopes[scope]
            scope.expire()


class Scope:
    """`async with scope:` - the block gets what `timeout` allows, and `DeadlineExceededError` after that."""

    __slots__ = ("_cancelling", "_deadline", "_expired", "_handle", "_line", "_seconds", "_task", "_timeout")

    def __init__(self, timeout: Timeout) -> None:
        self._timeout = timeout
        self._expired = False
        self._line: _Line | None = None

    async def __aenter__(self) -> None:
        self.enter()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.leave(error)

    def enter(self) -> None:
        """Start the timer and put the deadline in force."""
        loop, timeout = asyncio.get_running_loop(), self._timeout
        task = asyncio.current_task(loop)
        if task is None:
            raise RuntimeError("a timeout has to be used inside a task")
        self._task, self._cancelling = task, task.cancelling()
        self._seconds, self._deadline = timeout.begin()
        self._deadline.__enter__()
        if self._seconds != timeout.options.seconds:  # cut short by a sooner deadline: it does not fit into the line
            self._handle = loop.call_later(self._seconds, self.expire)
            return
        line: _Line | None = timeout.line
        if line is None or line.loop is not loop:
            line = timeout.line = _Line(loop)
        self._line = line
        line.join(self, self._seconds)

    def remaining(self) -> float:
        """Return the seconds left."""
        return self._deadline.remaining()

    def leave(self, error: BaseException | None) -> None:
        """Stop the timer; raise ours where it was the timer that ended the block."""
        if self._line is None:
            self._handle.cancel()
        else:
            self._line.leave(self)
        self._deadline.__exit__(None, None, None)
        if not self._expired:
            return
        ours = self._task.uncancel() <= self._cancelling
        if ours and isinstance(error, asyncio.CancelledError):
            raise self._timeout.exceeded(self._seconds) from error

    def expire(self) -> None:
        """Cancel the task: its time is up."""
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
