"""Several rates on one key, decided together: one set of laws for memory and Redis."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis_process import RedisProcess, free_port

from resilience import Resilience
from resilience.errors import ConfigurationError, RateLimitedError
from resilience.fleet import Fleet
from resilience.keyed import Keyed
from resilience.pipeline import Pipeline
from resilience.ratelimit import MemoryStore, RateLimit, RedisStore, Store, TokenBucket
from resilience.redis import RedisConnection
from resilience.server import ServerGate, ServerOptions
from resilience.testing import ManualClock


async def test_the_tightest_rate_decides(store: Store) -> None:
    """A decision shows the rate with the fewest tokens; a refusal shows the rate with the longest wait."""
    limiter = TokenBucket("500/hour;3/day", store=store)
    decisions = [limiter.acquire("k"), await limiter.aacquire("k"), limiter.acquire("k"), await limiter.aacquire("k")]
    assert [each.allowed for each in decisions] == [True, True, True, False]
    assert [each.remaining for each in decisions] == [2, 1, 0, 0]
    assert [str(each.quota.rate) for each in decisions] == ["3/day"] * 4
    assert decisions[-1].retry_after == pytest.approx(28_800, abs=5)
    assert limiter.acquire("k", 4).retry_after is None
    assert limiter.acquire("other").remaining == 2
    assert limiter.measure().counts == {"allowed": 4, "refused": 2}


def test_a_refusal_takes_nothing_from_any_rate(store: Store) -> None:
    """However often one rate refuses, the others keep their tokens."""
    limiter = TokenBucket("2/day;500/hour", store=store)
    for _ in range(50):
        limiter.acquire("k")
    parts = limiter.peek("k").parts  # type: ignore[attr-defined]  # several rates
    assert [(str(each.quota.rate), each.remaining) for each in parts] == [("500/hour", 498), ("2/day", 0)]


async def test_refunds_go_to_all_rates(store: Store) -> None:
    """A refund undoes the payment of each rate, in both colours, and a refusal pays nothing back."""
    limiter = TokenBucket("10/hour;20/day", store=store)
    first = limiter.acquire("k", 4)
    limiter.refund("k", limiter.acquire("k", 2))
    await limiter.arefund("k", await limiter.aacquire("k", 3))
    limiter.refund("k", limiter.acquire("k", 9))
    parts = limiter.peek("k").parts  # type: ignore[attr-defined]  # several rates
    assert [each.remaining for each in parts] == [6, 16]
    assert first.undone().remaining == 10
    limiter.reset("k")
    assert limiter.peek("k").remaining == 10


def test_turns_are_those_of_the_tightest_rate(store: Store) -> None:
    """A booking waits for each rate, and a cancelled one goes back to each."""
    limiter = TokenBucket("60/hour;1 per 10 minutes", store=store)
    limiter.acquire("k")
    turns = [limiter.reserve("k", max_wait="1h") for _ in range(2)]
    assert [turn.delay for turn in turns] == pytest.approx([600, 1200], abs=5)
    for turn in turns:
        turn.cancel()
    parts = limiter.peek("k").parts  # type: ignore[attr-defined]  # several rates
    assert [each.remaining for each in parts] == [0, 59]
    assert limiter.reserve("k", max_wait="1h").delay == pytest.approx(600, abs=5)


def test_computed_rates_take_no_memory() -> None:
    """All rates of one name share the bound of the store on keys, and each combination has buckets of its own."""
    store = MemoryStore(max_keys=100)
    limiter = TokenBucket("1/second;10/hour", store=store)
    for hourly in range(11, 1_011):
        assert limiter.with_rate(f"1/second;{hourly}/hour").acquire("k").allowed
    assert len(store) == 100


def test_eight_long_rates_are_a_text() -> None:
    """As many rates as are allowed fit into an option, however they are written."""
    rates = ";".join(f"{1000000 + i} per {100000 + i} seconds" for i in range(8))
    assert len(TokenBucket(rates).rates) == 8
    assert str(RateLimit(rates).options.rate).count(";") == 7


def test_a_snapshot_shows_the_tightest_rate() -> None:
    """In memory, `remaining` is that of the rate with the fewest tokens, and taking a snapshot takes nothing."""
    limiter = TokenBucket("5/second;3/hour")
    limiter.acquire("k")
    assert [limiter.snapshot("k")["remaining"] for _ in range(2)] == [2, 2]


def test_a_keyed_limit_that_refuses_is_kept() -> None:
    """`Keyed` drops a policy that is not used, but not one whose successor would admit more calls."""
    clock = ManualClock()
    limits = Keyed(lambda _key: RateLimit("5/second;1/hour", clock=clock), key=lambda text: text, max_keys=2)
    pipeline = Pipeline("search", limits)
    for key in ("spent", "other", "third"):
        pipeline.call(str, key)
    with pytest.raises(RateLimitedError):
        pipeline.call(str, "spent")


@pytest.mark.redis
async def test_an_instance_with_several_rates_is_counted(redis_server: RedisProcess) -> None:
    """Its share of the limit is known before the first outage."""
    for colour in ("acquire", "aacquire"):
        connection = RedisConnection.from_url(redis_server.url, timeout=5)
        decision = getattr(TokenBucket("10/second;500/hour", store=RedisStore(connection)), colour)("k")
        assert (await decision if colour == "aacquire" else decision).allowed
        assert Fleet.of(connection).is_open
        await connection.aclose()
        connection.close()


@pytest.mark.redis
async def test_one_command_for_all_rates(redis_server: RedisProcess) -> None:
    """A decision is one command, and all rates of a key are one value with a time to live."""
    connection = RedisConnection.from_url(redis_server.url, timeout=5, outage="deny")
    limiter = TokenBucket("10/second;500/hour", store=RedisStore(connection), name="n")
    limiter.acquire("warm-up")
    with contextlib.closing(redis_server.client()) as client:
        client.config_resetstat()
        limiter.acquire("k")
        await limiter.aacquire("k")
        assert client.info("commandstats")["cmdstat_evalsha"]["calls"] == 2
        assert client.pttl("{resilience:ratelimit:n:k}:10/1;500/3600") > 0
    await connection.aclose()
    connection.close()


@pytest.mark.redis
async def test_exact_under_tasks(redis_server: RedisProcess) -> None:
    """Of many tasks at once, as many pass as the tightest rate allows."""
    connection = RedisConnection.from_url(redis_server.url, timeout=5, outage="deny")
    limiter = TokenBucket("1000/hour;30/day", store=RedisStore(connection))
    decisions = await asyncio.gather(*[limiter.aacquire("k") for _ in range(100)])
    assert sum(map(bool, decisions)) == 30
    await connection.aclose()
    connection.close()


@given(
    steps=st.lists(st.tuples(st.floats(0, 3), st.integers(1, 3)), min_size=1, max_size=40),
    rates=st.sets(st.sampled_from(["3/second", "5 per 2 seconds", "10/minute", "7 per 5 seconds"]), min_size=2),
)
def test_admits_what_each_rate_by_itself_would(steps: list[tuple[float, int]], rates: set[str]) -> None:
    """A call passes exactly if each rate by itself has room for it, given the calls that have passed."""
    clock = ManualClock(100.0)
    joint = TokenBucket(";".join(sorted(rates)), clock=clock)
    single = [TokenBucket(rate, clock=clock) for rate in rates]
    for wait, cost in steps:
        clock.advance(wait)
        expected = all(each.peek("k", cost) for each in single)
        assert joint.peek("k", cost).allowed is expected
        assert joint.acquire("k", cost).allowed is expected
        if expected:
            for each in single:
                each.acquire("k", cost)
        assert joint.peek("k").remaining == min(each.peek("k").remaining for each in single)


def test_memory_is_bounded() -> None:
    """Full buckets are forgotten, and a table that is full forgets the key nearest to full."""
    clock, store = ManualClock(), MemoryStore(max_keys=10)
    limiter = TokenBucket("5/second;10/minute", store=store, clock=clock)
    for client in range(100):
        limiter.acquire(str(client))
        assert len(store) <= 10
    clock.advance(120)
    for client in range(6):
        limiter.acquire(f"new-{client}")
    assert len(store) <= 6


@pytest.mark.parametrize(("outage", "admitted"), [("local", 2), ("allow", 4), ("deny", 0)])
async def test_without_redis(outage: str, admitted: int) -> None:
    """During an outage, the outage mode decides for all rates."""
    connection = RedisConnection.from_url(f"redis://127.0.0.1:{free_port()}", timeout=0.1, outage=outage)
    limiter = TokenBucket("5/hour;2/day", store=RedisStore(connection))
    decisions = [limiter.acquire("k"), await limiter.aacquire("k"), limiter.acquire("k"), limiter.acquire("k")]
    assert sum(map(bool, decisions)) == admitted
    limiter.refund("k", decisions[0])
    assert limiter.peek("k").allowed is (outage != "deny")
    await connection.aclose()
    connection.close()


async def test_policy(store: Store) -> None:
    """A policy of a pipeline refuses by any of its rates, in both colours."""
    pipeline = Pipeline("p", RateLimit("100/hour;2/day", store=store))
    pipeline.call(int)
    await pipeline.acall(asyncio.sleep, 0)
    with pytest.raises(RateLimitedError, match="100/hour;2/day exceeded") as caught:
        pipeline.call(int)
    assert caught.value.retry_after == pytest.approx(43_200, abs=5)


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"rate": "10/second;"}, "rate='': expected a rate"),
        ({"rate": "10/second;ten/hour"}, "rate='ten/hour': expected a rate"),
        ({"rate": "10/second;10/second"}, "rate='10/second;10/second': expected at most 8 rates, each of them once"),
        ({"rate": "10/second,5/hour"}, "rate='10/second,5/hour': expected one rate here"),
        ({"rate": "10/second;500/hour", "burst": 5}, "burst=5: expected none beside several rates"),
    ],
)
def test_bad_rates(arguments: dict[str, Any], error: str) -> None:
    """A bad rate among several, and a burst beside them, is named with its rule."""
    for make in (TokenBucket, RateLimit):
        with pytest.raises(ConfigurationError, match=f"^{error}"):
            make(**arguments)


def test_a_burst_of_the_server() -> None:
    """The variable is named if a burst stands beside several rates."""
    with pytest.raises(ConfigurationError, match="rate_limit_burst=5: expected none beside several rates"):
        ServerOptions(rate_limit="10/second;500/hour", rate_limit_burst=5)


def test_server_limit_and_its_headers() -> None:
    """A limit of the server lists all rates as its policy, and shows the tightest one."""
    environ = {"RESILIENCE_SERVER__RATE_LIMIT": "500/hour;2/day", "RESILIENCE_SERVER__RATE_LIMIT_HEADERS": "true"}
    with Resilience.from_env(environ) as toolkit:
        gate = ServerGate.of(toolkit)
        for left in (1, 0):
            context = gate.receive({}, "192.0.2.1")
            gate.admit(context)
            headers = dict(gate.quota_headers(context))
            assert headers["RateLimit-Policy"] == '"default 500/hour";q=500;w=3600, "default 2/day";q=2;w=86400'
            assert headers["RateLimit"].startswith(f'"default 2/day";r={left};t=')
        with pytest.raises(RateLimitedError, match="500/hour;2/day exceeded"):
            gate.admit(gate.receive({}, "192.0.2.1"))
