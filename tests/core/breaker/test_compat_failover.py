"""redis-py's failover takes any pybreaker.CircuitBreaker: ours too."""

import contextlib
import time
from pathlib import Path
from typing import Any

import pytest
from both_breakers import Log, World, failing
from redis_process import RedisProcess, find_binary

from resilience import CircuitBreaker

circuit = pytest.importorskip("redis.multidb.circuit", reason="this redis-py has no failover yet")
client = pytest.importorskip("redis.multidb.client")
config = pytest.importorskip("redis.multidb.config")


def test_adapter_of_redis_py(make: World) -> None:
    """redis-py's adapter reads and sets the state and the open time, and its listener gets each change."""
    heard: list[Any] = []
    breaker = make(1)
    adapter = circuit.PBCircuitBreakerAdapter(breaker)
    adapter.database = "database"
    adapter.on_state_changed(lambda told, old, new: heard.append((told.database, old, new)))
    assert adapter.state is circuit.State.CLOSED
    adapter.grace_period = 5
    assert (adapter.grace_period, breaker.reset_timeout) == (5, 5)
    for state in (circuit.State.OPEN, circuit.State.HALF_OPEN, circuit.State.CLOSED):
        adapter.state = state
        assert adapter.state is state
    failing(breaker, 1)
    assert adapter.state is circuit.State.OPEN
    assert heard == [
        ("database", circuit.State.CLOSED, circuit.State.OPEN),
        ("database", circuit.State.OPEN, circuit.State.HALF_OPEN),
        ("database", circuit.State.HALF_OPEN, circuit.State.CLOSED),
        ("database", circuit.State.CLOSED, circuit.State.OPEN),
    ]


@pytest.mark.redis
@pytest.mark.realtime
def test_failover_of_redis_py(redis_server: RedisProcess, tmp_path: Path) -> None:
    """redis-py's client over two databases, with our breakers in place of its own, moves on when one dies."""
    dying = RedisProcess(find_binary(), tmp_path)
    dying.start()
    log = Log()
    breakers = [CircuitBreaker(name="dying", listeners=[log]), CircuitBreaker(name="healthy")]
    databases = [
        config.DatabaseConfig(weight=weight, from_url=server.url, circuit=circuit.PBCircuitBreakerAdapter(breaker))
        for weight, server, breaker in zip((1.0, 0.5), (dying, redis_server), breakers, strict=True)
    ]
    databases_config = config.MultiDbConfig(databases, health_check_interval=0.1, health_check_probes=1)
    try:
        with pytest.warns(UserWarning, match="experimental"):
            failover = client.MultiDBClient(databases_config)
        with contextlib.closing(failover):
            assert failover.set("key", "on the first")
            dying.kill()
            deadline = time.monotonic() + 10
            while breakers[0].current_state != "open" and time.monotonic() < deadline:
                time.sleep(0.01)
            assert log.heard == ["closed > open"]
            assert failover.set("key", "on the second")
            assert failover.get("key") == b"on the second"
            assert breakers[1].current_state == "closed"
    finally:
        dying.kill()


def test_default_breaker_of_redis_py() -> None:
    """redis-py's default circuit works with our breaker: its grace period is the open time."""

    class OnOurs(config.DatabaseConfig):  # type: ignore[misc, name-defined]  # a module that may be missing
        def default_circuit_breaker(self) -> Any:
            return circuit.PBCircuitBreakerAdapter(CircuitBreaker(reset_timeout=self.grace_period))

    adapter = OnOurs(grace_period=7).default_circuit_breaker()
    assert (adapter.grace_period, adapter.state) == (7, circuit.State.CLOSED)
