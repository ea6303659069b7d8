"""The names of the shared breakers of a fleet, so that operators can list them."""

from __future__ import annotations

from typing import Final

from resilience.fleet import FleetCall
from resilience.redis import LuaScript

__all__ = ("DIRECTORY", "directory_key", "registration")

DIRECTORY: Final = LuaScript("""
-- Adds a name to the directory, and returns all names.
-- KEYS[1]  a sorted set: the name of each breaker, by the millisecond at which it is forgotten
-- ARGV     the name ("" for none), the milliseconds for which it is kept, the most names
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
if ARGV[1] ~= '' then
  redis.call('ZADD', KEYS[1], now + ARGV[2], ARGV[1])
  redis.call('PEXPIRE', KEYS[1], ARGV[2])
  redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)
  redis.call('ZREMRANGEBYRANK', KEYS[1], 0, -1 - ARGV[3])
  return {}
end
return redis.call('ZRANGEBYSCORE', KEYS[1], now, '+inf')
""")
_KEPT_FOR: Final = 86_400_000
_MOST: Final = 10_000


def directory_key(prefix: str) -> bytes:
    """Return the key of the directory."""
    return f"{{{prefix}:fleet:breakers}}".encode()


def registration(prefix: str, name: str) -> FleetCall:
    """Return the call that adds `name`; with "" the call that returns all names."""
    return FleetCall(DIRECTORY, (directory_key(prefix),), (name.encode(), _KEPT_FOR, _MOST))
