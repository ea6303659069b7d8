"""Why a cluster cannot serve all limiters."""

from __future__ import annotations

from typing import TYPE_CHECKING

from resilience.redis._errors import explain
from resilience.redis._script import diagnosis_key

if TYPE_CHECKING:
    from collections.abc import Callable

    from resilience.redis.cluster._cluster import Cluster, Shard

__all__ = ("diagnosis_of",)


def diagnosis_of(cluster: Cluster, prefix: str, diagnose: Callable[[Shard, bytes], object]) -> str | None:
    """Return the fault of each master, and the slots that no master serves; None if nothing is wrong.

    Blocks for the load of the table, and then for a few round trips to each master at most. Does not raise because of
    Redis.

    Args:
        cluster: The cluster.
        prefix: The start of every key of limiters.
        diagnose: Runs the commands that limiters need on a shard, on a key of it. Raises an error of redis-py.
    """
    from redis.exceptions import RedisError  # noqa: PLC0415 - an extra

    try:
        cluster.refresh(None)
    except (RedisError, OSError) as error:
        return explain(error, prefix)
    reasons = []
    for shard in cluster.shards:
        try:
            tag = cluster.tag_at(shard, lambda tag: diagnosis_key(prefix, tag))
            diagnose(shard, diagnosis_key(prefix, tag))
        except (RedisError, OSError) as error:
            reasons.append(f"{shard.endpoint} (slots {cluster.slots_of(shard)}): {explain(error, prefix)}")
    if unassigned := cluster.unassigned_slots:
        reasons.append(f"no master serves the slots {unassigned}")
    return "; ".join(reasons) or None
