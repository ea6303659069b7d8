from __future__ import annotations

import asyncio
import contextlib
import math
import multiprocessing
import os
import time
from collections.abc import Iterator
from typing import Any

import pytest
from redis_process import RedisProcess, free_port
from spender import spend

from resilience.errors import ConfigurationError, RateLimitedError
from resilience.pipeline import Pipeline
from resilience.ratelimit import RateLimit, RedisStore, TokenBucket
from resilience.redis import RedisConnection
from resilience.server import ServerGate

pytestmark = pytest.mark.redis


@contextlib.contextmanager
def connected(url: str, **options: Any) -> Iterator[RedisStore]:
    """Yield a store whose server is given time to answer: these tests are not about outages."""
    connection = RedisConnection.from_url(url, **{"timeout": 2, "outage": "deny"} | options)
    yield RedisStore(connection)
    connection.close()


@pytest.fixture
def store(redis_server: RedisProcess) -> Iterator[RedisStore]:
    with connected(redis_server.url) as made:
        yield made


@pytest.fixture(params=["redis_server", "oldest_redis_server"])
def any_server(request: pytest.FixtureRequest) -> RedisProcess:
    """Provide the current and the oldest server in turn."""
    server: RedisProcess = request.getfixturevalue(request.param)
    return server


def test_burst_then_refusal(any_server: RedisProcess) -> None:
    """A bucket gives its burst at once, returns the time of the next token, and admits a call then."""
    with connected(any_server.url) as store:
        limiter = TokenBucket("10/minute", 5, store, name="orders")
        decisions = [limiter.acquire("k") for _ in range(6)]
        assert [each.allowed for each in decisions] == [True] * 5 + [False]
        assert [each.remaining for each in decisions] == [4, 3, 2, 1, 0, 0]
        assert 0 < (decisions[-1].retry_after or 0) <= 6
        assert limiter.acquire("k", 6).retry_after is None
        quick = TokenBucket("5/second", 1, store, name="quick")
        quick.acquire("k")
        time.sleep(quick.acquire("k").retry_after or 0)
        assert quick.acquire("k")


async def test_colours_share_a_bucket(store: RedisStore) -> None:
    """Blocking and awaiting callers spend from the same bucket."""
    limiter = TokenBucket("10/minute", 3, store)
    assert (await limiter.aacquire("k")).remaining == 2
    assert limiter.acquire("k").remaining == 1
    assert (await limiter.aacquire("k")).remaining == 0
    refused = await limiter.aacquire("k")
    assert not refused
    assert 0 < (refused.retry_after or 0) <= 6
    await store.connection.aclose()


@pytest.mark.parametrize(("server", "seconds"), [("redis_server", 5.0), ("oldest_redis_server", 1.0)])
@pytest.mark.realtime
def test_exact_under_eight_processes(request: pytest.FixtureRequest, server: str, seconds: float) -> None:
    """Eight processes whose clocks disagree by minutes get rate x time + burst together, within 1 %.

    The burst is so large that the bucket is never full again, even where a busy machine starts and ends them apart.
    """
    any_server: RedisProcess = request.getfixturevalue(server)
    context = multiprocessing.get_context("spawn")
    together, admitted = context.Barrier(9), context.Queue()
    skews = [0, 11, -11, 300, -300, 3600, 0.5, -0.5]
    workers = [
        context.Process(target=spend, args=(any_server.url, seconds, skew, together, admitted)) for skew in skews
    ]
    for worker in workers:
        worker.start()
    together.wait(60)
    spent = [admitted.get(timeout=60) for _ in workers]
    total = sum(each.tokens for each in spent)
    with connected(any_server.url) as store:  # what they left in the bucket
        limiter = TokenBucket("500/second", 1000, store, name="shared")
        asked = time.monotonic()
        while limiter.acquire("k"):
            total += 1
            asked = time.monotonic()
        answered = time.monotonic()
    for worker in workers:
        worker.join(10)
    # The server's time lies between the moments before and after a decision, which a busy machine can hold apart.
    least = asked - min(each.answered for each in spent)
    most = answered - min(each.asked for each in spent)
    assert 0.99 * (500 * least + 1000) <= total <= 1.01 * (500 * most + 1000)


def test_client_clocks_do_not_matter(store: RedisStore, redis_server: RedisProcess) -> None:
    """The command to the server contains the quota, and no time of this process."""
    limiter = TokenBucket("100/minute", 5, store, name="orders")
    question = limiter._buckets._codec.encode("k", 1, 0.0)  # type: ignore[attr-defined]  # white box: what goes over the wire
    assert question == ((b"{resilience:ratelimit:orders:k}",), (600_000, 1, 3_000_000, 1))


