"""Time that this process takes is not Redis's: a late event loop, our own queue, and connecting are no outage."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from no_threads import out_of_threads
from redis.asyncio.connection import AbstractConnection as AsyncConnection
from redis_process import RedisProcess, free_port
from tcp_proxy import TcpProxy

from resilience.events import Event
from resilience.ratelimit import Decision, RedisStore, TokenBucket
from resilience.ratelimit.on_redis._batch import MAX_BATCH
from resilience.redis import RedisConnection
from resilience.redis._exchange import Reply, aexchange, packed
from resilience.redis._pool import LinkRequest

pytestmark = [pytest.mark.redis, pytest.mark.realtime]
TIMEOUT = 0.05  # the default: the figures below are about it
PLENTY = "1000000/second"
PATIENCE = 1.0


class Scene:
    """A limiter that refuses each call for which Redis was not asked, and its events."""

    def __init__(self, url: str, rate: str = PLENTY, **options: Any) -> None:
        self.connection = RedisConnection.from_url(url, **{"timeout": TIMEOUT, "outage": "deny"} | options)
        self.store = RedisStore(self.connection)
        self.events: list[Event] = []
        self.store.events.subscribe(self.events.append)
        self.limiter = TokenBucket(rate, store=self.store)

    def kinds(self) -> list[str]:
        return [event.kind for event in self.events]

    async def until_connected(self) -> None:
        deadline = time.monotonic() + 10
        while not await self.limiter.aacquire("warm-up"):
            assert time.monotonic() < deadline, "not connected"
            await asyncio.sleep(0.01)
        while self.kinds()[-1:] == ["ratelimit.outage"]:  # the event comes a moment after the change
            await asyncio.sleep(0.005)
        self.events.clear()


@pytest.fixture
def scene(redis_server: RedisProcess) -> Iterator[Scene]:
    made = Scene(redis_server.url)
    yield made
    made.connection.close()


@pytest.fixture
def proxy(redis_server: RedisProcess) -> Iterator[TcpProxy]:
    with TcpProxy(redis_server.port) as made:
        yield made


async def asked_on_a_late_loop(scene: Scene, key: str, turns: int, blocked: float = 0.08) -> Decision:
    """Ask, and block the loop `turns` turns later: before the question is sent, after it, or with the reply there."""
    asking = asyncio.create_task(scene.limiter.aacquire(key))
    for _ in range(turns):
        await asyncio.sleep(0)
    time.sleep(blocked)  # noqa: ASYNC251 - what a handler does that keeps the loop
    return await asking


async def test_a_late_loop_is_no_outage(scene: Scene) -> None:
    """A handler that keeps the loop for longer than the bound refuses no call: the reply lies in the socket."""
    await scene.until_connected()
    for turns in range(12):
        assert await asked_on_a_late_loop(scene, f"k{turns}", turns)
    assert scene.kinds() == []
    await scene.connection.aclose()


async def test_a_late_loop_and_a_forgotten_script(redis_server: RedisProcess) -> None:
    """The second round trip after SCRIPT FLUSH has its time as well, however late the loop was in the first."""
    scene = Scene(redis_server.url, timeout=0.25)  # two replies of a server that has to share a busy machine
    await scene.until_connected()
    with contextlib.closing(redis_server.client()) as client:
        for turns in range(12):
            client.script_flush()
            assert await asked_on_a_late_loop(scene, f"k{turns}", turns, blocked=0.4)
    assert scene.kinds() == []
    await scene.connection.aclose()


async def test_a_late_loop_that_connects(redis_server: RedisProcess) -> None:
    """It is no outage if the loop stands still in each turn of connecting."""
    for turns in range(0, 24, 2):
        scene = Scene(redis_server.url)
        assert await asked_on_a_late_loop(scene, "k", turns)
        assert scene.kinds() == []
        await scene.connection.aclose()


async def test_a_late_loop_hides_no_outage(own_redis_server: RedisProcess) -> None:
    """On a late loop a server that hangs is found out all the same, after a few of its turns."""
    scene = Scene(own_redis_server.url)
    await scene.until_connected()
    own_redis_server.pause()
    try:
        start = time.monotonic()
        assert not await asked_on_a_late_loop(scene, "k", 5)
        assert time.monotonic() - start < PATIENCE
    finally:
        own_redis_server.resume()
    assert scene.kinds() == ["ratelimit.outage"]
    await scene.connection.aclose()


def far_away(proxy: TcpProxy, redis_server: RedisProcess, latency: float) -> str:
    """Return the URL of a server with a password and a database, `latency` seconds away."""
    with contextlib.closing(redis_server.client()) as client:
        client.execute_command("ACL", "SETUSER", "far", "on", ">secret", "~*", "&*", "+@all")  # type: ignore[no-untyped-call]  # redis-py leaves it untyped
    proxy.latency = latency
    return f"redis://far:secret@127.0.0.1:{proxy.port}/3"


async def test_a_server_far_away_is_reached(proxy: TcpProxy, redis_server: RedisProcess) -> None:
    """Connecting that takes longer than a decision is not given up: it goes on, and happens once."""
    scene = Scene(far_away(proxy, redis_server, 0.02))  # AUTH, SELECT and HELLO: 60 ms
    start = time.monotonic()
    await scene.limiter.aacquire("first")
    assert time.monotonic() - start < PATIENCE
    await scene.until_connected()
    assert all([await scene.limiter.aacquire(str(number)) for number in range(10)])
    assert proxy.connections == 1
    assert scene.kinds() == []
    await scene.connection.aclose()


def test_a_server_far_away_is_reached_blocking(proxy: TcpProxy, redis_server: RedisProcess) -> None:
    """The same in threads: no call waits longer than its bound, and connecting is done once."""
    scene = Scene(far_away(proxy, redis_server, 0.02))
    deadline = time.monotonic() + 10
    took = []
    while True:
        start = time.monotonic()
        is_allowed = bool(scene.limiter.acquire("warm-up"))
        took.append(time.monotonic() - start)
        if is_allowed:
            break
        assert start < deadline
        time.sleep(0.005)
    assert sorted(took)[-2] < TIMEOUT + 0.2
    while scene.kinds()[-1:] == ["ratelimit.outage"]:  # the event comes a moment after the change
        assert time.monotonic() < deadline
        time.sleep(0.005)
    assert scene.kinds() == ["ratelimit.outage", "ratelimit.recovered"]
    assert all(scene.limiter.acquire(str(number)) for number in range(10))
    assert proxy.connections == 1
    scene.connection.close()


async def test_connecting_has_a_bound(proxy: TcpProxy) -> None:
    """A server that accepts and never answers is left after `connect_timeout`, and tried again."""
    proxy.latency = 30.0
    scene = Scene(f"redis://user:secret@127.0.0.1:{proxy.port}/3", connect_timeout=0.2)
    deadline = time.monotonic() + 10
    while proxy.connections < 2:
        assert time.monotonic() < deadline
        assert not await scene.limiter.aacquire("k")
        await asyncio.sleep(0.02)
    await scene.connection.aclose()


async def test_no_call_waits_for_a_long_connecting(proxy: TcpProxy) -> None:
    """While connecting goes on, one call waits for it, within its bound; the others decide at once."""
    proxy.latency = 1.0
    scene = Scene(f"redis://user:secret@127.0.0.1:{proxy.port}/3", connect_timeout=5)
    await scene.limiter.aacquire("k")
    start = time.monotonic()
    for _ in range(200):
        await scene.limiter.aacquire("k")
    assert time.monotonic() - start < TIMEOUT * 10
    assert proxy.connections == 1
    assert scene.kinds() == ["ratelimit.outage"]
    await scene.connection.aclose()


def test_many_threads_are_no_outage(redis_server: RedisProcess) -> None:
    """200 threads on a few connections get their decisions from Redis: they share round trips."""
    scene = Scene(redis_server.url, max_connections=4, timeout=0.5, outage="deny")
    decisions: list[bool] = []

    def work(number: int) -> None:
        decisions.extend(bool(scene.limiter.acquire(f"k{number % 50}")) for _ in range(20))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(200)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(decisions) == 4000
    assert all(decisions)
    assert scene.kinds() == []
    with contextlib.closing(redis_server.client()) as client:
        deadline = time.monotonic() + 10  # the fleets of other tests are still leaving
        while len([each for each in client.client_list() if each["cmd"] != "client|list"]) > 4:
            assert time.monotonic() < deadline
            time.sleep(0.05)
    scene.connection.close()


def test_threads_that_share_a_round_trip_share_a_bucket(redis_server: RedisProcess, proxy: TcpProxy) -> None:
    """Threads that ask for the same bucket together get its tokens, and not one more."""
    proxy.latency = 0.02
    scene = Scene(proxy.url, rate="30/hour", max_connections=1, timeout=2)
    assert scene.limiter.acquire("warm-up")
    with contextlib.closing(redis_server.client()) as client:
        client.config_resetstat()
        start, decisions = threading.Barrier(40), list[bool]()

        def work() -> None:
            start.wait()
            decisions.append(bool(scene.limiter.acquire("k")))

        threads = [threading.Thread(target=work) for _ in range(40)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        calls = client.info("commandstats")["cmdstat_evalsha"]["calls"]
    assert sorted(decisions) == [False] * 10 + [True] * 30
    assert calls < 20
    scene.connection.close()


def test_a_full_queue_is_no_outage(redis_server: RedisProcess, proxy: TcpProxy) -> None:
    """A thread that finds every connection in use decides without Redis in half its bound, and declares no outage."""
    timeout = 1.0
    scene = Scene(proxy.url, max_connections=1, timeout=timeout)
    assert scene.limiter.acquire("warm-up")
    # Longer than a thread waits for a connection, and 0.4 s shorter than a reply may take: room for a busy machine.
    proxy.latency = 0.6 * timeout
    decisions: list[tuple[bool, float]] = []

    def work() -> None:
        for _ in range(3):
            start = time.monotonic()
            is_allowed = bool(scene.limiter.acquire("k"))
            decisions.append((is_allowed, time.monotonic() - start))

    threads = [threading.Thread(target=work) for _ in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert max(took for _, took in decisions) < timeout + PATIENCE
    without_redis = [took for is_allowed, took in decisions if not is_allowed]
    assert 0.45 * timeout < min(without_redis) < 0.9 * timeout
    assert not scene.store.outage.is_down
    assert scene.kinds() == []
    assert scene.limiter.acquire("k")
    scene.connection.close()


async def test_thousands_of_keys_are_no_outage(redis_server: RedisProcess, proxy: TcpProxy) -> None:
    """Of 5,000 keys in a turn, a round trip asks for as many as the server answers in time; there is no outage."""
    scene = Scene(proxy.url, timeout=0.4, max_connections=1)
    await scene.until_connected()
    proxy.latency = 0.25
    decisions = await asyncio.gather(*[scene.limiter.aacquire(f"k{number}") for number in range(5000)])
    assert sum(map(bool, decisions)) >= MAX_BATCH
    assert scene.kinds() == []
    await scene.connection.aclose()


async def test_every_caller_of_a_split_turn_has_its_answer(redis_server: RedisProcess) -> None:
    """Callers of one turn that go in several round trips, on one connection, each get the decision of their key."""
    scene = Scene(redis_server.url, rate="3/hour", timeout=5, max_connections=1)
    await scene.until_connected()
    decisions = await asyncio.gather(*[scene.limiter.aacquire(f"k{number % 300}") for number in range(1200)])
    assert [sum(map(bool, decisions[number::300])) for number in range(300)] == [3] * 300
    await scene.connection.aclose()


def test_a_process_that_stood_still_is_no_outage(redis_server: RedisProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread that waited for its connection for longer than the bound, because nothing ran, still asks Redis."""
    wait = LinkRequest.wait

    def wait_and_stand_still(request: LinkRequest, seconds: float) -> None:
        wait(request, PATIENCE)
        time.sleep(2 * TIMEOUT)

    monkeypatch.setattr(LinkRequest, "wait", wait_and_stand_still)
    scene = Scene(redis_server.url)
    assert scene.limiter.acquire("k")  # outage mode `deny`: Redis was asked
    assert scene.kinds() == []
    scene.connection.close()


