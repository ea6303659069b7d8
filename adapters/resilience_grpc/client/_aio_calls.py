"""Call objects of `grpc.aio` for guarded calls: more than one attempt, or none, may stand behind such a call."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Generator
from typing import Any, Protocol, TypeAlias

import grpc.aio
from grpc import StatusCode

from resilience.errors import ResilienceError
from resilience.policy import STARTED
from resilience_grpc._grpcio_internals import has_done_writing, weak_channel_callback
from resilience_grpc.client._call import CallObject, OutgoingCall
from resilience_grpc.client._errors import CallError, as_call_error

__all__ = (
    "AioCall",
    "AioOutgoing",
    "GuardedStreamCall",
    "GuardedStreamUnaryCall",
)

_END = grpc.aio.EOF


class AioCall(CallObject, Protocol):
    """The members of a call object of `grpc.aio` that are used here. A unary call is awaited, a stream is iterated."""

    def __await__(self) -> Generator[Any, None, object]: ...
    def __aiter__(self) -> AsyncIterator[object]: ...
    async def initial_metadata(self) -> grpc.aio.Metadata: ...
    async def trailing_metadata(self) -> grpc.aio.Metadata: ...
    async def code(self) -> StatusCode: ...
    async def details(self) -> str: ...
    async def debug_error_string(self) -> str: ...
    async def wait_for_connection(self) -> None: ...
    async def write(self, request: object) -> None: ...
    async def done_writing(self) -> None: ...


AioOutgoing: TypeAlias = OutgoingCall[Awaitable[AioCall], AioCall]


class _AttemptProxy:
    """Passes on to the current attempt all that concerns its connection and its requests."""

    @property
    def _call(self) -> AioCall:
        raise NotImplementedError

    @property
    def _done_writing_flag(self) -> bool:  # grpc.aio reads it before each write
        return has_done_writing(self._call)

    def time_remaining(self) -> float | None:
        """Return the seconds that the current attempt has left."""
        return self._call.time_remaining()

    async def wait_for_connection(self) -> None:
        """Wait until the attempt is connected."""
        await self._call.wait_for_connection()

    async def write(self, request: Any) -> None:
        """Send another request."""
        await self._call.write(request)

    async def done_writing(self) -> None:
        """Say that there are no more requests."""
        await self._call.done_writing()


class GuardedStreamUnaryCall(_AttemptProxy, grpc.aio.StreamUnaryCall[Any, Any]):
    """A call with streamed requests and one response.

    Args:
        task: Makes the attempt under all policies. Its result is the response.
        call: The call object of the attempt, which has begun. There is no other attempt.
    """

    def __init__(self, task: asyncio.Task[object], call: AioCall) -> None:
        self._task, self._attempt = task, call
        task.add_done_callback(_mark_retrieved)

    @property
    def _call(self) -> AioCall:
        return self._attempt

    def __await__(self) -> Generator[Any, None, Any]:
        return self._task.__await__()

    def cancel(self) -> bool:
        """End the call. Return False if it has ended before."""
        is_first = self._attempt.cancel()
        self._task.cancel()
        return is_first

    def cancelled(self) -> bool:
        """Return whether the call was cancelled."""
        return bool(self._attempt.cancelled())

    def done(self) -> bool:
        """Return whether the call has ended."""
        return bool(self._attempt.done())

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        """Call `callback` with this call at its end."""
        self._attempt.add_done_callback(lambda _call: callback(self))

    async def code(self) -> StatusCode:
        """Wait for the end, and return the status."""
        return await self._attempt.code()

    async def details(self) -> str:
        """Wait for the end, and return the status message."""
        return await self._attempt.details()

    async def initial_metadata(self) -> grpc.aio.Metadata:
        """Wait for the metadata that the server sends first."""
        return await self._attempt.initial_metadata()

    async def trailing_metadata(self) -> grpc.aio.Metadata:
        """Wait for the end, and return the metadata that the server sent with the status."""
        return await self._attempt.trailing_metadata()

    async def debug_error_string(self) -> str:
        """Wait for the end, and return grpcio's own description."""
        return await self._attempt.debug_error_string()


