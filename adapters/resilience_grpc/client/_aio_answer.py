"""Call objects of `grpc.aio` for calls with one answer that no single RPC stands for."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator
from typing import Any

import grpc.aio
from grpc import StatusCode

__all__ = ("GivenCall", "GuardedAnswer", "OverCall", "seen")


class GivenCall(grpc.aio.UnaryUnaryCall[Any, Any]):
    """A response that a policy gave, without a call."""

    def __init__(self, response: Any) -> None:
        self._response = response

    def __await__(self) -> Generator[Any, None, Any]:
        return self._given().__await__()

    async def _given(self) -> Any:
        return self._response

    def cancel(self) -> bool:
        """Do nothing: it is over."""
        return False

    def cancelled(self) -> bool:
        """Return False."""
        return False

    def done(self) -> bool:
        """Return True."""
        return True

    def time_remaining(self) -> float | None:
        """Return None: it is over."""
        return None

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        """Call `callback` at once."""
        callback(self)

    async def code(self) -> StatusCode:
        """Return OK."""
        return StatusCode.OK

    async def details(self) -> str:
        """Return nothing: no server was asked."""
        return ""

    async def initial_metadata(self) -> grpc.aio.Metadata:
        """Return nothing: no server was asked."""
        return grpc.aio.Metadata()

    async def trailing_metadata(self) -> grpc.aio.Metadata:
        """Return nothing: no server was asked."""
        return grpc.aio.Metadata()

    async def debug_error_string(self) -> str:
        """Return nothing: no server was asked."""
        return ""

    async def wait_for_connection(self) -> None:
        """Return: none is needed."""


class OverCall:
    """Passes on what is asked of the RPC itself."""

    @property
    def _call(self) -> Any:
        raise NotImplementedError

    @property
    def _done_writing_flag(self) -> bool:  # where grpc.aio looks before it lets anybody write
        return bool(getattr(self._call, "_done_writing_flag", False))

    def time_remaining(self) -> float | None:
        """Return the seconds that the attempt under way has left."""
        remaining: float | None = self._call.time_remaining()
        return remaining

    async def wait_for_connection(self) -> None:
        """Wait until the RPC is connected."""
        await self._call.wait_for_connection()

    async def write(self, request: Any) -> None:
        """Send another message."""
        await self._call.write(request)

    async def done_writing(self) -> None:
        """Say that there are no more messages."""
        await self._call.done_writing()


class GuardedAnswer(OverCall, grpc.aio.StreamUnaryCall[Any, Any]):
    """A call of many messages; the answer has been through the policies."""

    def __init__(self, task: asyncio.Task[Any], call: Any) -> None:
        self._task, self._rpc = task, call
        task.add_done_callback(seen)

    @property
    def _call(self) -> Any:
        return self._rpc

    def __await__(self) -> Generator[Any, None, Any]:
        return self._task.__await__()

    def cancel(self) -> bool:
        """End the call; return False where it has ended."""
        is_first: bool = self._rpc.cancel()
        self._task.cancel()
        return is_first

    def cancelled(self) -> bool:
        """Whether it was cancelled."""
        return bool(self._rpc.cancelled())

    def done(self) -> bool:
        """Whether it has ended."""
        return bool(self._rpc.done())

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        """Call `callback` with this at the end."""
        self._rpc.add_done_callback(lambda _call: callback(self))

    async def code(self) -> StatusCode:
        """Wait for the end; return its status."""
        code: StatusCode = await self._rpc.code()
        return code

    async def details(self) -> str:
        """Wait for the end; return its message."""
        details: str = await self._rpc.details()
        return details

    async def initial_metadata(self) -> Any:
        """Wait for what the server sends ahead."""
        return await self._rpc.initial_metadata()

    async def trailing_metadata(self) -> Any:
        """Wait for the end; return what the server sent with the status."""
        return await self._rpc.trailing_metadata()

    async def debug_error_string(self) -> Any:
        """Wait for the end; return grpcio's own account."""
        return await self._rpc.debug_error_string()


def seen(task: asyncio.Task[Any]) -> None:
    """Keep asyncio from reporting an error nobody has asked for: grpcio does not either."""
    if not task.cancelled():
        task.exception()
