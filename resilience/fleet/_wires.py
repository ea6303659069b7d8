"""The connections of one fleet: one to the Redis, or one to each master of a cluster that has some of its keys.

On a cluster each call goes to the master of its keys, the heartbeat first. A master that does not answer fails its own
calls only, by an exception in place of each reply, and is left alone for a while: the other parts go on. Messages go to
the master of the heartbeat, and the cluster passes them on to all nodes.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from resilience.fleet._machine import FIRST_BACKOFF, MAX_BACKOFF
from resilience.fleet._partner import FleetCall
from resilience.fleet._wire import Wire
from resilience.redis._errors import MALFORMED, is_of_redis, is_redirect
from resilience.redis._exchange import Reply
from resilience.redis.cluster._table import redirection_of

if TYPE_CHECKING:
    from resilience.redis import RedisConnection
    from resilience.redis.cluster._cluster import Cluster, Shard

__all__ = ("Wires",)


class ShardWire(Wire):
    """The connection to one master, and the time until it is asked again after a failure."""

    def __init__(self) -> None:
        super().__init__()
        self.failure: Exception | None = None
        self.backoff = self.asked_at = 0.0

    def note(self, failure: Exception | None) -> None:
        """Record how a round with this master ended."""
        self.failure = failure
        self.backoff = 0.0 if failure is None else min(MAX_BACKOFF, 2 * self.backoff or FIRST_BACKOFF)
        self.asked_at = time.monotonic()

    @property
    def is_resting(self) -> bool:
        """Whether the master failed a moment ago."""
        return self.failure is not None and time.monotonic() - self.asked_at < self.backoff


class Wires:
    """Sends the commands of a round and returns the replies. Used by one thread at a time."""

    def __init__(self) -> None:
        self._single = Wire()
        self._shards: dict[Shard, ShardWire] = {}

    def run(
        self,
        connection: RedisConnection,
        calls: Sequence[FleetCall],
        messages: Sequence[tuple[str, bytes]],
        patience: float,
    ) -> list[Reply]:
        """Return the reply to each of `calls`. For the arguments see `Wire.run`.

        Raises:
            Exception: An error of redis-py, or an `OSError`: Redis did not answer; on a cluster, the master that has
                the keys of the first call.
        """
        cluster = connection.cluster
        if cluster is None:
            return self._single.run(connection, calls, messages, patience)
        replies = self._asked(connection, cluster, calls, messages, patience)
        moved = [number for number, reply in enumerate(replies) if _names_another(cluster, reply)]
        if moved:
            again = self._asked(connection, cluster, [calls[number] for number in moved], (), patience)
            for number, reply in zip(moved, again, strict=True):
                replies[number] = reply
        return replies

    def _asked(
        self,
        connection: RedisConnection,
        cluster: Cluster,
        calls: Sequence[FleetCall],
        messages: Sequence[tuple[str, bytes]],
        patience: float,
    ) -> list[Reply]:
        replies: list[Reply] = [None] * len(calls)
        for shard, numbers in _by_shard(cluster, calls).items():
            wire, is_first = self._wire_to(cluster, shard), 0 in numbers
            if wire.failure is not None and wire.is_resting and not is_first:
                found: list[Reply] = [wire.failure] * len(numbers)
            else:
                some = [calls[number] for number in numbers]
                try:
                    found = wire.run(connection.at(shard), some, messages if is_first else (), patience)
                    wire.note(None)
                except Exception as error:
                    wire.note(error)
                    cluster.refresh_soon()
                    if is_first or not is_of_redis(error):
                        raise
                    found = [error] * len(numbers)
            for number, reply in zip(numbers, found, strict=True):
                replies[number] = reply
        return replies

    def _wire_to(self, cluster: Cluster, shard: Shard) -> ShardWire:
        wire = self._shards.get(shard)
        if wire is None:
            for gone in [known for known in self._shards if not cluster.is_known(known)]:
                self._shards.pop(gone).close()
            wire = self._shards[shard] = ShardWire()
        return wire

    def close(self) -> None:
        """Close the connections; the next round opens new ones."""
        for wire in (self._single, *self._shards.values()):
            wire.close()


def _by_shard(cluster: Cluster, calls: Sequence[FleetCall]) -> dict[Shard, list[int]]:
    """Return the numbers of the calls by the shard of their keys, that of the first call first."""
    found: dict[Shard, list[int]] = {}
    for number, call in enumerate(calls):
        found.setdefault(cluster.shard_with(call.keys[0]), []).append(number)
    return found


def _names_another(cluster: Cluster, reply: Reply) -> bool:
    """Whether a reply says that another master has the keys from now on (MOVED); corrects the table."""
    if not isinstance(reply, Exception) or not is_redirect(reply):
        return False
    try:
        redirection = redirection_of(reply, None)
    except MALFORMED:
        return False
    cluster.follow(redirection)
    return redirection.is_final
