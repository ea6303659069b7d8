"""Channels that are made where and when they are first used: after a fork, and on the loop that runs."""

from __future__ import annotations

import asyncio
import os
import weakref
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self, TypeVar

import grpc
import grpc.aio

from resilience.errors import ConfigurationError, Problem
from resilience.options import is_plain_callable
from resilience.running import needs_asyncio

__all__ = ("AioLazyChannel", "LazyChannel")

_CLOSED = "this channel has been closed"
MakeT = TypeVar("MakeT", bound=Callable[[], object])


def _checked(make: MakeT) -> MakeT:
    if not is_plain_callable(make):
        raise ConfigurationError([Problem("make", make, "a function without arguments that returns a channel")])
    return make


class _LazyMethods:
    """The methods by which a stub gets its callables. They have the same names and arguments on both stacks."""

    @property
    def channel(self) -> Any:
        """The channel of the moment."""
        raise NotImplementedError

    def unary_unary(self, *args: object, **kwargs: object) -> Any:
        """Return a callable for a method with one request and one response."""
        return _LazyCallable(self, "unary_unary", args, kwargs)

    def unary_stream(self, *args: object, **kwargs: object) -> Any:
        """Return a callable for a method with one request and streamed responses."""
        return _LazyCallable(self, "unary_stream", args, kwargs)

    def stream_unary(self, *args: object, **kwargs: object) -> Any:
        """Return a callable for a method with streamed requests and one response."""
        return _LazyCallable(self, "stream_unary", args, kwargs)

    def stream_stream(self, *args: object, **kwargs: object) -> Any:
        """Return a callable for a method with streamed requests and streamed responses."""
        return _LazyCallable(self, "stream_stream", args, kwargs)


class _LazyCallable:
    """The object that a stub holds for one method. It calls the method through the channel of the moment."""

    def __init__(self, lazy: _LazyMethods, kind: str, args: tuple[object, ...], kwargs: dict[str, object]) -> None:
        self._lazy, self._kind, self._args, self._kwargs = lazy, kind, args, kwargs
        self._known: tuple[object, Any] = (None, None)

    def _method(self) -> Any:
        channel = self._lazy.channel
        known, method = self._known
        if known is not channel:
            method = getattr(channel, self._kind)(*self._args, **self._kwargs)
            self._known = (channel, method)
        return method

    def __call__(self, *args: object, **kwargs: object) -> Any:
        return self._method()(*args, **kwargs)

    def with_call(self, *args: object, **kwargs: object) -> Any:
        """Call the method. Return the response and its call object."""
        return self._method().with_call(*args, **kwargs)

    def future(self, *args: object, **kwargs: object) -> Any:
        """Begin to call the method. Return its future."""
        return self._method().future(*args, **kwargs)


class LazyChannel(_LazyMethods, grpc.Channel):
    """A channel that each process makes for itself at its first call.

    Made at import time, it costs nothing and survives a fork (gunicorn's `--preload`, multiprocessing). The child makes
    its own channel and leaves the parent's alone. Stubs may be made of it at once. `close` closes the channel of one
    process.

    Args:
        make: A function without arguments that returns a channel.

    Raises:
        ConfigurationError: `make` is not such a function.

    Example:
        >>> channel = LazyChannel(lambda: grpc.insecure_channel("localhost:50051"))
        >>> get = channel.unary_unary("/shop.Orders/Get")  # connects to nothing yet
    """

    def __init__(self, make: Callable[[], grpc.Channel]) -> None:
        self._make = _checked(make)
        self._channels: dict[int, Any] = {}  # the parent's stays: closing it in the child would close it in the parent

    @property
    def channel(self) -> Any:
        """The channel of this process. It is made now if there is none."""
        process = os.getpid()
        channel = self._channels.get(process)
        if channel is None:
            fresh = self._make()
            channel = self._channels.setdefault(process, fresh)
            if channel is not fresh:  # another thread was faster
                fresh.close()
        if channel is _CLOSED:
            raise ValueError(_CLOSED)
        return channel

    def subscribe(
        self,
        callback: Callable[[grpc.ChannelConnectivity], None],
        try_to_connect: bool | None = False,  # noqa: FBT001, FBT002 - grpcio's signature
    ) -> None:
        """Have `callback` called when the connectivity of this process's channel changes."""
        self.channel.subscribe(callback, try_to_connect=try_to_connect)

    def unsubscribe(self, callback: Callable[[grpc.ChannelConnectivity], None]) -> None:
        """Undo `subscribe`."""
        self.channel.unsubscribe(callback)

    def close(self) -> None:
        """Close the channel of this process if it has made one. It makes no other."""
        channel = self._channels.get(os.getpid())
        self._channels[os.getpid()] = _CLOSED
        if channel is not None and channel is not _CLOSED:
            channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


class AioLazyChannel(_LazyMethods, grpc.aio.Channel):
    """A channel of `grpc.aio` that each process and each loop makes for itself at its first call.

    A channel of `grpc.aio` belongs to one loop. `close` closes the channel of the loop that runs. The channel of a loop
    that has ended is forgotten.

    Args:
        make: A function without arguments that returns a channel of `grpc.aio`.

    Raises:
        ConfigurationError: `make` is not such a function.
    """

    def __init__(self, make: Callable[[], grpc.aio.Channel]) -> None:
        self._make = _checked(make)
        self._channels: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, dict[int, Any]] = (
            weakref.WeakKeyDictionary()
        )

    @property
    def channel(self) -> Any:
        """The channel of this loop. It is made now if there is none.

        Raises:
            ConfigurationError: asyncio runs no loop in this thread.
        """
        channels = self._channels.setdefault(_running_loop(), {})
        process = os.getpid()
        if process not in channels:
            channels[process] = self._make()
        if channels[process] is _CLOSED:
            raise grpc.aio.UsageError(_CLOSED)
        return channels[process]

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:  # noqa: FBT001, FBT002 - grpcio's signature
        """Return the connectivity of this loop's channel."""
        state: grpc.ChannelConnectivity = self.channel.get_state(try_to_connect)
        return state

    async def wait_for_state_change(self, last_observed_state: grpc.ChannelConnectivity) -> None:
        """Wait until the connectivity is another."""
        await self.channel.wait_for_state_change(last_observed_state)

    async def channel_ready(self) -> None:
        """Wait until the channel is connected."""
        await self.channel.channel_ready()

    async def close(self, grace: float | None = None) -> None:
        """Close the channel of this loop if it has made one. It makes no other."""
        channels = self._channels.setdefault(_running_loop(), {})
        channel = channels.get(os.getpid())
        channels[os.getpid()] = _CLOSED
        if channel is not None and channel is not _CLOSED:
            await channel.close(grace)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()


def _running_loop() -> asyncio.AbstractEventLoop:
    try:
        return asyncio.get_running_loop()  # also without a task: a callback of the loop may begin a call
    except RuntimeError:
        raise needs_asyncio("AioLazyChannel") from None
