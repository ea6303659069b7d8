"""The answer of a bucket."""

from __future__ import annotations

from collections.abc import Sequence

from resilience.ratelimit._machine import Quota

__all__ = ("Decision", "JointDecision")


class Decision:
    """Whether a call fits; a decision is true exactly if it does. Durations are seconds from the decision on.

    A decision stores what was found and computes the rest when it is read. It has no constructor: making a decision is
    part of every call, and calling `__init__` is a quarter of the cost. Use `Decision.of`.

    Attributes:
        allowed: Whether the cost was paid.
        cost: Tokens asked for.
        full_at: The time at which the bucket is full if nothing else is taken, on the clock of the store.
        made_at: The time of the decision, on the same clock.
        quota: The size and the rate of the bucket.
    """

    __slots__ = ("allowed", "cost", "full_at", "made_at", "quota")

    allowed: bool
    cost: int
    full_at: float
    made_at: float
    quota: Quota

    @classmethod
    def of(cls, quota: Quota, cost: int, *, allowed: bool, full_at: float, made_at: float) -> Decision:
        """Return a decision.

        Args:
            quota: The size and the rate of the bucket.
            cost: Tokens asked for.
            allowed: Whether the cost was paid.
            full_at: The time at which the bucket is full, in seconds on the clock of the store.
            made_at: The time of the decision, on the same clock.
        """
        decision = cls()
        decision.quota, decision.cost, decision.allowed = quota, cost, allowed
        decision.full_at, decision.made_at = full_at, made_at
        return decision

    @classmethod
    def refusal(cls, quota: Quota, cost: int, retry_after: float) -> Decision:
        """Return a refusal that was made without a bucket.

        Args:
            quota: The rate and burst of the limiter.
            cost: The tokens that the call would pay.
            retry_after: Seconds after which the caller can try again.
        """
        full_at = quota.capacity - cost * quota.interval + retry_after
        return cls.of(quota, cost, allowed=False, full_at=full_at, made_at=0.0)

    def undone(self) -> Decision:
        """Return the state of the bucket after a refund of this payment."""
        if not self.is_paid:
            return self
        full_at = max(self.made_at, self.quota.returned(self.full_at, self.cost))
        return Decision.of(self.quota, 0, allowed=True, full_at=full_at, made_at=self.made_at)

    @property
    def is_paid(self) -> bool:
        """Whether tokens were taken: not by a refusal, nor by an admission without a bucket during an outage."""
        return self.allowed and self.cost > 0 and self.full_at > self.made_at

    @property
    def limit(self) -> int:
        """The size of the bucket."""
        return self.quota.burst

    @property
    def remaining(self) -> int:
        """Whole tokens left."""
        quota = self.quota
        return min(quota.burst, max(0, int((quota.room - self.reset_after) / quota.interval)))

    @property
    def retry_after(self) -> float | None:
        """Seconds until the same call fits: 0 if it did, None if it costs more than the bucket ever holds."""
        if self.allowed:
            return 0.0
        if self.cost > self.quota.burst:
            return None
        return max(0.0, self.reset_after + self.cost * self.quota.interval - self.quota.capacity)

    @property
    def reset_after(self) -> float:
        """Seconds until the bucket is full."""
        return max(0.0, self.full_at - self.made_at)

    @property
    def wait(self) -> float:
        """Seconds that an admitted call has to wait for its turn; above 0 only if it was allowed to wait."""
        missing = self.reset_after
        return missing - self.quota.capacity if self.allowed and missing > self.quota.room else 0.0

    def __bool__(self) -> bool:
        return self.allowed

    def __repr__(self) -> str:
        after = "" if self.retry_after is None else f", retry_after={self.retry_after:.6g}"
        return f"<Decision allowed={self.allowed} remaining={self.remaining}/{self.limit}{after}>"


class JointDecision(Decision):
    """One decision about several rates, which were all paid or none. It shows the state of the tightest rate.

    The tightest rate of an admission is the rate with the fewest tokens left. That of a refusal is the rate for which
    the call has to wait longest.

    Attributes:
        marks: The buckets on Redis as this decision has left them; empty for buckets of this process.
        parts: The decision about each rate.
    """

    __slots__ = ("marks", "parts")

    marks: tuple[tuple[int, int], ...]
    parts: tuple[Decision, ...]

    @classmethod
    def joining(cls, parts: Sequence[Decision], marks: tuple[tuple[int, int], ...] = ()) -> JointDecision:
        """Return the decision that `parts` are one by one.

        Args:
            parts: The decision about each rate, at least one. All of them are admissions or all are refusals.
            marks: The buckets on Redis as the decision has left them.
        """
        decision, tightest = cls(), min(parts, key=_slack)
        decision.quota, decision.cost, decision.allowed = tightest.quota, tightest.cost, tightest.allowed
        decision.full_at, decision.made_at = tightest.full_at, tightest.made_at
        decision.parts, decision.marks = tuple(parts), marks
        return decision

    @property
    def is_paid(self) -> bool:
        """Whether tokens were taken."""
        return any(part.is_paid for part in self.parts)

    def undone(self) -> Decision:
        """Return the state of the buckets after a refund of this payment."""
        return JointDecision.joining([part.undone() for part in self.parts]) if self.is_paid else self


def _slack(part: Decision) -> tuple[float, ...]:
    """Return a number that is smaller for a tighter rate."""
    if part.allowed:
        return part.remaining, -part.wait, -part.reset_after
    return (-float("inf") if part.retry_after is None else -part.retry_after,)
