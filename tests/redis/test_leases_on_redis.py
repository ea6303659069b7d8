"""Leases on a real server: decisions without a round trip, and tokens that come back."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from interrupts import TimeLimitError, every_interrupt, in_another_thread
from lease_ledger import LeaseLedger
from redis_process import RedisProcess

from resilience import ConfigurationError, Pipeline, RateLimit, RateLimitedError, Resilience
from resilience.fleet import Fleet
from resilience.ratelimit import MemoryStore, Rate, RedisStore, TokenBucket
from resilience.ratelimit._machine import Quota
from resilience.ratelimit.on_redis.leases._codec import LEASE, LeaseCodec
from resilience.ratelimit.on_redis.leases._machine import LeaseRenewal, TokenLease
from resilience.redis import RedisConnection

# Idle leases go back by themselves within a second or two, also while a busy machine stands still.
pytestmark = [pytest.mark.redis, pytest.mark.realtime]

HOLDER = Path(__file__).parent.parent / "support" / "lease_holder.py"
_INSTANCES = 4


def scripts(server: RedisProcess) -> int:
    """Return how many scripts the server has run, those of the fleet's rounds included."""
    with contextlib.closing(server.client()) as client:
        stats = client.info("commandstats")
    return sum(stats.get(f"cmdstat_{name}", {}).get("calls", 0) for name in ("eval", "evalsha"))


def until(is_so: Callable[[], object]) -> None:
    """Wait until `is_so`, for 10 seconds at most."""
    deadline = time.monotonic() + 10
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def missing(server: RedisProcess, name: str, rate: str, burst: int, key: str = "k") -> int:
    """Return how many tokens are missing on the server, as an instance without leases sees it."""
    with contextlib.closing(RedisConnection.from_url(server.url, timeout=2)) as connection:
        return burst - TokenBucket(rate, burst, RedisStore(connection), name=name).peek(key).remaining


@pytest.fixture
def connection(redis_server: RedisProcess) -> Iterator[RedisConnection]:
    with contextlib.closing(RedisConnection.from_url(redis_server.url, timeout=2)) as opened:
        yield opened


@pytest.mark.parametrize("server", ["redis_server", "oldest_redis_server"])
def test_the_script_decides_as_the_ledger_of_the_tests(request: pytest.FixtureRequest, server: str) -> None:
    """`lease.lua` and the ledger, with which the laws are tested, grant the same in any order of calls."""
    redis_server: RedisProcess = request.getfixturevalue(server)
    quota = Quota("same", Rate(1, 86_400), 60)
    codec, ledger = LeaseCodec(quota, "p"), LeaseLedger(quota, lambda: 0.0)
    chance = random.Random(7)
    with contextlib.closing(RedisConnection.from_url(redis_server.url, timeout=2)) as connection:
        leases = [TokenLease(0.0) for _ in range(3)]
        for number in range(1, 400):
            which = chance.randrange(3)
            lease, holder = leases[which], b"%d" % which
            for _ in range(chance.randint(0, len(lease.tokens))):
                lease.tokens.pop()
            renewal = lease.begin(number, chance.randint(0, 30), 0.0) or LeaseRenewal(lease, number, 0, 0, 0.0)
            lease.renewal = renewal
            if chance.random() < 0.1:
                renewal.number -= chance.randint(1, 5)  # held up
            keys, arguments = codec.encode("k", holder, renewal)
            answer = codec.decode(LEASE.run(connection.pool, keys, arguments))
            granted, seconds = ledger.call(holder, renewal)
            assert answer.granted == granted
            assert answer.missing == pytest.approx(seconds, abs=60)
            if chance.random() < 0.8:
                lease.answered(renewal, granted, seconds, 0.0, 0.0)
            renewal.end()


