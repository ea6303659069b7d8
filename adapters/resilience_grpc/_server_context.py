"""The context of an RPC as handlers on an event loop see it, where something of ours has to come in between."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import grpc.aio

from resilience_grpc._server_alarm import Alarm

__all__ = ("Reading", "Writing")


class _Context:
    """Passes on whatever it does not do itself."""

    def __init__(self, servicer: Any) -> None:
        self._servicer = servicer

    def __getattr__(self, name: str) -> Any:
        return getattr(self._servicer, name)


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
