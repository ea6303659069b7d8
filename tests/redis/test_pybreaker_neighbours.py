"""Libraries made for pybreaker, with a breaker of ours."""

import contextlib
from collections.abc import Iterator
from typing import Any

import pybreaker
import pytest
import redis
from redis_process import RedisProcess

from resilience import CircuitBreaker, CircuitOpenError

pytestmark = pytest.mark.redis


def failing() -> None:
    raise ConnectionError


@pytest.fixture
def client(redis_server: RedisProcess) -> Iterator[Any]:
    with contextlib.closing(redis.Redis.from_url(redis_server.url)) as client:
        yield client


def test_breakers_share_pybreakers_redis_storage(client: Any) -> None:
    """Through `CircuitRedisStorage` two breakers count together, open together, and close for both."""
    storages = [pybreaker.CircuitRedisStorage("closed", client, namespace="shared-by-two") for _ in range(2)]
    first, second = (CircuitBreaker(fail_max=2, reset_timeout=60, state_storage=storage) for storage in storages)
    for breaker in (first, second):
        with pytest.raises(ConnectionError):
            breaker.call(failing)
    assert first.current_state == second.current_state == "open"
    with pytest.raises(CircuitOpenError):
        first.call(len, "")
    second.close()
    assert first.call(len, "") == 0
    assert first.fail_counter == 0


def test_the_failover_of_redis_py_takes_it() -> None:
    """redis-py's multi-database client wraps a `pybreaker.CircuitBreaker`: ours opens, closes and notifies likewise."""
    circuit = pytest.importorskip("redis.multidb.circuit", reason="redis-py has it from 7 on")
    breaker = CircuitBreaker(fail_max=2, reset_timeout=60)
    adapter = circuit.PBCircuitBreakerAdapter(breaker)
    adapter.database = object()
    heard: list[tuple[Any, Any]] = []
    adapter.on_state_changed(lambda _circuit, before, after: heard.append((before, after)))
    for _ in range(2):
        with contextlib.suppress(ConnectionError):
            breaker.call(failing)
    assert adapter.state is circuit.State.OPEN
    adapter.state = circuit.State.CLOSED
    assert breaker.call(len, "") == 0
    assert heard == [(circuit.State.CLOSED, circuit.State.OPEN), (circuit.State.OPEN, circuit.State.CLOSED)]
    adapter.grace_period = 5
    assert breaker.reset_timeout == 5
