from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from redis_process import RedisProcess, free_port

from resilience.events import Event
from resilience.pipeline import Pipeline
from resilience.ratelimit import Decision, RateLimit, RedisStore, TokenBucket
from resilience.redis import RedisConnection

pytestmark = [pytest.mark.redis, pytest.mark.realtime]
TIMEOUT = 0.1  # twice the default: these machines are shared
PATIENCE = 1.0  # for one timeout on a machine that is busy; two would be suspicious, ten are a failure


class Scene:
    """A limiter on a server, and the events of its store."""

    def __init__(self, url: str, rate: str = "10/minute", **options: Any) -> None:
        self.connection = RedisConnection.from_url(url, **{"timeout": TIMEOUT} | options)
        self.store = RedisStore(self.connection)
        self.events: list[Event] = []
        self.store.events.subscribe(self.events.append)
        self.limiter = TokenBucket(rate, store=self.store)

    def timed(self, key: str = "k") -> tuple[Decision, float]:
        start = time.monotonic()
        return self.limiter.acquire(key), time.monotonic() - start

    async def atimed(self, key: str = "k") -> tuple[Decision, float]:
        start = time.monotonic()
        return await self.limiter.aacquire(key), time.monotonic() - start

    def kinds(self) -> list[str]:
        return [event.kind for event in self.events]

    def wait_for_recovery(self) -> None:
        deadline = time.monotonic() + 8
        while self.kinds()[-1:] == ["ratelimit.outage"]:  # the event comes a moment after the change
            assert time.monotonic() < deadline
            time.sleep(0.005)

    async def wait_for_recovery_awaiting(self) -> None:
        deadline = time.monotonic() + 8
        while self.kinds()[-1:] == ["ratelimit.outage"]:  # the event comes a moment after the change
            assert time.monotonic() < deadline
            await asyncio.sleep(0.005)


@pytest.fixture
def scene(own_redis_server: RedisProcess) -> Iterator[Scene]:
    made = Scene(own_redis_server.url)
    yield made
    own_redis_server.ready()
    made.connection.close()


def test_hung_server(scene: Scene, own_redis_server: RedisProcess) -> None:
    """While the server hangs the first caller waits for one timeout and no other waits; then it is found by itself."""
    scene.timed()
    own_redis_server.pause()
    first, took = scene.timed()
    assert TIMEOUT * 0.5 < took < PATIENCE
    assert first
    times = sorted(scene.timed()[1] for _ in range(100))
    assert times[94] < TIMEOUT / 10  # the rest is for a machine that stands still
    assert scene.kinds() == ["ratelimit.outage"]
    own_redis_server.resume()
    scene.wait_for_recovery()
    assert scene.kinds() == ["ratelimit.outage", "ratelimit.recovered"]


async def test_hung_server_awaiting(scene: Scene, own_redis_server: RedisProcess) -> None:
    """The same in a task, and for a hundred tasks at once."""
    await scene.atimed()
    own_redis_server.pause()
    start = time.monotonic()
    decisions = await asyncio.gather(*[scene.limiter.aacquire("k") for _ in range(100)])
    assert time.monotonic() - start < PATIENCE
    assert sum(map(bool, decisions)) == 9  # one was paid before, and the share begins at the level of Redis
    times = sorted([(await scene.atimed())[1] for _ in range(100)])
    assert times[94] < TIMEOUT / 10
    own_redis_server.resume()
    await scene.wait_for_recovery_awaiting()
    assert scene.kinds() == ["ratelimit.outage", "ratelimit.recovered"]
    await scene.connection.aclose()


