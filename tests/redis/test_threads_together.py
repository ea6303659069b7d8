"""Threads that find every connection in use ask Redis together, and one of them leads."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType

import pytest
from interrupts import ShutdownRequested
from redis.connection import AbstractConnection
from redis_process import RedisProcess

from resilience.ratelimit import Decision, RedisStore, TokenBucket
from resilience.redis import RedisConnection
from resilience.redis._connection import MAX_THREAD_LINKS

pytestmark = pytest.mark.redis


def wait_for(fact: Callable[[], object]) -> None:
    """Wait until `fact` is true, for ten seconds at most."""
    deadline = time.monotonic() + 10
    while not fact():
        assert time.monotonic() < deadline
        time.sleep(0.001)


class Scene:
    """A limiter all of whose connections are in use until `release`."""

    def __init__(self, server: RedisProcess) -> None:
        self.connection = RedisConnection.from_url(server.url, timeout=30, outage="deny")
        self.store = RedisStore(self.connection)
        self.limiter = TokenBucket("10/hour", 10, self.store)
        self.decisions: dict[str, Decision] = {}
        self._threads: list[threading.Thread] = []
        self._may_go, held = threading.Event(), threading.Barrier(MAX_THREAD_LINKS + 1)

        def hold(_link: AbstractConnection) -> bool:
            held.wait(10)
            return self._may_go.wait(20)

        for _ in range(MAX_THREAD_LINKS):
            self._start(lambda: self.connection.pool.run(hold))
        held.wait(10)

    def _start(self, work: Callable[[], object]) -> None:
        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        self._threads.append(thread)

    def ask(self, key: str) -> None:
        """Ask in a thread of its own, and return when it waits."""
        before = self.waiting

        def work() -> None:
            self.decisions[threading.current_thread().name] = self.limiter.acquire(key)

        self._start(work)
        wait_for(lambda: self.waiting == before + 1)

    @property
    def waiting(self) -> int:
        """How many threads wait in the open batch."""
        batch = self.store._runner.thread_batches._open
        return 0 if batch is None else len(batch.callers)

    def release(self) -> None:
        """Free the connections, and wait for all threads."""
        self._may_go.set()
        for thread in self._threads:
            thread.join(10)
            assert not thread.is_alive(), "waits for ever"


@pytest.fixture
def scene(redis_server: RedisProcess) -> Iterator[Scene]:
    made = Scene(redis_server)
    yield made
    made.release()
    made.connection.close()


def scripts_of(server: RedisProcess) -> int:
    """Return how many script calls the server has run."""
    with contextlib.closing(server.client()) as client:
        stats = client.info("commandstats")
    return sum(int(stats.get(f"cmdstat_{name}", {"calls": 0})["calls"]) for name in ("eval", "evalsha"))


def test_threads_share_one_script_call(scene: Scene, redis_server: RedisProcess) -> None:
    """Threads that wait ask once for all of their keys, and each gets its own decision in the order of arrival."""
    for number in range(24):
        scene.ask(f"k{number % 2}")
    before = scripts_of(redis_server)
    scene.release()
    assert scripts_of(redis_server) - before <= 2  # a server that does not know the script is asked twice
    decisions = list(scene.decisions.values())
    assert sum(map(bool, decisions)) == 20
    assert sorted(each.remaining for each in decisions if each) == sorted([*range(10)] * 2)
    assert scene.store._runner.thread_batches._open is None


@pytest.mark.parametrize("before", [0, 2], ids=["leader", "follower"])
def test_an_interrupted_thread_leaves_no_other_waiting(scene: Scene, before: int) -> None:
    """If a signal strikes a thread of a batch, the others get their decisions from Redis; a leader hands on."""

    def strike(_number: int, _frame: FrameType | None) -> None:
        raise ShutdownRequested

    def interrupt() -> None:
        wait_for(lambda: scene.waiting == before + 1)
        for _ in range(6 - before):
            scene.ask("k")
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR1)

    for _ in range(before):
        scene.ask("k")
    usual = signal.signal(signal.SIGUSR1, strike)
    other = threading.Thread(target=interrupt, daemon=True)
    other.start()
    try:
        with pytest.raises(ShutdownRequested):
            scene.limiter.acquire("k")
    finally:
        signal.signal(signal.SIGUSR1, usual)
    other.join(10)
    scene.release()
    assert [each.allowed for each in scene.decisions.values()] == [True] * 6
    assert scene.limiter.acquire("k").remaining == 3  # the interrupted thread has paid nothing
    assert not scene.store.outage.is_down


def test_no_thread_is_left_behind(redis_server: RedisProcess) -> None:
    """Sixty-four threads that ask again and again get every decision from Redis, and spend exactly the burst."""
    connection = RedisConnection.from_url(redis_server.url, timeout=30, outage="deny")
    limiter = TokenBucket("1/day", 500, RedisStore(connection))
    admitted: list[int] = []

    def work() -> None:
        admitted.append(sum(bool(limiter.acquire("k")) for _ in range(10)))

    threads = [threading.Thread(target=work, daemon=True) for _ in range(64)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert (len(admitted), sum(admitted)) == (64, 500)
    connection.close()
