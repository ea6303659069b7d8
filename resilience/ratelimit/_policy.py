"""The rate limit as a policy of a pipeline."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any, cast

from resilience._support.fork import reset_after_test
from resilience._support.matching import known
from resilience._support.measured import Measured, Measurement
from resilience._support.retry_after import RETRY_AFTER_MAX, asked_by
from resilience.clock import SYSTEM_SLEEPER, Clock, monotonic
from resilience.errors import REFUSALS, ConfigurationError, Problem, RateLimitedError, leaves
from resilience.events import Emitter, Event
from resilience.options import CLOCK, Opaque, checked, is_plain_callable
from resilience.policy import NO_RESULT, PolicyBase, Wait
from resilience.ratelimit._bucket import checked_store, quotas_of
from resilience.ratelimit._decision import Decision
from resilience.ratelimit._options import RateLimitOptions
from resilience.ratelimit._rate import Rate, as_rates, text_of
from resilience.ratelimit._store import (
    Buckets,
    CountingBuckets,
    DrainableBuckets,
    LocalBuckets,
    SpendingBuckets,
    Store,
    measurement_of,
    open_buckets,
    open_windows,
    stored_key,
)
from resilience.ratelimit._waiting import within_deadline

if TYPE_CHECKING:
    from resilience._engine._steps import Steps

__all__ = ("RateLimit",)

DrainOn = type[BaseException] | Callable[[Any], bool]
_DRAIN_ON = Opaque("an exception class, or a function of the outcome that says yes or no", is_plain_callable)


class _DelayedStart:
    """The permit of a call that waits for its turn: its payment, and the time at which it may start."""

    __slots__ = ("decision", "starts_at")

    def __init__(self, decision: Decision, starts_at: float) -> None:
        self.decision = decision
        self.starts_at = starts_at


class RateLimit(PolicyBase, Measured):
    """Lets `burst` calls through at once and `rate` of them over time; refuses other calls with `RateLimitedError`.

    A refused call costs nothing. With `max_wait` above 0 a call waits for its turn, in the order of arrival, and is
    refused at once if the wait would be longer. With a `RedisStore` the limit holds across all processes that use the
    same Redis. A call then waits for Redis as well, up to the connection's timeout.

    Args:
        rate: The sustained rate, such as `"50/second"`, or several: `"10/second;500/hour"`. A call pays all of them,
            or none if one refuses it.
        burst: The size of the bucket. The default is the amount named in the rate. Not allowed with several rates.
        max_wait: The longest time that a call waits for its turn: seconds, a `timedelta` or text such as `"250ms"`. 0
            refuses at once. A call whose turn would come after the deadline in force is refused at once.
        shadow: Refuse no call and let no call wait. The event `ratelimit.rejected` reports the calls that would have
            been refused.
        strategy: How calls are counted. `"token-bucket"`, the default, refills evenly. `"fixed-window"`,
            `"moving-window"` and `"sliding-window-counter"` are the windows of that name in the package limits. They
            take one rate, without `burst` and `max_wait`.
        lease: Take up to this many tokens ahead from Redis, or `"auto"`, and spend them without it. See `TokenBucket`.
        drain_on: An exception class, or a predicate of the result or exception. It says which outcomes mean that the
            other side counts differently and had too many calls. Such an outcome takes all tokens, and its
            `retry_after` is kept. Only for buckets in this process.
        retry_after_max: The longest time for which `drain_on` keeps the bucket empty. Default five minutes.
        key: Which bucket, among those of the policy's name.
        store: Where the bucket is kept. The default keeps it in this process.
        name: The default is `<pipeline>.ratelimit`. Policies of the same name and key share a bucket in a store.
        clock: Returns seconds that never go back. A `RedisStore` uses the server's clock instead.

    Raises:
        ConfigurationError: One or more options are wrong; it names each of them.

    Example:
        >>> from resilience import Pipeline, RateLimit, RateLimitedError
        >>> search = Pipeline("search", RateLimit("50/second", burst=1))
        >>> search.call(str.upper, "one")
        'ONE'
        >>> try:
        ...     search.call(str.upper, "two")
        ... except RateLimitedError as error:
        ...     print(error.policy)
        search.ratelimit
    """

    kind = "ratelimit"

    def __init__(
        self,
        rate: str | Rate,
        burst: int | None = None,
        *,
        max_wait: float | str | timedelta = 0,
        shadow: bool = False,
        strategy: str = "token-bucket",
        lease: int | str | None = None,
        drain_on: DrainOn | None = None,
        retry_after_max: float | str | timedelta = RETRY_AFTER_MAX,
        key: str = "",
        store: Store | None = None,
        name: str | None = None,
        clock: Clock = monotonic,
    ) -> None:
        super().__init__(name)
        self.options = RateLimitOptions.of(
            rate=text_of(as_rates(rate)),
            burst=burst,
            max_wait=cast("float", max_wait),
            retry_after_max=cast("float", retry_after_max),
            shadow=shadow,
            strategy=strategy,
            lease=lease,
        )
        self.key = stored_key(key)
        self.events = Emitter()
        self._clock = checked(clock, "clock", CLOCK)
        self._store = checked_store(store)
        self.waits = self._store.waits
        self.may_wait = self.options.max_wait > 0 and not (self.waits or self.options.shadow)
        self._rejected = [0]  # in a list, because an assignment would go through `Fixed`
        _forward_events(self._store, self)
        self._open()
        self._drains = None if drain_on is None else _drain_predicate(drain_on, self._buckets)
        self._is_made = True
        reset_after_test(self)

    def after_test(self) -> None:
        """Start with no counts."""
        self._rejected[0] = 0
        if isinstance(self._buckets, CountingBuckets):
            self._buckets.forget_counts()

    @property
    def rejected(self) -> int:
        """Calls refused so far. In shadow: calls that would have been refused."""
        return self._rejected[0]

    def renamed(self) -> None:
        """Use the buckets that are kept under the new name."""
        self._open()

    def _open(self) -> None:
        self._quotas = quotas_of(self.name, cast("str", self.options.rate), self.options.burst)
        if self.options.is_window:
            self._buckets = open_windows(self._store, self.options.strategy, self._quotas[0], self._clock)
        else:
            self._buckets = open_buckets(self._store, self._quotas, self._clock, self.options.lease)
        self._take = self._buckets.take
        self._spend = self._buckets.spend if isinstance(self._buckets, SpendingBuckets) else self._spend_by_taking

    def _spend_by_taking(self, key: str) -> Decision | None:
        decision = self._take(key)
        return None if decision.allowed else decision

    def choose_steps(self, steps: Steps) -> Steps:
        """Return the steps that these options need: one way to admit, and no settling without `drain_on`.

        A subclass that overrides one of them keeps its own.
        """
        if type(self).admit is RateLimit.admit:
            steps = replace(steps, admit=self._admission())
        if self._drains is None and type(self).on_success is RateLimit.on_success:
            steps = replace(steps, on_success=None)
        return steps

    def _admission(self) -> Callable[[], Wait | None]:
        if self.waits:
            return self.admit_blocking
        if self.options.shadow:
            return self._admit_in_shadow
        return self._admit_in_turn if self.may_wait else self._admit_at_once

    def admit(self) -> Wait | None:
        """Take a token, or raise `RateLimitedError`. A call that may wait gets a `Wait`; on Redis this blocks."""
        return self._admission()()

    def _admit_at_once(self) -> None:
        refusal = self._spend(self.key)
        if refusal is not None:
            raise self._refused(refusal)

    def _admit_in_shadow(self) -> None:
        self._checked(self._take(self.key, 1, within_deadline(self.options.max_wait)))

    def _admit_in_turn(self) -> Wait | None:
        decision = self._checked(self._take(self.key, 1, within_deadline(self.options.max_wait)))
        if not decision.wait:
            return None
        return Wait(decision.wait, _DelayedStart(decision, self._clock() + decision.wait))

    def admit_blocking(self) -> None:
        """Take a token from the shared bucket, blocking this thread until it is this call's turn."""
        decision = self._checked(self._take(self.key, 1, within_deadline(self.options.max_wait)))
        if decision.wait and not self.options.shadow:
            try:
                SYSTEM_SLEEPER.sleep(decision.wait)
            except BaseException:
                self._buckets.give_back(self.key, decision)
                raise

    async def admit_awaiting(self) -> None:
        """Take a token from the shared bucket, suspending this task until it is this call's turn."""
        decision = self._checked(await self._buckets.atake(self.key, 1, within_deadline(self.options.max_wait)))
        if decision.wait and not self.options.shadow:
            try:
                await SYSTEM_SLEEPER.asleep(decision.wait)
            except BaseException:
                self._buckets.give_back(self.key, decision)
                raise

    def _checked(self, decision: Decision) -> Decision:
        """Return a decision that admits the call; raise `RateLimitedError` for a refusal, unless in shadow."""
        if not decision.allowed:
            refusal = self._refused(decision)
            if not self.options.shadow:
                raise refusal
        elif decision.wait and Emitter.observer is not None and not self.options.shadow:
            Emitter.observer.observe("resilience.ratelimit.wait", decision.wait, self.name)
        return decision

    def _refused(self, decision: Decision) -> RateLimitedError:
        wait = decision.retry_after
        self._rejected[0] += 1
        if self.events.wants("ratelimit.rejected", now := self._clock()):
            facts: dict[str, object] = {"retry_after": wait, "rate": self.options.rate}
            if self.options.shadow:
                facts["shadow"] = True
            self.events.emit("ratelimit.rejected", self.name, now, "warning", **facts)
        message = f"rate limit {self.events.log.quoted(self.name)}: {self.options.rate} exceeded"
        return RateLimitedError(message, policy=self.name, retry_after=wait)

    def on_success(self, _permit: object, result: object, /) -> None:
        """Empty the bucket if `drain_on` matches the result."""
        if result is not NO_RESULT:
            self._drain_if_matched(result)

    def on_failure(self, _permit: object, error: Exception, /) -> None:
        """Empty the bucket if `drain_on` matches the error, or an error in a group."""
        self._drain_if_matched(error)

    def on_abandon(self, permit: object, /) -> None:
        """Give the token back if the call still waited for its turn. A call that had started has used its token."""
        if type(permit) is _DelayedStart and self._clock() < permit.starts_at:
            self._buckets.give_back(self.key, permit.decision)

    def _drain_if_matched(self, outcome: object) -> None:
        if self._drains is None or not _matches(self._drains, outcome):
            return
        asked = asked_by(outcome)
        wait = 0.0 if asked is None else min(max(0.0, asked), self.options.retry_after_max)
        cast("DrainableBuckets", self._buckets).drain(self.key, wait)
        self.events.emit("ratelimit.drained", self.name, self._clock(), "warning", retry_after=wait or None)

    def measure(self) -> Measurement:
        """Return the decisions by outcome."""
        return measurement_of(self.name, self._buckets, shadow=self.options.shadow)

    @property
    def is_refusing(self) -> bool:
        """Whether the bucket is in this process and not full: a new one in its place would admit more calls."""
        return isinstance(self._buckets, LocalBuckets) and self._buckets.look(self.key).reset_after > 0

    def snapshot(self) -> dict[str, Any]:
        """Return the rate, the burst, the remaining tokens and the number of refusals so far, taking nothing.

        `remaining` is None if the bucket is not in this process.
        """
        remaining = self._buckets.look(self.key).remaining if isinstance(self._buckets, LocalBuckets) else None
        return {
            "rate": self.options.rate,
            "burst": min(quota.burst for quota in self._quotas),
            "remaining": remaining,
            "rejected": self.rejected,
        }

    def __repr__(self) -> str:
        return f"<RateLimit {self.name!r} {self.options.rate}{' shadow' if self.options.shadow else ''}>"


