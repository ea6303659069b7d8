"""Buckets on Redis: what both colours share."""

from __future__ import annotations

import functools
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from resilience.clock import Clock, monotonic
from resilience.errors import ConfigurationError, Problem
from resilience.events import Emitter
from resilience.ratelimit import _redis_sync
from resilience.ratelimit._decision import Decision
from resilience.ratelimit._key import checked_cost, checked_key, stored_key
from resilience.ratelimit._machine import Quota
from resilience.ratelimit._memory import MemoryStore
from resilience.ratelimit._store import Ledger
from resilience.ratelimit._units import units_of
from resilience.redis import OutageGuard, RedisConnection, Script
from resilience.redis._errors import MALFORMED, unreadable

__all__ = ("RedisLedger", "RedisStore")

_KEYS_AT_HAND = 1024
_SCRIPT = Path(__file__).with_name("token_bucket.lua")


class RedisStore:
    """Keeps buckets on a Redis that several processes share; decisions use the server's clock.

    While Redis is away, decisions follow the connection's `outage` option: `local` limits in each process by itself, at
    the full rate (nothing counts the instances yet); `allow` lets everything through; `deny` refuses everything. The
    first call that notices waits for the connection's timeout, the next ones for nothing, until one of them finds
    Redis back. `events` tells `ratelimit.outage` and `ratelimit.recovered`, once each time.
    """

    waits = True

    def __init__(self, connection: RedisConnection, *, clock: Clock = monotonic) -> None:
        if not isinstance(connection, RedisConnection):
            raise ConfigurationError([Problem("connection", connection, "a RedisConnection")])
        self.connection = connection
        self.events = Emitter()
        self.script = Script(_SCRIPT.read_text(encoding="utf-8"))
        lease = 2 * connection.options.timeout
        self.outage = OutageGuard("ratelimit", self.events, lease=lease, clock=clock, evict=connection.evict)
        self.trips: dict[Any, Any] = {}
        """The round trip that the tasks of an event loop are about to make, by loop."""
        self.gathering = _redis_sync.Gathering()
        self._local = MemoryStore()

    def open(self, quota: Quota, clock: Clock) -> RedisLedger:
        """Return the buckets of `quota.name`. `clock` only paces what is decided here while Redis is away."""
        return RedisLedger(self, quota, self._local.open(quota, clock))

    def share(self, loop: Any, trip: Any) -> None:
        """Let the tasks of `loop` join `trip`, until it departs."""
        for gone in [known for known in tuple(self.trips) if known.is_closed()]:
            self.trips.pop(gone, None)
        self.trips[loop] = trip

    def depart(self, loop: Any, trip: Any) -> None:
        """Let nobody join `trip` any more."""
        if self.trips.get(loop) is trip:
            del self.trips[loop]


class RedisLedger:
    """One quota on one Redis: what to ask, and what an answer means."""

    def __init__(self, store: RedisStore, quota: Quota, local: Ledger) -> None:
        self.store = store
        self._quota = quota
        self._local = local
        self._units = units_of(quota)
        self.redis_key = functools.lru_cache(_KEYS_AT_HAND)(self._redis_key)

    @property
    def name(self) -> str:
        """The name of the quota."""
        return self._quota.name

    def question(self, key: str, cost: int, allowance: float) -> tuple[bytes, tuple[int, int, int, int]]:
        """Return the Redis key and the script's arguments, or raise `ConfigurationError` naming what is wrong."""
        checked_cost(cost)
        token, refill, capacity = self._units
        limit = self._units.limit(allowance) if allowance else capacity
        checked_key(key)  # before the cache is asked, which takes nothing that has no hash
        return self.redis_key(key), (token, refill, limit, cost)

    def _redis_key(self, key: str) -> bytes:
        """Return the Redis key; all of it is a hash tag, so that whatever is added later lives on the same node."""
        parts = f"{{{self.store.connection.options.prefix}:ratelimit:{self._quota.name}:{stored_key(key)}}}"
        return parts.encode("utf-8", "surrogatepass")

    def answer(self, reply: Any, cost: int) -> Decision:
        """Return what the script decided."""
        try:
            units = int(reply)
            missing = units if units >= 0 else -1 - units
            full_at = self._units.seconds(missing)
        except MALFORMED as error:
            raise unreadable(error) from error
        return Decision.of(self._quota, cost, allowed=units >= 0, full_at=full_at, made_at=0.0)

    def answers(self, reply: Any, cost: int, callers: int) -> list[Decision]:
        """Return what the script decided about callers who asked for the same at once: the first ones got it."""
        try:
            if not isinstance(reply, list):  # the numbers in a text would be its characters
                raise TypeError(type(reply).__name__)
            admitted, after = min(int(reply[0]), callers), int(reply[1])
        except MALFORMED as error:
            raise unreadable(error) from error
        price = cost * self._units.token
        left = range(admitted - 1, -1, -1)  # how many were admitted after each
        granted = [self.answer(after - others * price, cost) for others in left]
        # One each: a bucket in shadow turns its own refusal into an admission.
        return granted + [self.answer(-1 - after, cost) for _ in range(callers - admitted)]

    def alone(self, key: str, cost: int, allowance: float) -> Decision:
        """Decide without Redis."""
        outage = self.store.connection.options.outage
        if outage == "local":
            return self._local.take(key, cost, allowance)
        if outage == "allow":
            return Decision.of(self._quota, cost, allowed=True, full_at=0.0, made_at=0.0)
        return Decision.refusal(self._quota, cost, self.store.outage.probe_after)

    def take(self, key: str = "", cost: int = 1, allowance: float = 0.0) -> Decision:
        """Pay `cost` tokens, blocking this thread for one round trip."""
        return _redis_sync.take(self, key, cost, allowance)

    def atake(self, key: str = "", cost: int = 1, allowance: float = 0.0) -> Coroutine[Any, Any, Decision]:
        """Pay `cost` tokens, suspending this task for a round trip that it may share."""
        return self._awaiting(self, key, cost, allowance)

    @functools.cached_property
    def _awaiting(self) -> Callable[..., Coroutine[Any, Any, Decision]]:
        from resilience.ratelimit import _redis_aio  # noqa: PLC0415 - blocking programs never need it

        return _redis_aio.take

    def give_back(self, key: str, decision: Decision) -> None:
        """Keep it: telling Redis would mean waiting where nobody may wait. The limit errs on the strict side."""

    def reset(self, key: str = "") -> None:
        """Fill the bucket of `key`, here and on Redis where it can be reached."""
        self._local.reset(key)
        _redis_sync.reset(self, key)
