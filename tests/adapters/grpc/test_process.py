"""A server as a process, stopped in the way that Kubernetes stops it."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2
from server_process import started

pytestmark = [pytest.mark.servers, pytest.mark.everywhere]

COMMON = """
import asyncio, time
from concurrent import futures
import grpc, grpc.aio
from resilience import Resilience
from resilience_grpc import add_health, adrain, aio_server_interceptors, drain, server_interceptors

resilience = Resilience.from_env()
resilience.lifecycle.on_stop(lambda: print("stop hook", flush=True))

def serve(server, method):
    handler = grpc.unary_unary_rpc_method_handler(method)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("shop.Orders", {"Slow": handler}),))
    add_health(server, resilience)
    return server.add_insecure_port("127.0.0.1:0")
"""
SYNC = (
    COMMON
    + """
def slow(request, context):
    time.sleep(float(request))
    return request

server = grpc.server(futures.ThreadPoolExecutor(8), interceptors=server_interceptors(resilience))
port = serve(server, slow)
with resilience.lifecycle:
    server.start()
    print(f"port {port}.", flush=True)
    resilience.lifecycle.wait_draining()
    print("drained", drain(server, resilience), flush=True)
"""
)
AIO = (
    COMMON
    + """
async def slow(request, context):
    await asyncio.sleep(float(request))
    return request

async def main():
    server = grpc.aio.server(interceptors=aio_server_interceptors(resilience))
    port = serve(server, slow)
    async with resilience.lifecycle:
        await server.start()
        print(f"port {port}.", flush=True)
        await resilience.lifecycle.await_draining()
        print("drained", await adrain(server, resilience), flush=True)

asyncio.run(main())
"""
)


class Client(threading.Thread):
    """Calls without a pause while the server says that it serves. `wrong` has the calls without an answer."""

    def __init__(self, port: int) -> None:
        super().__init__()
        self.channel = grpc.insecure_channel(f"127.0.0.1:{port}")
        slow: Callable[..., Any] = self.channel.unary_unary("/shop.Orders/Slow")
        self.slow = slow
        self.serves = threading.Event()
        self.heard: list[str] = []
        self.wrong: list[object] = []
        self.answered = 0

    def watch(self) -> None:
        watch: Any = self.channel.unary_stream(
            "/grpc.health.v1.Health/Watch",
            health_pb2.HealthCheckRequest.SerializeToString,
            health_pb2.HealthCheckResponse.FromString,
        )
        for answer in watch(health_pb2.HealthCheckRequest()):
            serves = answer.status == health_pb2.HealthCheckResponse.SERVING
            self.heard.append("serves" if serves else "leaves")
            self.serves.set() if serves else self.serves.clear()
        self.heard.append("end")

    def run(self) -> None:
        while self.serves.is_set():
            self.ask("0.02")

    def ask(self, seconds: str) -> None:
        try:
            assert self.slow(seconds.encode(), timeout=10) == seconds.encode()
        except grpc.RpcError as error:
            self.wrong.append(error)
        else:
            self.answered += 1


@pytest.mark.realtime
@pytest.mark.parametrize("source", [SYNC, AIO], ids=["sync", "aio"])
def test_sigterm_loses_no_rpc(tmp_path: Path, source: str) -> None:
    """SIGTERM under load: health streams learn of it, every RPC is answered, and the process ends by itself."""
    environment = {"RESILIENCE_LIFECYCLE__DRAIN_DELAY": "300ms"}
    with started(tmp_path, source, ["app.py"], environment=environment) as process:
        process.says("port ")
        found = re.search(r"port (\d+)\.", process.output)
        assert found
        client = Client(int(found[1]))
        watching = threading.Thread(target=client.watch)
        watching.start()
        assert client.serves.wait(10)
        slow = threading.Thread(target=client.ask, args=("1.0",))
        slow.start()
        client.start()
        time.sleep(0.2)
        told = process.tell()
        for thread in (client, slow, watching):
            thread.join(10)
        status = process.ended(10)
        took = time.monotonic() - told
        assert client.wrong == []
        assert client.answered > 5
        assert client.heard == ["serves", "leaves", "end"]
        assert "drained True" in process.output
        assert process.output.count("stop hook") == 1
        assert status == 0
        assert took < 5
        client.channel.close()
