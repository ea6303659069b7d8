"""Windows by name in place of a bucket: one set of laws for memory and Redis, and for both colours."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis_process import RedisProcess, free_port

from resilience import Resilience
from resilience.errors import ConfigurationError, RateLimitedError
from resilience.fleet import Fleet
from resilience.pipeline import Pipeline
from resilience.ratelimit import MemoryStore, Quota, Rate, RateLimit, RedisStore, Store
from resilience.ratelimit.on_redis._windows import share_of_window
from resilience.ratelimit.windows._machine import window_of
from resilience.redis import RedisConnection
from resilience.testing import ManualClock

WINDOWS = ("fixed-window", "moving-window", "sliding-window-counter")


def windows(store: Any, strategy: str, amount: int = 5) -> Any:
    return store.open_windows(strategy, Quota("orders", Rate(amount, 3600), amount), time.time)


@pytest.mark.parametrize("strategy", WINDOWS)
async def test_a_window_admits_its_amount(store: Store, strategy: str) -> None:
    """Both colours share the window of a key; a refusal says when the call fits, and counts nothing."""
    opened = windows(store, strategy)
    decisions = [opened.take("k", 2), await opened.atake("k", 2), opened.take("k", 2), await opened.atake("k")]
    assert [each.allowed for each in decisions] == [True, True, False, True]
    assert [each.remaining for each in decisions] == [3, 1, 1, 0]
    assert decisions[0].limit == 5
    assert 0 < decisions[2].retry_after <= 7200
    assert 0 < decisions[3].reset_after <= 7200
    assert opened.take("k", 6).retry_after is None
    assert opened.take("other").remaining == 4
    assert (opened.allowed, opened.refused) == (4, 2)
    if isinstance(store, RedisStore):
        await store.connection.aclose()


@pytest.mark.parametrize("strategy", WINDOWS)
async def test_a_look_counts_nothing(store: Store, strategy: str) -> None:
    """`peek` tells what a call would get, in both colours, and `reset` forgets the calls of a key."""
    opened = windows(store, strategy)
    opened.take("k", 4)
    found = [opened.peek("k"), await opened.apeek("k", 2)]
    assert [(each.allowed, each.remaining) for each in found] == [(True, 1), (False, 1)]
    opened.reset("k")
    assert opened.peek("k").remaining == 5
    if isinstance(store, RedisStore):
        await store.connection.aclose()


@pytest.mark.parametrize("strategy", WINDOWS)
def test_exact_under_threads(store: Store, strategy: str) -> None:
    """Of many threads at once, as many pass as the window admits."""
    opened = windows(store, strategy, 30)
    with ThreadPoolExecutor(8) as threads:
        assert sum(bool(each) for each in threads.map(lambda _: opened.take("k"), range(100))) == 30


def admitted_by(strategy: str, amount: int, period: int) -> Callable[[list[tuple[float, int]], float, int], bool]:
    """Return the definition of a strategy: whether a call fits, given the calls that were admitted before."""

    def moving(before: list[tuple[float, int]], now: float, cost: int) -> bool:
        return sum(paid for came, paid in before if came + period > now) + cost <= amount

    def counter(before: list[tuple[float, int]], now: float, cost: int) -> bool:
        number, passed = divmod(now, period)
        current = sum(paid for came, paid in before if came // period == number)
        previous = sum(paid for came, paid in before if came // period == number - 1)
        return previous * (period - passed) / period + current + cost <= amount

    def fixed(before: list[tuple[float, int]], now: float, cost: int) -> bool:
        ends, used = 0.0, 0
        for came, paid in before:
            ends, used = (came + period, paid) if came >= ends else (ends, used + paid)
        return (used if now < ends else 0) + cost <= amount

    return {"moving-window": moving, "sliding-window-counter": counter, "fixed-window": fixed}[strategy]


@pytest.mark.parametrize("strategy", WINDOWS)
@given(calls=st.lists(st.tuples(st.integers(0, 40), st.integers(1, 5)), min_size=1, max_size=60))
def test_a_window_is_its_definition(strategy: str, calls: list[tuple[int, int]]) -> None:
    """A call fits exactly if the definition says so, and a refused one fits after `retry_after`, not before."""
    quota, window, now = Quota("n", Rate(7, 16), 7), window_of(strategy), 1024.0
    fits, admitted = admitted_by(strategy, 7, 16), list[tuple[float, int]]()
    for wait, cost in calls:
        now += wait / 4
        found = window.decide(quota, now, cost, pays=True)
        assert found.allowed == fits(admitted, now, cost)
        if found.allowed:
            admitted.append((now, cost))
        else:
            assert not fits(admitted, now + found.retry_after * 0.99, cost)
            assert fits(admitted, now + found.retry_after + 1e-6, cost)
        later = now + found.reset_after + 1e-6
        assert fits(admitted, later, 7)
        assert window.until <= later


@pytest.mark.redis
def test_the_script_reads_calls_of_the_past(redis_server: RedisProcess) -> None:
    """What came before counts on Redis as the definitions say, by the server's clock, and ends with its time."""
    connection = RedisConnection.from_url(redis_server.url, timeout=5, outage="deny")
    store, client = RedisStore(connection), redis_server.client()
    seconds, micros = client.time()
    now = seconds * 1_000_000 + micros
    hour = 3_600_000_000
    key = "{resilience:ratelimit:orders:k}:"

    ages = ((0, hour + 1), (2, hour - 60_000_000), (4, 9))
    client.rpush(f"{key}moving-window:5/3600", *(f"{now - age}:{at}:{at + 2}" for at, age in ages))
    moving = windows(store, "moving-window")
    assert [moving.take("k").remaining, moving.take("k").retry_after] == [0, pytest.approx(60, abs=20)]
    assert moving.take("k", 3).retry_after == pytest.approx(3600, abs=20)

    number, passed = divmod(now, hour)
    client.set(f"{key}sliding-window-counter:5/3600", f"{number - 1}:9:4")
    if passed < hour - 60_000_000:  # not at the end of an hour
        assert windows(store, "sliding-window-counter").peek("k").remaining == int(5 - 4 * (1 - passed / hour) + 1e-3)

    client.set(f"{key}fixed-window:5/3600", f"{now + 60_000_000}:5")
    assert windows(store, "fixed-window").take("k").retry_after == pytest.approx(60, abs=20)
    client.set(f"{key}fixed-window:5/3600", f"{now + 2 * hour}:5")  # written before the server's clock went back
    assert windows(store, "fixed-window").take("k").remaining == 4

    for strategy in WINDOWS:  # a value of another kind is no window
        client.delete(f"{key}{strategy}:5/3600")
        client.hset(f"{key}{strategy}:5/3600", "a", "b")
        assert windows(store, strategy).peek("k").remaining == 5
        assert client.type(f"{key}{strategy}:5/3600") == b"hash"  # a look overwrites nothing
        assert windows(store, strategy).take("k").remaining == 4
        assert 0 < client.pttl(f"{key}{strategy}:5/3600") <= 7_200_001
    client.close()
    connection.close()