@pytest.mark.parametrize("lease", [50, "auto"])
def test_threads_of_four_instances_spend_exactly_the_bucket(redis_server: RedisProcess, lease: int | str) -> None:
    """The sum over all instances is the burst and the rate, and one decision in 25 makes a round trip."""
    admitted = [0] * _INSTANCES
    with contextlib.ExitStack() as stack:
        connections = [
            stack.enter_context(contextlib.closing(RedisConnection.from_url(redis_server.url, timeout=2)))
            for _ in range(_INSTANCES)
        ]
        limiters = [
            TokenBucket("500/second", 4000, RedisStore(each), name="exact", lease=lease) for each in connections
        ]
        gate = threading.Barrier(_INSTANCES + 1)

        def spend(number: int) -> None:
            acquire = limiters[number].acquire
            gate.wait()
            until_then = time.monotonic() + 1.5
            while time.monotonic() < until_then:
                admitted[number] += acquire("k").allowed

        threads = [threading.Thread(target=spend, args=(number,)) for number in range(_INSTANCES)]
        for thread in threads:
            thread.start()
        began = time.monotonic()
        gate.wait()
        for thread in threads:
            thread.join()
        passed = time.monotonic() - began
        decisions = sum(
            limiter.measure().counts["allowed"] + limiter.measure().counts["refused"] for limiter in limiters
        )
        assert scripts(redis_server) <= decisions / 25
    assert sum(admitted) == sum(limiter.measure().counts["allowed"] for limiter in limiters)
    assert sum(admitted) <= 4000 + 500 * passed + 1
    assert sum(admitted) >= 4000


async def test_tasks_share_a_lease(redis_server: RedisProcess) -> None:
    """Tasks spend one lease for each key; a cancelled caller takes the lease of the others along with it never."""
    connection = RedisConnection.from_url(redis_server.url, timeout=2)
    limiter = TokenBucket("1000/second", 5000, RedisStore(connection), name="tasks", lease=50)

    async def spend(key: str) -> int:
        return sum([(await limiter.aacquire(key)).allowed for _ in range(100)])

    cancelled = [asyncio.ensure_future(limiter.aacquire("a")) for _ in range(10)]
    await asyncio.sleep(0)
    for each in cancelled:
        each.cancel()
    admitted = await asyncio.gather(*[spend(key) for key in "aabb" for _ in range(4)])
    assert admitted == [100] * 16
    assert scripts(redis_server) <= 1600 / 25 + 20  # the leases begin small
    await connection.aclose()
    assert missing(redis_server, "tasks", "1000/second", 5000, "b") <= 800 + 50  # a renewal was perhaps under way


def test_a_quiet_key_takes_no_lease(redis_server: RedisProcess, connection: RedisConnection) -> None:
    """A key with few calls is decided call by call, so its limit is exact."""
    limiter = TokenBucket("100/second", 100, RedisStore(connection), name="quiet", lease=50)
    for number in range(20):
        assert limiter.acquire(f"k{number}").remaining == 99
    with contextlib.closing(redis_server.client()) as client:
        assert not list(client.scan_iter("*:leases*"))


def test_a_refused_key_does_not_reach_the_server(redis_server: RedisProcess, connection: RedisConnection) -> None:
    """A refusal holds: a flood on an empty bucket is refused without round trips, and knows when to come again."""
    limiter = TokenBucket("1/minute", 30, RedisStore(connection), name="flood", lease=10)
    assert sum(limiter.acquire("k").allowed for _ in range(40)) == 30
    before, began = scripts(redis_server), time.monotonic()
    refusals = [limiter.acquire("k") for _ in range(1000)]
    assert not any(limiter.peek("k") for _ in range(100))
    assert not any(refusals)
    assert refusals[-1].remaining == 0
    assert 50 < (refusals[-1].retry_after or 0) <= 60
    assert scripts(redis_server) - before <= 4 * (time.monotonic() - began) + 4
    assert limiter.measure().counts == {"allowed": 30, "refused": 1010}


