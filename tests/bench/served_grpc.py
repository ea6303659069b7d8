"""The gRPC service that is measured, bare and guarded; run as a program it serves one of them on a free port."""

from __future__ import annotations

import asyncio
import sys
from concurrent import futures
from pathlib import Path
from typing import Any

HERE = str(Path(__file__).resolve().parent)
if HERE not in sys.path:  # PYTHONSAFEPATH leaves the script's own directory out
    sys.path.insert(0, HERE)

import harness  # noqa: E402 - the path comes first

__all__ = ("METHOD", "interceptors")

METHOD = "/shop.Orders/Read"
_EVERYTHING = {
    "RESILIENCE_SERVER__RATE_LIMIT": "1000000000/second",
    "RESILIENCE_SERVER__MAX_CONCURRENT_REQUESTS": "200",
    "RESILIENCE_SERVER__DEADLINE": "10s",
}
_SETTINGS: dict[str, dict[str, str] | None] = {"bare": None, "resilience": _EVERYTHING, "resilience, defaults": {}}


def interceptors(name: str, *, aio: bool) -> list[Any]:
    """Return what stands before the service; `harness.Unavailable` where something it needs is not installed."""
    settings = _SETTINGS[name]
    if settings is None:
        return []
    adapter = harness.peer("resilience_grpc", "resilience-plugins[grpc]")
    toolkit = harness.peer("resilience").Resilience.from_env(settings)
    made: list[Any] = (adapter.aio_server_interceptors if aio else adapter.server_interceptors)(toolkit)
    return made


def _handlers(method: Any) -> Any:
    grpc = harness.peer("grpc", "grpcio")
    service, _, name = METHOD[1:].partition("/")
    return grpc.method_handlers_generic_handler(service, {name: grpc.unary_unary_rpc_method_handler(method)})


async def _serve_tasks(name: str) -> None:
    async def read(request: bytes, _context: Any) -> bytes:
        return request

    server = harness.peer("grpc.aio", "grpcio").server(interceptors=interceptors(name, aio=True))
    server.add_generic_rpc_handlers((_handlers(read),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(port, flush=True)
    await server.wait_for_termination()


def _serve_threads(name: str) -> None:
    def read(request: bytes, _context: Any) -> bytes:
        return request

    grpc = harness.peer("grpc", "grpcio")
    server = grpc.server(futures.ThreadPoolExecutor(4), interceptors=interceptors(name, aio=False))
    server.add_generic_rpc_handlers((_handlers(read),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    print(port, flush=True)
    server.wait_for_termination()


def main(stack: str, name: str) -> None:
    """Serve on a free port, and print which."""
    if stack == "aio":
        asyncio.run(_serve_tasks(name))
    else:
        _serve_threads(name)


if __name__ == "__main__":
    main(*sys.argv[1:])
