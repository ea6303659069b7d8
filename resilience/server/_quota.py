"""What a rate limit tells the caller: draft-ietf-httpapi-ratelimit-headers, two structured fields."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Sequence
from typing import Protocol, TypeAlias

__all__ = ("Bucket", "Charge", "Decision", "Quota", "quota_headers")


class Decision(Protocol):
    """What a token bucket answered."""

    @property
    def allowed(self) -> bool:
        """Whether the call fits."""
        ...

    @property
    def remaining(self) -> float:
        """What is left of the quota."""
        ...

    @property
    def retry_after(self) -> float | None:
        """Seconds until the call would fit, None when never."""
        ...

    @property
    def reset_after(self) -> float:
        """Seconds until the quota is whole again."""
        ...


class Rate(Protocol):
    """So many calls in so many seconds."""

    @property
    def amount(self) -> int:
        """Calls."""
        ...

    @property
    def period_seconds(self) -> int:
        """Seconds."""
        ...


class Bucket(Protocol):
    """A token bucket, in memory or shared: `resilience.ratelimit.TokenBucket`."""

    @property
    def rate(self) -> Rate:
        """The sustained rate."""
        ...

    @property
    def name(self) -> str:
        """Stable and low-cardinality."""
        ...

    def with_rate(self, rate: str, burst: int | None = None) -> Bucket:
        """Return one of another rate that is kept in the same place."""
        ...

    def acquire(self, key: str = "", cost: int = 1) -> Decision:
        """Take `cost` tokens of `key`."""
        ...

    def aacquire(self, key: str = "", cost: int = 1) -> Awaitable[Decision]:
        """Take `cost` tokens of `key`, suspending."""
        ...


class Quota:
    """A bucket under the name and size its callers are told."""

    __slots__ = ("bucket", "label", "policy", "waits")

    def __init__(self, label: str, bucket: Bucket, *, waits: bool = True) -> None:
        quoted = "".join(c for c in label if " " <= c <= "~" and c not in '"\\')
        self.bucket = bucket
        self.waits = waits
        """Whether asking the bucket may block, as Redis does; one in memory need not be awaited."""
        self.label = f'"{quoted}"'
        self.policy = f"{self.label};q={bucket.rate.amount};w={bucket.rate.period_seconds}"


Charge: TypeAlias = tuple[Quota, Decision]
"""One decision about one request."""


def _state(quota: Quota, decision: Decision) -> str:
    """Return the member of the `RateLimit` field: what remains (`r`), and in how many seconds there is more (`t`).

    A refused caller is given its `Retry-After` as `t`, because the draft wants the two to agree.
    """
    after = decision.reset_after if decision.allowed else decision.retry_after or decision.reset_after
    return f"{quota.label};r={max(0, int(decision.remaining))};t={math.ceil(after)}"


def quota_headers(charges: Sequence[Charge]) -> tuple[tuple[str, str], ...]:
    """Return the `RateLimit-Policy` and `RateLimit` fields of what was charged."""
    policies = ", ".join([quota.policy for quota, _ in charges])
    return ("RateLimit-Policy", policies), ("RateLimit", ", ".join([_state(*charge) for charge in charges]))