@pytest.mark.parametrize(
    ("rate", "burst"), [("100/second", 10), ("10/second", 4), ("1000/second", 5), ("50/second", 1)]
)
@pytest.mark.realtime
def test_quick_buckets_keep_their_state(any_server: RedisProcess, rate: str, burst: int) -> None:
    """A bucket that refills within half a second is still a bucket: expiry never comes before it is full."""
    with connected(any_server.url) as store:
        limiter = TokenBucket(rate, burst, store)
        limiter.acquire("warm-up")
        start = time.monotonic()
        admitted = sum(1 for _ in range(500) if limiter.acquire("k"))
        elapsed = time.monotonic() - start
        assert admitted <= elapsed / limiter.rate.interval + burst
        assert admitted >= burst


@pytest.mark.parametrize("rate", ["100/minute", "7/second", "999983 per 360 days", "1000000000/second", "3/hour"])
def test_every_key_expires_when_full(any_server: RedisProcess, rate: str) -> None:
    """Every key has a time to live: what its bucket needs to be full, and a moment more."""
    with connected(any_server.url) as store, contextlib.closing(any_server.client()) as client:
        limiter = TokenBucket(rate, 5, store, name="orders")
        decision = [limiter.acquire("k") for _ in range(3)][-1]
        refused = limiter.acquire("k", 4)
        assert decision
        assert not refused or rate.startswith("1000000000")
        for key in client.scan_iter("*"):
            ttl = client.pttl(key)
            assert ttl != -1
            assert ttl <= math.ceil(decision.reset_after * 1000) + 3


def test_one_round_trip(store: RedisStore, redis_server: RedisProcess) -> None:
    """A decision is one command: no time asked for, no script loaded twice, nothing read separately."""
    limiter = TokenBucket("1000/second", 1000, store)
    limiter.acquire("k")
    with contextlib.closing(redis_server.client()) as client:
        client.config_resetstat()
        for _ in range(50):
            limiter.acquire("k")
        stats = client.info("commandstats")
    asked = {name.removeprefix("cmdstat_"): facts["calls"] for name, facts in stats.items()}
    asked = {name: calls for name, calls in asked.items() if not name.startswith(("config", "info", "client", "hello"))}
    assert asked == {"evalsha": 50, "time": 50, "get": 50, "set": 50}  # the last three inside the script


def test_new_connections_say_nothing_else(store: RedisStore, redis_server: RedisProcess) -> None:
    """The first connection asks the server for its mode; a further connection spends no round trip on its name."""
    with contextlib.closing(redis_server.client()) as client:
        client.config_resetstat()
        TokenBucket("10/second", 10, store).acquire("k")
        store.connection.sync.connection_pool.disconnect()
        TokenBucket("10/second", 10, store).acquire("k")
        stats = client.info("commandstats")
    assert stats["cmdstat_hello"]["calls"] == 1
    assert not [name for name in stats if name.startswith("cmdstat_client")]


def test_script_flush(store: RedisStore, redis_server: RedisProcess) -> None:
    """A server that has forgotten the script is sent it again, and the caller notices nothing."""
    limiter = TokenBucket("10/minute", 10, store)
    limiter.acquire("k")
    with contextlib.closing(redis_server.client()) as client:
        client.script_flush()
    assert limiter.acquire("k").remaining == 8


async def test_script_flush_awaiting(store: RedisStore, redis_server: RedisProcess) -> None:
    """The same for a caller that awaits."""
    limiter = TokenBucket("10/minute", 10, store)
    await limiter.aacquire("k")
    with contextlib.closing(redis_server.client()) as client:
        client.script_flush()
    assert (await limiter.aacquire("k")).remaining == 8
    await store.connection.aclose()


def test_flushall(store: RedisStore, redis_server: RedisProcess) -> None:
    """A server that has forgotten its data starts with full buckets."""
    limiter = TokenBucket("10/minute", 10, store)
    limiter.acquire("k", 10)
    with contextlib.closing(redis_server.client()) as client:
        client.flushall()
    assert limiter.acquire("k").remaining == 9


@pytest.mark.parametrize("key", ["", "ü", "a b\n", "}{", "x" * 10_000, "\udc80", "{}"])
def test_any_key(store: RedisStore, redis_server: RedisProcess, key: str) -> None:
    """Any text is a key, and the stored key stays short."""
    limiter = TokenBucket("10/minute", 10, store)
    assert limiter.acquire(key).remaining == 9
    assert limiter.acquire(key).remaining == 8
    with contextlib.closing(redis_server.client()) as client:
        (stored,) = client.keys("*")
    assert len(stored) < 600


def test_url_settings_are_kept_where_they_may_be(redis_server: RedisProcess) -> None:
    """The URL may ask for decoded replies or another database; it may not lengthen our waits."""
    url = redis_server.url.removesuffix("/0") + "/3?decode_responses=True&socket_timeout=60&max_connections=1&timeout=9"
    with connected(url) as store:
        limiter = TokenBucket("10/minute", 10, store)
        assert limiter.acquire("k").remaining == 9
        pool = store.connection.sync.connection_pool
        settings = pool.connection_kwargs
        assert (settings["socket_timeout"], settings["db"], pool.max_connections) == (2, 3, 50)


