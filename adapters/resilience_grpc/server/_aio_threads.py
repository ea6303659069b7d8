"""Plain functions on a server of grpc.aio: each runs in a thread, one step at a time, and looks like a coroutine.

grpc.aio can call them by itself, but a client that leaves a stream half-way costs it a thread for good, and an `abort`
between two messages may never arrive.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import Executor
from contextvars import copy_context
from typing import Any

from resilience import BulkheadFullError, Deadline
from resilience_grpc.server._handlers import Method
from resilience_grpc.server._rpc import late

__all__ = ("bridged",)

_END: Any = object()


def bridged(method: Method, executor: Executor | None) -> Method:
    """Return the same method behind a coroutine function, or an async generator function."""
    behaviour = method.behaviour

    async def answer(message: Any, servicer: Any) -> Any:
        thread = _Thread(executor)
        return await thread.run(behaviour, *thread.seen(method, message, servicer))

    async def stream(message: Any, servicer: Any) -> AsyncIterator[Any]:
        thread = _Thread(executor)
        answers: Iterator[Any] = iter(())
        try:
            answers = iter(await thread.run(behaviour, *thread.seen(method, message, servicer)))
            while (answer := await thread.run(next, answers, _END)) is not _END:
                yield answer
                deadline = Deadline.current()
                if deadline is not None and deadline.expired:
                    raise late()
        finally:
            close = getattr(answers, "close", None)
            if close is not None:
                await thread.run(close, is_owed=True)

    return method._replace(behaviour=stream if method.gives_stream else answer)


class _Thread:
    """The steps of one RPC: in one context of its own, whichever thread takes them (L19)."""

    def __init__(self, executor: Executor | None) -> None:
        self._executor = executor
        self._loop = asyncio.get_running_loop()
        self._context = copy_context()

    async def run(self, step: Callable[..., Any], *arguments: Any, is_owed: bool = False) -> Any:
        """Take a step. A thread cannot be stopped: one that has begun is waited for, and only then are we cancelled.

        A step that is owed is taken in any case: a write that fails may be ahead of the cancellation it comes from.
        """
        has_begun = is_given_up = False

        def take() -> Any:
            nonlocal has_begun
            has_begun = True
            try:
                return _END if is_given_up else self._context.run(step, *arguments)
            except SystemExit as error:  # would end the loop, and its client would never hear of it
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
                taken.exception()  # nobody is left to hear of it
            raise cancelled
        return taken.result()

    def seen(self, method: Method, message: Any, servicer: Any) -> tuple[Any, Any]:
        """Return message (or messages) and context as a plain function knows them."""
        return self._pulled(message) if method.takes_stream else message, _Waiting(servicer, self.wait)

    def wait(self, awaitable: Awaitable[Any]) -> Any:
        """Block this thread until the loop has an answer."""

        async def answered() -> Any:
            return await awaitable

        return asyncio.run_coroutine_threadsafe(answered(), self._loop).result()

    def _pulled(self, messages: AsyncIterator[Any]) -> Iterator[Any]:
        source = aiter(messages)
        while (message := self.wait(anext(source, _END))) is not _END:
            yield message


class _Waiting:
    """The context of an RPC, for functions that cannot await."""

    def __init__(self, servicer: Any, wait: Callable[[Awaitable[Any]], Any]) -> None:
        self._servicer = servicer
        self._wait = wait

    def __getattr__(self, name: str) -> Any:
        return getattr(self._servicer, name)

    def abort(self, *arguments: Any, **named: Any) -> None:
        """End the RPC."""
        self._wait(self._servicer.abort(*arguments, **named))

    def abort_with_status(self, status: Any) -> None:
        """End the RPC."""
        self._wait(self._servicer.abort_with_status(status))

    def send_initial_metadata(self, initial_metadata: Any) -> None:
        """Send them ahead of the first answer."""
        self._wait(self._servicer.send_initial_metadata(initial_metadata))

    def add_callback(self, callback: Callable[[], object]) -> bool:
        """Have `callback` called when the RPC is over."""
        self._servicer.add_done_callback(lambda _: callback())
        return True

    def is_active(self) -> bool:
        """Whether the client still waits."""
        return not self._servicer.done()
