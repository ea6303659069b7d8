"""What the connection to Redis can be told."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from resilience.options import Choice, Duration, Options, Refused, Text, Whole, option

__all__ = ("EXPECTED_URL", "RedisOptions")

EXPECTED_URL = "a Redis URL such as redis://host:6379/0 (percent-encode its password)"
_DATABASE = re.compile(r"/?[0-9]*")


class RedisUrl(Text):
    """The rule of a Redis URL: host, port and database can be told apart. Parameters are left to redis-py."""

    def __init__(self) -> None:
        super().__init__(EXPECTED_URL, pattern=r"(rediss?|valkeys?|unix)://.*", longest=2000)

    def check(self, value: Any, /) -> str:
        """Return the URL unchanged."""
        url = super().check(value)
        try:
            where = urlsplit(url)
            _ = where.port  # reading it is what checks it
        except ValueError:  # says what it could not read, which may be the password: nothing of it is passed on
            raise Refused from None
        if not (where.path if where.scheme == "unix" else _DATABASE.fullmatch(where.path)):
            raise Refused
        return url


@dataclass(frozen=True, kw_only=True)
class RedisOptions(Options):
    """Where shared state lives, and what happens while it cannot be reached."""

    url: str | None = option(
        None,
        RedisUrl(),
        "Redis server; redis://, rediss:// or unix://",
        none="state stays in this process",
        secret=True,
    )
    outage: str = option("local", Choice("local", "allow", "deny"), "what limiters do while Redis is away")
    timeout: float = option(0.05, Duration(above=True, maximum=60), "longest that a decision waits for Redis")
    connect_timeout: float = option(
        2.0,
        Duration(above=True, maximum=60),
        "longest time for connecting, in the background",
    )
    max_connections: int = option(50, Whole(1, 10_000), "connections of all threads, and of each event loop")
    prefix: str = option(
        "resilience", Text("letters, digits and : . _ -", pattern=r"[A-Za-z0-9:._-]+", longest=64), "start of every key"
    )
