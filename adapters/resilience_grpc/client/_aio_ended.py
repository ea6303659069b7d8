"""Call objects of `grpc.aio` for calls that have ended: a policy gave the response, or the call failed."""

from __future__ import annotations

from asyncio import InvalidStateError
from collections.abc import AsyncIterator, Callable, Generator
from typing import Any

import grpc.aio
from grpc import StatusCode

from resilience_grpc.client._errors import CallError

__all__ = ("CompletedAioCall", "FailedAioCall", "FailedAioStream")


class CompletedAioCall(grpc.aio.UnaryUnaryCall[Any, Any]):
    """A response that a policy has given: no server was called."""

    def __init__(self, response: object) -> None:
        self._response = response

    def __await__(self) -> Generator[Any, None, Any]:
        return self._completed().__await__()

    async def _completed(self) -> object:
        return self._response

    def cancel(self) -> bool:
        """Do nothing: the call has ended."""
        return False

    def cancelled(self) -> bool:
        """Return False."""
        return False

    def done(self) -> bool:
        """Return True."""
        return True

    def time_remaining(self) -> float | None:
        """Return None: the call has ended."""
        return None

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        """Call `callback` at once."""
        callback(self)

    async def code(self) -> StatusCode:
        """Return OK."""
        return StatusCode.OK

    async def details(self) -> str:
        """Return an empty text."""
        return ""

    async def initial_metadata(self) -> grpc.aio.Metadata:
        """Return no metadata."""
        return grpc.aio.Metadata()

    async def trailing_metadata(self) -> grpc.aio.Metadata:
        """Return no metadata."""
        return grpc.aio.Metadata()

    async def debug_error_string(self) -> str:
        """Return an empty text."""
        return ""

    async def wait_for_connection(self) -> None:
        """Return at once."""


class FailedAioCall(CompletedAioCall, grpc.aio.StreamUnaryCall[Any, Any]):
    """A call with one response that has failed. As in grpcio, awaiting it raises the error."""

    def __init__(self, error: CallError) -> None:
        super().__init__(None)
        self._error = error

    async def _completed(self) -> object:
        raise self._error

    async def code(self) -> StatusCode:
        """Return the status."""
        return self._error.call_status.status

    async def details(self) -> str:
        """Return the status message."""
        return self._error.call_status.text

    async def initial_metadata(self) -> Any:
        """Return the metadata that the server sent first."""
        return self._error.initial_metadata()

    async def trailing_metadata(self) -> Any:
        """Return the metadata that the server sent with the status."""
        return self._error.trailing_metadata()

    async def debug_error_string(self) -> str:
        """Return grpcio's own description."""
        return self._error.debug_error_string()

    async def write(self, request: Any) -> None:  # noqa: ARG002 - the call has ended
        """Refuse a request: the call has ended."""
        raise InvalidStateError("the call has ended")

    async def done_writing(self) -> None:
        """Do nothing: the call has ended."""


class FailedAioStream(FailedAioCall, grpc.aio.UnaryStreamCall[Any, Any], grpc.aio.StreamStreamCall[Any, Any]):
    """A call with streamed responses that has failed before it began. As in grpcio, reading it raises the error."""

    def __aiter__(self) -> AsyncIterator[Any]:
        return self

    async def __anext__(self) -> Any:
        raise self._error

    async def read(self) -> Any:
        """Raise the error."""
        raise self._error
