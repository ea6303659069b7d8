from __future__ import annotations

import asyncio
import contextlib
import sys
import threading

import pytest
import redis
from redis_process import RedisProcess
from tracked_variables import variables_of

from resilience.errors import ConfigurationError
from resilience.ratelimit import RedisStore
from resilience.redis import LuaScript, RedisConnection, RedisOptions

pytestmark = pytest.mark.redis


@pytest.mark.parametrize(
    ("url", "why"),
    [
        (None, "url=None: expected a Redis URL"),
        ("http://x", "url="),
        ("redis://host:notaport/0", "url='redis://host:notaport/0'"),
        ("redis://host:6379/0?db=x", "url=.*hidden"),
    ],
)
def test_bad_url(url: str | None, why: str) -> None:
    """An unreadable URL is refused when the connection is made, without showing its password."""
    with pytest.raises(ConfigurationError, match=why):
        RedisConnection(RedisOptions(url=url))


def test_store_wants_a_connection() -> None:
    """A URL in place of a connection is refused with the reason."""
    with pytest.raises(ConfigurationError, match="connection='redis://host': expected a RedisConnection"):
        RedisStore("redis://host")  # type: ignore[arg-type]  # what the test is about


def test_redis_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the redis package the error names the package to install."""
    monkeypatch.setitem(sys.modules, "redis", None)
    with pytest.raises(ConfigurationError, match=r'pip install "resilience-plugins\[redis\]"'):
        RedisConnection.from_url("redis://127.0.0.1:1/0")


def test_repr_hides_the_password() -> None:
    """A connection can be logged."""
    shown = repr(RedisConnection.from_url("valkey://user:secret@cache.internal:6379/2"))
    assert shown == "<RedisConnection valkey://cache.internal/2>"


def test_client_is_one_for_all_threads(redis_server: RedisProcess) -> None:
    """Threads that start together share one client, made when first used."""
    connection = RedisConnection.from_url(redis_server.url.replace("redis://", "valkey://"), timeout=2)
    start, clients = threading.Barrier(8), list[object]()

    def work() -> None:
        start.wait()
        clients.append(connection.sync)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({id(client) for client in clients}) == 1
    assert connection.sync.ping()
    connection.close()
    connection.close()
    assert connection.sync is not clients[0]
    connection.close()


def test_client_per_loop(redis_server: RedisProcess) -> None:
    """Event loops running side by side have a client each; within one it is the same."""
    connection = RedisConnection.from_url(redis_server.url, timeout=2)
    start, clients = threading.Barrier(2), list[object]()

    async def work() -> None:
        assert connection.aio is connection.aio
        assert await connection.aio.ping()
        clients.append(connection.aio)
        await asyncio.to_thread(start.wait)

    threads = [threading.Thread(target=asyncio.run, args=(work(),)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert clients[0] is not clients[1]


async def test_aclose(redis_server: RedisProcess) -> None:
    """Closing closes both colours; using the connection again opens it again."""
    connection = RedisConnection.from_url(redis_server.url, timeout=2)
    first = connection.aio
    assert await first.ping()
    await connection.aclose()
    await connection.aclose()
    assert connection.aio is not first
    assert await connection.aio.ping()
    await connection.aclose()


def test_unix_socket_and_tls_urls() -> None:
    """Every kind of URL makes a client, in both colours, before anything is connected."""
    for url in ("unix:///tmp/redis.sock", "rediss://host:6380/1", "valkeys://host"):
        connection = RedisConnection.from_url(url)
        with contextlib.closing(connection):
            assert connection.sync.connection_pool.make_connection() is not None

        async def make(connection: RedisConnection = connection) -> None:
            pool = connection.aio.connection_pool
            assert pool.make_connection() is not None  # type: ignore[no-untyped-call]  # redis-py leaves it untyped

        asyncio.run(make())


def test_script_is_sent_once(redis_server: RedisProcess) -> None:
    """A script goes over the wire in full when the server does not know it, and by its hash from then on."""
    connection = RedisConnection.from_url(redis_server.url, timeout=2)
    with contextlib.closing(connection), contextlib.closing(redis_server.client()) as client:
        script = LuaScript("return {KEYS[1], ARGV[1]} -- once")
        client.config_resetstat()
        assert [script.run(connection.pool, (b"k",), [1]) for _ in range(3)] == [[b"k", b"1"]] * 3
        stats = client.info("commandstats")
    assert (stats["cmdstat_eval"]["calls"], stats["cmdstat_evalsha"]["calls"]) == (1, 3)


PASSWORD = "hunter2"  # noqa: S105 - the one that must never show


async def test_a_refused_password_is_in_no_local_variable(redis_server: RedisProcess) -> None:
    """When Redis refuses a password, no frame shows it, redis-py's own included, in either colour."""
    where = f"127.0.0.1:{redis_server.port}/0"
    connection = RedisConnection.from_url(f"redis://u:{PASSWORD}@{where}?password={PASSWORD}", timeout=5)
    with pytest.raises(redis.AuthenticationError) as caught:
        connection.sync.ping()
    assert PASSWORD not in variables_of(caught.value)
    with pytest.raises(redis.AuthenticationError) as caught:
        await connection.aio.ping()
    assert PASSWORD not in variables_of(caught.value)
    await connection.aclose()


async def test_a_password_is_accepted(own_redis_server: RedisProcess) -> None:
    """A hidden password is sent as it is, in either colour."""
    with own_redis_server.client() as admin:
        admin.config_set("requirepass", PASSWORD)
        try:
            url = f"redis://:{PASSWORD}@127.0.0.1:{own_redis_server.port}/0"
            connection = RedisConnection.from_url(url, timeout=5)
            assert connection.sync.ping()
            assert await connection.aio.ping()
            await connection.aclose()
        finally:
            admin.config_set("requirepass", "")
