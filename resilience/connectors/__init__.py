"""Ready connectors for pools: `Pool(tcp("ledger", 7000))`.

A connector has the functions that make, check, clean and close connections of one kind. The connectors whose names
begin with `aio_` are for `AsyncPool`, the others are for `Pool`. Those of gRPC channels are in `resilience_grpc`, those
of HTTP sessions in `resilience_http`. Another kind needs a function that connects, or a `resilience.pool.Connector`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from resilience.plugins import lazy_names

if TYPE_CHECKING:
    from resilience.connectors._redis import aio_redis_client, redis_client
    from resilience.connectors._sockets import tcp, tls
    from resilience.connectors._streams_aio import StreamPair, aio_tcp, aio_tls

__all__ = ("StreamPair", "aio_redis_client", "aio_tcp", "aio_tls", "redis_client", "tcp", "tls")

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "_redis": ("aio_redis_client", "redis_client"),
        "_sockets": ("tcp", "tls"),
        "_streams_aio": ("StreamPair", "aio_tcp", "aio_tls"),
    },
)
