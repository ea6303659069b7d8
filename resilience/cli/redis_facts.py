"""What `doctor` says about a Redis that serves limiters: facts for an operator, and the effect of an outage."""

from __future__ import annotations

import functools
import statistics
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from resilience.clock import monotonic

if TYPE_CHECKING:
    import redis

    from resilience.redis import RedisConnection
    from resilience.redis.cluster._cluster import Cluster, Shard

__all__ = ("facts_of",)

_PINGS = 5
_OUTAGE = {
    "local": "each process would decide alone, by its share of each limit",
    "allow": "every call would pass",
    "deny": "every call of a limiter on Redis would be refused",
}


def facts_of(connection: RedisConnection) -> Iterator[str]:
    """Yield the lines. An ACL may forbid a question: its line is left out. An error of the connection goes on."""
    from redis.exceptions import ResponseError  # noqa: PLC0415 - an extra

    lines: list[Callable[[], str]]
    if (cluster := connection.cluster) is None:
        lines = [functools.partial(_version, connection.sync), functools.partial(_clock, connection.sync)]
    else:
        yield f"a cluster of {len(cluster.shards)} masters, which serve all slots"
        lines = [functools.partial(_master, connection, cluster, shard) for shard in cluster.shards]
    lines.append(functools.partial(_instances, connection))
    for line in lines:
        try:
            yield line()
        except ResponseError:
            continue
    options = connection.options
    bound = f"the first call would wait for at most {options.timeout * 1e3:g} ms"
    if connection.cluster is not None:
        bound += "; without one master, the same for its slots only"
    yield f"without Redis {_OUTAGE[options.outage]} (outage={options.outage}); {bound}"


def _master(connection: RedisConnection, cluster: Cluster, shard: Shard) -> str:
    client = connection.at(shard).sync
    return f"{shard.endpoint}, slots {cluster.slots_of(shard)}: {_version(client)}; {_clock(client)}"


def _version(client: redis.Redis) -> str:
    info: Any = client.info("server")
    name = "Valkey" if "valkey_version" in info else "Redis"
    version = info.get("valkey_version", info.get("redis_version", "of unknown version"))
    return f"{name} {version}, PING {_latency(client) * 1e3:.1f} ms (median of {_PINGS})"


def _latency(client: redis.Redis) -> float:
    taken: list[float] = []
    for _ in range(_PINGS):
        since = monotonic()
        client.ping()
        taken.append(monotonic() - since)
    return statistics.median(taken)


def _clock(client: redis.Redis) -> str:
    before = time.time()
    answer: Any = client.time()
    ahead = answer[0] + answer[1] / 1e6 - (before + time.time()) / 2
    direction = "ahead of" if ahead >= 0 else "behind"
    return f"its clock is {abs(ahead) * 1e3:.0f} ms {direction} that of this machine; limits use its clock only"


def _instances(connection: RedisConnection) -> str:
    """Count the members of the set that the heartbeat of the fleet keeps, as the heartbeat does."""
    key = f"{{{connection.options.prefix}:fleet}}:instances"
    client = connection.client_of(key.encode())
    now: Any = client.time()
    count: Any = client.zcount(key, f"({now[0] * 1000 + now[1] // 1000}", "+inf")
    return f"{count} live instance{'s' * (count != 1)} of the fleet {connection.options.prefix!r}"
