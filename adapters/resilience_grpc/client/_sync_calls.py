"""Call objects of `grpc` for guarded calls: more than one attempt, or none, may stand behind such a call."""

from __future__ import annotations

import contextlib
import types
from collections import deque
from collections.abc import Callable, Generator, Iterator
from typing import Any, Protocol, TypeAlias, cast

import grpc
from grpc import StatusCode

from resilience import idempotent
from resilience.errors import ResilienceError
from resilience.policy import STARTED
from resilience_grpc.client._call import AttemptSuperseded, CallObject, OutgoingCall
from resilience_grpc.client._errors import CallError, CallStatus, as_call_error

__all__ = (
    "CallFuture",
    "CompletedCall",
    "FailedBeforeSend",
    "GuardedStream",
    "SyncCall",
    "SyncOutgoing",
    "stream_attempt",
)

_CANCELLED = CallStatus(StatusCode.CANCELLED, "Locally cancelled by application!")


class SyncCall(CallObject, Protocol):
    """The members of a call object of `grpc` that are used here."""

    def result(self, timeout: float | None = None) -> Any: ...
    def exception(self, timeout: float | None = None) -> BaseException | None: ...
    def initial_metadata(self) -> Any: ...


SyncOutgoing: TypeAlias = OutgoingCall[SyncCall, SyncCall]


class CallFuture(grpc.Call, grpc.Future):  # type: ignore[type-arg]  # the stubs' Future is generic, grpcio's is not
    """The members that are the same in all call objects here."""

    def time_remaining(self) -> float | None:  # type: ignore[override]  # grpcio has None here as well
        """Return None: each attempt has a deadline of its own."""
        return None

    def is_active(self) -> bool:
        """Return whether the call has not ended."""
        return not self.done()

    def running(self) -> bool:
        """Return whether the call has not ended."""
        return not self.done()

    def traceback(self, timeout: float | None = None) -> types.TracebackType | None:
        """Wait for the end, and return the traceback of the error, or None."""
        error = self.exception(timeout)
        return None if error is None else error.__traceback__

    def add_callback(self, callback: Callable[[], None]) -> bool:
        """Have `callback` called at the end. Return False if the call has ended: it is then not called."""
        if self.done():
            return False
        self.add_done_callback(lambda _call: callback())
        return True


class CompletedCall(CallFuture):
    """A response that a policy has given: no server was called."""

    def __init__(self, response: object) -> None:
        self._response = response

    def code(self) -> StatusCode:
        """Return OK."""
        return StatusCode.OK

    def details(self) -> str:
        """Return an empty text."""
        return ""

    def initial_metadata(self) -> tuple[()]:
        """Return no metadata."""
        return ()

    def trailing_metadata(self) -> tuple[()]:
        """Return no metadata."""
        return ()

    def cancel(self) -> bool:
        """Do nothing: the call has ended."""
        return False

    def cancelled(self) -> bool:
        """Return False."""
        return False

    def done(self) -> bool:
        """Return True."""
        return True

    def result(self, timeout: float | None = None) -> Any:  # noqa: ARG002 - the response is there
        """Return the response."""
        return self._response

    def exception(self, timeout: float | None = None) -> Exception | None:  # noqa: ARG002 - there is no error
        """Return None."""
        return None

    def add_done_callback(self, fn: Callable[[Any], None]) -> None:
        """Call `fn` at once."""
        fn(self)


class FailedBeforeSend(CompletedCall):
    """A call that failed before gRPC had a part in it, such as for a message that cannot be serialized."""

    def __init__(self) -> None:
        super().__init__(None)

    def code(self) -> StatusCode:
        """Return the status that grpcio gives such a call."""
        return StatusCode.INTERNAL


@idempotent
def stream_attempt(outgoing: SyncOutgoing) -> Generator[object, None, None]:
    """Make one attempt, and yield its responses."""
    call = outgoing.begun(outgoing.attempt())
    try:
        yield STARTED
        yield from cast("Iterator[object]", call)
    except grpc.RpcError as error:
        if outgoing.is_cancelled:
            raise AttemptSuperseded from None
        raise outgoing.decode(error) from None
    finally:
        if hasattr(call, "cancel"):  # an interceptor of the user may have made a plain iterator of it
            call.cancel()