def test_a_refused_connection_is_an_outage() -> None:
    """A server that is not there is found out at once, by every caller that waits for the first connection."""
    scene = Scene(f"redis://127.0.0.1:{free_port()}/0", timeout=1)
    start = time.monotonic()
    assert not scene.limiter.acquire("k")
    assert time.monotonic() - start < 0.4
    assert [(event.kind, event.facts["error"]) for event in scene.events] == [("ratelimit.outage", "ConnectionError")]


def test_no_thread_to_connect_in_is_no_outage(redis_server: RedisProcess) -> None:
    """If no thread can be started to connect in, decisions are made without Redis, at once, and it is not blamed."""
    scene = Scene(redis_server.url)
    with out_of_threads():
        start = time.monotonic()
        assert not any(scene.limiter.acquire("k") for _ in range(20))
        assert time.monotonic() - start < PATIENCE
    assert scene.kinds() == []
    deadline = time.monotonic() + 10
    while not scene.limiter.acquire("k"):
        assert time.monotonic() < deadline, "not connected"
        time.sleep(0.01)
    assert scene.kinds() == []
    scene.connection.close()


async def test_no_thread_to_resolve_a_name_in_is_no_outage(own_redis_server: RedisProcess) -> None:
    """The same holds for a coroutine: asyncio resolves the name of a host in a thread."""
    scene = Scene(own_redis_server.url.replace("127.0.0.1", "localhost"))
    assert "localhost" in (scene.connection.options.url or "")
    with out_of_threads():
        for _ in range(5):
            assert not await scene.limiter.aacquire("k")
    assert scene.kinds() == []
    await scene.until_connected()
    await scene.connection.aclose()


def test_a_loop_that_ends_while_connecting_leaves_no_connection(redis_server: RedisProcess) -> None:
    """However far an attempt to connect has come when its event loop ends, no connection stays open."""
    connection = RedisConnection.from_url(redis_server.url, timeout=5)

    async def leave(turns: int, *, is_closed: bool) -> None:
        pool = connection.aio_pool
        asking = asyncio.create_task(pool.run(_ping))
        for _ in range(turns):
            await asyncio.sleep(0)
        if is_closed:
            await pool.aclose()
        asking.cancel()

    with contextlib.closing(redis_server.client()) as client:
        before = len(client.client_list())
        for turns in range(40):
            for is_closed in (True, False):
                asyncio.run(leave(turns, is_closed=is_closed))
        gc.collect()  # a transport that is still open warns, which fails the test
        end = time.monotonic() + 10
        while len(client.client_list()) > before:
            assert time.monotonic() < end, "a connection is open"
            time.sleep(0.01)


async def _ping(connection: AsyncConnection) -> list[Reply]:
    return await aexchange(connection, (packed(b"PING"),))
