"""The call object of `grpc.aio` for calls with many answers."""

from __future__ import annotations

import asyncio
import contextlib
import weakref
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from typing import Any

import grpc.aio

from resilience.errors import ResilienceError
from resilience.policy import STARTED
from resilience_grpc.client._aio_answer import OverCall, seen
from resilience_grpc.client._call import Outgoing
from resilience_grpc.client._errors import CallError, as_call_error

__all__ = ("GuardedAnswers",)

_END = grpc.aio.EOF


class GuardedAnswers(OverCall, grpc.aio.UnaryStreamCall[Any, Any], grpc.aio.StreamStreamCall[Any, Any]):
    """A call of many answers: until the first of them another attempt may take the place of the one under way."""

    def __init__(self, answers: AsyncGenerator[Any, None], outgoing: Outgoing) -> None:
        self._answers, self._outgoing, self._loop = answers, outgoing, asyncio.get_running_loop()
        self._callbacks: list[Callable[[Any], None]] = []
        self._iterator: AsyncIterator[Any] | None = None
        self._closing: asyncio.Task[None] | None = None
        self._is_spent = False
        self._first = asyncio.ensure_future(_answer_of(self))
        self._first.add_done_callback(self._settle)

    @property
    def _call(self) -> Any:
        return self._outgoing.begun

    async def answer(self) -> Any:
        """Return the next answer, from whichever attempt brings one."""
        answer: Any = STARTED
        self._is_spent = True  # unless there is another answer
        try:
            with self._outgoing.deadline or contextlib.nullcontext():
                while answer is STARTED:
                    answer = await anext(self._answers, _END)
        except CallError:
            raise
        except ResilienceError as error:
            raise as_call_error(error, is_aio=True) from error.__cause__
        self._is_spent = answer is _END
        return answer

    async def _iterate(self) -> AsyncGenerator[Any, None]:
        answer = await self._settled()
        while answer is not _END:
            yield answer
            answer = await self.answer()

    async def _settled(self) -> Any:
        """Return the first answer; who is cancelled meanwhile takes the call along, as with grpcio's own."""
        try:
            return await asyncio.shield(self._first)
        except asyncio.CancelledError:
            self.cancel()
            raise

    def _settle(self, first: asyncio.Task[Any]) -> None:
        """Leave the rest to the attempt that has brought an answer."""
        seen(first)
        callbacks, self._callbacks = self._callbacks, []
        for told in callbacks:
            self._follow(told)

    @property
    def _error(self) -> BaseException | None:
        """Why there was no answer at all."""
        first = self._first
        return None if not first.done() or first.cancelled() else first.exception()

    def __aiter__(self) -> AsyncIterator[Any]:
        if self._iterator is None:
            self._iterator = self._iterate()
        return self._iterator

    async def read(self) -> Any:
        """Return the next answer, `grpc.aio.EOF` after the last one."""
        return await anext(self.__aiter__(), _END)

    def cancel(self) -> bool:
        """End the call; return False where it has ended. What has not been read of it gives its places back."""
        is_first = not self.done()
        if not is_first and self._is_spent:
            return False
        if not _is_running(self._loop):
            return self._handed_over()
        if is_first:
            self._outgoing.is_cancelled = True
            self._call.cancel()
        if not self._first.done():
            self._first.cancel()
        elif self._closing is None:
            self._closing = asyncio.ensure_future(_closed(self._answers))
        return is_first

    def _handed_over(self) -> bool:
        """Leave it to the loop: the garbage collector cancels from any thread, at any time."""
        with contextlib.suppress(RuntimeError):  # the loop is closed, and with it the call
            self._loop.call_soon_threadsafe(self.cancel)
        return True

    def cancelled(self) -> bool:
        """Whether it was cancelled."""
        return self._outgoing.is_cancelled or bool(self._call.cancelled())

    def done(self) -> bool:
        """Whether it has ended, and no other attempt can take its place."""
        return self._first.done() and (self._error is not None or self._first.cancelled() or bool(self._call.done()))

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        """Call `callback` with this at the end."""
        self._follow(_loosened(callback) or (lambda _call: callback(self)))

    def _follow(self, told: Callable[[Any], None]) -> None:
        if not self._first.done():
            self._callbacks.append(told)
        elif self.done():
            told(self)
        else:
            self._call.add_done_callback(told)

    async def initial_metadata(self) -> Any:
        """Wait for what the server sends ahead."""
        if not self._first.done():
            ahead = await self._call.initial_metadata()
            if ahead or not self._outgoing.repeats:  # nothing may also mean that the attempt is about to fail
                return ahead
        return await self._told("initial_metadata")

    async def code(self) -> Any:
        """Wait for the end; return its status."""
        return await self._told("code")

    async def details(self) -> Any:
        """Wait for the end; return its message."""
        return await self._told("details")

    async def trailing_metadata(self) -> Any:
        """Wait for the end; return what the server sent with the status."""
        return await self._told("trailing_metadata")

    async def debug_error_string(self) -> Any:
        """Wait for the end; return grpcio's own account."""
        return await self._told("debug_error_string")

    async def _told(self, name: str) -> Any:
        await asyncio.wait([self._first])
        if isinstance(self._error, CallError):
            return getattr(self._error, name)()
        return await getattr(self._call, name)()


def _is_running(loop: asyncio.AbstractEventLoop) -> bool:
    try:
        return asyncio.get_running_loop() is loop
    except RuntimeError:
        return False


def _loosened(callback: Callable[[Any], None]) -> Callable[[Any], None] | None:
    """Return a channel's own callback so that it holds no call, None for anybody else's.

    grpc.aio cancels a call whose object nobody holds any longer. But newer channels ask every call to tell them of its
    end, and what the RPC then tells holds the object which grpc.aio has around this one.
    """
    outer = getattr(getattr(callback, "func", None), "__self__", None)
    tell: Any = next(iter(getattr(callback, "args", ())), None)
    if outer is None or not isinstance(getattr(tell, "__self__", None), weakref.WeakSet):
        return None
    known = weakref.ref(outer)
    return lambda _call: None if known() is None else tell(known())


# Not methods: closing its channel, an older grpc.aio looks for tasks of calls, and for a `self` in each of them.


async def _answer_of(call: GuardedAnswers) -> Any:
    return await call.answer()


async def _closed(answers: AsyncGenerator[Any, None]) -> None:
    with contextlib.suppress(RuntimeError):  # somebody waits for an answer: there it ends
        await answers.aclose()
