"""The clients of one process."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from resilience.redis._per_loop import PerLoop
from resilience.redis._pool import ConnectionPool

if TYPE_CHECKING:
    import redis
    import redis.asyncio

    from resilience.redis._pool_aio import AsyncConnectionPool

__all__ = ("Clients",)


class Clients:
    """The clients of one process. A forked child starts with new ones."""

    __slots__ = ("aio", "aio_pools", "is_used", "lock", "pool", "sync")

    def __init__(
        self, build_aio: Callable[[], redis.asyncio.Redis], build_aio_pool: Callable[[], AsyncConnectionPool]
    ) -> None:
        # Guards the clients; held while a client is built, which does no I/O. Re-entrant, for finalizers.
        self.lock = threading.RLock()
        self.sync: redis.Redis | None = None
        self.pool: ConnectionPool | None = None
        self.is_used = False
        self.aio = PerLoop(build_aio, self.lock)
        self.aio_pools = PerLoop(build_aio_pool, self.lock)
