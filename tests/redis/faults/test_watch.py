"""The background thread that asks a Redis that is down, in each kind of program: it finds Redis, and harms nothing."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from redis_process import RedisProcess, free_port
from tcp_proxy import TcpProxy

from resilience.events import Event
from resilience.ratelimit import Decision, RedisStore, TokenBucket
from resilience.redis import RedisConnection

pytestmark = [pytest.mark.redis, pytest.mark.realtime, pytest.mark.once]
PATIENCE = 10.0
BOTH = ["ratelimit.outage", "ratelimit.recovered"]


class Scene:
    """A limiter behind a proxy, which refuses each call that Redis does not decide."""

    def __init__(self, url: str, **options: Any) -> None:
        self.connection = RedisConnection.from_url(url, **{"timeout": 0.1, "outage": "deny"} | options)
        self.store = RedisStore(self.connection)
        self.events: list[Event] = []
        self.store.events.subscribe(self.events.append)
        self.bucket = TokenBucket("1000000/second", store=self.store)

    @property
    def kinds(self) -> list[str]:
        return [event.kind for event in self.events]

    def until_up(self) -> None:
        """Wait for the event of the recovery, which comes a moment after the change."""
        wait_until(lambda: self.kinds[-1:] != ["ratelimit.outage"])

    def until_decided_blocking(self) -> None:
        """Have a first connection, which may take longer than a call waits."""
        wait_until(lambda: self.bucket.acquire("k"))
        self.until_up()
        self.events.clear()

    async def until_decided(self) -> None:
        """Have a first connection, which may take longer than a call waits."""
        deadline = time.monotonic() + PATIENCE
        while not await self.bucket.aacquire("k"):
            assert time.monotonic() < deadline
            await asyncio.sleep(0.01)
        await self.until_up_awaiting()
        self.events.clear()

    async def until_up_awaiting(self) -> None:
        deadline = time.monotonic() + PATIENCE
        while self.kinds[-1:] == ["ratelimit.outage"]:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.005)


def wait_until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


@pytest.fixture
def proxy(own_redis_server: RedisProcess) -> Iterator[TcpProxy]:
    with TcpProxy(own_redis_server.port) as made:
        yield made


@contextlib.contextmanager
def unreachable(proxy: TcpProxy) -> Iterator[None]:
    """End all connections; new ones end at once."""
    target, proxy.target = proxy.target, free_port()
    proxy.cut()
    try:
        yield
    finally:
        proxy.target = target


async def test_a_loop_comes_back_with_a_connection(proxy: TcpProxy) -> None:
    """A loop far away from Redis reconnects in the background: its callers come back to one connection, once."""
    scene = Scene(proxy.url.replace("/0", "/3"), timeout=0.2)
    await scene.until_decided()
    proxy.latency = (
        0.15  # a decision fits into the bound, and connecting (SELECT, HELLO) takes longer than a call waits
    )
    with unreachable(proxy):
        assert not await scene.bucket.aacquire("k")
    await scene.until_up_awaiting()
    before = proxy.connections
    assert all([await scene.bucket.aacquire("k") for _ in range(3)])
    assert proxy.connections == before
    assert scene.kinds == BOTH
    await scene.connection.aclose()


def test_no_herd_of_threads(proxy: TcpProxy) -> None:
    """Of fifty threads that come back together, none makes Redis look down, and connections grow one by one."""
    scene = Scene(proxy.url)
    scene.until_decided_blocking()
    with unreachable(proxy):
        assert not scene.bucket.acquire("k")
    scene.until_up()
    before, start, decisions = proxy.connections, threading.Barrier(50), list[Decision]()

    def work() -> None:
        start.wait()
        decisions.append(scene.bucket.acquire("k"))

    threads = [threading.Thread(target=work) for _ in range(50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(decisions) == 50
    assert scene.kinds == BOTH
    assert proxy.connections - before < 25
    scene.connection.close()


async def test_no_herd_of_tasks(proxy: TcpProxy) -> None:
    """A hundred tasks that come back together share round trips on the connection that is there."""
    scene = Scene(proxy.url)
    await scene.until_decided()
    with unreachable(proxy):
        assert not await scene.bucket.aacquire("k")
    await scene.until_up_awaiting()
    before = proxy.connections
    assert all(await asyncio.gather(*[scene.bucket.aacquire(f"k{number % 9}") for number in range(100)]))
    assert proxy.connections - before <= 1
    assert scene.kinds == BOTH
    await scene.connection.aclose()


def test_a_loop_ends_during_an_outage(proxy: TcpProxy) -> None:
    """Redis is found although the loop that noticed the outage is closed, and the next loop uses it."""
    scene = Scene(proxy.url)
    with unreachable(proxy):
        for _ in range(3):
            assert not asyncio.run(scene.bucket.aacquire("k"))
    scene.until_up()
    assert asyncio.run(scene.bucket.aacquire("k"))
    assert scene.kinds == BOTH
    scene.connection.close()


def test_loops_of_two_threads(proxy: TcpProxy) -> None:
    """Two loops and a blocking thread share one outage, and each of them comes back connected."""
    scene, met = Scene(proxy.url), threading.Barrier(3)
    decisions: list[bool] = []

    async def work() -> None:
        await scene.until_decided()
        await asyncio.to_thread(met.wait, PATIENCE)
        await asyncio.to_thread(met.wait, PATIENCE)  # Redis is unreachable
        assert not await scene.bucket.aacquire("k")
        await asyncio.to_thread(met.wait, PATIENCE)
        await scene.until_up_awaiting()
        decisions.extend([bool(await scene.bucket.aacquire("k")) for _ in range(5)])
        await scene.connection._clients.aio_pools.aclose()

    threads = [threading.Thread(target=asyncio.run, args=(work(),)) for _ in range(2)]
    for thread in threads:
        thread.start()
    met.wait(PATIENCE)
    scene.until_decided_blocking()
    with unreachable(proxy):
        assert not scene.bucket.acquire("k")
        met.wait(PATIENCE)
        met.wait(PATIENCE)
    scene.until_up()
    for thread in threads:
        thread.join()
    assert decisions == [True] * 10
    assert scene.bucket.acquire("k")
    assert scene.kinds == BOTH
    scene.connection.close()


@pytest.mark.parametrize("blocked", [True, False])
def test_a_loop_that_stands_still_delays_no_thread(proxy: TcpProxy, *, blocked: bool) -> None:
    """Threads get Redis back within the bound of connecting, whatever a loop of the process does."""
    scene, go_on = Scene(proxy.url, connect_timeout=0.3), threading.Event()

    async def work() -> None:
        await scene.until_decided()
        connected.set()
        if blocked:
            go_on.wait(PATIENCE)
        else:
            await asyncio.to_thread(go_on.wait, PATIENCE)
        await scene.connection._clients.aio_pools.aclose()

    connected = threading.Event()
    loop = threading.Thread(target=asyncio.run, args=(work(),))
    loop.start()
    assert connected.wait(PATIENCE)
    scene.until_decided_blocking()
    with unreachable(proxy):
        assert not scene.bucket.acquire("k")
    scene.until_up()
    assert scene.bucket.acquire("k")
    go_on.set()
    loop.join()
    scene.connection.close()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_fork_during_an_outage(proxy: TcpProxy) -> None:
    """A child that is forked during an outage finds it by itself, and its end; the parent's watch goes on."""
    scene = Scene(proxy.url)
    with unreachable(proxy):
        assert not scene.bucket.acquire("k")
        child = os.fork()
        if child == 0:
            scene.bucket.acquire("k")
            deadline = time.monotonic() + PATIENCE
            while not scene.bucket.acquire("k") and time.monotonic() < deadline:
                time.sleep(0.01)
            os._exit(0 if scene.bucket.acquire("k") else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    scene.until_up()
    assert scene.kinds == BOTH
    scene.connection.close()


def test_close_ends_the_watch(proxy: TcpProxy) -> None:
    """After `close` no thread asks Redis any more, and a later call starts afresh."""
    scene = Scene(proxy.url)
    with unreachable(proxy):
        assert not scene.bucket.acquire("k")
        scene.connection.close()
        wait_until(lambda: not scene.store.outage.is_down)
        before = proxy.connections
        time.sleep(0.3)  # a watch that went on would ask within 0.2 s
        assert proxy.connections == before
    wait_until(lambda: scene.bucket.acquire("k"))
    scene.connection.close()


def test_later_calls_cost_nothing(own_redis_server: RedisProcess) -> None:
    """During an outage a call takes about as long as one in memory: the median of a thousand is below 0.2 ms."""
    scene = Scene(own_redis_server.url, outage="local")
    scene.until_decided_blocking()
    own_redis_server.pause()
    try:
        scene.bucket.acquire("k")
        times = []
        for _ in range(1000):
            since = time.monotonic()
            scene.bucket.acquire("k")
            times.append(time.monotonic() - since)
    finally:
        own_redis_server.resume()
    assert sorted(times)[500] < 0.0002
    scene.until_up()
    scene.connection.close()


SCRIPT = """
import sys, time
{patch}
from resilience.ratelimit import RedisStore, TokenBucket
from resilience.redis import RedisConnection
store = RedisStore(RedisConnection.from_url("redis://127.0.0.1:{port}/0", outage="deny", timeout=0.2))
bucket = TokenBucket("1000/second", store=store)
kinds = []
store.events.subscribe(lambda event: kinds.append(event.kind))
print(bool(bucket.acquire("k")), flush=True)
{rest}
"""
UNTIL_UP = """
sys.stdin.readline()
deadline = time.monotonic() + 10
while kinds[-1] == "ratelimit.outage" and time.monotonic() < deadline:
    time.sleep(0.01)
print(bool(bucket.acquire("k")), *kinds)
"""


def test_gevent(own_redis_server: RedisProcess) -> None:
    """With the patches of gevent the watch is a greenlet, and finds Redis."""
    pytest.importorskip("gevent")
    with TcpProxy(free_port()) as proxy:
        code = SCRIPT.format(patch="from gevent import monkey; monkey.patch_all()", port=proxy.port, rest=UNTIL_UP)
        with subprocess.Popen(
            [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as process:
            assert process.stdin
            assert process.stdout
            assert process.stdout.readline() == "False\n"
            proxy.target = own_redis_server.port
            process.stdin.write("go on\n")
            process.stdin.flush()
            out, _ = process.communicate(timeout=60)
    assert (out.split(), process.returncode) == (["True", *BOTH], 0)


def test_a_process_ends_during_an_outage() -> None:
    """A process ends at once while its watch is at work, also in the midst of connecting."""
    with TcpProxy(free_port(), backlog=1) as proxy, proxy.full_queue():
        since = time.monotonic()
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT.format(patch="", port=proxy.port, rest="time.sleep(0.2)")],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert (done.stdout.split(), done.returncode) == (["False"], 0)
        assert time.monotonic() - since < PATIENCE
    assert "Traceback" not in done.stderr
