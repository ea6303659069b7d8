"""Connectors of gRPC channels, for pools: each channel has a connection of its own, and its state is watched."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from functools import partial
from typing import Any, TypeAlias

import grpc
import grpc.aio

from resilience.options import Duration, Text, checked
from resilience.pool import Connector
from resilience_grpc._channel import channel_options
from resilience_grpc._grpcio_internals import connectivity_of

__all__ = ("aio_channels", "channels")

_Credentials: TypeAlias = grpc.ChannelCredentials | None
_Settings: TypeAlias = Sequence[tuple[str, Any]]

_TARGET = Text("a target such as dns:///orders:50051", longest=1000)
_TIMEOUT = Duration(above=True, usual=60)
_OF_ITS_OWN = ("grpc.use_local_subchannel_pool", 1)
"""Without it, gRPC lets all channels with the same arguments share one connection."""
_FIT = (grpc.ChannelConnectivity.READY, grpc.ChannelConnectivity.IDLE)


def channels(
    target: str,
    credentials: _Credentials = None,
    *,
    options: _Settings | None = None,
    interceptors: Sequence[Any] = (),
    connect_timeout: float | str = 5.0,
) -> Connector[grpc.Channel]:
    """Return the connector of channels of `grpc`, for a `Pool`.

    A channel enters the pool when it is connected. It is lent while it is READY or IDLE (an idle channel connects at
    its next call). A channel that fails is closed when it comes back, or at the check before it is lent. An error or a
    cancellation of a call is no reason to close it: each call is a stream of its own. With `alive_bypass=0`, the state
    is looked at for each borrower; this needs no round trip.

    Args:
        target: Such as `dns:///orders:50051`.
        credentials: Those of `channel_credentials`. Default: no TLS.
        options: The options of the channels. Default: those of `channel_options()`.
        interceptors: Client interceptors, such as those of `client_interceptors`.
        connect_timeout: The longest time until a new channel is READY: seconds, or text.

    Raises:
        ConfigurationError: An argument has the wrong type or value.

    Example:
        >>> from resilience import Pool
        >>> pool = Pool(channels("dns:///orders:50051"), maximum_pool_size=4, alive_bypass=0)
    """
    checked(target, "target", _TARGET)
    settings = [*(channel_options() if options is None else options), _OF_ITS_OWN]
    timeout: float = checked(connect_timeout, "connect_timeout", _TIMEOUT)
    states = _States()
    connect = partial(_connect, states, target, credentials, settings, tuple(interceptors), timeout)
    return Connector(connect=connect, abort=_abort, check=states.check, reset=states.check)


def aio_channels(
    target: str,
    credentials: _Credentials = None,
    *,
    options: _Settings | None = None,
    interceptors: Sequence[Any] = (),
    connect_timeout: float | str = 5.0,
) -> Connector[grpc.aio.Channel]:
    """Return the connector of channels of `grpc.aio`, for an `AsyncPool`.

    For the arguments see `channels`. The interceptors are those of `grpc.aio`, such as `aio_client_interceptors`.

    Raises:
        ConfigurationError: An argument has the wrong type or value.

    Example:
        >>> from resilience import AsyncPool
        >>> pool = AsyncPool(aio_channels("dns:///orders:50051"), maximum_pool_size=4, alive_bypass=0)
    """
    checked(target, "target", _TARGET)
    settings = [*(channel_options() if options is None else options), _OF_ITS_OWN]
    timeout: float = checked(connect_timeout, "connect_timeout", _TIMEOUT)
    connect = partial(_aconnect, target, credentials, settings, tuple(interceptors), timeout)
    return Connector(connect=connect, check=_acheck, reset=_acheck)


class _States:
    """The channels of a pool. A borrower may know a channel by the interceptors around it."""

    def __init__(self) -> None:
        self._channels: weakref.WeakKeyDictionary[grpc.Channel, grpc.Channel] = weakref.WeakKeyDictionary()

    def watch(self, lent: grpc.Channel, channel: grpc.Channel) -> None:
        """Look at the state of `channel` for `lent`."""
        if lent is not channel:
            self._channels[lent] = channel

    def check(self, lent: grpc.Channel) -> None:
        """Raise if no call can be made on a channel."""
        _require_fit(connectivity_of(self._channels.get(lent, lent)))


def _require_fit(state: grpc.ChannelConnectivity | None) -> None:
    if state is not None and state not in _FIT:
        raise ConnectionError(f"the channel is {state.name}")


def _connect(
    states: _States,
    target: str,
    credentials: _Credentials,
    settings: _Settings,
    interceptors: tuple[Any, ...],
    timeout: float,
) -> grpc.Channel:
    if credentials is None:
        channel = grpc.insecure_channel(target, settings)
    else:
        channel = grpc.secure_channel(target, credentials, settings)
    try:
        grpc.channel_ready_future(channel).result(timeout)
        lent = grpc.intercept_channel(channel, *interceptors) if interceptors else channel
        states.watch(lent, channel)
    except grpc.FutureTimeoutError:
        channel.close()
        raise _not_ready(target, timeout) from None
    except BaseException:
        channel.close()
        raise
    return lent


def _abort(channel: grpc.Channel) -> None:
    channel.close()  # ends the calls under way, and waits for nothing


async def _aconnect(
    target: str, credentials: _Credentials, settings: _Settings, interceptors: tuple[Any, ...], longest: float
) -> grpc.aio.Channel:
    import asyncio  # noqa: PLC0415 - blocking code uses this module, too

    if credentials is None:
        channel = grpc.aio.insecure_channel(target, settings, interceptors=interceptors)
    else:
        channel = grpc.aio.secure_channel(target, credentials, settings, interceptors=interceptors)
    try:
        async with asyncio.timeout(longest):
            await channel.channel_ready()
    except TimeoutError:
        await channel.close()
        raise _not_ready(target, longest) from None
    except BaseException:
        await channel.close()
        raise
    return channel


async def _acheck(channel: grpc.aio.Channel) -> None:
    _require_fit(channel.get_state())


def _not_ready(target: str, timeout: float) -> TimeoutError:
    return TimeoutError(f"the channel to {target!r} was not ready within {timeout:g} s")
