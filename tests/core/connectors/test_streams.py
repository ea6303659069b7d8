"""Pools of asyncio streams, against real servers on loopback."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from line_server import LineServer

from resilience import AsyncPool, ConfigurationError, PoolTimeoutError
from resilience.connectors import StreamPair, aio_tcp, aio_tls

pytestmark = pytest.mark.asyncio


async def ask(streams: StreamPair, line: bytes = b"balance\n") -> bytes:
    streams.writer.write(line)
    return await streams.reader.readline()


async def until(condition: Callable[[], bool]) -> None:
    """Wait for a state that another thread brings about."""
    limit = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < limit
        await asyncio.sleep(0.001)


@pytest.fixture(params=["tcp", "tls"])
def served(request: pytest.FixtureRequest, pki: Path) -> tuple[LineServer, Any]:
    """Start a server, and make the connector of its clients, in both kinds."""
    server: LineServer = request.getfixturevalue("plain_server" if request.param == "tcp" else "tls_server")
    if request.param == "tcp":
        return server, aio_tcp("127.0.0.1", server.port)
    return server, aio_tls("127.0.0.1", server.port, ca=pki / "ca.pem", server_hostname="localhost")


async def test_a_connection_is_lent_again(served: tuple[LineServer, Any]) -> None:
    """Two borrowers in turn use one connection, also if it was never used before."""
    server, connector = served
    async with AsyncPool(connector, minimum_idle=1, alive_bypass=0) as pool:
        await until(lambda: pool.snapshot()["idle"] == 1 and len(server.open) == 1)
        for _ in range(3):
            async with pool.connection() as streams:
                assert await ask(streams) == b"ok balance\n"
        assert pool.snapshot()["closed"] == {}


async def test_a_connection_that_the_server_closed_is_not_lent(served: tuple[LineServer, Any]) -> None:
    """The next borrower gets a new connection."""
    server, connector = served
    async with AsyncPool(connector, alive_bypass=0) as pool:
        async with pool.connection() as first:
            await ask(first)
        server.hang_up()
        async with pool.connection() as second:
            assert await ask(second) == b"ok balance\n"
        assert second is not first


async def test_a_connection_with_bytes_to_read_is_not_lent(served: tuple[LineServer, Any]) -> None:
    """Bytes that no borrower has read are the answer to an earlier one: no other borrower may get them."""
    server, connector = served
    async with AsyncPool(connector, alive_bypass=0) as pool:
        async with pool.connection() as first:
            await ask(first)
            server.push(b"late\n")
        async with pool.connection() as second:
            assert await ask(second) == b"ok balance\n"
        assert second is not first


async def test_a_cancelled_question_closes_the_connection(served: tuple[LineServer, Any]) -> None:
    """After a cancellation an answer may be outstanding: no other borrower gets it."""
    server, connector = served
    async with AsyncPool(connector) as pool:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01), pool.connection() as streams:
                await ask(streams, b"slow\n")
        async with pool.connection() as streams:
            assert await ask(streams) == b"ok balance\n"
        assert server.accepted <= 2
        assert pool.snapshot()["closed"].get("error in use", 0) == server.accepted - 1


async def test_a_server_that_is_down_is_the_cause(plain_server: LineServer) -> None:
    """The error of a borrower has the refusal of the connection as its cause."""
    plain_server.close()
    async with AsyncPool(aio_tcp("127.0.0.1", plain_server.port), connection_timeout="300ms") as pool:
        with pytest.raises(PoolTimeoutError, match="ConnectionRefusedError") as caught:
            await pool.acquire()
        assert isinstance(caught.value.__cause__, ConnectionRefusedError)


async def test_a_wrong_certificate_is_refused(tls_server: LineServer, pki: Path) -> None:
    """A server of another authority, or of another name, gets no connection."""
    kinds: tuple[dict[str, Any], ...] = (
        {"ca": pki / "stranger.pem", "server_hostname": "localhost"},
        {"ca": pki / "ca.pem"},
    )
    for arguments in kinds:
        async with AsyncPool(aio_tls("127.0.0.1", tls_server.port, **arguments), connection_timeout="300ms") as pool:
            with pytest.raises(PoolTimeoutError) as caught:
                await pool.acquire()
            assert isinstance(caught.value.__cause__, ssl.SSLCertVerificationError)


async def test_a_close_that_waits_in_vain_wakes_the_borrower(served: tuple[LineServer, Any]) -> None:
    """A borrower that waits for an answer goes on when the time of `close` is up."""
    _, connector = served
    pool, has_begun = AsyncPool(connector), asyncio.Event()

    async def borrow() -> bytes:
        async with pool.connection() as streams:
            has_begun.set()
            return await ask(streams, b"slow\n")

    borrower = asyncio.create_task(borrow())
    await has_begun.wait()
    await pool.close(timeout="10ms")
    async with asyncio.timeout(20):
        assert await borrower == b""


async def test_a_long_line_needs_a_buffer(plain_server: LineServer) -> None:
    """`buffer_limit` is the longest line that the reader takes."""
    async with AsyncPool(aio_tcp("127.0.0.1", plain_server.port, buffer_limit=10)) as pool:
        with pytest.raises(ValueError, match="limit"):
            async with pool.connection() as streams:
                await ask(streams, b"a line of more than ten bytes\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"host": ""}, "host="), ({"port": 70_000}, "port="), ({"connect_timeout": -1}, "connect_timeout="),
     ({"buffer_limit": 0}, "buffer_limit=")],
)  # fmt: skip
async def test_wrong_arguments_are_refused(arguments: dict[str, Any], message: str) -> None:
    """An argument that cannot work is named when the connector is made."""
    for make in (aio_tcp, aio_tls):
        with pytest.raises(ConfigurationError, match=message):
            make(**{"host": "ledger", "port": 7000, **arguments})