def test_hung_server_many_threads(scene: Scene, own_redis_server: RedisProcess) -> None:
    """Twenty threads that meet a hung server together each lose one bound, and there is one outage event."""
    scene.timed()
    own_redis_server.pause()
    took: list[float] = []
    threads = [threading.Thread(target=lambda: took.append(scene.timed()[1])) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert max(took) < PATIENCE
    assert scene.kinds() == ["ratelimit.outage"]


def test_restart_is_no_outage(scene: Scene, own_redis_server: RedisProcess) -> None:
    """A restart of the server between two calls costs no call anything: connection and script are replaced."""
    scene.timed()
    own_redis_server.restart()
    decision, took = scene.timed()
    assert decision.remaining == 9
    assert took < PATIENCE
    assert scene.kinds() == []


async def test_restart_is_no_outage_awaiting(scene: Scene, own_redis_server: RedisProcess) -> None:
    """The same in a task."""
    await scene.atimed()
    own_redis_server.restart()
    decision, _ = await scene.atimed()
    assert decision.remaining == 9
    assert scene.kinds() == []
    await scene.connection.aclose()


def test_killed_server(scene: Scene, own_redis_server: RedisProcess) -> None:
    """A server that is gone is noticed at once, and found when it is back."""
    scene.timed()
    own_redis_server.kill()
    decision, took = scene.timed()
    assert decision
    assert took < TIMEOUT
    own_redis_server.start()
    scene.wait_for_recovery()
    assert scene.kinds() == ["ratelimit.outage", "ratelimit.recovered"]


def test_read_only_server(scene: Scene, own_redis_server: RedisProcess) -> None:
    """A server that takes no writes counts as down: calls are limited in this process."""
    scene.timed()
    with own_redis_server.client() as client:
        client.config_set("min-replicas-to-write", 1)
        try:
            decisions = [scene.limiter.acquire("k") for _ in range(15)]
        finally:
            client.config_set("min-replicas-to-write", 0)
    assert sum(map(bool, decisions)) == 9  # one was paid before, and the share begins at the level of Redis
    assert scene.kinds() == ["ratelimit.outage"]


def test_local_mode_still_limits() -> None:
    """Without a server, `local` limits in this process: nothing becomes unlimited."""
    scene = Scene(f"redis://127.0.0.1:{free_port()}/0", outage="local")
    assert sum(bool(scene.limiter.acquire("k")) for _ in range(50)) == 10
    refused = scene.limiter.acquire("k")
    assert refused.retry_after == pytest.approx(6, abs=3)
    scene.limiter.reset("k")
    assert scene.limiter.acquire("k")


def test_allow_mode() -> None:
    """Without a server, `allow` lets every call through."""
    scene = Scene(f"redis://127.0.0.1:{free_port()}/0", outage="allow")
    decisions = [scene.limiter.acquire("k") for _ in range(50)]
    assert all(decisions)
    assert decisions[-1].remaining == 10


def test_deny_mode() -> None:
    """Without a server, `deny` refuses every call, and `retry_after` is the time until Redis is asked again."""
    scene = Scene(f"redis://127.0.0.1:{free_port()}/0", outage="deny")
    decisions = [scene.limiter.acquire("k") for _ in range(5)]
    assert not any(decisions)
    assert 0 < (decisions[0].retry_after or 0) <= 0.1
    assert scene.limiter.acquire("k", 11).retry_after is None


def test_a_guarded_call_never_fails_because_of_redis() -> None:
    """A call behind a limit whose server does not exist runs, and the listeners of the pipeline get the reason."""
    connection = RedisConnection.from_url(f"redis://127.0.0.1:{free_port()}/0", timeout=TIMEOUT)
    pipeline = Pipeline("orders", RateLimit("10/minute", store=RedisStore(connection)))
    heard: list[Event] = []
    pipeline.subscribe(heard.append)
    assert pipeline.call(len, "abc") == 3
    assert asyncio.run(pipeline.acall(len, "abc")) == 3
    assert [(event.kind, event.policy) for event in heard] == [("ratelimit.outage", "orders.ratelimit")]


@pytest.fixture
def silent_port() -> Iterator[int]:
    """Provide a port whose connections are accepted by the kernel and never by anybody else."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(8)
        yield listener.getsockname()[1]


def test_password_and_database_on_a_silent_server(silent_port: int) -> None:
    """The steps of a handshake that the server does not answer fit into the same bound."""
    scene = Scene(f"redis://user:secret@127.0.0.1:{silent_port}/3")
    assert scene.timed()[1] < 2 * TIMEOUT
    assert scene.timed()[1] < 0.02


async def test_a_swept_loop_hides_no_recovery(scene: Scene, own_redis_server: RedisProcess) -> None:
    """If every task of a loop is cancelled, that of a trial among them, Redis is found all the same."""
    await scene.atimed()
    own_redis_server.pause()
    await scene.atimed()
    own_redis_server.resume()
    me, deadline = asyncio.current_task(), time.monotonic() + 8
    while scene.kinds()[-1:] == ["ratelimit.outage"]:
        assert time.monotonic() < deadline
        for task in asyncio.all_tasks() - {me}:
            task.cancel()
        await asyncio.sleep(0.001)
    assert scene.kinds() == ["ratelimit.outage", "ratelimit.recovered"]
    await scene.connection.aclose()


async def test_cancelled_call_leaves_the_connection_in_step(scene: Scene) -> None:
    """After a call cancelled half-way, no later one is given its answer."""
    for _ in range(20):
        task = asyncio.create_task(scene.limiter.aacquire("cancelled"))
        for _ in range(3):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    assert [(await scene.limiter.aacquire("fresh")).remaining for _ in range(3)] == [9, 8, 7]
    await scene.connection.aclose()
