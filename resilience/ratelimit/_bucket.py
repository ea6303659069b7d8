"""The limiter people hold: a token bucket per key."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any, final

from resilience.clock import Clock, monotonic
from resilience.errors import ConfigurationError, Problem
from resilience.events import Emitter
from resilience.options import CLOCK, Flag, Refused, Text, checked
from resilience.ratelimit._machine import Quota
from resilience.ratelimit._memory import MemoryStore
from resilience.ratelimit._options import RateLimitOptions
from resilience.ratelimit._rate import Rate, as_rate
from resilience.ratelimit._store import LocalLedger, Store

if TYPE_CHECKING:
    from resilience.ratelimit._decision import Decision

__all__ = ("TokenBucket", "quota_of")

_NAME = Text("a name of letters, digits and . _ - /", pattern=r"[A-Za-z0-9][A-Za-z0-9._/-]*", longest=100)


def quota_of(name: str, rate: str | Rate, burst: int | None) -> Quota:
    """Return the quota, or raise `ConfigurationError` naming what is wrong with it."""
    pace = as_rate(rate)
    size = RateLimitOptions(rate=str(pace), burst=burst).burst
    try:
        _NAME.check(name)
    except Refused:
        raise ConfigurationError([Problem("name", name, _NAME.expected)]) from None
    return Quota(name, pace, pace.amount if size is None else size)


def checked_store(store: Store | None) -> Store:
    """Return the store, a new one in memory for None."""
    if store is None:
        return MemoryStore()
    if not isinstance(store, Store):
        raise ConfigurationError([Problem("store", store, "a MemoryStore, a RedisStore or another Store, or None")])
    return store


@final
class TokenBucket:
    """Allows `burst` calls at once and `rate` of them over time, for each key by itself.

    `rate` is text such as `"100/minute"` or `"5 per 2 minutes"`; `burst` is the amount named in it unless given.
    Without a `store` the buckets are this process's own; two limiters with the same `name` share them through the same
    store. Over any time t at most `rate` x t + `burst` calls are allowed. A refusal costs nothing, and a call that
    costs more than `burst` never fits. With `shadow` everything is allowed, and `events` tells `ratelimit.rejected` for
    what would not have been. Safe to share between threads and tasks. Raises `ConfigurationError`.
    """

    def __init__(
        self,
        rate: str | Rate,
        burst: int | None = None,
        store: Store | None = None,
        *,
        name: str = "default",
        shadow: bool = False,
        clock: Clock = monotonic,
    ) -> None:
        self._quota = quota_of(name, rate, burst)
        self._clock: Clock = checked(clock, "clock", CLOCK)
        self._store = checked_store(store)
        self._ledger = self._store.open(self._quota, self._clock)
        self.events = Emitter()
        self.shadow: bool = checked(shadow, "shadow", Flag())
        """Whether it only tells what it would refuse."""
        if not self.shadow:
            # Straight to the store: a limiter is asked on every request; a method in between is a tenth of its cost.
            self.acquire = self._ledger.take  # type: ignore[method-assign]  # the same signature, plus `allowance`

    def acquire(self, key: str = "", cost: int = 1) -> Decision:
        """Take `cost` tokens of `key`, or none. On Redis this blocks for up to its timeout."""
        decision = self._ledger.take(key, cost)
        return decision if decision.allowed else self.let_through(decision)

    def aacquire(self, key: str = "", cost: int = 1) -> Coroutine[Any, Any, Decision]:
        """Take `cost` tokens of `key`, or none, without blocking the event loop."""
        if self.shadow:
            from resilience.ratelimit import _bucket_aio  # noqa: PLC0415 - blocking programs never need it

            return _bucket_aio.acquire_in_shadow(self, self._ledger, key, cost)
        return self._ledger.atake(key, cost)

    def let_through(self, refusal: Decision) -> Decision:
        """Tell of a refusal and turn it into an admission, as a bucket in shadow does."""
        wait = refusal.retry_after
        self.events.emit("ratelimit.rejected", self.name, self._clock(), "warning", retry_after=wait, shadow=True)
        refusal.allowed = True
        return refusal

    def with_rate(self, rate: str | Rate, burst: int | None = None) -> TokenBucket:
        """Return a limiter of another rate over the same buckets: for rates that are computed, however many there are.

        Keys that mean buckets of their own at each rate have to say so. Raises `ConfigurationError`.
        """
        other = TokenBucket(rate, burst, self._store, name=self.name, shadow=self.shadow, clock=self._clock)
        other.events = self.events
        return other

    def reset(self, key: str = "") -> None:
        """Fill the bucket of `key`. On Redis this blocks for up to its timeout, and does nothing while it is away."""
        self._ledger.reset(key)

    @property
    def name(self) -> str:
        """What its buckets are kept under."""
        return self._quota.name

    @property
    def rate(self) -> Rate:
        """The sustained rate."""
        return self._quota.rate

    @property
    def burst(self) -> int:
        """The size of each bucket."""
        return self._quota.burst

    @property
    def limit(self) -> int:
        """The size of each bucket, as a decision names it."""
        return self._quota.burst

    def snapshot(self, key: str = "") -> dict[str, Any]:
        """Return rate, burst and what remains of `key`, taking nothing; None for a bucket that is elsewhere."""
        remaining = self._ledger.look(key).remaining if isinstance(self._ledger, LocalLedger) else None
        return {"rate": str(self.rate), "burst": self.burst, "remaining": remaining}

    def __repr__(self) -> str:
        return f"<TokenBucket {self.name!r} {self.rate} burst={self.burst}>"