def test_foreign_value_under_our_key(store: RedisStore, redis_server: RedisProcess) -> None:
    """A value that is no bucket, of any type, reads as a full one and is overwritten."""
    limiter = TokenBucket("10/minute", 10, store, name="n")
    with contextlib.closing(redis_server.client()) as client:
        client.lpush("{resilience:ratelimit:n:list}", 1)
        client.set("{resilience:ratelimit:n:text}", "hello")
        for key in ("list", "text"):
            assert limiter.acquire(key).remaining == 9
            assert limiter.acquire(key).remaining == 8
            assert client.pttl(f"{{resilience:ratelimit:n:{key}}}") > 0


def test_server_clock_going_back(store: RedisStore, redis_server: RedisProcess) -> None:
    """A bucket written under a later clock is empty, not frozen: it refills at its rate from now on."""
    limiter = TokenBucket("10/minute", 10, store, name="n")
    with contextlib.closing(redis_server.client()) as client:
        client.set("{resilience:ratelimit:n:k}", f"{(int(time.time()) + 3600) * 1_000_000}:0")
    assert limiter.acquire("k").retry_after == pytest.approx(6, abs=3)


def test_changed_quota_keeps_the_bucket(store: RedisStore) -> None:
    """A deployment with a new rate takes over the bucket of the old one."""
    TokenBucket("10/minute", 10, store, name="n").acquire("k", 5)
    assert TokenBucket("20/minute", 20, store, name="n").acquire("k").remaining == pytest.approx(9, abs=1)
    shrunk = TokenBucket("1/minute", 1, store, name="n")
    assert shrunk.acquire("k").retry_after == pytest.approx(60, abs=31)


def test_reset(store: RedisStore) -> None:
    """A bucket that was reset is full."""
    limiter = TokenBucket("1/minute", store=store)
    limiter.acquire("k")
    limiter.reset("k")
    assert limiter.acquire("k")
    assert not limiter.acquire("k")


@pytest.mark.parametrize(("key", "cost"), [(3, 1), ("k", 0), ("k", -1), ("k", 1.5)])
def test_bad_arguments(store: RedisStore, key: Any, cost: Any) -> None:
    """A bad key or cost is the caller's mistake, not an outage."""
    with pytest.raises(ConfigurationError):
        TokenBucket("1/minute", store=store).acquire(key, cost)
    assert not store.outage.is_down


def test_policy_in_a_pipeline(store: RedisStore) -> None:
    """Pipelines of one name share their limit on one Redis, in both colours."""
    one = Pipeline("orders", RateLimit("2/minute", store=store))
    two = Pipeline("orders", RateLimit("2/minute", store=store))
    one.call(len, "")

    async def second() -> None:
        await two.acall(len, "")
        with pytest.raises(RateLimitedError):
            await one.acall(len, "")
        await store.connection.aclose()

    asyncio.run(second())
    with pytest.raises(RateLimitedError) as caught:
        one.call(len, "")
    assert caught.value.retry_after == pytest.approx(30, abs=2)


@pytest.mark.realtime
def test_policy_waits_for_its_turn(store: RedisStore) -> None:
    """With `max_wait` calls of all instances line up on the server, and one too many is refused at once."""
    pipelines = [Pipeline("orders", RateLimit("20/second", 1, max_wait=0.3, store=store)) for _ in range(2)]
    start = time.monotonic()
    for turn in range(5):
        pipelines[turn % 2].call(len, "")
    assert time.monotonic() - start == pytest.approx(0.2, abs=0.1)
    impatient = Pipeline("orders", RateLimit("20/second", 1, max_wait=0.01, store=store))
    pipelines[0].call(len, "")
    with pytest.raises(RateLimitedError):
        impatient.call(len, "")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_fork(store: RedisStore) -> None:
    """A forked child opens connections of its own and spends from the same bucket; the parent's stay good."""
    limiter = TokenBucket("10/minute", 10, store)
    limiter.acquire("k")
    child = os.fork()
    if child == 0:
        os._exit(limiter.acquire("k").remaining)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 8
    assert limiter.acquire("k").remaining == 7


def test_many_loops_one_after_the_other(store: RedisStore, redis_server: RedisProcess) -> None:
    """Each event loop has its own client, which is closed with it: nothing is left open, no warning is given."""
    limiter = TokenBucket("10/minute", 10, store)
    with contextlib.closing(redis_server.client()) as client:
        before = client.info("clients")["connected_clients"]
        remaining = [asyncio.run(limiter.aacquire("k")).remaining for _ in range(4)]
        assert remaining == [9, 8, 7, 6]
        assert len(store.connection._clients.aio) <= 1
        deadline = time.monotonic() + 2
        while client.info("clients")["connected_clients"] > before and time.monotonic() < deadline:
            time.sleep(0.01)
        assert client.info("clients")["connected_clients"] == before


