"""What the gRPC servers of the matrix serve: `python rpc.py sync|aio PORT`."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from concurrent import futures
from typing import Any

import grpc
import grpc.aio

from resilience import Resilience
from resilience_grpc import add_health, adrain, aio_server_interceptors, drain, server_interceptors

resilience = Resilience.from_env()
resilience.lifecycle.on_stop(lambda: print("stop hook", flush=True), name="said")


def work(request: bytes, context: grpc.ServicerContext) -> bytes:
    """Take as long as the request says."""
    print("slow one begins" if float(request) > 1 else "", flush=True)
    time.sleep(float(request))
    return b"done"


async def awork(request: bytes, context: Any) -> bytes:
    """Take as long as the request says, suspended."""
    print("slow one begins" if float(request) > 1 else "", flush=True)
    await asyncio.sleep(float(request))
    return b"done"


def prepare(server: Any, method: Any, port: str) -> None:
    """Put the service, and its health, on a server."""
    handler: Any = grpc.unary_unary_rpc_method_handler(method)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("shop.Orders", {"Work": handler}),))
    add_health(server, resilience)
    server.add_insecure_port(f"127.0.0.1:{port}")


def serve(port: str) -> None:
    """Serve in threads."""
    server = grpc.server(futures.ThreadPoolExecutor(16), interceptors=server_interceptors(resilience))
    prepare(server, work, port)
    with resilience.lifecycle:
        server.start()
        resilience.lifecycle.wait_draining()
        if not drain(server, resilience):
            os._exit(1)  # a method never returns: Python would wait for its thread


async def aserve(port: str) -> None:
    """Serve in a loop."""
    server = grpc.aio.server(interceptors=aio_server_interceptors(resilience))
    prepare(server, awork, port)
    async with resilience.lifecycle:
        await server.start()
        await resilience.lifecycle.await_draining()
        await adrain(server, resilience)


if __name__ == "__main__":
    kind, port = sys.argv[1:]
    serve(port) if kind == "sync" else asyncio.run(aserve(port))
