"""Call objects of `grpc.aio` for calls that no single RPC stands for."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Generator
from typing import Any

import grpc.aio
from grpc import StatusCode

from resilience.errors import ResilienceError
from resilience.policy import BEGUN
from resilience_grpc._client_call import Outgoing
from resilience_grpc._client_error import CallError, as_call_error

__all__ = ("GivenCall", "GuardedAnswer", "GuardedAnswers")

_END = grpc.aio.EOF


class GivenCall(grpc.aio.UnaryUnaryCall[Any, Any]):
    """A response that a policy gave, without a call."""

    def __init__(self, response: Any) -> None:
        self._response = response

    def __await__(self) -> Generator[Any, None, Any]:
        return self._given().__await__()

    async def _given(self) -> Any:
        return self._response

    def cancel(self) -> bool:
        """Do nothing: it is over."""
        return False

    def cancelled(self) -> bool:
        """Return False."""
        return False

    def done(self) -> bool:
        """Return True."""
        return True

    def time_remaining(self) -> float | None:
        """Return None: it is over."""
        return None

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        """Call `callback` at once."""
        callback(self)

    async def code(self) -> StatusCode:
        """Return OK."""
        return StatusCode.OK

    async def details(self) -> str:
        """Return nothing: no server was asked."""
        return ""

    async def initial_metadata(self) -> grpc.aio.Metadata:
        """Return nothing: no server was asked."""
        return grpc.aio.Metadata()

    async def trailing_metadata(self) -> grpc.aio.Metadata:
        """Return nothing: no server was asked."""
        return grpc.aio.Metadata()

    async def debug_error_string(self) -> str:
        """Return nothing: no server was asked."""
        return ""

    async def wait_for_connection(self) -> None:
        """Return: none is needed."""


class _OverCall:
    """Passes on what is asked of the RPC itself."""

    @property
    def _call(self) -> Any:
        raise NotImplementedError

    @property
    def _done_writing_flag(self) -> bool:  # where grpc.aio looks before it lets anybody write
        return bool(getattr(self._call, "_done_writing_flag", False))

    def time_remaining(self) -> float | None:
        """Return the seconds that the attempt under way has left."""
        remaining: float | None = self._call.time_remaining()
        return remaining

    async def wait_for_connection(self) -> None:
        """Wait until the RPC is connected."""
        await self._call.wait_for_connection()

    async def write(self, request: Any) -> None:
        """Send another message."""
        await self._call.write(request)

    async def done_writing(self) -> None:
        """Say that there are no more messages."""
        await self._call.done_writing()


class GuardedAnswer(_OverCall, grpc.aio.StreamUnaryCall[Any, Any]):
    """A call of many messages; the answer has been through the policies."""

    def __init__(self, task: asyncio.Task[Any], call: Any) -> None:
        self._task, self._rpc = task, call
        task.add_done_callback(_seen)

    @property
    def _call(self) -> Any:
        return self._rpc

    def __await__(self) -> Generator[Any, None, Any]:
        return self._task.__await__()

    def cancel(self) -> bool:
        """End the call; return False where it has ended."""
        is_first: bool = self._rpc.cancel()
        self._task.cancel()
        return is_first

    def cancelled(self) -> bool:
        """Whether it was cancelled."""
        return bool(self._rpc.cancelled())

    def done(self) -> bool:
        """Whether it has ended."""
        return bool(self._rpc.done())

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        """Call `callback` with this at the end."""
        self._rpc.add_done_callback(lambda _call: callback(self))

    async def code(self) -> StatusCode:
        """Wait for the end; return its status."""
        code: StatusCode = await self._rpc.code()
        return code

    async def details(self) -> str:
        """Wait for the end; return its message."""
        details: str = await self._rpc.details()
        return details

    async def initial_metadata(self) -> Any:
        """Wait for what the server sends ahead."""
        return await self._rpc.initial_metadata()

    async def trailing_metadata(self) -> Any:
        """Wait for the end; return what the server sent with the status."""
        return await self._rpc.trailing_metadata()

    async def debug_error_string(self) -> Any:
        """Wait for the end; return grpcio's own account."""
        return await self._rpc.debug_error_string()


class GuardedAnswers(_OverCall, grpc.aio.UnaryStreamCall[Any, Any], grpc.aio.StreamStreamCall[Any, Any]):
    """A call of many answers: until the first of them another attempt may take the place of the one under way."""

    def __init__(self, answers: AsyncGenerator[Any, None], outgoing: Outgoing) -> None:
        self._answers, self._outgoing = answers, outgoing
        self._callbacks: list[Callable[[Any], None]] = []
        self._iterator: AsyncIterator[Any] | None = None
        self._closing: asyncio.Task[None] | None = None
        self._first = asyncio.ensure_future(self._answer())
        self._first.add_done_callback(self._settle)

    @property
    def _call(self) -> Any:
        return self._outgoing.begun

    async def _answer(self) -> Any:
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
            answer = await self._answer()

    async def _settled(self) -> Any:
        """Return the first answer; who is cancelled meanwhile takes the call along, as with grpcio's own."""
        try:
            return await asyncio.shield(self._first)
        except asyncio.CancelledError:
            self.cancel()
            raise

    def _settle(self, first: asyncio.Task[Any]) -> None:
        """Leave the rest to the attempt that has brought an answer."""
        _seen(first)
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
            self._closing = asyncio.ensure_future(self._close())
        return True

    async def _close(self) -> None:
        with contextlib.suppress(RuntimeError):  # somebody waits for an answer: there it ends
            await self._answers.aclose()

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


def _seen(task: asyncio.Task[Any]) -> None:
    """Keep asyncio from reporting an error nobody has asked for: grpcio does not either."""
    if not task.cancelled():
        task.exception()
