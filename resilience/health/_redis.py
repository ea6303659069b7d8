"""Whether Redis answers."""

from __future__ import annotations

from typing import Any

__all__ = ("redis_check",)


class _RedisCheck:
    failure = "warn"
    """Redis being away never fails a call (L11), so by default it takes no instance out of service either."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    def __call__(self) -> bool:
        client = getattr(self._connection, "sync", self._connection)
        return bool(client.ping())


def redis_check(connection: Any) -> _RedisCheck:
    """Return a check that pings Redis, for `health.add("redis", ...)`.

    `connection` is the toolkit's connection (its `sync` client is used) or any client with a blocking `ping()`.
    A failure is a warning, unless `add(..., failure="fail")` says that this service cannot do without.
    """
    return _RedisCheck(connection)
