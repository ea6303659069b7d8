"""A reply has one deadline and one size, however many pieces it comes in."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator

import pytest
from redis_process import RedisProcess
from tcp_proxy import TcpProxy

from resilience.clock import monotonic
from resilience.ratelimit import RedisStore, TokenBucket
from resilience.redis import RedisConnection
from resilience.redis._bounded import MAX_REPLY, BoundedSocket

pytestmark = [pytest.mark.redis, pytest.mark.realtime]
TIMEOUT = 0.25
DROP = 0.2
"""Seconds between two bytes: less than the timeout, so that no single `recv` runs into it."""


def bucket(connection: RedisConnection) -> TokenBucket:
    return TokenBucket("3600/hour", 3600, RedisStore(connection))


def timed(limiter: TokenBucket) -> float:
    since = time.monotonic()
    limiter.acquire("k")
    return time.monotonic() - since


async def atimed(limiter: TokenBucket) -> float:
    since = time.monotonic()
    await limiter.aacquire("k")
    return time.monotonic() - since


def test_a_reply_in_drops(redis_server: RedisProcess) -> None:
    """A reply that comes byte by byte costs its caller one timeout, and is an outage."""
    with (
        TcpProxy(redis_server.port) as proxy,
        contextlib.closing(RedisConnection.from_url(proxy.url, timeout=TIMEOUT)) as connection,
    ):
        limiter = bucket(connection)
        timed(limiter)
        proxy.pause = DROP  # ten bytes and more: 2 s
        assert TIMEOUT * 0.9 < timed(limiter) < TIMEOUT * 4
        assert timed(limiter) < TIMEOUT / 2


async def test_a_reply_in_drops_awaiting(redis_server: RedisProcess) -> None:
    """The same in a task."""
    with TcpProxy(redis_server.port) as proxy:
        connection = RedisConnection.from_url(proxy.url, timeout=TIMEOUT)
        limiter = bucket(connection)
        await atimed(limiter)
        proxy.pause = DROP
        assert TIMEOUT * 0.9 < await atimed(limiter) < TIMEOUT * 4
        assert await atimed(limiter) < TIMEOUT / 2
        await connection.aclose()


def test_later_replies_have_the_whole_bound(redis_server: RedisProcess) -> None:
    """After a reply that came in pieces, and in time, the next one on the same connection has its full time."""
    with (
        TcpProxy(redis_server.port) as proxy,
        contextlib.closing(RedisConnection.from_url(proxy.url, timeout=2, max_connections=1)) as connection,
    ):
        client = connection.sync
        client.ping()
        proxy.pause = 0.1
        for _ in range(3):  # seven bytes each
            assert client.ping()
        assert proxy.connections == 1


@pytest.fixture
def answering() -> Iterator[Callable[[bytes], int]]:
    """Provide a server that answers every request with the same bytes, without end; returns its port."""
    listener, is_over = socket.create_server(("127.0.0.1", 0)), threading.Event()

    def serve(flood: bytes) -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection, contextlib.suppress(OSError):
                connection.settimeout(5)
                connection.recv(1000)
                connection.sendall(b"+")
                while not is_over.is_set():
                    connection.sendall(flood)

    def start(flood: bytes) -> int:
        threading.Thread(target=serve, args=(flood,), daemon=True).start()
        port: int = listener.getsockname()[1]
        return port

    yield start
    is_over.set()
    with contextlib.suppress(OSError):
        listener.shutdown(socket.SHUT_RDWR)
    listener.close()


def test_an_endless_line(answering: Callable[[bytes], int]) -> None:
    """A reply that never ends is given up at its size, long before its time: the memory is not filled."""
    url = f"redis://127.0.0.1:{answering(b'a' * 65_536)}/0"
    with contextlib.closing(RedisConnection.from_url(url, timeout=30)) as connection:
        limiter = bucket(connection)
        assert timed(limiter) < 15
        assert limiter.acquire("k")  # decided here
        assert connection.sync.connection_pool is not None


@pytest.fixture
def pair() -> Iterator[tuple[BoundedSocket, socket.socket]]:
    ours, theirs = socket.socketpair()
    ours.settimeout(5)
    with ours, theirs:
        yield BoundedSocket(ours), theirs


def flood(theirs: socket.socket, receive: Callable[[], int]) -> None:
    received = 0
    while received <= MAX_REPLY:
        theirs.sendall(b"a" * 65_536)
        received += receive()


@pytest.mark.parametrize("way", ["recv", "recv_into"])
def test_size(pair: tuple[BoundedSocket, socket.socket], way: str) -> None:
    """The bytes of one reply are counted, in both ways of receiving; the count starts again with the next reply."""
    ours, theirs = pair

    def receive() -> int:
        return len(ours.recv(65_536)) if way == "recv" else ours.recv_into(bytearray(65_536))

    ours.begin_reply()
    with pytest.raises(OSError, match="more than"):
        flood(theirs, receive)
    ours.begin_reply()
    theirs.sendall(b"+")
    assert receive() > 0


def test_timeouts_of_the_parser(pair: tuple[BoundedSocket, socket.socket]) -> None:
    """A timeout that the parser sets starts anew; without one there is no deadline, and 0 does not wait."""
    ours, theirs = pair
    ours.settimeout(0.05)
    ours.begin_reply()
    time.sleep(0.1)
    theirs.sendall(b"ab")
    assert ours.recv(1) == b"a"  # the first is left to the socket
    with pytest.raises(TimeoutError, match="not complete"):
        ours.recv(1)
    ours.settimeout(None)
    assert ours.recv(1) == b"b"
    ours.settimeout(0)
    for _ in range(2):
        with pytest.raises(BlockingIOError):
            ours.recv(1)
    ours.settimeout(0.05)
    since = monotonic()
    with pytest.raises(TimeoutError):
        ours.recv(1)
    assert monotonic() - since < 2
    assert ours.fileno() > 0
