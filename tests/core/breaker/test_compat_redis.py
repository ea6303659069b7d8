"""pybreaker's own Redis storage, under the original and under ours."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pybreaker
import pytest
import redis
from both_breakers import World, failing, is_refused
from redis.backoff import NoBackoff
from redis.retry import Retry
from redis_process import RedisProcess, find_binary

pytestmark = pytest.mark.redis


@pytest.fixture
def client(redis_server: RedisProcess) -> Iterator[redis.Redis]:
    with contextlib.closing(redis_server.client()) as client:
        yield client


def stored(client: redis.Redis, namespace: str | None = None, state: str = "closed", **keywords: Any) -> Any:
    return pybreaker.CircuitRedisStorage(state, client, namespace=namespace, **keywords)


def test_life_in_redis(make: World, client: redis.Redis) -> None:
    """State, counters and opening time are in Redis under pybreaker's keys, as the circuit lives."""
    breaker = make(2, 10, 2, state_storage=stored(client))
    failing(breaker, 1)
    assert (breaker.current_state, breaker.fail_counter) == ("closed", 1)
    failing(breaker, 1)
    assert (client.get("pybreaker:state"), client.get("pybreaker:fail_counter")) == (b"open", b"2")
    assert client.exists("pybreaker:opened_at")
    assert is_refused(breaker)
    make.advance(11)
    breaker.call(int)
    assert (client.get("pybreaker:state"), breaker.success_counter) == (b"half-open", 1)
    breaker.call(int)
    assert (breaker.current_state, breaker.fail_counter, breaker.success_counter) == ("closed", 0, 0)


def test_two_processes_share_one_circuit(make: World, client: redis.Redis) -> None:
    """Breakers with storages of their own on one server count, open, try and close together."""
    left, right = make(2, 10, state_storage=stored(client)), make(2, 10, state_storage=stored(client))
    failing(left, 1)
    failing(right, 1)
    assert is_refused(left)
    assert is_refused(right)
    make.advance(11)
    failing(left, 1)
    assert is_refused(right)
    make.advance(11)
    right.call(int)
    assert not is_refused(left)
    assert (left.current_state, right.fail_counter) == ("closed", 0)


def test_a_newcomer_finds_the_circuit_open(make: World, client: redis.Redis) -> None:
    """A breaker that starts later begins with the shared state, not with the initial state of its storage object."""
    failing(make(1, 10, state_storage=stored(client)), 1)
    newcomer = make(1, 10, state_storage=stored(client, state="closed"))
    assert newcomer.current_state == "open"
    assert is_refused(newcomer)
    make.advance(11)
    assert not is_refused(newcomer)


def test_namespaces_are_apart(make: World, client: redis.Redis) -> None:
    """Breakers with namespaces of their own know nothing of each other."""
    orders = make(1, state_storage=stored(client, "orders"))
    ledger = make(1, state_storage=stored(client, "ledger"))
    failing(orders, 1)
    assert (orders.current_state, ledger.current_state) == ("open", "closed")
    assert client.get("orders:pybreaker:state") == b"open"
    assert not is_refused(ledger)


def test_cluster_mode(make: World, client: redis.Redis) -> None:
    """The storage's mode for clusters, which does without transactions, works as well."""
    breaker = make(1, 10, state_storage=stored(client, cluster_mode=True))
    failing(breaker, 1)
    assert is_refused(breaker)
    make.advance(11)
    assert not is_refused(breaker)


def test_clients_that_decode_are_refused(make: World, redis_server: RedisProcess) -> None:
    """A client with `decode_responses=True` fails at once, as pybreaker's documentation says."""
    with contextlib.closing(redis_server.client(decode=True)) as client:
        with pytest.raises(AttributeError, match="'str' object has no attribute 'decode'"):
            make(state_storage=stored(client))
        client.delete("pybreaker:state")


def test_counters_written_as_text(make: World, client: redis.Redis) -> None:
    """Counters that another program wrote are read as numbers, and a missing counter as 0."""
    breaker = make(3, state_storage=stored(client))
    client.set("pybreaker:fail_counter", "2")
    assert breaker.fail_counter == 2
    failing(breaker, 1)
    assert breaker.current_state == "open"
    client.delete("pybreaker:fail_counter")
    assert breaker.fail_counter == 0


def test_state_lost_by_redis(make: World, client: redis.Redis) -> None:
    """After FLUSHALL the circuit is in the storage's fallback state."""
    breaker = make(1, state_storage=stored(client, fallback_circuit_state="closed"))
    failing(breaker, 1)
    client.flushall()
    assert not is_refused(breaker)
    assert client.get("pybreaker:state") == b"closed"


def test_redis_gone(make: World, tmp_path: Path) -> None:
    """Without Redis no call fails because of it: the circuit is in the storage's fallback state."""
    server = RedisProcess(find_binary(), tmp_path)
    server.start()
    try:
        plain = redis.Redis(port=server.port, socket_timeout=0.2, retry=Retry(NoBackoff(), 0))
        with contextlib.closing(plain) as client:
            breaker = make(1, state_storage=stored(client, fallback_circuit_state="closed"))
            breaker.open()
            assert is_refused(breaker)
            server.kill()
            assert not is_refused(breaker)
    finally:
        server.kill()
