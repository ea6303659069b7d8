"""The rate limit as a policy of a pipeline."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from datetime import timedelta
from typing import Any, cast

from resilience._support.matching import known
from resilience._support.retry_after import RETRY_AFTER_MAX, asked_by
from resilience.clock import SYSTEM_SLEEPER, Clock, monotonic
from resilience.errors import REFUSALS, ConfigurationError, Problem, RateLimitedError, leaves
from resilience.events import Emitter, Event
from resilience.options import CLOCK, Opaque, checked, is_plain_callable
from resilience.policy import NO_RESULT, PolicyBase, Wait
from resilience.ratelimit._bucket import checked_store, quota_of
from resilience.ratelimit._decision import Decision
from resilience.ratelimit._options import RateLimitOptions
from resilience.ratelimit._rate import Rate, as_rate
from resilience.ratelimit._store import Buckets, LocalBuckets, SpendingBuckets, Store, stored_key

__all__ = ("RateLimit",)

DrainOn = type[BaseException] | Callable[[Any], bool]
_DRAIN_ON = Opaque("an exception class, or a function of the outcome that says yes or no", is_plain_callable)


class _DelayedStart:
    """The permit of a call that waits for its turn: when it may start, and the payment it has made."""

    __slots__ = ("decision", "starts_at")

    def __init__(self, decision: Decision, starts_at: float) -> None:
        self.decision = decision
        self.starts_at = starts_at


class RateLimit(PolicyBase):
    """Lets `burst` calls through at once and `rate` of them over time; refuses the others with `RateLimitedError`.

    `rate` is text such as `"50/second"`. With `max_wait` above 0 a call waits for its turn, in the order of arrival,
    and is refused at once when that would take longer. `key` names the bucket among those of the policy's name. With a
    `RedisStore` the limit holds across all processes that use the same Redis; a call then waits for Redis as well, up
    to the connection's timeout. `drain_on` (an exception class, or a predicate of the result or exception) says that
    the other side counts differently and had too many: all tokens are taken, and its `retry_after` is kept, up to
    `retry_after_max`. With
    `shadow` nothing is refused and nothing waits; `ratelimit.rejected` tells what would have been. Raises
    `ConfigurationError` naming every option that is wrong.
    """

    kind = "ratelimit"

    def __init__(
        self,
        rate: str | Rate,
        burst: int | None = None,
        *,
        max_wait: float | str | timedelta = 0,
        shadow: bool = False,
        drain_on: DrainOn | None = None,
        retry_after_max: float | str | timedelta = RETRY_AFTER_MAX,
        key: str = "",
        store: Store | None = None,
        name: str | None = None,
        clock: Clock = monotonic,
    ) -> None:
        super().__init__(name)
        self.options = RateLimitOptions.of(
            rate=str(as_rate(rate)),
            burst=burst,
            max_wait=cast("float", max_wait),
            retry_after_max=cast("float", retry_after_max),
            shadow=shadow,
        )
        self.key = stored_key(key)
        self.events = Emitter()
        self._clock = checked(clock, "clock", CLOCK)
        self._store = checked_store(store)
        self.waits = self._store.waits
        self.may_wait = self.options.max_wait > 0 and not (self.waits or self.options.shadow)
        self.rejected = 0
        """Calls refused so far; those that would have been, in shadow."""
        # Each in place only where it is needed, so that all others pay nothing for it.
        if self.waits:
            self.admit = self.admit_blocking  # type: ignore[method-assign]  # for who asks without a driver
        elif self.options.shadow:
            self.admit = self._admit_anyway  # type: ignore[method-assign]  # see above
        elif self.may_wait:
            self.admit = self._admit_in_turn  # type: ignore[method-assign]  # see above
        _forward(self._store, self)
        self._open()
        if drain_on is not None:
            self._drains = _draining(drain_on, self._buckets)
            self.on_success = self._settle  # type: ignore[method-assign]  # see above
            self.on_failure = self._settle  # type: ignore[method-assign]  # see above

    def renamed(self) -> None:
        """Take the buckets kept under the new name."""
        self._open()

    def _open(self) -> None:
        self._quota = quota_of(self.name, cast("str", self.options.rate), self.options.burst)
        self._buckets = self._store.open(self._quota, self._clock)
        self._take = self._buckets.take
        self._spend = self._buckets.spend if isinstance(self._buckets, SpendingBuckets) else self._spend_by_taking

    def _spend_by_taking(self, key: str) -> Decision | None:
        decision = self._take(key)
        return None if decision.allowed else decision

    def admit(self) -> Wait | None:
        """Take a token, or raise `RateLimitedError`."""
        refusal = self._spend(self.key)
        if refusal is None:
            return None
        raise self._refused(refusal)

    def _admit_anyway(self) -> None:
        self._checked(self._take(self.key, 1, self.options.max_wait))

    def _admit_in_turn(self) -> Wait | None:
        decision = self._checked(self._take(self.key, 1, self.options.max_wait))
        if not decision.wait:
            return None
        return Wait(decision.wait, _DelayedStart(decision, self._clock() + decision.wait))

    def admit_blocking(self) -> None:
        """Take a token from the shared bucket, blocking this thread until it is this call's turn."""
        decision = self._checked(self._take(self.key, 1, self.options.max_wait))
        if decision.wait and not self.options.shadow:
            try:
                SYSTEM_SLEEPER.sleep(decision.wait)
            except BaseException:
                self._buckets.give_back(self.key, decision)
                raise

    async def admit_awaiting(self) -> None:
        """Take a token from the shared bucket, suspending this task until it is this call's turn."""
        decision = self._checked(await self._buckets.atake(self.key, 1, self.options.max_wait))
        if decision.wait and not self.options.shadow:
            try:
                await SYSTEM_SLEEPER.asleep(decision.wait)
            except BaseException:
                self._buckets.give_back(self.key, decision)
                raise

    def _checked(self, decision: Decision) -> Decision:
        """Return a decision that lets the call through; raise `RateLimitedError` for another, unless in shadow."""
        if not decision.allowed:
            refusal = self._refused(decision)
            if not self.options.shadow:
                raise refusal
        return decision

    def on_abandon(self, permit: Any, /) -> None:
        """Give the token back where the call was still waiting for its turn; one that had started has used it."""
        if type(permit) is _DelayedStart and self._clock() < permit.starts_at:
            self._buckets.give_back(self.key, permit.decision)

    def _refused(self, decision: Decision) -> RateLimitedError:
        wait = decision.retry_after
        self.rejected += 1
        if self.events:
            facts: dict[str, Any] = {"retry_after": wait}
            if self.options.shadow:
                facts["shadow"] = True
            self.events.emit("ratelimit.rejected", self.name, self._clock(), "warning", **facts)
        return RateLimitedError(f"{self.name}: {self.options.rate} exceeded", policy=self.name, retry_after=wait)

    def _settle(self, _permit: Any, outcome: object, /) -> None:
        if outcome is NO_RESULT or not self._is_drained_by(outcome):
            return
        asked = asked_by(outcome)
        wait = 0.0 if asked is None else min(max(0.0, asked), self.options.retry_after_max)
        cast("LocalBuckets", self._buckets).drain(self.key, wait)
        self.events.emit("ratelimit.drained", self.name, self._clock(), "warning", retry_after=wait or None)

    def _is_drained_by(self, outcome: object) -> bool:
        """Whether `drain_on` matches; for an exception group, whether it matches an error in the group."""
        outcomes = leaves(outcome) if isinstance(outcome, BaseExceptionGroup) else (outcome,)
        for each in outcomes:
            if not isinstance(each, REFUSALS) and (drains := self._drains(each)):
                return bool(known(self._drains, drains))
        return False

    def snapshot(self) -> dict[str, Any]:
        """Return rate, burst, what was refused so far, and what remains; None for a bucket that is elsewhere."""
        remaining = self._buckets.look(self.key).remaining if isinstance(self._buckets, LocalBuckets) else None
        return {
            "rate": self.options.rate,
            "burst": self._quota.burst,
            "remaining": remaining,
            "rejected": self.rejected,
        }

    def __repr__(self) -> str:
        return f"<RateLimit {self.name!r} {self.options.rate}{' shadow' if self.options.shadow else ''}>"


def _draining(drain_on: DrainOn, buckets: Buckets) -> Callable[[Any], bool]:
    """Return the predicate; raise `ConfigurationError` where buckets are out of reach of a call that ends."""
    checked(drain_on, "drain_on", _DRAIN_ON)
    if not isinstance(buckets, LocalBuckets):
        reason = "buckets in this process: draining others would keep a finished call waiting"
        raise ConfigurationError([Problem("drain_on", drain_on, reason)])
    if isinstance(drain_on, type) and issubclass(drain_on, BaseException):
        kind = drain_on
        return lambda outcome: isinstance(outcome, kind)
    return cast("Callable[[Any], bool]", drain_on)


def _forward(store: Store, policy: RateLimit) -> None:
    """Let those who listen to the policy hear what happens to its store, for as long as the policy lives."""
    source = getattr(store, "events", None)
    if source is None:
        return
    known = weakref.ref(policy)

    def tell(event: Event) -> None:
        if (alive := known()) is not None:
            alive.events.emit(event.kind, alive.name, event.at, event.severity, **event.facts)

    source.subscribe(tell)
