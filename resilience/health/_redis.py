"""Whether Redis can do what limiters need."""

from __future__ import annotations

from typing import Any

from resilience.health._verdict import CheckFailedError

__all__ = ("redis_check",)


class _RedisCheck:
    failure = "warn"
    """Redis being away never fails a call (L11), so by default it takes no instance out of service either."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    def __call__(self) -> bool:
        from resilience.redis import RedisConnection  # noqa: PLC0415 - only services with a Redis pay

        if not isinstance(self._connection, RedisConnection):
            return bool(self._connection.ping())
        reason = self._connection.diagnose()
        if reason is not None:
            raise CheckFailedError(reason)
        return True


def redis_check(connection: Any) -> _RedisCheck:
    """Return a check that Redis can serve limiters, for `health.add("redis", ...)`.

    The check runs a script with the commands of a limiter on a key of its own, `{<prefix>:ratelimit:.probe:}`. So it
    finds a read-only replica, a full server, missing rights and a node of a cluster, all of which answer PING.
    A failure is a warning, unless `add(..., failure="fail")` says that this service cannot do without.

    Args:
        connection: The toolkit's `RedisConnection`. Any other client with a blocking `ping()` is pinged.
    """
    return _RedisCheck(connection)
