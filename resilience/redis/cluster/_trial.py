"""Asks the masters of a cluster that was down whether they serve callers again, wherever they are by now."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import TYPE_CHECKING

from resilience.redis.cluster._loader import not_connected

if TYPE_CHECKING:
    from resilience.redis._connection import RedisConnection
    from resilience.redis.cluster._cluster import Cluster, Shard

__all__ = ("ShardTrial", "UnassignedTrial")


class ShardTrial:
    """The trial of one shard: loads the table first, because a replica may have been promoted. For `OutageGuard`.

    Args:
        cluster: The cluster.
        shard: The shard that is down.
        trial: Asks the master of the shard.
    """

    def __init__(self, cluster: Cluster, shard: Shard, trial: Callable[[], bool]) -> None:
        self._cluster, self._shard, self._trial = cluster, shard, trial

    def __call__(self) -> bool:
        """Return True if the master answers, and False if the shard is gone. Blocks for seconds at most.

        Raises:
            Exception: The master does not answer, or refuses the script.
        """
        from redis.exceptions import RedisError  # noqa: PLC0415 - an extra

        with contextlib.suppress(RedisError, OSError):  # then the old table stands
            self._cluster.refresh(None)
        return self._cluster.is_known(self._shard) and self._trial()


class UnassignedTrial:
    """The trial for the slots without a known master: each slot must have one. For `OutageGuard`.

    Args:
        connection: The connections to any master.
        cluster: The cluster.
    """

    def __init__(self, connection: RedisConnection, cluster: Cluster) -> None:
        self._connection, self._cluster = connection, cluster

    def __call__(self) -> bool:
        """Return True if every slot has a master, and False if the connection was closed. Blocks for seconds at most.

        Raises:
            ConnectionError: Of redis-py: no node answers, or slots have no master.
        """
        if self._connection.pools_in_use is None:
            return False
        self._cluster.refresh(None)
        if slots := self._cluster.unassigned_slots:
            raise not_connected(f"no master of the cluster serves the slots {slots}")
        return True
