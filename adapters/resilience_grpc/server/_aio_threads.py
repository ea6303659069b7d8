"""Plain functions on a server of grpc.aio: each runs in a thread, one step at a time, behind a coroutine function.

grpc.aio can call plain functions itself. But a client that leaves a stream half-way then costs it a thread for good,
and an `abort` between two messages may never arrive.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import Executor
from contextvars import copy_context
from typing import ParamSpec, TypeVar, cast

import grpc

from resilience import BulkheadFullError, Deadline
from resilience_grpc.server._aio_context import AioContext, AioMetadata, ContextProxy
from resilience_grpc.server._handlers import RpcMethod
from resilience_grpc.server._rpc import deadline_exceeded

__all__ = ("in_threads",)

P = ParamSpec("P")
R = TypeVar("R")
_END = object()


def in_threads(method: RpcMethod, executor: Executor | None) -> RpcMethod:
    """Return the same method behind a coroutine function, or an async generator function.

    Args:
        method: A method whose function is a plain one.
        executor: The threads that call the function. None for those of the loop.
    """
    behaviour = method.behaviour

    async def respond(message: object, context: AioContext) -> object:
        thread = _Thread(executor)
        return await thread.run(behaviour, *thread.arguments(method, message, context))

    async def stream(message: object, context: AioContext) -> AsyncIterator[object]:
        thread = _Thread(executor)
        responses: Iterator[object] = iter(())
        try:
            responses = iter(await thread.run(behaviour, *thread.arguments(method, message, context)))
            while (response := await thread.run(next, responses, _END)) is not _END:
                yield response
                deadline = Deadline.current()
                if deadline is not None and deadline.expired:
                    raise deadline_exceeded()
        finally:
            close: Callable[[], object] | None = getattr(responses, "close", None)
            if close is not None:
                await thread.finish(close)

    return method._replace(behaviour=stream if method.response_streaming else respond)


class _Thread:
    """The steps of one RPC: all in one context, whichever thread takes them (L19)."""

    def __init__(self, executor: Executor | None) -> None:
        self._executor = executor
        self._loop = asyncio.get_running_loop()
        self._context = copy_context()

    async def run(self, step: Callable[P, R], *arguments: P.args, **named: P.kwargs) -> R:
        """Take a step in a thread.

        A thread cannot be stopped. If the task is cancelled while a step runs, the cancellation goes on when the step
        has ended. A step that has not begun by then is not taken.
        """
        return await self._run(lambda: self._context.run(step, *arguments, **named), is_owed=False)

    async def finish(self, step: Callable[[], object]) -> None:
        """Take a step in any case: a cancellation may be noticed by a write that fails before it arrives here."""
        await self._run(lambda: self._context.run(step), is_owed=True)

    async def _run(self, step: Callable[[], R], *, is_owed: bool) -> R:
        has_begun = is_given_up = False

        def take() -> R:
            nonlocal has_begun
            has_begun = True
            try:
                return cast("R", None) if is_given_up else step()
            except SystemExit as error:  # would end the loop, and the client would get no answer
                raise RuntimeError("a method called exit()") from error

        try:
            taken = self._loop.run_in_executor(self._executor, take)
        except RuntimeError as error:  # the system starts no more threads, or the executor is shut down
            is_given_up = True  # the step may be in the queue all the same
            raise BulkheadFullError("no thread can be started for a method", policy="grpc") from error
        cancelled: asyncio.CancelledError | None = None
        while not taken.done():
            try:
                await asyncio.wait([taken])
            except asyncio.CancelledError as error:
                cancelled, is_given_up = error, not is_owed
                if is_given_up and not has_begun:
                    taken.cancel()
        if cancelled is not None:
            if not taken.cancelled():
                taken.exception()  # without this, asyncio logs an error that nothing has asked for
            raise cancelled
        return taken.result()

    def arguments(self, method: RpcMethod, message: object, context: AioContext) -> tuple[object, BlockingContext]:
        """Return message (or messages) and context in the form that a plain function expects."""
        messages = self._pulled(cast("AsyncIterator[object]", message)) if method.request_streaming else message
        return messages, BlockingContext(context, self.wait)

    def wait(self, awaitable: Awaitable[R]) -> R:
        """Block this thread until the loop has a result."""

        async def result() -> R:
            return await awaitable

        return asyncio.run_coroutine_threadsafe(result(), self._loop).result()

    def _pulled(self, messages: AsyncIterator[object]) -> Iterator[object]:
        source = aiter(messages)
        while (message := self.wait(anext(source, _END))) is not _END:
            yield message


class BlockingContext(ContextProxy):
    """The context of an RPC for functions that cannot await. It has the members of a context of `grpc`."""

    def __init__(self, context: AioContext, wait: Callable[[Awaitable[None]], None]) -> None:
        super().__init__(context)
        self._wait = wait

    def abort(self, code: grpc.StatusCode, details: str = "", trailing_metadata: AioMetadata = ()) -> None:
        """End the RPC."""
        self._wait(self._context.abort(code, details, trailing_metadata))

    def abort_with_status(self, status: grpc.Status) -> None:
        """End the RPC."""
        self._wait(self._context.abort_with_status(status))

    def send_initial_metadata(self, initial_metadata: AioMetadata) -> None:
        """Send the initial metadata ahead of the first response."""
        self._wait(self._context.send_initial_metadata(initial_metadata))

    def add_callback(self, callback: Callable[[], object]) -> bool:
        """Have `callback` called when the RPC has ended."""
        self._context.add_done_callback(lambda _: callback())  # type: ignore[arg-type]  # the stub wants a class
        return True

    def is_active(self) -> bool:
        """Return whether the client still waits."""
        return not self._context.done()
