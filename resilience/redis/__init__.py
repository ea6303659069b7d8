"""Connections to Redis that never hold up a call for longer than they were told to."""

from resilience.redis._connection import RedisConnection
from resilience.redis._options import RedisOptions
from resilience.redis._outage import Attempt, OutageGuard
from resilience.redis._script import Script

__all__ = ("Attempt", "OutageGuard", "RedisConnection", "RedisOptions", "Script")
