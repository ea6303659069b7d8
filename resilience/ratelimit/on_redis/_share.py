"""The share of an instance in the limits of its fleet: it decides by this share while Redis is away.

The share. With n live instances, a bucket refills at 1/n of the rate and holds 1/n of the burst, at least one token. So
the fleet as a whole admits about the rate, if its load is balanced. A key whose load is on one instance gets 1/n of
its limit during an outage. n is the last count of the fleet; it is 1 if Redis was away from the start.

The beginning. A bucket of an instance begins at the level of the last decision of Redis on that key, if that decision
is at most about two seconds old: the levels are kept in two generations, which the rounds of the fleet replace while
Redis answers. The time until a bucket is full is the same for the whole and for a share, so that time is kept. A key
that comes later in the outage finds its bucket fuller by the time since its beginning. Buckets of several rates begin
full: their levels are not kept, and Redis is not emptied to them.

The end. Redis may have lost its data. Before any call asks it again, the thread that found it empties each bucket to
the level of the instance (`settle.lua`). The instances do not come back in the same moment, so a bucket only gets
emptier. Without this, each outage would end with a second burst.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final
from weakref import ref

from resilience.clock import Clock
from resilience.fleet import Fleet, FleetCall
from resilience.ratelimit._decision import Decision
from resilience.ratelimit._joint_memory import JointMemoryBuckets
from resilience.ratelimit._machine import Quota
from resilience.ratelimit._memory import MemoryBuckets, MemoryStore
from resilience.ratelimit._rate import MAX_PERIOD, Rate
from resilience.ratelimit.on_redis._codec import BucketCall, BucketCodec
from resilience.ratelimit.on_redis._windows import share_of_window
from resilience.ratelimit.windows._memory import MemoryWindows
from resilience.redis import LuaScript, OutageGuard, RedisConnection
from resilience.redis._exchange import Reply

if TYPE_CHECKING:
    from redis.connection import AbstractConnection

__all__ = ("LocalShare", "LocalShares", "share_of")

_SETTLE: Final = LuaScript(Path(__file__).with_name("settle.lua").read_text(encoding="utf-8"))
_MAX_LEVELS: Final = 10_000
"""Keys of one limiter whose level is kept in one generation."""
_MAX_SETTLED: Final = 10_000
"""Buckets of one limiter that are emptied after an outage; the emptiest come first."""
_AT_ONCE: Final = 500
"""Buckets that are settled in one round trip."""


def share_of(quota: Quota, instances: int) -> Quota:
    """Return the quota of one of `instances`."""
    if instances <= 1:
        return quota
    rate, longer = quota.rate, quota.rate.period_seconds * instances
    if longer > MAX_PERIOD:
        share = Rate(max(1, rate.amount // instances), rate.period_seconds)
    else:
        share = Rate(rate.amount, longer)
    return Quota(quota.name, share, max(1, quota.burst // instances))


class LocalShare:
    """The buckets of one limiter in this process.

    Args:
        quota: The limit of the fleet.
        codec: Makes the keys on Redis.
        open_buckets: Opens buckets in memory; those of one name share their state.
        instances: Returns the number of live instances.
        clock: Paces the decisions without Redis.
        keeps_levels: Whether the levels of the last decisions are of use.
    """

    def __init__(
        self,
        quota: Quota,
        codec: BucketCodec,
        open_buckets: Callable[[Quota], MemoryBuckets],
        instances: Callable[[], int],
        clock: Clock,
        *,
        keeps_levels: bool,
    ) -> None:
        self._quota = quota
        self._codec = codec
        self._open = open_buckets
        self._instances = instances
        self._clock = clock
        self._divisor = 1
        self._buckets = open_buckets(quota)
        self.most = _MAX_LEVELS if keeps_levels else 0
        self.levels: dict[bytes, Decision] = {}
        self._older: dict[bytes, Decision] = {}
        self._away_since: float | None = None

    @property
    def buckets(self) -> MemoryBuckets:
        """The buckets, with the share as it was at the last decision."""
        return self._buckets

    def take(self, key: str, cost: int, allowance: float) -> Decision:
        """Pay `cost` tokens of the share, or none if they do not fit."""
        return self._prepared(key).take(key, cost, allowance)

    def peek(self, key: str, cost: int) -> Decision:
        """Return whether `cost` tokens of the share would be paid now."""
        return self._prepared(key).peek(key, cost)

    def away(self) -> float:
        """Return since when Redis is away. Buckets fill up from then on, also those that were not asked."""
        since = self._away_since
        if since is None:
            self._away_since = since = self._clock()
        return since

    def _prepared(self, key: str) -> MemoryBuckets:
        """Return the buckets: of the present share, and that of `key` at the level that Redis has told."""
        instances = self._instances()
        if instances != self._divisor:
            self._divide(instances)
        away_since = self.away()
        redis_key = self._codec.redis_key(key)  # of bounded length
        newer, older = self.levels.pop(redis_key, None), self._older.pop(redis_key, None)
        level = older if newer is None else newer
        if level is not None:
            missing = level.reset_after - (self._clock() - away_since)
            if missing > 0:
                self._buckets.seed(key, missing)
        return self._buckets

    def _divide(self, instances: int) -> None:
        before, after = self._buckets, self._open(share_of(self._quota, instances))
        after.allowed, after.refused = before.allowed, before.refused
        self._divisor, self._buckets = instances, after

    def reset(self, key: str) -> None:
        """Fill the bucket of `key` in this process."""
        for levels in (self.levels, self._older):
            levels.pop(self._codec.redis_key(key), None)
        self._buckets.reset(key)

    def age(self) -> None:
        """Forget the levels that were not renewed since the last call. Redis answers."""
        self._away_since = None
        if self.levels or self._older:
            self._older, self.levels = self.levels, {}

    def unsettled(self) -> list[BucketCall]:
        """Return the script calls that empty the buckets on Redis to the levels of this process. Redis is back."""
        self._away_since = None
        levels = self._buckets.levels()
        if len(levels) > _MAX_SETTLED:
            levels = sorted(levels, key=lambda level: -level[1])[:_MAX_SETTLED]
        return [self._codec.encode_level(key, seconds) for key, seconds in levels]


class LocalShares:
    """The shares of one store, and its place in the fleet. A `FleetPartner` without calls: it only is counted.

    Args:
        connection: The Redis of the store.
        trial: Asks Redis during an outage, as `OutageGuard` needs it.
    """

    def __init__(self, connection: RedisConnection, trial: Callable[[], bool]) -> None:
        self._connection = connection
        self._trial = trial
        self._outage: Callable[[], OutageGuard | None] = lambda: None
        self._memory = MemoryStore()
        self._shares: list[ref[LocalShare]] = []
        self._fleet = Fleet.of(connection)
        self._is_local = connection.options.outage == "local"
        self._has_joined = False

    def open(self, quota: Quota, codec: BucketCodec, clock: Clock) -> LocalShare:
        """Return the share in the buckets of `quota.name`. `clock` paces the decisions without Redis."""
        share = LocalShare(
            quota,
            codec,
            lambda wanted: self._memory.open(wanted, clock),
            lambda: self._fleet.instances,
            clock,
            keeps_levels=self._is_local,
        )
        self._shares.append(ref(share, self._shares.remove))
        return share

    def open_joint(self, quotas: tuple[Quota, ...], clock: Clock) -> JointMemoryBuckets:
        """Return the buckets of several rates in this process, with the share of this instance in each."""
        shares = [share_of(quota, self._fleet.instances) for quota in quotas]
        return self._memory.open_joint(tuple(shares), clock, quotas)

    def open_windows(self, strategy: str, quota: Quota, clock: Clock) -> MemoryWindows:
        """Return the windows of this process, with the share of this instance in their amount."""
        return self._memory.open_windows(strategy, share_of_window(quota, self._fleet.instances), clock, quota)

    def join(self) -> None:
        """Have this instance counted, if a share of the limits is of use to it. Does nothing while it is counted."""
        if self._is_local and not (self._has_joined and self._fleet.is_open):
            self._has_joined = True
            self._fleet.join(self)

    def watch(self, outage: OutageGuard) -> None:
        """Keep the levels during an outage. The guard holds `trial`, so it is kept by a weak reference here."""
        self._outage = ref(outage)

    def trial(self) -> bool:
        """Ask Redis, and settle the shares before the callers come back. For `OutageGuard`."""
        is_answered = self._trial()
        if is_answered:
            self.settle()
        return is_answered

    def settle(self) -> None:
        """Empty the buckets on Redis to the levels of this process. Blocks; for the thread that has found Redis back.

        Raises:
            Exception: Redis does not answer.
        """
        calls = [call for share in self._alive() for call in share.unsettled()] if self._is_local else []
        if not calls:
            return
        for server, some in self._connection.routed(calls):
            self._settle(server, some)

    def _settle(self, server: RedisConnection, calls: Sequence[BucketCall]) -> None:
        with contextlib.closing(server.new_pool()) as pool:
            for start in range(0, len(calls), _AT_ONCE):
                some = calls[start : start + _AT_ONCE]

                def use(connection: AbstractConnection, some: Sequence[BucketCall] = some) -> object:
                    return _SETTLE.call(connection, some)

                pool.run(use, server.options.connect_timeout)

    def _alive(self) -> list[LocalShare]:
        return [share for known in list(self._shares) if (share := known()) is not None]

    def calls(self) -> Sequence[FleetCall]:
        """Return nothing: the fleet counts this instance anyway."""
        return ()

    def answered(self, _replies: Sequence[Reply], /) -> None:
        """Let the levels grow old, while they are renewed."""
        outage = self._outage()
        if outage is not None and not outage.is_down:
            for share in self._alive():
                share.age()

    def unreachable(self) -> None:
        """Keep the levels: they are the last ones for now. Buckets fill up from now on."""
        for share in self._alive():
            share.away()

    def leaving(self) -> Sequence[FleetCall]:
        """Give back nothing."""
        return ()

    def heard(self, message: bytes, /) -> None:
        """Hear nothing."""