class GuardedStreamCall(_AttemptProxy, grpc.aio.UnaryStreamCall[Any, Any], grpc.aio.StreamStreamCall[Any, Any]):
    """A call with streamed responses, guarded from its begin to the last response.

    Until the first response another attempt may take the place of the current one. From then on the call is the call
    of that attempt.

    Args:
        responses: Makes attempts under all policies, and yields the responses. The first attempt has begun.
        outgoing: The call that the attempts are made of.
    """

    def __init__(self, responses: AsyncGenerator[object, None], outgoing: AioOutgoing) -> None:
        self._responses, self._outgoing, self._loop = responses, outgoing, asyncio.get_running_loop()
        self._callbacks: list[Callable[[Any], None]] = []
        self._iterator: AsyncIterator[Any] | None = None
        self._closing: asyncio.Task[None] | None = None
        self._is_exhausted = False
        self._first = asyncio.ensure_future(_first_response(self))
        self._first.add_done_callback(self._settle)

    @property
    def _call(self) -> AioCall:
        return self._outgoing.current_attempt

    async def next_response(self) -> object:
        """Return the next response, of whichever attempt brings one, and `grpc.aio.EOF` after the last."""
        response: object = STARTED
        self._is_exhausted = True  # unless there is another response
        try:
            with self._outgoing.deadline or contextlib.nullcontext():
                while response is STARTED:
                    response = await anext(self._responses, _END)
        except CallError:
            raise
        except ResilienceError as error:
            raise as_call_error(error, is_aio=True) from error.__cause__
        self._is_exhausted = response is _END
        return response

    async def _iterate(self) -> AsyncGenerator[Any, None]:
        try:
            response = await asyncio.shield(self._first)
        except asyncio.CancelledError:  # as in grpcio, a reader that is cancelled cancels the call
            self.cancel()
            raise
        while response is not _END:
            yield response
            response = await self.next_response()

    def _settle(self, first: asyncio.Task[object]) -> None:
        """Leave the rest to the attempt that has brought a response."""
        _mark_retrieved(first)
        callbacks, self._callbacks = self._callbacks, []
        for callback in callbacks:
            self._follow(callback)

    @property
    def _error(self) -> BaseException | None:
        """The error of a call without any response."""
        first = self._first
        return None if not first.done() or first.cancelled() else first.exception()

    def __aiter__(self) -> AsyncIterator[Any]:
        if self._iterator is None:
            self._iterator = self._iterate()
        return self._iterator

    async def read(self) -> Any:
        """Return the next response, and `grpc.aio.EOF` after the last."""
        return await anext(self.__aiter__(), _END)

    def cancel(self) -> bool:
        """End the call, and release the permits of its policies. Return False if the call has ended before."""
        is_first = not self.done()
        if not is_first and self._is_exhausted:
            return False
        if not _is_running(self._loop):  # the garbage collector cancels from any thread, at any time
            with contextlib.suppress(RuntimeError):  # the loop is closed, and with it the call
                self._loop.call_soon_threadsafe(self.cancel)
            return True
        if is_first:
            self._outgoing.is_cancelled = True
            self._call.cancel()
        if not self._first.done():
            self._first.cancel()
        elif self._closing is None:
            self._closing = asyncio.ensure_future(_closed(self._responses))
        return is_first

    def cancelled(self) -> bool:
        """Return whether the call was cancelled."""
        return self._outgoing.is_cancelled or bool(self._call.cancelled())

    def done(self) -> bool:
        """Return whether the call has ended, and no other attempt can take its place."""
        return self._first.done() and (self._error is not None or self._first.cancelled() or bool(self._call.done()))

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        """Call `callback` with this call at its end."""
        self._follow(weak_channel_callback(callback) or (lambda _call: callback(self)))

    def _follow(self, callback: Callable[[Any], None]) -> None:
        if not self._first.done():
            self._callbacks.append(callback)
        elif self.done():
            callback(self)
        else:
            self._call.add_done_callback(callback)

    async def initial_metadata(self) -> Any:
        """Wait for the metadata that the server sends first."""
        if not self._first.done():
            initial = await self._call.initial_metadata()
            if initial or not self._outgoing.is_repeatable:  # without any, the attempt may be about to fail
                return initial
        return await self._reported("initial_metadata")

    async def code(self) -> Any:
        """Wait for the end, and return the status."""
        return await self._reported("code")

    async def details(self) -> Any:
        """Wait for the end, and return the status message."""
        return await self._reported("details")

    async def trailing_metadata(self) -> Any:
        """Wait for the end, and return the metadata that the server sent with the status."""
        return await self._reported("trailing_metadata")

    async def debug_error_string(self) -> Any:
        """Wait for the end, and return grpcio's own description."""
        return await self._reported("debug_error_string")

    async def _reported(self, name: str) -> Any:
        await asyncio.wait([self._first])
        if isinstance(self._error, CallError):
            return getattr(self._error, name)()
        return await getattr(self._call, name)()


def _is_running(loop: asyncio.AbstractEventLoop) -> bool:
    try:
        return asyncio.get_running_loop() is loop
    except RuntimeError:
        return False


def _mark_retrieved(task: asyncio.Task[object]) -> None:
    """Keep asyncio from logging an error that the caller does not ask for. grpcio does not log it either."""
    if not task.cancelled():
        task.exception()


# Functions and not methods: see the opening of `_grpcio_internals`.


async def _first_response(call: GuardedStreamCall) -> object:
    return await call.next_response()


async def _closed(responses: AsyncGenerator[object, None]) -> None:
    with contextlib.suppress(RuntimeError):  # another task waits for a response, and ends there
        await responses.aclose()