def test_leases_return_when_the_connection_closes(redis_server: RedisProcess, connection: RedisConnection) -> None:
    """Unspent tokens are in the bucket again after `close`, and the instance leases anew afterwards."""
    limiter = TokenBucket("10/second", 1000, RedisStore(connection), name="closed", lease=20)
    assert sum(limiter.acquire("k").allowed for _ in range(12)) == 12
    assert missing(redis_server, "closed", "10/second", 1000) > 13
    connection.close()
    assert missing(redis_server, "closed", "10/second", 1000) <= 12
    with contextlib.closing(redis_server.client()) as client:
        assert not list(client.scan_iter("*:leases*"))
    assert limiter.acquire("k").allowed


def test_an_idle_lease_returns_in_the_rounds_of_the_fleet(
    redis_server: RedisProcess, connection: RedisConnection
) -> None:
    """An instance that is alive and makes no call gives its tokens back by itself."""
    limiter = TokenBucket("10/second", 1000, RedisStore(connection), name="idle", lease=20)
    assert sum(limiter.acquire("k").allowed for _ in range(12)) == 12
    with contextlib.closing(redis_server.client()) as client:
        assert list(client.scan_iter("*:leases"))
        until(lambda: not list(client.scan_iter("*:leases*")))


def test_the_lease_of_a_killed_process_returns_by_its_end(
    redis_server: RedisProcess, connection: RedisConnection
) -> None:
    """After kill -9 the tokens of the lease are in the bucket again when its time on the server is over."""
    with subprocess.Popen(
        [sys.executable, str(HOLDER), redis_server.url], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"leased\n"
        holder.kill()
    quota = Quota("held", Rate(10, 1), 1000)
    codec, other = LeaseCodec(quota, "resilience"), TokenLease(0.0)

    with contextlib.closing(redis_server.client(decode=True)) as client:

        def server_time() -> float:
            seconds, micros = client.time()
            return float(seconds) + micros / 1e6

        def look(number: int) -> tuple[float, float, float]:
            keys, arguments = codec.encode("k", b"other", LeaseRenewal(other, number, 0, 0, 0.0))
            begun = server_time()
            return codec.decode(LEASE.run(connection.pool, keys, arguments)).missing, begun, server_time()

        # Another instance empties the bucket further, without a lease.
        assert TokenBucket("10/second", 1000, RedisStore(connection), name="held").acquire("k", 500).allowed
        _, leases, ends = (key.decode() for key in codec.keys("k"))
        ((dead, record),) = client.hgetall(leases).items()
        held, end = int(str(record).split(":")[1]), float(client.zscore(ends, dead) or 0) / 1e6
        seen = [look(1)]
        until(lambda: server_time() > end + 0.5)  # no call comes right at the end
        seen.append(look(2))
        assert not client.exists(leases, ends)
    assert held >= 5
    # The rate has given a token each 0.1 s, and the lease came on top.
    (at_first, first_begun, first_ended), (at_last, last_begun, last_ended) = seen[0], seen[-1]
    assert held * 0.1 + last_begun - first_ended - 0.001 <= at_first - at_last
    assert at_first - at_last <= held * 0.1 + last_ended - first_begun + 0.001


def test_a_refusal_finds_the_tokens_of_a_dead_instance(
    redis_server: RedisProcess, connection: RedisConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A call that finds the bucket empty takes back leases that have ended, and gets its token."""
    monkeypatch.setattr("resilience.ratelimit.on_redis.leases._codec.KEPT", 0.3)
    codec, dead = LeaseCodec(Quota("dead", Rate(1, 3600), 30), "resilience"), TokenLease(0.0)
    LEASE.run(connection.pool, *codec.encode("k", b"dead", LeaseRenewal(dead, 1, 0, 30, 0.0)))
    assert missing(redis_server, "dead", "1/hour", 30) == 30
    limiter = TokenBucket("1/hour", 30, RedisStore(connection), name="dead", lease=5)
    assert not limiter.acquire("k").allowed
    until(lambda: limiter.acquire("k").allowed)
    assert missing(redis_server, "dead", "1/hour", 30) == 1


def test_a_lease_is_spent_while_redis_is_away(own_redis_server: RedisProcess) -> None:
    """During an outage the tokens at hand are spent first, and then the outage mode decides."""
    with contextlib.closing(RedisConnection.from_url(own_redis_server.url, timeout=0.5, outage="deny")) as connection:
        limiter = TokenBucket("10000/second", 10000, RedisStore(connection), name="away", lease="auto")
        assert sum(limiter.acquire("k").allowed for _ in range(500)) == 500
        own_redis_server.kill()
        allowed = 0
        while limiter.acquire("k").allowed:
            allowed += 1
        assert 1 <= allowed <= 1000
        assert not limiter.acquire("k").allowed


def test_a_forked_child_begins_without_a_lease(redis_server: RedisProcess, connection: RedisConnection) -> None:
    """The lease is the parent's: the child asks for its own, under a name of its own."""
    limiter = TokenBucket("10/second", 1000, RedisStore(connection), name="forked", lease=20)
    assert sum(limiter.acquire("k").allowed for _ in range(12)) == 12
    with contextlib.closing(redis_server.client()) as client:
        parents = client.hgetall("{resilience:ratelimit:forked:k}:leases")
    child = os.fork()
    if child == 0:
        try:
            is_allowed = all(limiter.acquire("k").allowed for _ in range(12))
            os._exit(0 if is_allowed else 1)
        finally:
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    with contextlib.closing(redis_server.client()) as client:
        both = client.hgetall("{resilience:ratelimit:forked:k}:leases")
    assert len(parents) == 1
    assert len(both) == 2
    assert both.items() > parents.items()


@pytest.mark.parametrize("kind", [TimeLimitError])
def test_interrupts(redis_server: RedisProcess, kind: type[BaseException]) -> None:
    """No interrupt of a call that asks for a lease keeps later calls from a decision, or gives a token twice."""
    names = (f"struck-{number}" for number in range(1_000_000))

    def make() -> tuple[Callable[[], object], Callable[[], object]]:
        connection = RedisConnection.from_url(redis_server.url, outage="deny", timeout=2, max_connections=2)
        limiter = TokenBucket("1/second", 8, RedisStore(connection), name=next(names), lease=2)
        assert limiter.acquire("k")

        def check() -> None:
            with contextlib.closing(connection):
                began = time.monotonic()
                admitted = in_another_thread(lambda: sum(limiter.acquire("k").allowed for _ in range(12)), 20)
                assert 1 <= admitted <= 7 + 1 + (time.monotonic() - began)

        return (lambda: limiter.acquire("k")), check

    assert len(every_interrupt(make, kind)) > 20


def test_an_unusable_record_costs_no_call(redis_server: RedisProcess, connection: RedisConnection) -> None:
    """If a stranger has overwritten the leases of a key, its calls are decided one by one, and Redis is not down."""
    store = RedisStore(connection)
    limiter = TokenBucket("10/second", 100, store, name="wrong", lease=20)
    with contextlib.closing(redis_server.client()) as client:
        client.set("{resilience:ratelimit:wrong:k}:leases", "a text")
        assert [limiter.acquire("k").remaining for _ in range(5)] == [99, 98, 97, 96, 95]
        assert not store.outage.is_down


def test_refunds_looks_and_turns(redis_server: RedisProcess, connection: RedisConnection) -> None:
    """A refund makes a leased token spendable again, a look counts the tokens at hand, and a call can still wait."""
    limiter = TokenBucket("10/second", 20, RedisStore(connection), name="rest", lease=20)
    decisions = [limiter.acquire("k") for _ in range(12)]
    left = limiter.peek("k").remaining
    assert left == decisions[-1].remaining == 8 or left in (8, 9)
    before = scripts(redis_server)
    for decision in decisions[-3:]:
        limiter.refund("k", decision)
    assert limiter.peek("k").remaining in (left + 3, left + 4)
    assert scripts(redis_server) - before <= 4
    while limiter.acquire("k").allowed:
        pass
    booked = limiter.reserve("k", max_wait=5)
    assert booked.allowed
    assert 0 < booked.delay <= 0.3
    booked.cancel()
    limiter.reset("k")
    assert missing(redis_server, "rest", "10/second", 20) == 0
    assert limiter.acquire("k", 20).allowed
    assert not limiter.acquire("k", 21).allowed


def test_a_policy_spends_leases(redis_server: RedisProcess, connection: RedisConnection) -> None:
    """The policy takes the same option, in both colours."""
    limit = RateLimit("10/hour", store=RedisStore(connection), lease=5)
    pipeline = Pipeline("leased", limit)
    for _ in range(10):
        assert pipeline.call(str.upper, "a") == "A"
    with pytest.raises(RateLimitedError):
        pipeline.call(str.upper, "a")

    async def later() -> None:
        async def answer() -> str:
            return "b"

        with pytest.raises(RateLimitedError):
            await pipeline.acall(answer)
        await connection.aclose()

    asyncio.run(later())


def test_two_loops_in_two_threads_spend_one_lease(redis_server: RedisProcess, connection: RedisConnection) -> None:
    """Loops and threads share the lease of a key, and each waits for a renewal of another without blocking its loop."""
    limiter = TokenBucket("1/hour", 2000, RedisStore(connection), name="loops", lease=50)
    admitted: list[int] = []

    async def spend() -> int:
        counts = [sum([(await limiter.aacquire("k")).allowed for _ in range(100)]) for _ in range(3)]
        await connection.aio_pool.aclose()
        return sum(counts)

    def run() -> None:
        admitted.append(asyncio.run(spend()))

    def block() -> None:
        admitted.append(sum(limiter.acquire("k").allowed for _ in range(300)))

    threads = [threading.Thread(target=each) for each in (run, run, block)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert admitted == [300, 300, 300]


def test_the_toolkit_leases_by_configuration_and_returns_when_it_closes(redis_server: RedisProcess) -> None:
    """One variable makes a limiter or a policy lease; `close` returns the unspent tokens."""
    variables = {
        "RESILIENCE_REDIS__URL": redis_server.url,
        "RESILIENCE_REDIS__TIMEOUT": "2s",
        "RESILIENCE_LIMITER__SEARCHES__RATE": "10/second",
        "RESILIENCE_LIMITER__SEARCHES__BURST": "1000",
        "RESILIENCE_LIMITER__SEARCHES__LEASE": "20",
        "RESILIENCE_PIPELINE__PAYMENTS__RATE_LIMIT__RATE": "10/second",
        "RESILIENCE_PIPELINE__PAYMENTS__RATE_LIMIT__BURST": "1000",
        "RESILIENCE_PIPELINE__PAYMENTS__RATE_LIMIT__LEASE": "AUTO",
    }
    toolkit = Resilience.from_env(variables)
    searches, payments = toolkit.limiter("searches"), toolkit.pipeline("payments")
    for _ in range(12):
        assert searches.acquire("k").allowed
        assert payments.call(str.upper, "a") == "A"
    with contextlib.closing(redis_server.client()) as client:
        assert len(list(client.scan_iter("*:leases"))) == 2
        toolkit.close()
        assert not list(client.scan_iter("*:leases*"))
    for name, key in (("searches", "k"), ("payments.ratelimit", "")):
        assert missing(redis_server, name, "10/second", 1000, key) <= 12


@pytest.mark.parametrize(
    "variable", ["RESILIENCE_LIMITER__SEARCHES__LEASE", "RESILIENCE_PIPELINE__PAYMENTS__RATE_LIMIT__LEASE"]
)
def test_a_configured_lease_needs_redis(variable: str) -> None:
    """Without a URL of Redis the program does not start, and the error names the variable and the remedy."""
    rate = variable.replace("LEASE", "RATE")
    with pytest.raises(ConfigurationError, match=rf"{variable}=20: .*unless RESILIENCE_REDIS__URL is set"):
        Resilience.from_env({rate: "100/second", variable: "20"})


@pytest.mark.parametrize("lease", [0, -1, 10_001, 1.5, "many", True])
def test_a_lease_that_is_none_is_refused(connection: RedisConnection, lease: object) -> None:
    """The error names the option, the value and the rule."""
    with pytest.raises(ConfigurationError, match=r"lease=.*: expected a whole number from 1 to 10,000, or auto"):
        TokenBucket("100000/second", store=RedisStore(connection), lease=lease)  # type: ignore[arg-type]  # as a user may


def test_leases_need_redis_one_rate_and_room(connection: RedisConnection) -> None:
    """No lease in the memory of the process, of several rates, or above the burst."""
    with pytest.raises(ConfigurationError, match=r"lease=.*RedisStore"):
        TokenBucket("100/second", lease=50)
    with pytest.raises(ConfigurationError, match=r"lease=.*RedisStore"):
        RateLimit("100/second", store=MemoryStore(), lease="auto")
    with pytest.raises(ConfigurationError, match=r"lease=.*several rates"):
        TokenBucket("10/second;500/hour", store=RedisStore(connection), lease="auto")
    with pytest.raises(ConfigurationError, match=r"lease=.*moving-window"):
        RateLimit("10/second", strategy="moving-window", store=RedisStore(connection), lease="auto")
    with pytest.raises(ConfigurationError, match=r"lease=.*redis\+cluster"):
        TokenBucket("10/second", store=RedisStore(RedisConnection.from_url("redis+cluster://127.0.0.1:1")), lease=5)
    with pytest.raises(ConfigurationError, match=r"lease=.*no more than the burst, which is 10"):
        TokenBucket("100/second", burst=10, store=RedisStore(connection), lease=50)
    limiter = TokenBucket("100/second", store=RedisStore(connection), lease=50)
    assert limiter.with_rate("10/second").acquire("k").allowed
    assert Fleet.of(connection).instances == 1


LOOPS = {
    "gevent": """
from gevent import monkey; monkey.patch_all()
def spend(limiter):
    admitted = []
    def ask():
        admitted.extend([bool(limiter.acquire("k")) for _ in range(20)])
    threads = [threading.Thread(target=ask) for _ in range(20)]
    for thread in threads: thread.start()
    for thread in threads: thread.join()
    return sum(admitted)
""",
    "uvloop": """
import asyncio, uvloop
def spend(limiter):
    async def ask():
        admitted = [bool(await limiter.aacquire("k")) for _ in range(20)]
        return sum(admitted)
    async def ask_all():
        admitted = await asyncio.gather(*[ask() for _ in range(20)])
        await connection.aclose()
        return sum(admitted)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(ask_all())
""",
}
SPENDER = """{spend}
import sys, threading, time
from resilience.ratelimit import RedisStore, TokenBucket
from resilience.redis import RedisConnection
connection = RedisConnection.from_url(sys.argv[1], timeout=2)
limiter = TokenBucket("100/second", 300, RedisStore(connection), name="loops", lease=50)
since = time.monotonic()
limiter.acquire("warm-up")
admitted = spend(limiter)
print(300 <= admitted <= 300 + 100 * (time.monotonic() - since) + 1)
connection.close()
"""


@pytest.mark.parametrize("loop", LOOPS)
def test_leases_on_other_loops(redis_server: RedisProcess, loop: str) -> None:
    """Patched threads, and tasks of uvloop, spend leases and admit no more than the bucket."""
    pytest.importorskip(loop)
    program = SPENDER.format(spend=LOOPS[loop])
    command = [sys.executable, "-c", program, redis_server.url]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert (done.stdout, done.stderr) == ("True\n", "")
    assert scripts(redis_server) < 200
