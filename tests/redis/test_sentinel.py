"""A master that Sentinel knows: limiters and clients follow it to the server that Sentinel promotes."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterator, Sequence

import pytest
from redis_groups import SentinelGroup, wait_until
from redis_process import RedisProcess, free_port

from resilience import Pool
from resilience.connectors import redis_client
from resilience.errors import PoolError
from resilience.events import Event
from resilience.fleet import Fleet, FleetCall
from resilience.ratelimit import Decision, RedisStore, TokenBucket
from resilience.redis import RedisConnection

pytestmark = [pytest.mark.redis, pytest.mark.servers]
TIMEOUT = 1.0
SLACK = 1.0  # a busy machine may keep a call for longer than its bound
RATE = "1000000/hour"
INSTANCES = "{resilience:fleet}:instances"
SENTINELS = "their-own"  # the password of the test's own processes


class Asker:
    """A limiter that is asked in one colour, and notes the longest decision."""

    def __init__(self, connection: RedisConnection, *, is_awaiting: bool) -> None:
        store = RedisStore(connection)
        self.events: list[Event] = []
        store.events.subscribe(self.events.append)
        self.bucket = TokenBucket(RATE, store=store)
        self.longest = 0.0
        self._connection = connection
        self._runner = asyncio.Runner() if is_awaiting else None

    def ask(self, key: str = "k") -> Decision:
        since = time.monotonic()
        runner = self._runner
        decision = self.bucket.acquire(key) if runner is None else runner.run(self.bucket.aacquire(key))
        self.longest = max(self.longest, time.monotonic() - since)
        return decision

    def close(self) -> None:
        if self._runner is not None:
            self._runner.run(self._connection.aclose())
            self._runner.close()
        self._connection.close()


MakeAsker = Callable[..., Asker]


@pytest.fixture(params=[False, True], ids=["sync", "async"])
def make_asker(request: pytest.FixtureRequest) -> Iterator[MakeAsker]:
    with contextlib.ExitStack() as stack:

        def make(url: str, **options: object) -> Asker:
            connection = RedisConnection.from_url(url, timeout=TIMEOUT, **options)
            asker = Asker(connection, is_awaiting=request.param)
            stack.callback(asker.close)
            return asker

        yield make


def scripts_run(server: RedisProcess) -> int:
    with contextlib.closing(server.client()) as client:
        stats = client.info("commandstats")
        return sum(int(stats.get(f"cmdstat_{name}", {"calls": 0})["calls"]) for name in ("eval", "evalsha"))


def test_failover_while_the_old_master_lives(make_asker: MakeAsker, sentinel_group: SentinelGroup) -> None:
    """After a failover no decision fails or waits, and decisions are soon on the new master, which has the bucket."""
    asker = make_asker(sentinel_group.url)
    assert asker.ask().remaining == 999_999
    sentinel_group.fail_over()
    master = sentinel_group.master()
    wait_until(lambda: asker.ask() and scripts_run(master) > 0)
    assert asker.longest < TIMEOUT + SLACK


def test_the_master_dies(make_asker: MakeAsker, make_sentinel_group: Callable[..., SentinelGroup]) -> None:
    """After kill -9 of the master every decision is made in time, and soon on the promoted replica."""
    group = make_sentinel_group(password=SENTINELS)
    asker = make_asker(group.url, sentinel_password=SENTINELS)
    assert asker.ask()
    before = group.master()
    before.kill()
    wait_until(lambda: asker.ask() and group.master() is not before and scripts_run(group.master()) > 0)
    wait_until(lambda: [event.kind for event in asker.events] == ["ratelimit.outage", "ratelimit.recovered"])
    assert asker.longest < TIMEOUT + SLACK


def test_a_dead_sentinel_is_passed_over(make_asker: MakeAsker, sentinel_group: SentinelGroup) -> None:
    """The Sentinels are asked one after the other; one that is gone costs no outage."""
    asker = make_asker(sentinel_group.url.replace("://", f"://127.0.0.1:{free_port()},"))
    assert asker.ask()
    assert scripts_run(sentinel_group.master()) > 0
    assert asker.events == []


def test_clients_follow_the_master(sentinel_group: SentinelGroup) -> None:
    """The client for blocking code, and those of a pool, reach the master before and after a failover."""
    pool = Pool(redis_client(sentinel_group.url, timeout=TIMEOUT), maximum_pool_size=1)

    def writes_from_pool() -> bool:
        with contextlib.suppress(PoolError), pool.connection() as client:
            return bool(client.set("written", 1))
        return False

    with contextlib.closing(RedisConnection.from_url(sentinel_group.url, timeout=TIMEOUT)) as connection, pool:
        for _ in range(2):
            wait_until(lambda: connection.sync.set("written", 1))
            wait_until(writes_from_pool)
            wait_until(lambda: connection.diagnose() is None)
            sentinel_group.fail_over()


async def test_the_awaiting_client_follows_the_master(sentinel_group: SentinelGroup) -> None:
    """The client of an event loop reaches the master."""
    connection = RedisConnection.from_url(sentinel_group.url, timeout=TIMEOUT)
    assert await connection.aio.set("written", 1)
    assert await connection.aio.role()
    await connection.aclose()


def test_a_service_that_no_sentinel_knows(sentinel_group: SentinelGroup) -> None:
    """The diagnosis names the service and what each Sentinel said."""
    url = sentinel_group.url.replace("/payments", "/paymnts")
    with contextlib.closing(RedisConnection.from_url(url, timeout=TIMEOUT)) as connection:
        reason = connection.diagnose() or ""
    assert "no Sentinel names the master 'paymnts'" in reason
    assert f"127.0.0.1:{sentinel_group.ports[0]} does not know a master 'paymnts'" in reason


def test_a_sentinel_that_names_a_replica(sentinel_group: SentinelGroup) -> None:
    """A server that Sentinel calls the master, and that says it is a replica, is not used."""
    replica = next(server for server in sentinel_group.servers if server is not sentinel_group.master())
    sentinel_group.run("SENTINEL", "MONITOR", "stale", "127.0.0.1", replica.port, 1)
    url = sentinel_group.url.replace("/payments", "/stale")
    with contextlib.closing(RedisConnection.from_url(url, timeout=TIMEOUT)) as connection:
        reason = connection.diagnose() or ""
    sentinel_group.run("SENTINEL", "REMOVE", "stale")
    assert f"127.0.0.1:{replica.port} is named as the master, but it is a slave" in reason


class QuietPartner:
    """A partner of a fleet that sends nothing."""

    def calls(self) -> list[FleetCall]:
        return []

    def answered(self, replies: Sequence[object], /) -> None:
        pass

    def unreachable(self) -> None:
        pass

    def leaving(self) -> list[FleetCall]:
        return []

    def heard(self, message: bytes, /) -> None:
        pass


def test_the_fleet_follows_the_master(sentinel_group: SentinelGroup) -> None:
    """Two instances count each other before and after a failover."""
    connections = [RedisConnection.from_url(sentinel_group.url, timeout=TIMEOUT) for _ in range(2)]
    fleets = [Fleet.of(connection) for connection in connections]
    partners = [QuietPartner() for _ in fleets]  # the fleet keeps them by weak references
    try:
        for fleet, partner in zip(fleets, partners, strict=True):
            fleet.join(partner)
        wait_until(lambda: all(fleet.instances == 2 for fleet in fleets))
        sentinel_group.fail_over()
        with contextlib.closing(sentinel_group.master().client()) as client:
            client.delete(INSTANCES)
            wait_until(lambda: client.zcard(INSTANCES) == 2)
    finally:
        for fleet, connection in zip(fleets, connections, strict=True):
            fleet.close()
            connection.close()