def _drain_predicate(drain_on: DrainOn, buckets: Buckets) -> Callable[[Any], bool]:
    """Return the predicate of outcomes. Raises `ConfigurationError` if the buckets are not in this process."""
    checked(drain_on, "drain_on", _DRAIN_ON)
    if not isinstance(buckets, DrainableBuckets):
        reason = "one rate, with its buckets in this process: draining others would keep a finished call waiting"
        raise ConfigurationError([Problem("drain_on", drain_on, reason)])
    if isinstance(drain_on, type) and issubclass(drain_on, BaseException):
        kind = drain_on
        return lambda outcome: isinstance(outcome, kind)
    return cast("Callable[[Any], bool]", drain_on)


def _matches(drains: Callable[[Any], bool], outcome: object) -> bool:
    """Whether `drains` is true for the outcome; for an exception group, whether it is true for an error in it."""
    outcomes = leaves(outcome) if isinstance(outcome, BaseExceptionGroup) else (outcome,)
    for each in outcomes:
        if not isinstance(each, REFUSALS) and (answer := drains(each)):
            return bool(known(drains, answer))
    return False


def _forward_events(store: Store, policy: RateLimit) -> None:
    """Pass the events of the store on to the listeners of the policy, for as long as the policy lives."""
    source: Emitter | None = getattr(store, "events", None)  # a third party's store may have none
    if source is None:
        return
    living = weakref.ref(policy)

    def forward(event: Event) -> None:
        if (alive := living()) is not None:
            # The listeners of a toolkit hear of an outage from the store, once, and not from each policy.
            alive.events.forward(event, alive.name, seen=source.log.log.listeners)

    source.subscribe(forward)