@pytest.mark.redis
async def test_an_outage_leaves_a_share(redis_server: RedisProcess) -> None:
    """Without Redis, `local` counts by the share of this instance, `allow` admits and `deny` refuses."""
    share = share_of_window(Quota("n", Rate(9, 60), 9), 4)
    assert (share.rate, share.burst) == (Rate(2, 60), 2)
    for outage, admitted in (("local", 5), ("allow", 7), ("deny", 0)):
        connection = RedisConnection.from_url(f"redis://127.0.0.1:{free_port()}/0", timeout=2, outage=outage)
        opened = windows(RedisStore(connection), "moving-window")
        assert sum(bool(opened.take("k")) for _ in range(7)) == admitted
        assert (await opened.apeek("k")).allowed == (outage == "allow")
        await connection.aclose()
    connection = RedisConnection.from_url(redis_server.url, timeout=5)
    windows(RedisStore(connection), "fixed-window").take("k")
    assert Fleet.of(connection).is_open
    await connection.aclose()


async def test_a_policy_counts_by_its_strategy(store: Store) -> None:
    """`strategy` names the window of a policy, for calls of both colours."""
    pipeline = Pipeline("search", RateLimit("2/hour", strategy="moving-window", store=store))

    async def found() -> str:
        return "found"

    assert (pipeline.call(str, 1), await pipeline.acall(found)) == ("1", "found")
    with pytest.raises(RateLimitedError) as refused:
        pipeline.call(str, 1)
    assert refused.value.retry_after == pytest.approx(3600, abs=30)
    with pytest.raises(RateLimitedError):
        await pipeline.acall(found)
    if isinstance(store, RedisStore):
        await store.connection.aclose()