class GuardedStream(CallFuture):
    """A call with streamed responses, guarded from its begin to the last response.

    The first attempt begins at once. Until the first response another attempt may take its place. That happens when the
    caller asks for a response, for metadata or for the status. The call is *settled* when the first response has come:
    from then on it is the call of that attempt.
    """

    def __init__(self, attempt: Callable[[SyncOutgoing], Generator[Any, None, None]], outgoing: SyncOutgoing) -> None:
        self._outgoing = outgoing
        self._responses = attempt(outgoing)
        self._ready: deque[object] = deque()
        self._callbacks: list[Callable[[Any], None]] = []
        self._error: BaseException | None = None
        self._has_ended = self._is_settled = False
        with contextlib.suppress(Exception):  # kept, and raised when the caller asks for a response, as in grpcio
            self._step()

    @property
    def _call(self) -> SyncCall:
        return self._outgoing.current_attempt

    def __iter__(self) -> GuardedStream:
        return self

    def __next__(self) -> Any:
        if self._ready:
            return self._ready.popleft()
        if self._error is not None:
            raise self._error
        return self._next_response()

    def _next_response(self) -> object:
        """Return the next response, of whichever attempt brings one."""
        response: object = STARTED
        while response is STARTED:
            response = self._step()
        if not self._is_settled:
            self._settle()
        return response

    def _step(self) -> object:
        try:
            with self._outgoing.deadline or contextlib.nullcontext():
                return next(self._responses)
        except StopIteration:
            self._end(None)
            raise
        except AttemptSuperseded:
            error = _cancelled()
        except CallError as raised:
            error = raised
        except ResilienceError as raised:
            error = as_call_error(raised, is_aio=False)
        except BaseException as raised:
            self._end(raised)
            raise
        self._end(error)
        raise error

    def _settle(self) -> None:
        """Leave the rest to the attempt that has brought a response."""
        self._is_settled = True
        for callback in self._taken_callbacks():
            self.add_done_callback(callback)

    def _end(self, error: BaseException | None) -> None:
        self._error, self._has_ended = error, True
        for callback in self._taken_callbacks():
            callback(self)

    def _taken_callbacks(self) -> list[Callable[[Any], None]]:
        callbacks, self._callbacks = self._callbacks, []
        return callbacks

    def _await_settled(self) -> None:
        """Wait until no other attempt can take the place of the current one."""
        if not (self._is_settled or self._has_ended):
            with contextlib.suppress(Exception, StopIteration):  # kept, and raised when the caller asks for a response
                self._ready.append(self._next_response())

    def cancel(self) -> bool:
        """End the call. Return False if it has ended before."""
        if self._has_ended:
            return False
        self._outgoing.is_cancelled = True
        is_first = bool(self._call.cancel())
        with contextlib.suppress(ValueError):  # another thread waits for a response, and gets the end
            self._responses.close()
            self._end(_cancelled())
        return is_first

    def cancelled(self) -> bool:
        """Return whether `cancel` has ended the call."""
        return self._outgoing.is_cancelled

    def done(self) -> bool:
        """Return whether the call has ended, and no other attempt can take its place."""
        return self._has_ended or (self._is_settled and self._call.done())

    def time_remaining(self) -> float | None:  # type: ignore[override]  # grpcio has None here as well
        """Return the seconds that the current attempt has left."""
        return None if self._has_ended else self._call.time_remaining()

    def result(self, timeout: float | None = None) -> None:
        """Wait for the end. Raise the error of the call."""
        error = self.exception(timeout)
        if error is not None:
            raise error

    def exception(self, timeout: float | None = None) -> Any:
        """Wait for the end. Return the error of the call, or None."""
        self._await_settled()
        if self._error is not None or self._has_ended:
            return self._error
        error = self._call.exception(timeout)
        return self._outgoing.decode(error) if isinstance(error, grpc.RpcError) else error

    def add_done_callback(self, fn: Callable[[Any], None]) -> None:
        """Call `fn` with this call at its end."""
        if self._has_ended:
            fn(self)
        elif self._is_settled:
            self._call.add_done_callback(lambda _call: fn(self))
        else:
            self._callbacks.append(fn)

    def code(self) -> Any:
        """Wait for the end, and return the status."""
        return self._reported("code", StatusCode.INTERNAL)

    def details(self) -> Any:
        """Wait for the end, and return the status message."""
        return self._reported("details", "")

    def trailing_metadata(self) -> Any:
        """Wait for the end, and return the metadata that the server sent with the status."""
        return self._reported("trailing_metadata", ())

    def debug_error_string(self) -> Any:
        """Wait for the end, and return grpcio's own description."""
        return self._reported("debug_error_string", "")

    def initial_metadata(self) -> Any:
        """Wait for the metadata that the server sends first."""
        if not (self._is_settled or self._has_ended):
            initial = self._call.initial_metadata()
            if initial or not self._outgoing.is_repeatable:  # without any, the attempt may be about to fail
                return initial
        return self._reported("initial_metadata", ())

    def _reported(self, name: str, default: object) -> Any:
        self._await_settled()
        source: object = self._call if self._error is None else self._error
        return getattr(source, name)() if hasattr(source, name) else default


def _cancelled() -> CallError:
    return as_call_error(ResilienceError(_CANCELLED.text), _CANCELLED, is_aio=False)
