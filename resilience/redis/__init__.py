"""Connections to Redis on which no wait is longer than its configured bound.

Applications use `RedisConnection` and `RedisOptions`. `LuaScript` and `OutageGuard` are for code that keeps its own
state on Redis, as the rate limit does.
"""

from resilience.redis._connection import RedisConnection
from resilience.redis._options import RedisOptions
from resilience.redis._outage import OutageGuard
from resilience.redis._script import LuaScript

__all__ = ("LuaScript", "OutageGuard", "RedisConnection", "RedisOptions")
