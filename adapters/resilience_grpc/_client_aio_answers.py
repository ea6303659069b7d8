"""The call object of `grpc.aio` for calls with many answers."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from typing import Any

import grpc.aio

from resilience.errors import ResilienceError
from resilience.policy import BEGUN
from resilience_grpc._client_aio_answer import OverCall, seen
from resilience_grpc._client_call import Outgoing
from resilience_grpc._client_error import CallError, as_call_error

__all__ = ("GuardedAnswers",)

_END = grpc.aio.EOF


class GuardedAnswers(OverCall, grpc.aio.UnaryStreamCall[Any, Any], grpc.aio.StreamStreamCall[Any, Any]):
    """A call of many answers: until the first of them another attempt may take the place of the one under way."""

    def __init__(self, answers: AsyncGenerator[Any, None], outgoing: Outgoing) -> None:
        self._answers, self._outgoing = answers, outgoing
        self._callbacks: list[Callable[[Any], None]] = []
        self._iterator: AsyncIterator[Any] | None = None
        self._closing: asyncio.Task[None] | None = None
        self._first = asyncio.ensure_future(_answer_of(self))
        self._first.add_done_callback(self._settle)

    @property
    def _call(self) -> Any:
        return self._outgoing.begun

    async def answer(self) -> Any:
        """Return the next answer, from whichever attempt brings one."""
        answer: Any = BEGUN
        try:
            with self._outgoing.deadline or contextlib.nullcontext():
                while answer is BEGUN:
                    answer = await anext(self._answers, _END)
        except CallError:
            raise
        except ResilienceError as error:
            raise as_call_error(error, is_aio=True) from error.__cause__
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
        for callback in callbacks:
            self.add_done_callback(callback)

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
        """End the call; return False where it has ended."""
        if self.done():
            return False
        self._outgoing.is_cancelled = True
        self._call.cancel()
        if not self._first.done():
            self._first.cancel()
        elif self._closing is None:
            self._closing = asyncio.ensure_future(_closed(self._answers))
        return True

    def cancelled(self) -> bool:
        """Whether it was cancelled."""
        return self._outgoing.is_cancelled or bool(self._call.cancelled())

    def done(self) -> bool:
        """Whether it has ended, and no other attempt can take its place."""
        return self._first.done() and (self._error is not None or self._first.cancelled() or bool(self._call.done()))

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        """Call `callback` with this at the end."""
        if not self._first.done():
            self._callbacks.append(callback)
        elif self.done():
            callback(self)
        else:
            self._call.add_done_callback(lambda _call: callback(self))

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


# Not methods: closing its channel, an older grpc.aio looks for tasks of calls, and for a `self` in each of them.


async def _answer_of(call: GuardedAnswers) -> Any:
    return await call.answer()


async def _closed(answers: AsyncGenerator[Any, None]) -> None:
    with contextlib.suppress(RuntimeError):  # somebody waits for an answer: there it ends
        await answers.aclose()
