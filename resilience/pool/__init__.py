"""Pools of connections that any factory can make: fair, bounded, and the same for threads and for asyncio."""

from resilience.pool._async_lease import AsyncLease
from resilience.pool._async_pool import AsyncPool
from resilience.pool._connector import Connector
from resilience.pool._lease import Lease
from resilience.pool._options import PoolOptions
from resilience.pool._pool import Pool

__all__ = ("AsyncLease", "AsyncPool", "Connector", "Lease", "Pool", "PoolOptions")
