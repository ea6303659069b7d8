"""The rate limit as a policy."""

from __future__ import annotations

import weakref
from collections.abc import Coroutine
from datetime import timedelta
from typing import Any, cast

from resilience.clock import SYSTEM_SLEEPER, Clock, monotonic
from resilience.errors import RateLimitedError
from resilience.events import Emitter, Event
from resilience.options import CLOCK, checked
from resilience.policy import PolicyBase, Wait
from resilience.ratelimit._bucket import checked_store, quota_of
from resilience.ratelimit._decision import Decision
from resilience.ratelimit._key import stored_key
from resilience.ratelimit._options import RateLimitOptions
from resilience.ratelimit._rate import Rate, as_rate
from resilience.ratelimit._store import SpendingLedger, Store

__all__ = ("RateLimit",)


class _Turn:
    """The permit of a call that waits: when it may start, and what it has paid."""

    __slots__ = ("decision", "starts_at")

    def __init__(self, decision: Decision, starts_at: float) -> None:
        self.decision = decision
        self.starts_at = starts_at


class RateLimit(PolicyBase):
    """Lets `burst` calls through at once and `rate` of them over time; refuses the others with `RateLimitedError`.

    `rate` is text such as `"50/second"`. With `max_wait` above 0 a call waits for its turn, in the order of arrival,
    and is refused at once when that would take longer. `key` names the bucket among those of the policy's name. With a
    `RedisStore` the limit holds across all processes that use the same Redis; a call then waits for Redis as well, up
    to the connection's timeout. Raises `ConfigurationError` naming every option that is wrong.
    """

    kind = "ratelimit"

    def __init__(
        self,
        rate: str | Rate,
        burst: int | None = None,
        *,
        max_wait: float | str | timedelta = 0,
        key: str = "",
        store: Store | None = None,
        name: str | None = None,
        clock: Clock = monotonic,
    ) -> None:
        super().__init__(name)
        self.options = RateLimitOptions(rate=str(as_rate(rate)), burst=burst, max_wait=cast("float", max_wait))
        self.key = stored_key(key)
        self.events = Emitter()
        self._clock = checked(clock, "clock", CLOCK)
        self._store = checked_store(store)
        self.waits = self._store.waits
        self.may_wait = self.options.max_wait > 0 and not self.waits
        if self.waits:
            self.admit = self.admit_blocking  # type: ignore[method-assign]  # for who asks without a driver
        elif self.may_wait:
            self.admit = self._admit_in_turn  # type: ignore[method-assign]  # so that all others pay nothing for it
        _forward(self._store, self)
        self._open()

    def join(self, pipeline: str) -> None:
        """Take the name of the first pipeline, and the buckets kept under it."""
        before = self.name
        super().join(pipeline)
        if self.name != before:
            self._open()

    def _open(self) -> None:
        quota = quota_of(self.name, cast("str", self.options.rate), self.options.burst)
        self._ledger = self._store.open(quota, self._clock)
        self._take = self._ledger.take
        self._spend = self._ledger.spend if isinstance(self._ledger, SpendingLedger) else self._spend_by_taking

    def _spend_by_taking(self, key: str) -> Decision | None:
        decision = self._take(key)
        return None if decision.allowed else decision

    def admit(self) -> Wait | None:
        """Take a token, or raise `RateLimitedError`."""
        refusal = self._spend(self.key)
        if refusal is None:
            return None
        raise self._refused(refusal)

    def _admit_in_turn(self) -> Wait | None:
        decision = self.checked(self._take(self.key, 1, self.options.max_wait))
        if not decision.wait:
            return None
        return Wait(decision.wait, _Turn(decision, self._clock() + decision.wait))

    def admit_blocking(self) -> None:
        """Take a token from the shared bucket, blocking this thread until it is this call's turn."""
        decision = self.checked(self._take(self.key, 1, self.options.max_wait))
        if decision.wait:
            try:
                SYSTEM_SLEEPER.sleep(decision.wait)
            except BaseException:
                self._ledger.give_back(self.key, decision)
                raise

    def admit_awaiting(self) -> Coroutine[Any, Any, None]:
        """Take a token from the shared bucket, suspending this task until it is this call's turn."""
        from resilience.ratelimit import _policy_aio  # noqa: PLC0415 - blocking programs never need it

        return _policy_aio.admit(self, self._ledger)

    def checked(self, decision: Decision) -> Decision:
        """Return a decision that lets the call through; raise `RateLimitedError` for another."""
        if not decision.allowed:
            raise self._refused(decision)
        return decision

    def on_abandon(self, permit: Any, /) -> None:
        """Give the token back where the call was still waiting for its turn; one that had started has used it."""
        if type(permit) is _Turn and self._clock() < permit.starts_at:
            self._ledger.give_back(self.key, permit.decision)

    def _refused(self, decision: Decision) -> RateLimitedError:
        wait = decision.retry_after
        if self.events:
            self.events.emit("ratelimit.rejected", self.name, self._clock(), "warning", retry_after=wait)
        return RateLimitedError(f"{self.name}: {self.options.rate} exceeded", policy=self.name, retry_after=wait)

    def __repr__(self) -> str:
        return f"<RateLimit {self.name!r} {self.options.rate}>"


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
