"""Resilience for existing gRPC servers and clients, on `grpc` and on `grpc.aio`.

Needs the `grpc` extra: `pip install "resilience-plugins[grpc]"`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from resilience.plugins import lazy_names

try:
    import google.rpc as _rpc  # noqa: F401 - first, so that a missing package is named with its remedy
    import grpc as _grpc  # noqa: F401 - see above
    import grpc_health as _health  # noqa: F401 - see above
except ModuleNotFoundError as _missing:
    raise ModuleNotFoundError(
        'resilience_grpc needs grpcio, -status and -health-checking: pip install "resilience-plugins[grpc]"',
        name="grpc",
    ) from _missing

if TYPE_CHECKING:
    from resilience_grpc._channel import channel_options, server_options, service_config
    from resilience_grpc._credentials import channel_credentials, server_credentials
    from resilience_grpc._drain import adrain, drain
    from resilience_grpc._health import add_health
    from resilience_grpc._lazy_channel import AioLazyChannel, LazyChannel
    from resilience_grpc._pooled import aio_channels, channels
    from resilience_grpc.client._aio import aio_client_interceptors
    from resilience_grpc.client._pipeline import per_method
    from resilience_grpc.client._sync import client_interceptors
    from resilience_grpc.server._aio import aio_server_interceptors
    from resilience_grpc.server._sync import server_interceptors

__all__ = (
    "AioLazyChannel",
    "LazyChannel",
    "add_health",
    "adrain",
    "aio_channels",
    "aio_client_interceptors",
    "aio_server_interceptors",
    "channel_credentials",
    "channel_options",
    "channels",
    "client_interceptors",
    "drain",
    "per_method",
    "server_credentials",
    "server_interceptors",
    "server_options",
    "service_config",
)

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "_channel": ("channel_options", "server_options", "service_config"),
        "_lazy_channel": ("AioLazyChannel", "LazyChannel"),
        "_pooled": ("aio_channels", "channels"),
        "client._aio": ("aio_client_interceptors",),
        "client._pipeline": ("per_method",),
        "client._sync": ("client_interceptors",),
        "_credentials": ("channel_credentials", "server_credentials"),
        "_drain": ("adrain", "drain"),
        "_health": ("add_health",),
        "server._aio": ("aio_server_interceptors",),
        "server._sync": ("server_interceptors",),
    },
)
