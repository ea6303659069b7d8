"""The context of an RPC as handlers on an event loop see it.

`grpc.aio` gives each handler a `ServicerContext`. Each class here stands around one, changes one thing, and passes
everything else on.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeAlias, cast

import grpc
import grpc.aio

from resilience.server import RequestContext
from resilience_grpc._types import Metadatum
from resilience_grpc.server._aio_deadline import TaskDeadline
from resilience_grpc.server._rpc import RpcGuard

__all__ = ("AioContext", "AioMetadata", "ContextProxy", "DeadlineContext", "IdentifiedContext", "ValidatingContext")

AioContext: TypeAlias = "grpc.aio.ServicerContext[object, object]"
AioMetadata: TypeAlias = grpc.aio.Metadata | Sequence[Metadatum]


class ContextProxy:
    """Passes on whatever a subclass does not do itself."""

    def __init__(self, context: AioContext | ContextProxy) -> None:
        self._context = cast("AioContext", context)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)


class IdentifiedContext(ContextProxy):
    """For every handler: trailing metadata that the handler sets do not replace the request id.

    grpc.aio sends an abort at once, with its trailing metadata. An id that is added later would not be sent.
    """

    def __init__(self, context: AioContext | ContextProxy, guard: RpcGuard, request: RequestContext) -> None:
        super().__init__(context)
        self._guard = guard
        self._request = request

    def set_trailing_metadata(self, trailing_metadata: AioMetadata) -> None:
        """Set the trailing metadata, beside ours."""
        self._context.set_trailing_metadata(self._guard.trailers(self._request, trailing_metadata))

    def abort(self, code: grpc.StatusCode, details: str = "", trailing_metadata: AioMetadata = ()) -> Awaitable[None]:
        """End the RPC. An abort without metadata sends the metadata that were set before."""
        given = trailing_metadata or self._context.trailing_metadata()
        return self._context.abort(code, details, self._guard.trailers(self._request, given))

    def abort_with_status(self, status: grpc.Status) -> Awaitable[None]:
        """End the RPC."""
        return self.abort(status.code, status.details, status.trailing_metadata)


class ValidatingContext(ContextProxy):
    """For handlers that read messages from the context: each message is validated first."""

    def __init__(self, context: AioContext | ContextProxy, validated: Callable[[object], Awaitable[object]]) -> None:
        super().__init__(context)
        self._validated = validated

    async def read(self) -> object:
        """Read one message. `grpc.aio.EOF`, the end of the stream, is not validated."""
        message = await self._context.read()
        return message if message is grpc.aio.EOF else await self._validated(message)


class DeadlineContext(ContextProxy):
    """For handlers with a deadline of the server: the deadline does not cancel them within a write."""

    def __init__(self, context: AioContext | ContextProxy, deadline: TaskDeadline) -> None:
        super().__init__(context)
        self._deadline = deadline

    def write(self, message: object) -> Awaitable[None]:
        """Write one message."""
        return self._deadline.shield_write(self._context.write(message))

    def send_initial_metadata(self, initial_metadata: AioMetadata) -> Awaitable[None]:
        """Send the initial metadata ahead of the first response."""
        return self._deadline.shield_write(self._context.send_initial_metadata(initial_metadata))
