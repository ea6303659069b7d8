import pytest
from redis_process import RedisProcess

from resilience.health import Health, HealthOptions, redis_check
from resilience.redis import RedisConnection

pytestmark = pytest.mark.redis


def test_redis_check_follows_a_real_server(own_redis_server: RedisProcess) -> None:
    """The built-in check passes while the server answers and only warns once it is gone."""
    connection = RedisConnection.from_url(own_redis_server.url, timeout=2)
    health = Health(HealthOptions(timeout=10.0, cache=0))
    health.add("redis", redis_check(connection))
    try:
        assert [entry.status for entry in health.report("ready").entries] == ["ok", "ok"]
        own_redis_server.kill()
        report = health.report("ready")
        assert [entry.status for entry in report.entries] == ["ok", "warn"]
        assert report.ok
    finally:
        connection.close()