async def test_bounded_connections(redis_server: RedisProcess) -> None:
    """A hundred tasks at once share the connections allowed, exactly."""
    with connected(redis_server.url, max_connections=4) as store, contextlib.closing(redis_server.client()) as client:
        limiter = TokenBucket("50/hour", 50, store)
        decisions = await asyncio.gather(*[limiter.aacquire("k") for _ in range(100)])
        assert sum(map(bool, decisions)) == 50
        assert client.info("clients")["connected_clients"] <= 6
        await store.connection.aclose()


def test_decoding_client_is_no_matter(redis_server: RedisProcess) -> None:
    """The test's own client sees plain numbers in a key: nothing binary, nothing of the caller's."""
    with connected(redis_server.url) as store, contextlib.closing(redis_server.client(decode=True)) as client:
        TokenBucket("7/second", 10, store, name="n").acquire("k")
        value = client.get("{resilience:ratelimit:n:k}")
    full_at, _, fraction = str(value).partition(":")
    assert int(full_at) / 1e6 == pytest.approx(time.time(), abs=60)
    assert 0 <= int(fraction) < 7


def test_cluster_ready() -> None:
    """The whole key is one hash tag, so that it lives on one node of a cluster."""
    connection = RedisConnection.from_url("redis://127.0.0.1:1/0", prefix="shop:eu")
    limiter = TokenBucket("1/minute", store=RedisStore(connection), name="n")
    key = limiter._buckets._codec.redis_key("a}b")  # type: ignore[attr-defined]  # white box: what goes over the wire
    assert key == b"{shop:eu:ratelimit:n:a}b}"


async def test_refunds(any_server: RedisProcess) -> None:
    """A refund is the inverse of a payment, in both colours, also after later payments and for a part of a token."""
    with connected(any_server.url) as store:
        limiter = TokenBucket("7/day", 20, store, name="refunds")
        first = limiter.acquire("k", 5)
        assert limiter.acquire("k", 4).remaining == 11
        limiter.refund("k", first)
        assert limiter.acquire("k").remaining == 15
        await limiter.arefund("k", await limiter.aacquire("k", 15))
        assert limiter.acquire("k", 15).allowed
        refusal = limiter.acquire("k")
        assert not refusal.allowed
        limiter.refund("k", refusal)
        assert not limiter.acquire("k").allowed
        await store.connection.aclose()  # or the pool of the loop is collected before the loop ends, with a warning


def test_a_refund_never_overfills(store: RedisStore) -> None:
    """A bucket that is full, or that Redis has forgotten, stays full."""
    limiter = TokenBucket("100/minute", 2, store, name="full")
    decision = limiter.acquire("k")
    limiter.reset("k")
    limiter.refund("k", decision)
    assert [limiter.acquire("k").allowed for _ in range(3)] == [True, True, False]


async def test_limits_of_a_request_are_charged_or_none_under_load(store: RedisStore) -> None:
    """Of many requests at once, of which all are refused by a second limit, none has cost the first one a token."""

    def limiter(name: str, rate: str, burst: int | None) -> TokenBucket:
        return TokenBucket(rate, burst, store, name=name)

    gate = ServerGate(limiter=limiter)
    wide, tight = (gate.quota_for(rate, rate, name=f"load-{rate}") for rate in ("500/day", "1/day"))
    tight.bucket.acquire("k")

    async def request() -> None:
        context = gate.receive({})
        await gate.acharge(context, wide, "k")
        with pytest.raises(RateLimitedError):
            await gate.acharge(context, tight, "k")

    await asyncio.gather(*(request() for _ in range(100)))
    assert (await wide.bucket.aacquire("k")).remaining == 499


@pytest.mark.parametrize(("outage", "is_paid"), [("local", True), ("allow", False)])
async def test_a_refund_without_redis_goes_to_the_buckets_of_the_process(outage: str, *, is_paid: bool) -> None:
    """A payment is paid back where it was made, and an admission that took nothing is not."""
    with connected(f"redis://127.0.0.1:{free_port()}", outage=outage, timeout=0.2) as store:
        limiter = TokenBucket("2/day", store=store, name="local")
        decisions = [limiter.acquire("k"), await limiter.aacquire("k")]
        assert [each.is_paid for each in decisions] == [is_paid, is_paid]
        limiter.refund("k", decisions[0])
        await limiter.arefund("k", decisions[1])
        assert limiter.acquire("k", 2).allowed
        assert limiter.acquire("k").allowed is not is_paid
