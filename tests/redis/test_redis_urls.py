"""URLs of one server and of Sentinels."""

from __future__ import annotations

import contextlib

import pytest

from resilience import Resilience
from resilience.errors import ConfigurationError
from resilience.redis import RedisConnection, RedisOptions
from resilience.redis._url import Endpoint, Topology, place_of

HOSTS = "a.internal:7001,b.internal"


@pytest.mark.parametrize(
    ("url", "topology", "endpoints", "service", "of_one_server"),
    [
        ("redis://h:1/2?x=1", Topology.SINGLE, (), "", "redis://h:1/2?x=1"),
        ("valkeys://h", Topology.SINGLE, (), "", "rediss://h"),
        ("unix:///run/redis.sock?db=1", Topology.SINGLE, (), "", "unix:///run/redis.sock?db=1"),
        (
            "rediss+sentinel://[::1]:7,[::2]/s",
            Topology.SENTINEL,
            (("::1", 7), ("::2", 26379)),
            "s",
            "rediss://[::1]:7/0",
        ),
        (
            f"valkey+sentinel://:p@{HOSTS}/my%2Fdb/3",
            Topology.SENTINEL,
            (("a.internal", 7001), ("b.internal", 26379)),
            "my/db",
            "redis://:p@a.internal:7001/3",
        ),
        ("redis+sentinel://h,h:26379/s", Topology.SENTINEL, (("h", 26379),), "s", "redis://h:26379/0"),
    ],
)
def test_readable_urls(
    url: str, topology: Topology, endpoints: tuple[Endpoint, ...], service: str, of_one_server: str
) -> None:
    """Each kind of URL is taken apart: how servers belong together, where they are, and the name of the service."""
    assert place_of(url) == (topology, endpoints, service, of_one_server)


@pytest.mark.parametrize(
    ("url", "shown", "reason"),
    [
        ("http://u:hunter2@h", "http://***@h", "the scheme is redis, rediss, redis+sentinel,"),
        ("redis-sentinel://h/s", "redis-sentinel://h/s", "the scheme is redis, rediss, redis+sentinel,"),
        ("redis+sentinel://u:hunter2@h:26379", "@h:26379", "the name of the service is missing, as in redis+sentinel"),
        ("redis+sentinel://h//0", "h//0", "the name of the service is missing"),
        ("redis+sentinel://h/s/one", "h/s/one", "after the name of the service comes the number of a database"),
        ("redis+sentinel://h:x,i/s", "h:x,i/s", "a host has a port that is no number"),
        ("redis+sentinel://,h/s", ",h/s", "a host or its port is missing"),
        ("redis+cluster://:hunter2@h:1", "@h:1", "clusters cannot be used: name a server without cluster mode"),
        ("redis+sentinel://h:70000/s", "h:70000", "a host has a port that is no number"),
        ("redis+unix:///x", "redis+unix:///x", "the scheme is redis"),
        ("redis://h:1,i:2/0", "h:1,i:2/0", "several hosts are Sentinels: redis+sentinel://host1,host2"),
        ("redis://h:port/0", "h:port/0", "the port is no number"),
        ("redis://h/x", "h/x", "the path is the number of a database"),
        ("unix://", "unix://", "a socket needs its path"),
    ],
)
def test_unreadable_urls(url: str, shown: str, reason: str) -> None:
    """An unreadable URL is refused with the option or variable, the value without its secrets, and the reason."""
    with pytest.raises(ConfigurationError) as caught:
        RedisOptions(url=url)
    assert "url='" in str(caught.value)
    with pytest.raises(ConfigurationError) as from_environment:
        Resilience.from_env({"RESILIENCE_REDIS__URL": url})
    assert "RESILIENCE_REDIS__URL='" in str(from_environment.value)
    for text in (str(caught.value), str(from_environment.value)):
        assert shown in text
        assert reason in text
        assert "hunter2" not in text


def test_repr_names_all_hosts() -> None:
    """A connection can be logged: its text has all hosts and no password."""
    with contextlib.closing(RedisConnection.from_url("redis+sentinel://u:hunter2@h1:1,h2/s/0")) as connection:
        assert repr(connection) == "<RedisConnection redis+sentinel://h1:1,h2:26379/s/0>"
