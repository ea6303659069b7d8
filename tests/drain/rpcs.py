"""The gRPC protocol for the clients, beside `clients.Http`."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from typing import Any

import grpc
from grpc_health.v1 import health_pb2

__all__ = ("Rpc",)

_PATIENCE = 20.0
_MOMENT = b"0.02"
_OWN_CONNECTION = (("grpc.use_local_subchannel_pool", 1),)
"""Without this option channels to one address share a connection."""


class Rpc:
    """gRPC, with a channel for each request that needs its own connection."""

    def __init__(self, port: int) -> None:
        self._target = f"127.0.0.1:{port}"

    @contextlib.contextmanager
    def _open(self) -> Any:
        with grpc.insecure_channel(self._target, options=_OWN_CONNECTION) as channel:
            yield channel

    def is_ready(self) -> bool:
        """Ask the health service."""
        try:
            with self._open() as channel:
                check = channel.unary_unary(
                    "/grpc.health.v1.Health/Check",
                    health_pb2.HealthCheckRequest.SerializeToString,
                    health_pb2.HealthCheckResponse.FromString,
                )
                answer = check(health_pb2.HealthCheckRequest(), timeout=2)
        except grpc.RpcError:
            return False
        return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)

    def ask(self, seconds: float) -> bool:
        """Ask on a new channel."""
        with self._open() as channel:
            return _expect(channel, str(seconds).encode() if seconds else _MOMENT)

    def converse(self, goes_on: Callable[[], bool], tell: Callable[[Exception | None], None]) -> None:
        """Ask on one channel, which looks for another connection by itself."""
        with self._open() as channel:
            while goes_on():
                try:
                    _expect(channel, _MOMENT)
                except Exception as error:  # noqa: BLE001 - any error of a client is a result
                    tell(error)
                else:
                    tell(None)
                time.sleep(0.02)


def _expect(channel: grpc.Channel, request: bytes) -> bool:
    method: Callable[..., bytes] = channel.unary_unary("/shop.Orders/Work")
    assert method(request, timeout=_PATIENCE) == b"done"
    return True
