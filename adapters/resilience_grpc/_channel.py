"""Options of channels and servers, checked before grpcio sees them: it ignores a wrong option, or fails late."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeAlias, TypedDict, Unpack, cast

from resilience import Resilience
from resilience.errors import Problem
from resilience.options import Choice, Duration, Flag, Options, Text, Whole, option

__all__ = (
    "ChannelArguments",
    "ChannelOptions",
    "ServerArguments",
    "channel_options",
    "server_options",
    "service_config",
)

_MAX_INTEGER = 2**31 - 1
_MAX_SECONDS = _MAX_INTEGER / 1000
_DEFAULT_PING_INTERVAL = 300.0
"""Seconds between two pings of an idle client that a server accepts by default."""

_Seconds: TypeAlias = float | str | timedelta
_Setting: TypeAlias = int | str | None


class ServiceArguments(TypedDict, total=False):
    """The arguments of `service_config`. `ChannelOptions` describes each."""

    load_balancing: str
    health_check: bool
    health_service: str | None
    native_retries: int | None


class ChannelArguments(ServiceArguments, total=False):
    """The arguments of `channel_options`. `ChannelOptions` describes each."""

    keepalive: _Seconds | None
    keepalive_timeout: _Seconds
    keepalive_without_calls: bool
    max_send_bytes: int | None
    max_receive_bytes: int | None
    reconnect_wait_max: _Seconds | None


class ServerArguments(TypedDict, total=False):
    """The arguments of `server_options`. `ServerChannelOptions` describes each."""

    keepalive: _Seconds | None
    max_connection_age: _Seconds | None
    max_connection_age_grace: _Seconds | None
    max_connection_idle: _Seconds | None
    max_concurrent_streams: int | None
    max_send_bytes: int | None
    max_receive_bytes: int | None


@dataclass(frozen=True, kw_only=True)
class ChannelOptions(Options):
    """How a client connects, and how it spreads its calls."""

    load_balancing: str = option(
        "round_robin",
        Choice("round_robin", "pick_first", "weighted_round_robin"),
        "which of a name's addresses a call goes to",
    )
    health_check: bool = option(
        True, Flag(), "send nothing to an address whose health service says it is not serving (not with pick_first)"
    )
    health_service: str | None = option(
        None, Text("a service name", pattern=r"[\w./-]+", longest=300), "which service's health", none="the server's"
    )
    native_retries: int | None = option(
        None,
        Whole(2, 5),
        "attempts in all that gRPC itself makes of any call after UNAVAILABLE",
        none="none: the interceptors retry, which know idempotency, budget and deadline",
    )
    keepalive: float | None = option(
        None,
        Duration(10, _MAX_SECONDS),
        "time without traffic before a ping; below 5m the server has to allow it: `server_options(keepalive=...)`",
        none="no pings",
    )
    keepalive_timeout: float = option(
        20.0,
        Duration(0.1, _MAX_SECONDS),
        "time without an answer to a ping after which the connection counts as broken",
    )
    keepalive_without_calls: bool = option(False, Flag(), "send pings also while no call is in flight")
    max_send_bytes: int | None = option(None, Whole(1, _MAX_INTEGER), "largest message sent", none="no limit")
    max_receive_bytes: int | None = option(None, Whole(1, _MAX_INTEGER), "largest message received", none="4 MiB")
    reconnect_wait_max: float | None = option(
        None, Duration(0.1, _MAX_SECONDS), "longest wait between two attempts to connect", none="2m"
    )

    def _together(self) -> Iterable[Problem]:
        if self.load_balancing == "pick_first" and self.health_service is not None:
            yield Problem("health_service", self.health_service, "None beside pick_first, which checks no health")
        if self.health_service is not None and not self.health_check:
            yield Problem("health_service", self.health_service, "None if health_check is false")
        if self.keepalive is None and self.keepalive_without_calls:
            yield Problem("keepalive_without_calls", True, "false if there is no keepalive")


@dataclass(frozen=True, kw_only=True)
class ServerChannelOptions(Options):
    """What a server allows its connections."""

    keepalive: float | None = option(
        None, Duration(10, _MAX_SECONDS), "the `keepalive` of its clients; it disconnects clients with less", none="5m"
    )
    max_connection_age: float | None = option(
        None,
        Duration(1, _MAX_SECONDS),
        "time after which clients connect again, and see servers added since",
        none="no limit",
    )
    max_connection_age_grace: float | None = option(
        None, Duration(0.1, _MAX_SECONDS), "time that calls then have to end", none="no limit"
    )
    max_connection_idle: float | None = option(
        None, Duration(1, _MAX_SECONDS), "time without a call after which a connection is closed", none="no limit"
    )
    max_concurrent_streams: int | None = option(
        None, Whole(1, _MAX_INTEGER), "calls in flight at once on one connection", none="no limit"
    )
    max_send_bytes: int | None = option(None, Whole(1, _MAX_INTEGER), "largest message sent", none="no limit")
    max_receive_bytes: int | None = option(None, Whole(1, _MAX_INTEGER), "largest message received", none="4 MiB")

    def _together(self) -> Iterable[Problem]:
        if self.max_connection_age_grace is not None and self.max_connection_age is None:
            yield Problem("max_connection_age_grace", self.max_connection_age_grace, "None without max_connection_age")


def channel_options(resilience: Resilience | None = None, **options: Unpack[ChannelArguments]) -> list[tuple[str, Any]]:
    """Return the `options` of `grpc.insecure_channel`, `grpc.secure_channel` and their equals in `grpc.aio`.

    Calls are spread over all healthy addresses of the target (`dns:///orders:50051`). gRPC's own retries are off: they
    would multiply with the retries of the interceptors.

    Args:
        resilience: The toolkit whose service name the servers see. Default: none.
        options: The fields of `ChannelOptions`.

    Raises:
        ConfigurationError: Lists every option that is wrong.

    Example:
        >>> import grpc
        >>> options = channel_options(keepalive="1m", max_receive_bytes=16 * 2**20)
        >>> with grpc.insecure_channel("dns:///orders:50051", options=options) as channel:
        ...     pass
    """
    checked = ChannelOptions(**cast("Any", options))
    settings: dict[str, _Setting] = {
        "grpc.service_config": _service_config(checked),
        "grpc.enable_retries": int(checked.native_retries is not None),
        "grpc.max_send_message_length": checked.max_send_bytes,
        "grpc.max_receive_message_length": checked.max_receive_bytes,
        "grpc.max_reconnect_backoff_ms": _ms(checked.reconnect_wait_max),
        "grpc.primary_user_agent": None if resilience is None else resilience.config.service.name,
    }
    if checked.keepalive is not None:
        settings |= {
            "grpc.keepalive_time_ms": _ms(checked.keepalive),
            "grpc.keepalive_timeout_ms": _ms(checked.keepalive_timeout),
            "grpc.keepalive_permit_without_calls": int(checked.keepalive_without_calls),
            "grpc.http2.max_pings_without_data": 0,
        }
    return _without_none(settings)


def server_options(**options: Unpack[ServerArguments]) -> list[tuple[str, Any]]:
    """Return the `options` of `grpc.server` and `grpc.aio.server`: the counterpart of `channel_options`.

    Args:
        options: The fields of `ServerChannelOptions`.

    Raises:
        ConfigurationError: Lists every option that is wrong.

    Example:
        >>> options = server_options(keepalive="1m", max_connection_age="30m")
    """
    checked = ServerChannelOptions(**cast("Any", options))
    settings: dict[str, _Setting] = {
        "grpc.max_connection_age_ms": _ms(checked.max_connection_age),
        "grpc.max_connection_age_grace_ms": _ms(checked.max_connection_age_grace),
        "grpc.max_connection_idle_ms": _ms(checked.max_connection_idle),
        "grpc.max_concurrent_streams": checked.max_concurrent_streams,
        "grpc.max_send_message_length": checked.max_send_bytes,
        "grpc.max_receive_message_length": checked.max_receive_bytes,
    }
    if checked.keepalive is not None:
        # Networks delay pings: a ping that was sent in time may arrive shortly after the one before.
        ping_interval = min(checked.keepalive, _DEFAULT_PING_INTERVAL) / 2
        settings["grpc.http2.min_recv_ping_interval_without_data_ms"] = _ms(ping_interval)
        settings["grpc.keepalive_permit_without_calls"] = 1
    return _without_none(settings)


def service_config(**options: Unpack[ServiceArguments]) -> str:
    """Return a gRPC service config as JSON, for `("grpc.service_config", ...)`. `channel_options` contains it.

    grpcio itself reports a wrong config at the first call, or never. Hedging is not offered, since grpcio ignores it.
    Its timeouts are not offered, since the server does not learn of them.

    Args:
        options: The fields of `ChannelOptions` that `ServiceArguments` names.

    Raises:
        ConfigurationError: Lists every option that is wrong.
    """
    return _service_config(ChannelOptions(**cast("Any", options)))


def _service_config(options: ChannelOptions) -> str:
    config: dict[str, object] = {"loadBalancingConfig": [{options.load_balancing: {}}]}
    if options.health_check and options.load_balancing != "pick_first":
        config["healthCheckConfig"] = {"serviceName": options.health_service or ""}
    if options.native_retries is not None:
        policy = {
            "maxAttempts": options.native_retries,
            "initialBackoff": "0.1s",
            "maxBackoff": "5s",
            "backoffMultiplier": 2,
            "retryableStatusCodes": ["UNAVAILABLE"],
        }
        config["methodConfig"] = [{"name": [{}], "retryPolicy": policy}]
    return json.dumps(config)


def _ms(seconds: float | None) -> int | None:
    return None if seconds is None else round(seconds * 1000)


def _without_none(settings: dict[str, _Setting]) -> list[tuple[str, Any]]:
    return [(name, value) for name, value in settings.items() if value is not None]
