"""Options of channels and servers, checked before grpcio sees them: it ignores what it does not like, or fails late."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, TypedDict, Unpack, cast

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

_LARGEST = 2**31 - 1
_LONGEST = _LARGEST / 1000
_TOLERATED = 300.0
"""Seconds between two pings that a server takes from an idle client, unless it is told otherwise."""


class ServiceArguments(TypedDict, total=False):
    """What `service_config` takes; `ChannelOptions` says what each one means."""

    load_balancing: str
    health_check: bool
    health_service: str | None
    native_retries: int | None


class ChannelArguments(ServiceArguments, total=False):
    """What `channel_options` takes; `ChannelOptions` says what each one means."""

    keepalive: Any
    keepalive_timeout: Any
    keepalive_without_calls: bool
    max_send_bytes: int | None
    max_receive_bytes: int | None
    reconnect_wait_max: Any


class ServerArguments(TypedDict, total=False):
    """What `server_options` takes; `ServerChannelOptions` says what each one means."""

    keepalive: Any
    max_connection_age: Any
    max_connection_age_grace: Any
    max_connection_idle: Any
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
        Duration(10, _LONGEST),
        "time without traffic before a ping; below 5m the server has to allow it: `server_options(keepalive=...)`",
        none="no pings",
    )
    keepalive_timeout: float = option(
        20.0, Duration(0.1, _LONGEST), "time without an answer to a ping after which the connection counts as broken"
    )
    keepalive_without_calls: bool = option(False, Flag(), "ping on while no call is under way")
    max_send_bytes: int | None = option(None, Whole(1, _LARGEST), "largest message sent", none="no limit")
    max_receive_bytes: int | None = option(None, Whole(1, _LARGEST), "largest message taken", none="4 MiB")
    reconnect_wait_max: float | None = option(
        None, Duration(0.1, _LONGEST), "longest wait between two attempts to connect", none="2m"
    )

    def _together(self) -> Iterable[Problem]:
        if self.load_balancing == "pick_first" and self.health_service is not None:
            yield Problem("health_service", self.health_service, "None beside pick_first, which checks no health")
        if self.health_service is not None and not self.health_check:
            yield Problem("health_service", self.health_service, "None where health_check is false")
        if self.keepalive is None and self.keepalive_without_calls:
            yield Problem("keepalive_without_calls", True, "false where there is no keepalive")


@dataclass(frozen=True, kw_only=True)
class ServerChannelOptions(Options):
    """What a server allows its connections."""

    keepalive: float | None = option(
        None, Duration(10, _LONGEST), "the `keepalive` of its clients, who are disconnected for less", none="5m"
    )
    max_connection_age: float | None = option(
        None, Duration(1, _LONGEST), "after which clients connect anew, and see servers added since", none="no limit"
    )
    max_connection_age_grace: float | None = option(
        None, Duration(0.1, _LONGEST), "time that calls have then to end", none="no limit"
    )
    max_connection_idle: float | None = option(
        None, Duration(1, _LONGEST), "time without a call after which a connection is closed", none="no limit"
    )
    max_concurrent_streams: int | None = option(
        None, Whole(1, _LARGEST), "calls under way at once on one connection", none="no limit"
    )
    max_send_bytes: int | None = option(None, Whole(1, _LARGEST), "largest message sent", none="no limit")
    max_receive_bytes: int | None = option(None, Whole(1, _LARGEST), "largest message taken", none="4 MiB")

    def _together(self) -> Iterable[Problem]:
        if self.max_connection_age_grace is not None and self.max_connection_age is None:
            yield Problem("max_connection_age_grace", self.max_connection_age_grace, "None without max_connection_age")


def channel_options(resilience: Resilience | None = None, **options: Unpack[ChannelArguments]) -> list[tuple[str, Any]]:
    """Return what `grpc.insecure_channel(target, options=...)` and its siblings take, in either stack.

    `ChannelOptions` says what can be set. Calls go round all addresses of the target (`dns:///orders:50051`) that are
    healthy, and gRPC's own retries are off: they would multiply with those of the interceptors. A `resilience` names
    the service to its servers. Raises one `ConfigurationError` that lists every option that is wrong.
    """
    told = ChannelOptions(**cast("Any", options))
    settings = {
        "grpc.service_config": _config(told),
        "grpc.enable_retries": int(told.native_retries is not None),
        "grpc.max_send_message_length": told.max_send_bytes,
        "grpc.max_receive_message_length": told.max_receive_bytes,
        "grpc.max_reconnect_backoff_ms": _ms(told.reconnect_wait_max),
        "grpc.primary_user_agent": None if resilience is None else resilience.config.service.name,
    }
    if told.keepalive is not None:
        settings |= {
            "grpc.keepalive_time_ms": _ms(told.keepalive),
            "grpc.keepalive_timeout_ms": _ms(told.keepalive_timeout),
            "grpc.keepalive_permit_without_calls": int(told.keepalive_without_calls),
            "grpc.http2.max_pings_without_data": 0,
        }
    return _given(settings)


def server_options(**options: Unpack[ServerArguments]) -> list[tuple[str, Any]]:
    """Return what `grpc.server(..., options=...)` takes, in either stack: the other half of `channel_options`.

    `ServerChannelOptions` says what can be set. Raises one `ConfigurationError` that lists every option that is wrong.
    """
    told = ServerChannelOptions(**cast("Any", options))
    settings = {
        "grpc.max_connection_age_ms": _ms(told.max_connection_age),
        "grpc.max_connection_age_grace_ms": _ms(told.max_connection_age_grace),
        "grpc.max_connection_idle_ms": _ms(told.max_connection_idle),
        "grpc.max_concurrent_streams": told.max_concurrent_streams,
        "grpc.max_send_message_length": told.max_send_bytes,
        "grpc.max_receive_message_length": told.max_receive_bytes,
    }
    if told.keepalive is not None:
        # Networks delay pings: what was sent in time may be close behind the one before.
        settings["grpc.http2.min_recv_ping_interval_without_data_ms"] = _ms(min(told.keepalive, _TOLERATED) / 2)
        settings["grpc.keepalive_permit_without_calls"] = 1
    return _given(settings)


def service_config(**options: Unpack[ServiceArguments]) -> str:
    """Return a gRPC service config as JSON, for `("grpc.service_config", ...)`; `channel_options` has it in already.

    Raises one `ConfigurationError` that lists every option that is wrong: gRPC itself would find out at the first call,
    or never. What it cannot do is not offered: hedging is ignored by it, and its timeouts are not told to the server.
    """
    return _config(ChannelOptions(**cast("Any", options)))


def _config(told: ChannelOptions) -> str:
    config: dict[str, Any] = {"loadBalancingConfig": [{told.load_balancing: {}}]}
    if told.health_check and told.load_balancing != "pick_first":
        config["healthCheckConfig"] = {"serviceName": told.health_service or ""}
    if told.native_retries is not None:
        policy = {
            "maxAttempts": told.native_retries,
            "initialBackoff": "0.1s",
            "maxBackoff": "5s",
            "backoffMultiplier": 2,
            "retryableStatusCodes": ["UNAVAILABLE"],
        }
        config["methodConfig"] = [{"name": [{}], "retryPolicy": policy}]
    return json.dumps(config)


def _ms(seconds: float | None) -> int | None:
    return None if seconds is None else round(seconds * 1000)


def _given(settings: dict[str, Any]) -> list[tuple[str, Any]]:
    return [(name, value) for name, value in settings.items() if value is not None]
