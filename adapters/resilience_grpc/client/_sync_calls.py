"""A call of `grpc` with many answers, guarded from its beginning to the last of them."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Generator
from typing import Any

import grpc
from grpc import StatusCode

from resilience import idempotent
from resilience.errors import ResilienceError
from resilience.policy import STARTED
from resilience_grpc.client._call import Lost, Outgoing
from resilience_grpc.client._errors import CallError, Facts, as_call_error
from resilience_grpc.client._outcome import CallFuture

__all__ = ("GuardedStream", "stream_attempt")

_CANCELLED = Facts(StatusCode.CANCELLED, "Locally cancelled by application!")


@idempotent
def stream_attempt(outgoing: Outgoing) -> Generator[Any, None, None]:
    """Make one attempt, and hand over what it brings."""
    call = outgoing.begun = outgoing.attempt()
    try:
        yield STARTED
        yield from call
    except grpc.RpcError as error:
        if outgoing.is_cancelled:
            raise Lost from None
        raise outgoing.decode(error) from None
    finally:
        if hasattr(call, "cancel"):  # an interceptor of somebody else's may have made a plain iterator of it
            call.cancel()


class GuardedStream(CallFuture):
    """The first attempt begins at once. Until the first answer another one may take its place, whenever one looks."""

    def __init__(self, guarded: Callable[[Outgoing], Generator[Any, None, None]], outgoing: Outgoing) -> None:
        self._outgoing = outgoing
        self._answers = guarded(outgoing)
        self._ready: deque[Any] = deque()
        self._callbacks: list[Callable[[Any], None]] = []
        self._error: Any = None
        self._is_over = self._is_settled = False
        with contextlib.suppress(Exception):  # raised when somebody asks for an answer, as grpcio does
            self._step()

    @property
    def _call(self) -> Any:
        return self._outgoing.begun

    def __iter__(self) -> GuardedStream:
        return self

    def __next__(self) -> Any:
        if self._ready:
            return self._ready.popleft()
        if self._error is not None:
            raise self._error
        return self._answer()

    def _answer(self) -> Any:
        """Return the next answer, from whichever attempt brings one."""
        answer = STARTED
        while answer is STARTED:
            answer = self._step()
        if not self._is_settled:
            self._settle()
        return answer

    def _step(self) -> Any:
        try:
            with self._outgoing.deadline or contextlib.nullcontext():
                return next(self._answers)
        except StopIteration:
            self._end(None)
            raise
        except Lost:
            self._end(_cancelled())
        except CallError as error:
            self._end(error)
        except ResilienceError as error:
            self._end(as_call_error(error, is_aio=False))
        except BaseException as error:
            self._end(error)
            raise
        raise self._error

    def _settle(self) -> None:
        """Leave the rest to the attempt that has brought an answer."""
        self._is_settled = True
        for callback in self._taken():
            self.add_done_callback(callback)

    def _end(self, error: BaseException | None) -> None:
        self._error, self._is_over = error, True
        for callback in self._taken():
            callback(self)

    def _taken(self) -> list[Callable[[Any], None]]:
        callbacks, self._callbacks = self._callbacks, []
        return callbacks

    def _look(self) -> None:
        """Wait until no other attempt can take the place of this one."""
        if not (self._is_settled or self._is_over):
            with contextlib.suppress(Exception, StopIteration):  # kept, and raised when somebody asks for an answer
                self._ready.append(self._answer())

    def cancel(self) -> bool:
        """End the call; return False where it has ended."""
        if self._is_over:
            return False
        self._outgoing.is_cancelled = True
        is_first = bool(self._call.cancel())
        with contextlib.suppress(ValueError):  # another thread waits for an answer: it is told
            self._answers.close()
            self._end(_cancelled())
        return is_first

    def cancelled(self) -> bool:
        """Whether it was cancelled here."""
        return self._outgoing.is_cancelled

    def done(self) -> bool:
        """Whether it has ended, and no other attempt can take its place."""
        return self._is_over or (self._is_settled and self._call.done())

    def time_remaining(self) -> float | None:  # type: ignore[override]  # grpcio has None here as well
        """Return the seconds that the attempt under way has left."""
        remaining: float | None = None if self._is_over else self._call.time_remaining()
        return remaining

    def result(self, timeout: float | None = None) -> Any:
        """Wait for the end."""
        error = self.exception(timeout)
        if error is not None:
            raise error
        return None

    def exception(self, timeout: float | None = None) -> Any:
        """Wait for the end; return the error or None."""
        self._look()
        if self._error is not None or self._is_over:
            return self._error
        error = self._call.exception(timeout)
        return self._outgoing.decode(error) if isinstance(error, grpc.RpcError) else error

    def add_done_callback(self, fn: Callable[[Any], None]) -> None:
        """Call `fn` with this at the end."""
        if self._is_over:
            fn(self)
        elif self._is_settled:
            self._call.add_done_callback(lambda _call: fn(self))
        else:
            self._callbacks.append(fn)

    def code(self) -> Any:
        """Wait for the end; return its status."""
        return self._told("code", StatusCode.INTERNAL)

    def details(self) -> Any:
        """Wait for the end; return its message."""
        return self._told("details", "")

    def trailing_metadata(self) -> Any:
        """Wait for the end; return what the server sent with the status."""
        return self._told("trailing_metadata", ())

    def debug_error_string(self) -> Any:
        """Wait for the end; return grpcio's own account."""
        return self._told("debug_error_string", "")

    def initial_metadata(self) -> Any:
        """Wait for what the server sends ahead."""
        if not (self._is_settled or self._is_over):
            ahead = self._call.initial_metadata()
            if ahead or not self._outgoing.repeats:  # nothing may also mean that the attempt is about to fail
                return ahead
        return self._told("initial_metadata", ())

    def _told(self, name: str, otherwise: Any) -> Any:
        self._look()
        source = self._call if self._error is None else self._error
        return getattr(source, name)() if hasattr(source, name) else otherwise


def _cancelled() -> CallError:
    return as_call_error(ResilienceError(_CANCELLED.text), _CANCELLED, is_aio=False)
