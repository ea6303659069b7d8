"""Commands sent without redis-py's client, on connections of its pool."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from types import FrameType
from typing import Any

import pytest
from redis.connection import AbstractConnection
from redis.exceptions import ConnectionError as NotConnected
from redis.exceptions import ResponseError
from redis_process import RedisProcess

from resilience.redis import LuaScript, RedisConnection
from resilience.redis._exchange import exchange, packed

pytestmark = pytest.mark.redis


@pytest.fixture
def connection(redis_server: RedisProcess) -> Iterator[RedisConnection]:
    made = RedisConnection.from_url(redis_server.url, timeout=2, max_connections=1)
    yield made
    made.close()


def ask(connection: RedisConnection, *parts: bytes) -> Any:
    """Return the reply to one command, as limiters ask."""

    def talk(link: AbstractConnection) -> list[Any]:
        return exchange(link, (packed(*parts),))

    return (connection.pool.run_if_free(talk) or connection.pool.run(talk))[0]


def client_id(connection: RedisConnection) -> int:
    """Return which connection of the server is in use."""
    return int(ask(connection, b"CLIENT", b"ID"))


@pytest.mark.parametrize("parts", [(b"GET", b"k"), (b"SET", b"k", b""), (b"SET", b"k", b"a\r\n$3\r\nb\x00\xff")])
def test_packed_as_redis_py_packs(connection: RedisConnection, parts: tuple[bytes, ...]) -> None:
    """A command is the same bytes that redis-py would send, whatever its arguments hold."""
    pool = connection.sync.connection_pool
    theirs: list[bytes] = pool.make_connection().pack_command(*parts)  # type: ignore[no-untyped-call]  # redis-py leaves it untyped
    assert packed(*parts) == b"".join(theirs)


def test_errors_leave_the_connection_in_step(connection: RedisConnection) -> None:
    """A reply that is an error is returned as redis-py's, and the connection goes on to serve."""
    ask(connection, b"SET", b"list", b"text")
    before = client_id(connection)
    assert isinstance(ask(connection, b"LPUSH", b"list", b"1"), ResponseError)
    refusal = LuaScript("return redis.error_reply('no')")
    with pytest.raises(ResponseError):
        refusal.run(connection.pool, (b"k",), ())
    assert ask(connection, b"GET", b"list") == b"text"
    assert client_id(connection) == before


def test_a_stale_connection_is_replaced_once(connection: RedisConnection, redis_server: RedisProcess) -> None:
    """A connection that the server has closed costs the caller nothing; a failure to connect is an error."""
    assert ask(connection, b"PING") == b"PONG"
    with contextlib.closing(redis_server.client()) as other:
        other.client_kill_filter(_type="normal", skipme=True)
    assert ask(connection, b"PING") == b"PONG"
    nobody = RedisConnection.from_url("redis://127.0.0.1:1/0", timeout=1)
    with pytest.raises(NotConnected):
        ask(nobody, b"PING")


class AlarmError(BaseException):
    """An interrupt, as by Ctrl-C."""


@contextlib.contextmanager
def interrupted_at(step: int) -> Iterator[None]:
    """Interrupt the exchange before the line it runs as its `step`th."""
    taken = 0

    def enter(frame: FrameType, _event: str, _arg: object) -> Any:
        return count if frame.f_code is exchange.__code__ else None

    def count(_frame: FrameType, event: str, _arg: object) -> Any:
        nonlocal taken
        taken += event == "line"
        if event == "line" and taken == step:
            sys.settrace(None)
            raise AlarmError
        return count

    before = sys.gettrace()
    sys.settrace(enter)
    try:
        yield
    finally:
        sys.settrace(before)


def test_interrupts_leave_the_connection_in_step(connection: RedisConnection) -> None:
    """Interrupted at any step, no later caller is given the answer that was meant for the one before."""
    steps = 0
    for step in range(1, 20):
        ask(connection, b"SET", b"secret", b"of another caller")
        with contextlib.suppress(AlarmError), interrupted_at(step):
            assert ask(connection, b"GET", b"secret") == b"of another caller"
            break
        steps = step
        assert ask(connection, b"PING") == b"PONG"
    assert steps >= 4
