"""The limiter that applications hold: a token bucket for each key."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from datetime import timedelta
from typing import Any, Protocol, final

from resilience._support.fixed import Fixed
from resilience._support.fork import reset_after_test
from resilience._support.measured import Measured, Measurement
from resilience.clock import Clock, monotonic
from resilience.errors import ConfigurationError, Problem
from resilience.events import Emitter
from resilience.options import CLOCK, Flag, Refused, Text, checked
from resilience.ratelimit._decision import Decision
from resilience.ratelimit._machine import Quota
from resilience.ratelimit._memory import MemoryStore
from resilience.ratelimit._options import RateLimitOptions
from resilience.ratelimit._rate import Rate, as_rate, as_rates, text_of
from resilience.ratelimit._reservation import Reservation
from resilience.ratelimit._store import (
    AcquiringBuckets,
    Buckets,
    CountingBuckets,
    LocalBuckets,
    PeekingBuckets,
    RefundingBuckets,
    Store,
    measurement_of,
    open_buckets,
)
from resilience.ratelimit._waiting import AcquiringByTaking, patience

__all__ = ("TokenBucket", "checked_store", "quota_of", "quotas_of")

_NAME = Text("a name of letters, digits and . _ - /", pattern=r"[A-Za-z0-9][A-Za-z0-9._/-]*", longest=100)


def quota_of(name: str, rate: str | Rate, burst: int | None) -> Quota:
    """Return the quota, or raise `ConfigurationError` that names each wrong option."""
    pace = as_rate(rate)
    size = RateLimitOptions(rate=str(pace), burst=burst).burst
    try:
        _NAME.check(name)
    except Refused:
        raise ConfigurationError([Problem("name", name, _NAME.expected)]) from None
    return Quota(name, pace, pace.amount if size is None else size)


def quotas_of(name: str, rate: str | Rate, burst: int | None) -> tuple[Quota, ...]:
    """Return a quota for each rate, or raise `ConfigurationError` that names each wrong option."""
    rates = as_rates(rate)
    if len(rates) > 1:
        RateLimitOptions(rate=text_of(rates), burst=burst)
    return tuple(quota_of(name, each, burst) for each in rates)


def checked_store(store: Store | None) -> Store:
    """Return the store, or a new one in memory for None."""
    if store is None:
        return MemoryStore()
    if not isinstance(store, Store):
        raise ConfigurationError([Problem("store", store, "a MemoryStore, a RedisStore or another Store, or None")])
    return store


class Acquire(Protocol):
    """The type of `TokenBucket.acquire`."""

    def __call__(self, key: str = "", cost: int = 1, wait: float | str | timedelta | None = None) -> Decision:
        """Take `cost` tokens of `key`, or none."""
        ...


class AsyncAcquire(Protocol):
    """The type of `TokenBucket.aacquire`."""

    def __call__(
        self, key: str = "", cost: int = 1, wait: float | str | timedelta | None = None
    ) -> Coroutine[Any, Any, Decision]:
        """Take `cost` tokens of `key`, or none, without blocking the event loop."""
        ...


@final
class TokenBucket(Fixed, Measured):
    """Allows `burst` calls at once and `rate` of them over time, for each key by itself.

    Over any time t at most `rate` x t + `burst` calls are allowed. A refusal costs nothing, and a call that costs more
    than `burst` never fits. Two limiters with the same `name` share their buckets through the same store. Safe to share
    between threads and tasks.

    Args:
        rate: The sustained rate, such as `"100/minute"` or `"5 per 2 minutes"`. Or several rates, such as
            `"10/second;500/hour"`: a call pays all of them, or none if one refuses it.
        burst: The size of each bucket. The default is the amount named in the rate. Not allowed with several rates.
        store: Where the buckets are kept. The default keeps them in this process.
        name: Under which the store keeps the buckets.
        shadow: Allow every call, and emit the event `ratelimit.rejected` for calls that would have been refused.
        lease: Take up to this many tokens of a key ahead from Redis, and spend them without it. 1 to 10,000, and no
            more than the burst. Or `"auto"`: as many as the calls of a second need. The default asks Redis for each
            decision. Only for a `RedisStore` and one rate.
        clock: Returns seconds that never go back. A `RedisStore` uses the server's clock instead.

    Attributes:
        acquire: `acquire(key="", cost=1, wait=None)` takes `cost` tokens of `key`, or none, and returns the
            `Decision`. With `wait` (seconds, a `timedelta` or text such as `"250ms"`) it blocks until its turn, in the
            order of arrival. If the turn would come later than `wait`, or after the deadline in force, the call is
            refused at once. An interrupt of the wait gives the tokens back. On Redis, the call blocks for up to the
            connection's timeout as well.
        aacquire: The same for coroutines: `await aacquire(key="", cost=1, wait=None)`. It does not block the event
            loop. A cancellation while it waits for its turn gives the tokens back. On Redis, one that comes while
            Redis decides may cost the tokens.
        events: Where listeners subscribe.
        shadow: Whether it only reports refusals.

    Raises:
        ConfigurationError: An option is wrong.

    Example:
        >>> from resilience import TokenBucket
        >>> uploads = TokenBucket("100/minute", burst=10, name="uploads")
        >>> decision = uploads.acquire("client-42", cost=3)
        >>> decision.allowed, decision.remaining
        (True, 7)
    """

    # Both are the store's own functions, not methods around them: a limiter is asked on every request, and a method in
    # between costs 45 ns of 260.
    _assignable = frozenset({"events"})  # `with_rate` hands them on
    _changed_by = "with_rate(rate)"
    acquire: Acquire
    aacquire: AsyncAcquire

    def __init__(
        self,
        rate: str | Rate,
        burst: int | None = None,
        store: Store | None = None,
        *,
        name: str = "default",
        shadow: bool = False,
        lease: int | str | None = None,
        clock: Clock = monotonic,
    ) -> None:
        self._quotas = quotas_of(name, rate, burst)
        options = RateLimitOptions.of(rate=text_of(self.rates), burst=burst, lease=lease)
        self._lease = options.lease
        self._clock: Clock = checked(clock, "clock", CLOCK)
        self._store = checked_store(store)
        self._buckets = open_buckets(self._store, self._quotas, self._clock, self._lease)
        self.events = Emitter()
        self.shadow: bool = checked(shadow, "shadow", Flag())
        asked = _ShadowBuckets(self._buckets, self._shown) if self.shadow else _acquiring(self._buckets)
        self.acquire, self.aacquire = asked.acquire, asked.aacquire
        self._is_made = True
        reset_after_test(self)

    def after_test(self) -> None:
        """Start with no counts. The store forgets its buckets itself."""
        if isinstance(self._buckets, CountingBuckets):
            self._buckets.forget_counts()

    def measure(self) -> Measurement:
        """Return the decisions by outcome."""
        return measurement_of(self.name, self._buckets, shadow=self.shadow)

    def report(self, refusal: Decision) -> None:
        """Emit the event of a refusal. In shadow the limiter does so itself; else the code that asked it may do so."""
        if self.events.wants("ratelimit.rejected", now := self._clock()):
            facts: dict[str, object] = {"retry_after": refusal.retry_after, "rate": self.rate_text}
            if self.shadow:
                facts["shadow"] = True
            self.events.emit("ratelimit.rejected", self.name, now, "warning", **facts)

    def with_rate(self, rate: str | Rate, burst: int | None = None) -> TokenBucket:
        """Return a limiter of another rate over the same buckets, for rates that are computed.

        The number of rates is not limited. If each rate is to have buckets of its own, put the rate into the keys. With
        several rates, limiters share the buckets only if all their rates are the same.

        Args:
            rate: The sustained rate of the new limiter.
            burst: The size of each bucket. The default is the amount named in the rate.

        Raises:
            ConfigurationError: One of the two is wrong.
        """
        lease = _lease_within(self._lease, quotas_of(self.name, rate, burst))
        other = TokenBucket(
            rate, burst, self._store, name=self.name, shadow=self.shadow, lease=lease, clock=self._clock
        )
        other.events = self.events
        return other

    def peek(self, key: str = "", cost: int = 1) -> Decision:
        """Return whether `cost` tokens of `key` would be paid now, taking nothing.

        `remaining` is the number of tokens that are left now. On Redis this is one round trip, and blocks for up to the
        connection's timeout. In shadow, the answer is yes.

        Args:
            key: Which bucket.
            cost: Tokens, 1 or more.

        Raises:
            ConfigurationError: An argument is wrong, or the store of a third party cannot look.

        Example:
            >>> uploads = TokenBucket("100/minute", burst=10)
            >>> uploads.acquire("client-42", cost=7).remaining
            3
            >>> uploads.peek("client-42", cost=4).allowed, uploads.peek("client-42").remaining
            (False, 3)
        """
        return self._peeked(self._peeking().peek(key, cost))

    async def apeek(self, key: str = "", cost: int = 1) -> Decision:
        """Return whether `cost` tokens of `key` would be paid now, without blocking the event loop. See `peek`."""
        return self._peeked(await self._peeking().apeek(key, cost))

    def _peeking(self) -> PeekingBuckets:
        if isinstance(self._buckets, PeekingBuckets):
            return self._buckets
        raise ConfigurationError([Problem("store", self._store, "a store whose buckets have peek and apeek")])

    def _peeked(self, decision: Decision) -> Decision:
        if self.shadow:
            decision.allowed = True
        return decision

    def reserve(self, key: str = "", cost: int = 1, max_wait: float | str | timedelta | None = None) -> Reservation:
        """Book `cost` tokens of `key` for the next turn, without waiting for it, and return the `Reservation`.

        `reservation.delay` is the number of seconds until the turn. Turns come in the order of arrival, together with
        those of `acquire(..., wait=...)` and of policies with `max_wait`. The tokens are paid now. Give them back with
        `reservation.cancel()` if the call does not take place. On Redis, to book takes one round trip or two, and
        blocks for up to twice the connection's timeout.

        Args:
            key: Which bucket.
            cost: Tokens, 1 or more.
            max_wait: The longest delay: seconds, a `timedelta` or text such as `"5s"`. The time to the deadline in
                force bounds it too. None (the default) and 0 book only what can start at once.

        Raises:
            ConfigurationError: An argument is wrong.

        Example:
            >>> mails = TokenBucket("1/minute")
            >>> [round(mails.reserve("client-42", max_wait="5m").delay) for _ in range(3)]
            [0, 60, 120]
        """
        decision = self._shown(self._buckets.take(key, cost, patience(max_wait, "max_wait")))
        return Reservation(self, self._buckets, key, decision, self._clock)

    async def areserve(
        self, key: str = "", cost: int = 1, max_wait: float | str | timedelta | None = None
    ) -> Reservation:
        """Book `cost` tokens of `key` without blocking the event loop. For the arguments see `reserve`."""
        decision = self._shown(await self._buckets.atake(key, cost, patience(max_wait, "max_wait")))
        return Reservation(self, self._buckets, key, decision, self._clock)

    def _shown(self, decision: Decision) -> Decision:
        """Return a decision as callers get it: in shadow, a refusal is reported and turned into an admission."""
        if self.shadow and not decision.allowed:
            self.report(decision)
            decision.allowed = True
        return decision

    def refund(self, key: str, decision: Decision) -> None:
        """Pay the tokens of a decision back, once: the call that has paid them did not take place.

        Use it if a call is under several limits, and one of them refuses: the buckets of the others are then as if
        the call had not come. Between payment and refund the tokens are missing for other calls. On Redis this blocks
        for up to the connection's timeout. If Redis does not answer, the payment stands.

        If calls wait for their turns (`wait`, `reserve`, `max_wait`), those behind the payment keep their turns. The
        tokens go back when all payments behind it have gone back, and are lost otherwise.

        Args:
            key: The key that has paid.
            decision: The decision of `acquire`. A refusal has paid nothing, and a limiter in shadow pays nothing back.

        Example:
            >>> daily = TokenBucket("1000/day")
            >>> decision = daily.acquire("client-42")
            >>> daily.refund("client-42", decision)
            >>> daily.snapshot("client-42")["remaining"]
            1000
        """
        if decision.is_paid and not self.shadow and isinstance(self._buckets, RefundingBuckets):
            self._buckets.refund(key, decision)

    async def arefund(self, key: str, decision: Decision) -> None:
        """Pay the tokens of a decision back without blocking the event loop. Otherwise like `refund`."""
        if decision.is_paid and not self.shadow and isinstance(self._buckets, RefundingBuckets):
            await self._buckets.arefund(key, decision)

    def reset(self, key: str = "") -> None:
        """Fill the bucket of `key`. On Redis this blocks for up to its timeout, and does nothing during an outage."""
        self._buckets.reset(key)

    @property
    def name(self) -> str:
        """The name under which the store keeps the buckets."""
        return self._quotas[0].name

    @property
    def rate(self) -> Rate:
        """The sustained rate; of several, the one with the shortest period."""
        return self._quotas[0].rate

    @property
    def rates(self) -> tuple[Rate, ...]:
        """All rates, the shortest period first."""
        return tuple(quota.rate for quota in self._quotas)

    @property
    def rate_text(self) -> str:
        """All rates in the notation of limits, such as `10/second;500/hour`."""
        return text_of(self.rates)

    @property
    def burst(self) -> int:
        """The size of each bucket; of several rates, that of the smallest."""
        return min(quota.burst for quota in self._quotas)

    @property
    def limit(self) -> int:
        """The size of each bucket, under the name that a decision gives it."""
        return self.burst

    def snapshot(self, key: str = "") -> dict[str, Any]:
        """Return the rate, the burst and the remaining tokens of `key`, taking nothing.

        `remaining` is None if the bucket is not in this process.
        """
        remaining = self._buckets.look(key).remaining if isinstance(self._buckets, LocalBuckets) else None
        return {"rate": self.rate_text, "burst": self.burst, "remaining": remaining}

    def __repr__(self) -> str:
        return f"<TokenBucket {self.name!r} {self.rate_text} burst={self.burst}>"


def _lease_within(lease: int | str | None, quotas: tuple[Quota, ...]) -> int | str | None:
    """Return the lease of a limiter for another rate: no more than its burst, and none for several rates."""
    if len(quotas) > 1:
        return None
    return min(lease, *(quota.burst for quota in quotas)) if isinstance(lease, int) else lease


def _acquiring(buckets: Buckets) -> AcquiringBuckets | AcquiringByTaking:
    return buckets if isinstance(buckets, AcquiringBuckets) else AcquiringByTaking(buckets)


class _ShadowBuckets:
    """Buckets that report a refusal and turn it into an admission. No call waits."""

    __slots__ = ("_buckets", "_shown")

    def __init__(self, buckets: Buckets, shown: Callable[[Decision], Decision]) -> None:
        self._buckets = buckets
        self._shown = shown

    def acquire(self, key: str = "", cost: int = 1, wait: float | str | timedelta | None = None) -> Decision:
        """Take `cost` tokens, or none; the answer is yes either way."""
        return self._shown(self._buckets.take(key, cost, patience(wait)))

    async def aacquire(self, key: str = "", cost: int = 1, wait: float | str | timedelta | None = None) -> Decision:
        """Take `cost` tokens, or none; the answer is yes either way."""
        return self._shown(await self._buckets.atake(key, cost, patience(wait)))
