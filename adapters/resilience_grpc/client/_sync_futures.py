"""Futures of `grpc`: calls that no thread waits for. A loop in one thread of ours makes their attempts."""

from __future__ import annotations

import asyncio
import atexit
import concurrent.futures
import contextlib
import os
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from typing import Any, TypeVar

import grpc
from grpc import StatusCode

from resilience import BulkheadFullError, idempotent
from resilience.errors import ResilienceError
from resilience_grpc.client._errors import CallError, as_call_error
from resilience_grpc.client._sync_calls import CallFuture, CompletedCall, FailedBeforeSend, SyncOutgoing

__all__ = ("FutureCall", "future_attempt", "start_future", "submit")

R = TypeVar("R")


def start_future(attempt: Callable[[SyncOutgoing], Coroutine[Any, Any, object]], outgoing: SyncOutgoing) -> FutureCall:
    """Begin a call on the loop of this process, and return its call object."""

    async def call() -> object:
        try:
            with outgoing.deadline or contextlib.nullcontext():
                return await attempt(outgoing)
        except CallError:
            raise
        except ResilienceError as error:
            raise as_call_error(error, is_aio=False) from error.__cause__

    try:
        return FutureCall(submit(call), outgoing)
    except BulkheadFullError as error:
        refused: Future[object] = Future()
        refused.set_exception(as_call_error(error, is_aio=False))
        return FutureCall(refused, outgoing)


@idempotent
async def future_attempt(outgoing: SyncOutgoing) -> object:
    """Make one attempt, and wait for it on the loop."""
    call = outgoing.attempt()
    loop = asyncio.get_running_loop()
    ended = loop.create_future()

    def wake(_call: object) -> None:
        loop.call_soon_threadsafe(_set, ended)

    call.add_done_callback(wake)
    try:
        await ended
    except BaseException:
        call.cancel()
        raise
    try:
        response = call.result()
    except grpc.RpcError as error:
        raise outgoing.decode(error) from None
    return outgoing.record_response(response, call)


def _set(ended: asyncio.Future[None]) -> None:
    if not ended.done():
        ended.set_result(None)


class FutureCall(CallFuture):
    """The object that `stub.Method.future` returns: a call whose attempts are made on the loop."""

    def __init__(self, future: Future[object], outgoing: SyncOutgoing) -> None:
        self._future, self._outgoing = future, outgoing

    def cancel(self) -> bool:
        """End the call. Return False if it has ended before."""
        return self._future.cancel()

    def cancelled(self) -> bool:
        """Return whether `cancel` has ended the call."""
        return self._future.cancelled()

    def done(self) -> bool:
        """Return whether the call has ended."""
        return self._future.done()

    def result(self, timeout: float | None = None) -> Any:
        """Wait for the response. Raise the error of the call, or the errors that `grpc.Future` names."""
        self._wait(timeout)
        try:
            return self._future.result()
        except concurrent.futures.CancelledError:
            raise grpc.FutureCancelledError from None

    def exception(self, timeout: float | None = None) -> Any:
        """Wait for the end. Return the error of the call, or None."""
        self._wait(timeout)
        try:
            return self._future.exception()
        except concurrent.futures.CancelledError:
            raise grpc.FutureCancelledError from None

    def add_done_callback(self, fn: Callable[[Any], None]) -> None:
        """Call `fn` with this call at its end."""
        self._future.add_done_callback(lambda _future: fn(self))

    def code(self) -> StatusCode:
        """Wait for the end, and return the status."""
        call = self._ended()
        return StatusCode.CANCELLED if call is None else call.code()

    def details(self) -> str:
        """Wait for the end, and return the status message."""
        call = self._ended()
        return "Locally cancelled by application!" if call is None else call.details()

    def initial_metadata(self) -> Any:
        """Wait for the end, and return the metadata that the server sent first."""
        call = self._ended()
        return () if call is None else call.initial_metadata()

    def trailing_metadata(self) -> Any:
        """Wait for the end, and return the metadata that the server sent with the status."""
        call = self._ended()
        return () if call is None else call.trailing_metadata()

    def _wait(self, timeout: float | None) -> None:
        if not concurrent.futures.wait([self._future], timeout).done:
            raise grpc.FutureTimeoutError

    def _ended(self) -> Any:
        """Wait for the end, and return the call object of the result, None if this call was cancelled."""
        self._wait(None)
        if self._future.cancelled():
            return None
        error = self._future.exception()
        if error is not None:
            return error if isinstance(error, grpc.Call) else FailedBeforeSend()
        response = self._future.result()
        return self._outgoing.call_of(response) or CompletedCall(response)


# The loop

_loops: dict[int, asyncio.AbstractEventLoop] = {}
"""By process. A fork copies the loop of the parent to the child, but not the thread that runs it."""


def submit(work: Callable[[], Coroutine[Any, Any, R]]) -> Future[R]:
    """Run `work` on the loop of this process, in a copy of the caller's context.

    Raises:
        BulkheadFullError: The loop does not run yet, and the system starts no thread for it.
    """
    loop = _loop()
    return asyncio.run_coroutine_threadsafe(work(), loop)


def _loop() -> asyncio.AbstractEventLoop:
    process = os.getpid()
    loop = _loops.get(process)
    if loop is None:
        fresh = asyncio.new_event_loop()
        thread = _run(fresh)
        loop = _loops.setdefault(process, fresh)  # not before it runs: a call on it would wait for ever
        if loop is fresh:
            atexit.register(_stop, fresh, thread, process)
        else:  # another thread was faster
            _stop(fresh, thread, process)
    return loop


def _run(loop: asyncio.AbstractEventLoop) -> threading.Thread:
    thread = threading.Thread(target=loop.run_forever, name="resilience-grpc", daemon=True)
    try:
        thread.start()
    except RuntimeError as error:  # the system starts no more threads, or the interpreter is ending
        loop.close()
        raise BulkheadFullError("no thread can be started for a future", policy="grpc") from error
    return thread


def _stop(loop: asyncio.AbstractEventLoop, thread: threading.Thread, process: int) -> None:
    if process != os.getpid():
        return
    with contextlib.suppress(RuntimeError):
        loop.call_soon_threadsafe(loop.stop)
        thread.join(1.0)
        loop.close()
