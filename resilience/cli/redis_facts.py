"""What `doctor` says about a Redis that serves limiters: facts for an operator, and the effect of an outage."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from resilience.clock import monotonic

if TYPE_CHECKING:
    from resilience.redis import RedisConnection

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

    for line in (_version, _clock, _instances):
        try:
            yield line(connection)
        except ResponseError:
            continue
    options = connection.options
    bound = f"the first call would wait for at most {options.timeout * 1e3:g} ms"
    yield f"without Redis {_OUTAGE[options.outage]} (outage={options.outage}); {bound}"


def _version(connection: RedisConnection) -> str:
    info: Any = connection.sync.info("server")
    name = "Valkey" if "valkey_version" in info else "Redis"
    version = info.get("valkey_version", info.get("redis_version", "of unknown version"))
    return f"{name} {version}, PING {_latency(connection) * 1e3:.1f} ms (median of {_PINGS})"


def _latency(connection: RedisConnection) -> float:
    taken: list[float] = []
    for _ in range(_PINGS):
        since = monotonic()
        connection.sync.ping()
        taken.append(monotonic() - since)
    return statistics.median(taken)


def _clock(connection: RedisConnection) -> str:
    before = time.time()
    answer: Any = connection.sync.time()
    ahead = answer[0] + answer[1] / 1e6 - (before + time.time()) / 2
    direction = "ahead of" if ahead >= 0 else "behind"
    return f"its clock is {abs(ahead) * 1e3:.0f} ms {direction} that of this machine; limits use its clock only"


def _instances(connection: RedisConnection) -> str:
    """Count the members of the set that the heartbeat of the fleet keeps, as the heartbeat does."""
    now: Any = connection.sync.time()
    key = f"{{{connection.options.prefix}:fleet}}:instances"
    count: Any = connection.sync.zcount(key, f"({now[0] * 1000 + now[1] // 1000}", "+inf")
    return f"{count} live instance{'s' * (count != 1)} of the fleet {connection.options.prefix!r}"
