"""What the connection to Redis can be told."""

from __future__ import annotations

from dataclasses import dataclass

from resilience.options import Choice, Duration, Options, Text, Whole, option

__all__ = ("RedisOptions",)


@dataclass(frozen=True, kw_only=True)
class RedisOptions(Options):
    """Where shared state lives, and what happens while it cannot be reached."""

    url: str | None = option(
        None,
        Text("a Redis URL", pattern=r"(rediss?|valkeys?|unix)://.*", longest=2000),
        "Redis server; redis://, rediss:// or unix://",
        none="state stays in this process",
        secret=True,
    )
    outage: str = option("local", Choice("local", "allow", "deny"), "what limiters do while Redis is away")
    timeout: float = option(0.05, Duration(above=True, maximum=60), "longest a call ever waits for Redis")
    max_connections: int = option(50, Whole(1, 10_000), "connections per process")
    prefix: str = option(
        "resilience", Text("letters, digits and : . _ -", pattern=r"[A-Za-z0-9:._-]+", longest=64), "start of every key"
    )
