from __future__ import annotations

import pytest

from resilience import Resilience
from resilience.config import load
from resilience.errors import ConfigurationError
from resilience.redis import RedisOptions

FINE = [
    "redis://",
    "redis://localhost",
    "redis:///3",
    "redis://localhost:6379/0",
    "redis://user:pass@[::1]:6379/15?client_name=orders",
    "rediss://:p%2Fw%23@cache.internal:6380/",
    "valkey://cache/1",
    "valkeys://cache",
    "unix:///run/redis.sock?db=3",
    "unix://user:pass@/run/redis.sock",
]
UNREADABLE = {
    "port that is no number": "redis://user:hunter2@cache:http/0",
    "port out of range": "redis://user:hunter2@cache:99999/0",
    "database that is no number": "redis://user:hunter2@cache:6379/orders",
    "two databases": "redis://user:hunter2@cache/0/1",
    "bare # in the password": "redis://:hunter2#x@cache:6379/0",
    "bare / in the password": "redis://:hunter2/x@cache:6379/0",
    "bare ? in the password": "redis://:hunter2?x@cache:6379/0",
    "letter that normalises to a #": "redis://:hunter2\uff03@cache:6379/0",
    "half an IPv6 address": "redis://user:hunter2@[::1/0",
    "socket without a path": "unix://user:hunter2@",
}


@pytest.mark.parametrize("url", FINE)
def test_usual_urls_are_taken(url: str) -> None:
    """Every way to write a Redis URL that redis-py understands is taken as it stands."""
    assert RedisOptions(url=url).url == url


@pytest.mark.parametrize("kind", UNREADABLE)
def test_unreadable_url_is_listed_with_all_other_mistakes(kind: str) -> None:
    """An unreadable URL is one more line of the one error, and its password is in no line."""
    environ = {"RESILIENCE_REDIS__URL": UNREADABLE[kind], "RESILIENCE_REDIS__OUTAGE": "panic"}
    with pytest.raises(ConfigurationError) as refused:
        load(environ)
    assert {problem.option for problem in refused.value.problems} == set(environ)
    assert "such as redis://host:6379/0" in str(refused.value)
    assert "hunter2" not in str(refused.value)


REFUSED_BY_REDIS = [
    "redis://localhost?db=hunter2",
    "redis://localhost?max_connections=hunter2",
    "redis://localhost?foo=hunter2",
    "redis://localhost?connection_class=hunter2",
    "rediss://localhost?ssl_cert_reqs=hunter2",
]


@pytest.mark.parametrize("url", REFUSED_BY_REDIS)
def test_parameter_that_redis_does_not_take_stops_the_start(url: str) -> None:
    """A parameter with which no connection could ever be made is refused at start, and not taken for an outage."""
    pytest.importorskip("redis")
    with pytest.raises(ConfigurationError, match=r"RESILIENCE_REDIS__URL=.*parameter") as refused:
        Resilience.from_env({"RESILIENCE_REDIS__URL": url})
    assert "hunter2" not in str(refused.value)