def test_the_environment_names_a_strategy() -> None:
    """A pipeline of the toolkit takes its strategy from a variable."""
    toolkit = Resilience.from_env(
        {
            "RESILIENCE_PIPELINE__SEARCH__RATE_LIMIT__RATE": "1/hour",
            "RESILIENCE_PIPELINE__SEARCH__RATE_LIMIT__STRATEGY": "fixed-window",
        }
    )
    (limit,) = [each for each in toolkit.pipeline("search").policies if isinstance(each, RateLimit)]
    assert limit.options.strategy == "fixed-window"
    assert limit.snapshot()["remaining"] == 1


def test_windows_forget_what_counts_no_more() -> None:
    """The number of windows of a name is bounded, and one that counts nothing takes no memory."""
    clock, store = ManualClock(), MemoryStore(max_keys=10)
    opened = store.open_windows("fixed-window", Quota("n", Rate(5, 60), 5), clock)
    for number in range(100):
        opened.take(str(number))
    table = store._windows["n"].windows
    assert len(table) == 10
    assert opened.take("99", 4).allowed
    assert not opened.take("99").allowed
    clock.advance(61)
    table.expire()
    assert len(table) == 0


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"rate": "5/second;9/hour"}, "rate="),
        ({"rate": "100001/hour", "strategy": "moving-window"}, "rate="),
        ({"burst": 3}, "burst="),
        ({"max_wait": 1}, "max_wait="),
        ({"strategy": "sliding-window"}, "strategy="),
        ({"drain_on": ValueError}, "drain_on="),
        ({"store": object()}, "store="),
    ],
)
def test_what_windows_cannot_do_is_refused(options: dict[str, Any], named: str) -> None:
    """At construction, with the name of the option."""
    with pytest.raises(ConfigurationError, match=named):
        RateLimit(**{"rate": "5/second", "strategy": "fixed-window", **options})


def test_a_store_without_windows_is_refused() -> None:
    """A store of a third party may keep buckets only; the error names what it lacks."""

    class BucketsOnly:
        waits = False

        def open(self, quota: Quota, clock: Callable[[], float]) -> Any:
            return MemoryStore().open(quota, clock)

    with pytest.raises(ConfigurationError, match="open_windows"):
        RateLimit("5/second", strategy="fixed-window", store=BucketsOnly())


@pytest.mark.parametrize("strategy", WINDOWS)
async def test_cancelled_calls_leave_a_usable_window(store: Store, strategy: str) -> None:
    """A call that is cancelled while Redis decides has counted or not; the window goes on."""
    opened = windows(store, strategy)
    for _ in range(3):
        task = asyncio.ensure_future(opened.atake("k"))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    assert 2 <= (await opened.apeek("k")).remaining <= 5
    assert (await opened.atake("k")).allowed
    if isinstance(store, RedisStore):
        await store.connection.aclose()
