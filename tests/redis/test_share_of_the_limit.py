"""Without Redis, each instance decides by its share of the limit, and the fleet admits the rate as a whole."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from pathlib import Path

import pytest
import share_spender
from redis_process import RedisProcess, free_port

from resilience.fleet import Fleet
from resilience.ratelimit import Decision, MemoryStore, Rate, RedisStore, TokenBucket
from resilience.ratelimit._machine import Quota
from resilience.ratelimit.on_redis._codec import BucketCodec
from resilience.ratelimit.on_redis._share import LocalShare, share_of
from resilience.redis import RedisConnection
from resilience.testing import ManualClock

pytestmark = pytest.mark.redis


@pytest.mark.parametrize(
    ("rate", "burst", "instances", "share", "left"),
    [
        (Rate(100, 60), 100, 1, Rate(100, 60), 100),
        (Rate(100, 60), 100, 4, Rate(100, 240), 25),
        (Rate(3, 1), 3, 4, Rate(3, 4), 1),
        (Rate(1, 1), 1, 10_000, Rate(1, 10_000), 1),
        (Rate(8, 10 * 360 * 86_400), 8, 4, Rate(2, 10 * 360 * 86_400), 2),
    ],
)
def test_a_share_is_the_limit_divided(rate: Rate, burst: int, instances: int, share: Rate, left: int) -> None:
    """Rate and burst are divided by the instances; a bucket holds at least one token."""
    quota = share_of(Quota("q", rate, burst), instances)
    assert (quota.rate, quota.burst) == (share, left)


@pytest.mark.parametrize("outage", ["allow", "deny"])
def test_a_store_that_needs_no_count_joins_no_fleet(redis_server: RedisProcess, outage: str) -> None:
    """Only the mode `local` needs the number of instances, so no other one pays for it."""
    connection = RedisConnection.from_url(redis_server.url, outage=outage, timeout=2)
    TokenBucket("5/second", store=RedisStore(connection)).acquire("k")
    with contextlib.closing(redis_server.client()) as client:
        assert client.keys("*fleet*") == []
    assert repr(Fleet.of(connection)).endswith("1 alive>")


@pytest.mark.realtime  # a level is forgotten in two seconds
def test_a_share_begins_at_the_last_known_level(own_redis_server: RedisProcess) -> None:
    """A bucket that Redis knew as empty is empty in the outage, and one that is not known is full."""
    connection = RedisConnection.from_url(own_redis_server.url, timeout=2)
    limiter = TokenBucket("10/hour", 10, RedisStore(connection), name="levels")
    assert [limiter.acquire("spent").remaining for _ in range(10)] == list(range(9, -1, -1))
    own_redis_server.kill()
    assert not limiter.acquire("spent").allowed
    assert limiter.acquire("unknown").remaining == 9


@pytest.mark.realtime  # a level is forgotten in two seconds
async def test_a_share_of_tasks_begins_at_the_last_known_level(own_redis_server: RedisProcess) -> None:
    """The decisions of tasks are known to the share as well."""
    connection = RedisConnection.from_url(own_redis_server.url, timeout=2)
    limiter = TokenBucket("10/hour", 10, RedisStore(connection), name="levels")
    assert (await limiter.aacquire("spent", 10)).allowed
    own_redis_server.kill()
    assert not (await limiter.aacquire("spent")).allowed
    await connection.aclose()


def test_a_level_is_as_old_as_the_outage() -> None:
    """A key that comes late in an outage finds the tokens that came meanwhile, also for a look."""
    clock, quota = ManualClock(), Quota("levels", Rate(10, 60), 10)
    store, codec = MemoryStore(), BucketCodec(quota, "p")
    share = LocalShare(quota, codec, lambda each: store.open(each, clock), lambda: 1, clock, keeps_levels=True)

    def empty(*keys: str) -> None:
        for key in keys:
            share.levels[codec.redis_key(key)] = Decision.of(quota, 10, allowed=True, full_at=60.0, made_at=0.0)

    empty("at once", "later", "looked at")
    assert not share.take("at once", 1, 0.0).allowed
    clock.advance(45)
    assert [share.take("later", 1, 0.0).remaining, share.peek("looked at", 1).remaining] == [6, 7]
    share.age()
    empty("next outage")
    clock.advance(45)
    assert not share.take("next outage", 1, 0.0).allowed


def test_shares_of_several_rates_keep_their_level() -> None:
    """A change of the number of instances divides the rates anew, and fills no bucket."""
    clock, quotas = ManualClock(), (Quota("n", Rate(4, 60), 4), Quota("n", Rate(8, 3600), 8))
    store = MemoryStore()
    assert store.open_joint(quotas, clock).take("k", 4).allowed
    divided = tuple(share_of(quota, 2) for quota in quotas)
    assert not store.open_joint(divided, clock, quotas).take("k").allowed


def test_a_server_that_comes_back_empty_gives_no_second_burst(own_redis_server: RedisProcess) -> None:
    """Before the first call asks Redis again, its bucket is as empty as that of the instance."""
    store = RedisStore(RedisConnection.from_url(own_redis_server.url, timeout=2))
    limiter = TokenBucket("10/hour", 10, store, name="levels")
    assert limiter.acquire("k", 5).allowed
    own_redis_server.kill()
    assert limiter.acquire("k", 5).allowed
    own_redis_server.start()
    deadline = time.monotonic() + 20
    while store.outage.is_down:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert not limiter.acquire("k").allowed
    assert limiter.acquire("other", 10).allowed


def test_without_redis_from_the_start_there_is_one_instance() -> None:
    """An instance that never reached Redis has counted nobody else, so it has the whole limit."""
    limiter = TokenBucket("10/hour", 10, RedisStore(RedisConnection.from_url(f"redis://127.0.0.1:{free_port()}")))
    assert [limiter.acquire("k").allowed for _ in range(11)] == [True] * 10 + [False]


@pytest.mark.realtime
def test_four_processes_without_redis_admit_the_rate_once(own_redis_server: RedisProcess) -> None:
    """Redis is killed under load: four processes admit the rate, not four times the rate, and no burst comes after."""
    command = [sys.executable, str(Path(share_spender.__file__)), own_redis_server.url, "4"]
    with contextlib.ExitStack() as stack:
        processes = [
            stack.enter_context(
                subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)
            )
            for _ in range(4)
        ]
        for process in processes:
            stack.callback(process.kill)

        def answers() -> list[list[str]]:
            return [process.stdout.readline().split() for process in processes if process.stdout is not None]

        def spend(seconds: float) -> float:
            for process in processes:
                assert process.stdin is not None
                process.stdin.write(f"{seconds}\n")
            spent = [(int(admitted), float(took)) for admitted, took in answers()]
            return sum(admitted for admitted, _ in spent) / max(took for _, took in spent)

        assert answers() == [["counted"]] * 4
        spend(1.5)  # empties the bucket
        own_redis_server.kill()
        without = spend(3)
        own_redis_server.start()
        again = spend(3)
    # The rate is 200/second. Each share holds 50 tokens, which were spent before; a busy machine admits less.
    assert without < 300
    assert again < 300
    assert without > 50
