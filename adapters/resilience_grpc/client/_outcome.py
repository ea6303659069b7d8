"""Call objects of `grpc` for calls that no single RPC stands for."""

from __future__ import annotations

import concurrent.futures
import types
from collections.abc import Callable
from typing import Any

import grpc
from grpc import StatusCode

from resilience_grpc.client._call import Outgoing

__all__ = ("CallFuture", "Given", "Promised")


class CallFuture(grpc.Call, grpc.Future):  # type: ignore[type-arg]  # the stubs' Future is generic, grpcio's is not
    """What any of them says by default."""

    def time_remaining(self) -> float | None:  # type: ignore[override]  # grpcio has None here as well
        """Return None: the attempts have deadlines, each of its own."""
        return None

    def is_active(self) -> bool:
        """Whether it has not ended."""
        return not self.done()

    def running(self) -> bool:
        """Whether it has not ended."""
        return not self.done()

    def traceback(self, timeout: float | None = None) -> types.TracebackType | None:
        """Return where its error was raised."""
        error = self.exception(timeout)
        return None if error is None else error.__traceback__

    def add_callback(self, callback: Callable[[], None]) -> bool:
        """Call `callback` at the end; return False where that is past."""
        if self.done():
            return False
        self.add_done_callback(lambda _call: callback())
        return True


class Given(CallFuture):
    """A response that a policy gave, without a call."""

    def __init__(self, response: Any) -> None:
        self._response = response

    def code(self) -> StatusCode:
        """Return OK."""
        return StatusCode.OK

    def details(self) -> str:
        """Return nothing: no server was asked."""
        return ""

    def initial_metadata(self) -> Any:
        """Return nothing: no server was asked."""
        return ()

    def trailing_metadata(self) -> Any:
        """Return nothing: no server was asked."""
        return ()

    def cancel(self) -> bool:
        """Do nothing: it is over."""
        return False

    def cancelled(self) -> bool:
        """Return False."""
        return False

    def done(self) -> bool:
        """Return True."""
        return True

    def result(self, timeout: float | None = None) -> Any:  # noqa: ARG002 - it is there
        """Return the response."""
        return self._response

    def exception(self, timeout: float | None = None) -> Exception | None:  # noqa: ARG002 - there is none
        """Return None."""
        return None

    def add_done_callback(self, fn: Callable[[Any], None]) -> None:
        """Call `fn` at once."""
        fn(self)


class Promised(CallFuture):
    """What `stub.Method.future` returns: a call whose attempts are made elsewhere."""

    def __init__(self, future: concurrent.futures.Future[Any], outgoing: Outgoing) -> None:
        self._future, self._outgoing = future, outgoing

    def cancel(self) -> bool:
        """End the call; return False where it has ended."""
        return self._future.cancel()

    def cancelled(self) -> bool:
        """Whether it was cancelled here."""
        return self._future.cancelled()

    def done(self) -> bool:
        """Whether it has ended."""
        return self._future.done()

    def result(self, timeout: float | None = None) -> Any:
        """Wait for the response. Raises as `grpc.Future` says, and the call's own error."""
        self._wait(timeout)
        try:
            return self._future.result()
        except concurrent.futures.CancelledError:
            raise grpc.FutureCancelledError from None

    def exception(self, timeout: float | None = None) -> Any:
        """Wait for the end; return the error or None."""
        self._wait(timeout)
        try:
            return self._future.exception()
        except concurrent.futures.CancelledError:
            raise grpc.FutureCancelledError from None

    def add_done_callback(self, fn: Callable[[Any], None]) -> None:
        """Call `fn` with this at the end."""
        self._future.add_done_callback(lambda _future: fn(self))

    def code(self) -> StatusCode:
        """Wait for the end; return its status."""
        status: StatusCode = self._ended("code", StatusCode.CANCELLED)
        return status

    def details(self) -> str:
        """Wait for the end; return its message."""
        text: str = self._ended("details", "Locally cancelled by application!")
        return text

    def initial_metadata(self) -> Any:
        """Wait for the end; return what the server sent ahead."""
        return self._ended("initial_metadata", ())

    def trailing_metadata(self) -> Any:
        """Wait for the end; return what the server sent with the status."""
        return self._ended("trailing_metadata", ())

    def _wait(self, timeout: float | None) -> None:
        if not concurrent.futures.wait([self._future], timeout).done:
            raise grpc.FutureTimeoutError

    def _ended(self, name: str, if_cancelled: Any) -> Any:
        self._wait(None)
        if self._future.cancelled():
            return if_cancelled
        error = self._future.exception()
        if error is None:
            response = self._future.result()
            call: Any = self._outgoing.call_of(response) or Given(response)
        else:
            call = error if isinstance(error, grpc.Call) else _Unsent()
        return getattr(call, name)()


class _Unsent(Given):
    """A call that failed before gRPC had a part in it, such as over a message that cannot be serialised."""

    def __init__(self) -> None:
        super().__init__(None)

    def code(self) -> StatusCode:
        """Return what grpcio has for it."""
        return StatusCode.INTERNAL
