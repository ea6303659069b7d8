"""URLs of one server, of Sentinels and of a cluster."""

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
        (
            "redis+cluster://u:p@h:7000,i,h:7000?protocol=2",
            Topology.CLUSTER,
            (("h", 7000), ("i", 6379)),
            "",
            "redis://u:p@h:7000/0?protocol=2",
        ),
        ("valkeys+cluster://[::1]/0", Topology.CLUSTER, (("::1", 6379),), "", "rediss://[::1]:6379/0"),
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
        ("redis+cluster://", "redis+cluster://", "a host or its port is missing"),
        ("redis+cluster://:hunter2@h:1/3", "@h:1/3", "a cluster has the database 0 only"),
        ("redis+cluster://u:hunter2@h:1,:2", "@h:1,:2", "a host or its port is missing"),
        ("redis+clusters://h", "redis+clusters://h", "the scheme is redis, rediss, redis+sentinel,"),
        ("redis+sentinel://h:70000/s", "h:70000", "a host has a port that is no number"),
        ("redis+unix:///x", "redis+unix:///x", "the scheme is redis"),
        (
            "redis://h:1,i:2/0",
            "h:1,i:2/0",
            "several hosts are Sentinels (redis+sentinel:",
        ),
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


def test_an_unknown_parameter_of_a_cluster() -> None:
    """A parameter that redis-py does not know is refused when the connection is made, as for one server."""
    with pytest.raises(ConfigurationError, match="a parameter after its \\? is unknown to redis-py"):
        RedisConnection.from_url("redis+cluster://h:7000?nonsense=1")
