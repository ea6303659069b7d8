"""Channels that are made where and when they are first used: after a fork, and on the loop that runs."""

from __future__ import annotations

import asyncio
import os
import weakref
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

import grpc
import grpc.aio

from resilience.errors import ConfigurationError, Problem
from resilience.options import is_plain_callable
from resilience.running import needs_asyncio

__all__ = ("AioLazyChannel", "LazyChannel")

_CLOSED = "this channel has been closed"


def _checked(make: Any) -> Any:
    if not is_plain_callable(make):
        raise ConfigurationError([Problem("make", make, "a function without arguments that returns a channel")])
    return make


class LazyChannel(grpc.Channel):
    """A channel that each process makes for itself with `make`, at its first call.

    Built at import time it costs nothing and survives a fork (gunicorn's `--preload`, multiprocessing): the child makes
    its own, and leaves the parent's alone. Stubs may be made of it at once. Closing it closes it for one process.
    """

    def __init__(self, make: Callable[[], grpc.Channel]) -> None:
        self._make = _checked(make)
        self._channels: dict[int, Any] = {}  # the parent's stays: to end it here would end it there

    @property
    def channel(self) -> Any:
        """The channel of this process, made now if there is none."""
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

    def unary_unary(self, *args: Any, **kwargs: Any) -> Any:
        """Return what calls such a method."""
        return _Lazily(self, "unary_unary", args, kwargs)

    def unary_stream(self, *args: Any, **kwargs: Any) -> Any:
        """Return what calls such a method."""
        return _Lazily(self, "unary_stream", args, kwargs)

    def stream_unary(self, *args: Any, **kwargs: Any) -> Any:
        """Return what calls such a method."""
        return _Lazily(self, "stream_unary", args, kwargs)

    def stream_stream(self, *args: Any, **kwargs: Any) -> Any:
        """Return what calls such a method."""
        return _Lazily(self, "stream_stream", args, kwargs)

    def subscribe(
        self,
        callback: Callable[[grpc.ChannelConnectivity], None],
        try_to_connect: bool | None = False,  # noqa: FBT001, FBT002 - grpcio's signature
    ) -> None:
        """Tell `callback` how this process is connected."""
        self.channel.subscribe(callback, try_to_connect=try_to_connect)

    def unsubscribe(self, callback: Callable[[grpc.ChannelConnectivity], None]) -> None:
        """Tell it no longer."""
        self.channel.unsubscribe(callback)

    def close(self) -> None:
        """Close the channel of this process, if it has made one, and make no other."""
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


class AioLazyChannel(grpc.aio.Channel):
    """The same for `grpc.aio`, where a channel belongs to a loop: each process and each loop has its own.

    It is closed for the loop that closes it; the channel of a loop that has ended is forgotten.
    """

    def __init__(self, make: Callable[[], grpc.aio.Channel]) -> None:
        self._make = _checked(make)
        self._channels: weakref.WeakKeyDictionary[Any, dict[int, Any]] = weakref.WeakKeyDictionary()

    @property
    def channel(self) -> Any:
        """The channel of this loop, made now if there is none. Raises `ConfigurationError` if asyncio runs no loop."""
        channels = self._channels.setdefault(_loop(), {})
        process = os.getpid()
        if process not in channels:
            channels[process] = self._make()
        if channels[process] is _CLOSED:
            raise grpc.aio.UsageError(_CLOSED)
        return channels[process]

    def unary_unary(self, *args: Any, **kwargs: Any) -> Any:
        """Return what calls such a method."""
        return _Lazily(self, "unary_unary", args, kwargs)

    def unary_stream(self, *args: Any, **kwargs: Any) -> Any:
        """Return what calls such a method."""
        return _Lazily(self, "unary_stream", args, kwargs)

    def stream_unary(self, *args: Any, **kwargs: Any) -> Any:
        """Return what calls such a method."""
        return _Lazily(self, "stream_unary", args, kwargs)

    def stream_stream(self, *args: Any, **kwargs: Any) -> Any:
        """Return what calls such a method."""
        return _Lazily(self, "stream_stream", args, kwargs)

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:  # noqa: FBT001, FBT002 - grpcio's signature
        """Return how this loop is connected."""
        state: grpc.ChannelConnectivity = self.channel.get_state(try_to_connect)
        return state

    async def wait_for_state_change(self, last_observed_state: grpc.ChannelConnectivity) -> None:
        """Wait until it is connected in another way."""
        await self.channel.wait_for_state_change(last_observed_state)

    async def channel_ready(self) -> None:
        """Wait until it is connected."""
        await self.channel.channel_ready()

    async def close(self, grace: float | None = None) -> None:
        """Close the channel of this loop, if it has made one, and make no other."""
        channels = self._channels.setdefault(_loop(), {})
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


def _loop() -> asyncio.AbstractEventLoop:
    try:
        return asyncio.get_running_loop()  # without a task: a callback of the loop may begin a call
    except RuntimeError:
        raise needs_asyncio("AioLazyChannel") from None


class _Lazily:
    """Calls a method through whichever channel there is by then: what a stub holds."""

    def __init__(self, lazy: Any, kind: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._lazy, self._kind, self._args, self._kwargs = lazy, kind, args, kwargs
        self._known: tuple[Any, Any] = (None, None)

    def _method(self) -> Any:
        channel = self._lazy.channel
        known, method = self._known
        if known is not channel:
            method = getattr(channel, self._kind)(*self._args, **self._kwargs)
            self._known = (channel, method)
        return method

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._method()(*args, **kwargs)

    def with_call(self, *args: Any, **kwargs: Any) -> Any:
        """Call the method; return the response and its call."""
        return self._method().with_call(*args, **kwargs)

    def future(self, *args: Any, **kwargs: Any) -> Any:
        """Begin to call the method; return its future."""
        return self._method().future(*args, **kwargs)
