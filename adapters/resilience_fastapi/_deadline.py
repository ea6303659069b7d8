"""The answer is due: 504 on time, whether the endpoint is a coroutine or sits in a thread.

An endpoint that awaits is cancelled, once, as `asyncio.timeout` would: its `finally` blocks may await. One that runs
in a worker thread cannot be stopped. Cancelling it would only hide it: the thread would go on with its place in the
bulkhead and in AnyIO's limiter already given away, and threads without bound would follow. So its client gets the 504,
and its place is kept until the thread returns.
"""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable, Coroutine
from contextvars import Context, copy_context
from types import AsyncGeneratorType, CodeType
from typing import Any, TypeAlias

from anyio import CapacityLimiter, to_thread

from resilience.errors import DeadlineExceededError
from resilience_fastapi._broken_off import broken_off
from resilience_fastapi._exchange import Exchange

__all__ = ("Call", "Timer", "call_of")

Answer: TypeAlias = Callable[[Exchange, Exception], Coroutine[Any, Any, None]]
Call: TypeAlias = "tuple[asyncio.Task[Any], int, Context]"
"""Who works on a request, how often that task had been cancelled before, and what it knows."""

_LOOK_AGAIN = 0.05
_IN_THREAD: CodeType = to_thread.run_sync.__code__
_IN_QUEUE = CapacityLimiter.acquire_on_behalf_of.__name__


def call_of(loop: asyncio.AbstractEventLoop) -> Call:
    """Return who is at work here."""
    task = asyncio.current_task(loop)
    assert task is not None  # noqa: S101 - an ASGI application is always called in a task
    return task, task.cancelling(), copy_context()


class Timer:
    """Ends one exchange whose deadline has passed.

    The client is given a 504 where no answer has begun; one that has is broken off by a `DeadlineExceededError`.
    """

    __slots__ = ("_answer", "_before", "_context", "_exchange", "_handle", "_is_cancelled", "_loop", "_reply", "_task")

    def __init__(self, exchange: Exchange, call: Call, answer: Answer) -> None:
        self._task, self._before, self._context = call
        self._exchange = exchange
        self._answer = answer
        self._loop = self._task.get_loop()
        self._reply: asyncio.Task[None] | None = None
        self._is_cancelled = False
        self._handle: asyncio.TimerHandle | None = None

    def stop(self) -> None:
        """Leave the application alone from now on."""
        if self._handle is not None:
            self._handle.cancel()

    def fire(self) -> None:
        """Answer for the application, if it has not begun to, and stop it."""
        if not self._exchange.started:
            # From here on the application cannot answer any more; what it still says is dropped.
            answer = self._answer(self._exchange.abandon(), _error())
            self._reply = self._loop.create_task(answer, context=self._context)
        self._cancel()

    def _cancel(self) -> None:
        if _waits_for_thread(self._task.get_coro()):
            self._handle = self._loop.call_later(_LOOK_AGAIN, self._cancel)
        else:
            self._is_cancelled = True
            self._task.cancel()

    async def settle(self) -> None:
        """End the watch over an application that returned; it may have swallowed our cancellation."""
        self.stop()
        if self._is_cancelled:
            self._task.uncancel()
        if self._reply is not None:
            await self._reply

    async def swallows(self, error: BaseException) -> bool:
        """End the watch over an application that raised, and return whether that was our doing and is dealt with."""
        self.stop()
        is_cancellation = isinstance(error, asyncio.CancelledError)
        # As in asyncio.timeout: a cancellation from outside that came along with ours must go on.
        is_ours = self._is_cancelled and self._task.uncancel() <= self._before and is_cancellation
        if is_ours and self._reply is None:
            raise broken_off() from None
        if self._reply is not None:
            if is_ours or isinstance(error, Exception):
                await self._reply
            else:
                self._reply.cancel()
        return is_ours


def _error() -> DeadlineExceededError:
    return DeadlineExceededError("the deadline passed before the answer was complete", policy="server")


def _waits_for_thread(link: Any) -> bool:
    """Follow what a task waits for, down to the bottom, and return whether that is a thread at work.

    Waiting in AnyIO's queue for a thread is not: a request whose caller has gone need not begin.
    """
    in_thread = False
    while link is not None:
        code = getattr(link, "cr_code", None)
        in_thread = in_thread or code is _IN_THREAD
        if in_thread and code is not None and code.co_name == _IN_QUEUE:
            return False
        link = _awaited(link)
    return in_thread


def _awaited(link: Any) -> Any:
    if hasattr(link, "cr_await"):
        return link.cr_await
    if isinstance(link, AsyncGeneratorType):
        return link.ag_await
    if isinstance(link, asyncio.Future):
        return None
    # The step of an async generator (a sync dependency with `yield`) does not say whose step it is; its referents do.
    return next((thing for thing in gc.get_referents(link) if isinstance(thing, AsyncGeneratorType)), None)
