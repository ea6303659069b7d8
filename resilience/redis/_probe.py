"""Whether a server can serve limiters: asked by running what they need, on a key of its own.

PING says less: a read-only replica answers it, and so does a server whose memory is full, or whose ACL forbids
scripts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from resilience.redis._errors import CLUSTER, explain
from resilience.redis._script import Script

if TYPE_CHECKING:
    from resilience.redis._connection import RedisConnection

__all__ = ("diagnose", "probe_key")

# The commands of resilience/ratelimit/token_bucket.lua, in its order: a test compares the two.
_PROBE: Final = Script("""
local time = redis.call('TIME')
redis.call('GET', KEYS[1])
redis.call('SET', KEYS[1], time[1], 'PX', 1000)
return 1
""")


def probe_key(prefix: str) -> str:
    """Return the key that probes write: that of a limiter whose name no limiter can have. It lives for a second."""
    return f"{{{prefix}:ratelimit:.probe:}}"


def diagnose(connection: RedisConnection) -> str | None:
    """Return why the server cannot serve limiters, or None. Never raises because of Redis."""
    from redis.exceptions import NoScriptError, RedisError  # noqa: PLC0415 - an extra

    prefix = connection.options.prefix
    key = probe_key(prefix)
    try:
        run = connection.sync.execute_command
        try:
            run("EVALSHA", _PROBE.sha1, 1, key)  # type: ignore[no-untyped-call]  # redis-py leaves it untyped
        except NoScriptError:
            run("EVAL", _PROBE.text, 1, key)  # type: ignore[no-untyped-call]  # redis-py leaves it untyped
    except (RedisError, OSError) as error:
        connection.evict()
        return explain(error, prefix)
    return CLUSTER if connection.is_cluster_node else None
