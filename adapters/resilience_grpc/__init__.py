"""Resilience for gRPC servers and clients that exist, on `grpc` and on `grpc.aio`.

Needs the `grpc` extra: `pip install "resilience-plugins[grpc]"`.
"""

try:
    import grpc as _grpc  # noqa: F401 - asked for first, so that what is missing is named with its remedy
except ModuleNotFoundError as _missing:
    raise ModuleNotFoundError(
        'resilience_grpc needs grpcio: pip install "resilience-plugins[grpc]"', name="grpc"
    ) from _missing

__all__ = ()
