"""The context of an RPC as handlers on an event loop see it, where something of ours has to come in between."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import grpc
import grpc.aio

from resilience.server import RequestContext
from resilience_grpc.server._aio_deadline import Alarm
from resilience_grpc.server._rpc import Guard

__all__ = ("Identified", "Reading", "Writing")


class _Context:
    """Passes on whatever it does not do itself."""

    def __init__(self, servicer: Any) -> None:
        self._servicer = servicer

    def __getattr__(self, name: str) -> Any:
        return getattr(self._servicer, name)


class Identified(_Context):
    """For every handler: trailing metadata of its own does not replace the request id.

    grpc.aio sends an abort at once, with its trailing metadata: an id that is added later would not be sent.
    """

    def __init__(self, servicer: Any, guard: Guard, request: RequestContext) -> None:
        super().__init__(servicer)
        self._guard = guard
        self._request = request

    def set_trailing_metadata(self, trailing_metadata: Any) -> None:
        """Set what ends the RPC, beside our own."""
        self._servicer.set_trailing_metadata(self._guard.merged(self._request, trailing_metadata))

    def abort(self, code: grpc.StatusCode, details: str = "", trailing_metadata: Any = ()) -> Awaitable[None]:
        """End the RPC. Without metadata of its own, an abort has those that were set before."""
        given = trailing_metadata or self._servicer.trailing_metadata()
        aborting: Awaitable[None] = self._servicer.abort(code, details, self._guard.merged(self._request, given))
        return aborting

    def abort_with_status(self, status: grpc.Status) -> Awaitable[None]:
        """End the RPC."""
        return self.abort(status.code, status.details, status.trailing_metadata)


class Reading(_Context):
    """For handlers that read messages from it: what they read has been validated."""

    def __init__(self, servicer: Any, valid: Callable[[Any], Awaitable[Any]]) -> None:
        super().__init__(servicer)
        self._valid = valid

    async def read(self) -> Any:
        """Read one message; the end of the stream is not one."""
        message = await self._servicer.read()
        return message if message is grpc.aio.EOF else await self._valid(message)


class Writing(_Context):
    """For handlers with a deadline of ours: it does not stop them in the midst of a write."""

    def __init__(self, servicer: Any, alarm: Alarm) -> None:
        super().__init__(servicer)
        self._alarm = alarm

    def write(self, message: Any) -> Awaitable[None]:
        """Write one message."""
        return self._alarm.spare(self._servicer.write(message))

    def send_initial_metadata(self, initial_metadata: Any) -> Awaitable[None]:
        """Send them ahead of the first answer."""
        return self._alarm.spare(self._servicer.send_initial_metadata(initial_metadata))
