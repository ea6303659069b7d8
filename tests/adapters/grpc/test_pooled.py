"""Pools of channels, on both stacks, against a real server."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest

from resilience import AsyncPool, ConfigurationError, Pool, PoolTimeoutError
from resilience_grpc import aio_channels, channel_credentials, channels, client_interceptors, server_credentials

GET = "/shop.Orders/Get"


class Shop:
    """A server that can stop and start again on its port, and counts the connections by the peers of its calls."""

    def __init__(self, credentials: grpc.ServerCredentials | None = None) -> None:
        self.peers: set[str] = set()
        self.port = 0
        self._credentials = credentials
        self.start()

    def start(self) -> None:
        handlers: dict[str, Any] = {"Get": grpc.unary_unary_rpc_method_handler(self._get)}
        self._server = grpc.server(ThreadPoolExecutor(4))
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("shop.Orders", handlers),))
        address = f"127.0.0.1:{self.port}"
        if self._credentials is None:
            self.port = self._server.add_insecure_port(address)
        else:
            self.port = self._server.add_secure_port(address, self._credentials)
        self._server.start()

    def _get(self, request: bytes, context: grpc.ServicerContext) -> bytes:
        self.peers.add(str(context.peer()))
        if request == b"bad":
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "bad")
        return b"fine"

    def stop(self) -> None:
        self._server.stop(0).wait(10)


@pytest.fixture
def shop() -> Iterator[Shop]:
    server = Shop()
    yield server
    server.stop()


def get(channel: Any, request: bytes = b"") -> Any:
    return channel.unary_unary(GET)(request, timeout=10)


def patiently(is_so: Callable[[], bool]) -> None:
    until = time.monotonic() + 20
    while not is_so():
        assert time.monotonic() < until
        time.sleep(0.01)


def test_each_channel_has_its_own_connection(shop: Shop) -> None:
    """Two channels of a pool are two connections of HTTP/2: their streams do not share one limit."""
    with Pool(channels(f"127.0.0.1:{shop.port}"), maximum_pool_size=2) as pool:
        with pool.connection() as first, pool.connection() as second:
            assert (get(first), get(second)) == (b"fine", b"fine")
        assert len(shop.peers) == 2


def test_an_error_of_a_call_keeps_the_channel(shop: Shop) -> None:
    """Each call is a stream of its own: its error says nothing about the channel."""
    with Pool(channels(f"127.0.0.1:{shop.port}"), alive_bypass=0) as pool:
        with pytest.raises(grpc.RpcError), pool.connection() as channel:
            get(channel, b"bad")
        with pytest.raises(KeyboardInterrupt), pool.connection() as channel:
            raise KeyboardInterrupt
        assert pool.snapshot()["idle"] == 1


def test_a_channel_that_failed_is_not_lent(shop: Shop) -> None:
    """While the server is down no channel is lent; when it is back, the pool makes a new one."""
    with Pool(channels(f"127.0.0.1:{shop.port}"), alive_bypass=0, connection_timeout="300ms") as pool:
        with pool.connection() as first:
            get(first)
            shop.stop()
            with pytest.raises(grpc.RpcError):
                get(first)
        assert pool.snapshot()["closed"] == {"reset failed": 1}
        with pytest.raises(PoolTimeoutError):
            pool.acquire()
        shop.start()
        with pool.connection(timeout=20) as second:
            assert get(second) == b"fine"
        assert second is not first


def test_a_channel_that_the_borrower_closed_is_not_lent(shop: Shop) -> None:
    """A channel in SHUTDOWN is closed when it comes back."""
    with Pool(channels(f"127.0.0.1:{shop.port}")) as pool:
        with pool.connection() as first:
            first.close()
        with pool.connection() as second:
            assert get(second) == b"fine"


def test_interceptors_and_tls(pki: Path) -> None:
    """The channels have the credentials and the interceptors of the connector."""
    shop = Shop(server_credentials(pki / "server.pem", pki / "server.key"))
    connector = channels(
        f"localhost:{shop.port}", channel_credentials(pki / "ca.pem"), interceptors=client_interceptors()
    )
    with Pool(connector, alive_bypass=0) as pool:
        for _ in range(2):
            with pool.connection() as channel:
                assert get(channel) == b"fine"
        assert pool.snapshot()["created"] == 1
    shop.stop()


def test_channels_of_asyncio(shop: Shop) -> None:
    """The same holds for `grpc.aio`: own connections, kept after errors and cancellations, closed after failures."""

    async def main() -> None:
        connector = aio_channels(f"127.0.0.1:{shop.port}")
        async with AsyncPool(connector, maximum_pool_size=2, alive_bypass=0, connection_timeout="2s") as pool:
            async with pool.connection() as first, pool.connection() as second:
                assert [await get(first), await get(second)] == [b"fine", b"fine"]
            assert len(shop.peers) == 2
            with pytest.raises(grpc.RpcError):
                async with pool.connection() as first:
                    await get(first, b"bad")
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.01), pool.connection():
                    await asyncio.sleep(10)
            async with pool.connection() as first, pool.connection() as second:
                assert pool.snapshot()["created"] == 2
                await asyncio.to_thread(shop.stop)
                for channel in (first, second):
                    with pytest.raises(grpc.RpcError):
                        await get(channel)
            assert pool.snapshot()["closed"] == {"reset failed": 2}
            shop.start()
            async with pool.connection(timeout=20) as third:
                assert await get(third) == b"fine"

    asyncio.run(main())


def test_a_server_that_does_not_answer_has_a_limit() -> None:
    """A channel that is not READY within `connect_timeout` is closed, and the error names the target and the time."""
    with pytest.raises(TimeoutError, match=r"'127.0.0.1:1' was not ready within 0.05 s"):
        channels("127.0.0.1:1", connect_timeout="50ms").connect()
    with pytest.raises(TimeoutError, match=r"'127.0.0.1:1' was not ready within 0.05 s"):
        asyncio.run(aio_channels("127.0.0.1:1", connect_timeout="50ms").connect())


@pytest.mark.parametrize("make", [channels, aio_channels])
def test_wrong_arguments_are_refused(make: Any) -> None:
    """An argument that cannot work is named when the connector is made."""
    with pytest.raises(ConfigurationError, match="target="):
        make("")
    with pytest.raises(ConfigurationError, match="connect_timeout="):
        make("orders:50051", connect_timeout=0)
