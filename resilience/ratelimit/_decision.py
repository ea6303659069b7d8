"""What a bucket answers."""

from __future__ import annotations

from typing import Final

from resilience.ratelimit._machine import Quota

__all__ = ("Decision",)


class Decision(tuple[bool, float, float, int, Quota]):
    """Whether the call fits; true exactly when it does. Durations are seconds from the moment it was made.

    A tuple underneath, because building one is part of every call: what follows from it is computed when asked for.
    """

    __slots__ = ()

    @classmethod
    def refusal(cls, quota: Quota, cost: int, retry_after: float) -> Decision:
        """Refuse without a bucket at hand, for the `retry_after` seconds given."""
        return cls((False, quota.capacity - cost * quota.interval + retry_after, 0.0, cost, quota))

    @property
    def allowed(self) -> bool:
        """Whether the cost was paid."""
        return self[0]

    @property
    def limit(self) -> int:
        """The size of the bucket."""
        return self[4].burst

    @property
    def remaining(self) -> int:
        """Whole tokens left."""
        quota = self[4]
        return min(quota.burst, max(0, int((quota.room - self.reset_after) / quota.interval)))

    @property
    def retry_after(self) -> float | None:
        """Seconds until the same call fits: 0 where it did, None where it costs more than the bucket ever holds."""
        if self[0]:
            return 0.0
        quota, cost = self[4], self[3]
        if cost > quota.burst:
            return None
        return max(0.0, self.reset_after + cost * quota.interval - quota.capacity)

    @property
    def reset_after(self) -> float:
        """Seconds until the bucket is full."""
        return max(0.0, self[1] - self[2])

    @property
    def wait(self) -> float:
        """Seconds an admitted call has to hold back; above 0 only where it was allowed to wait."""
        quota = self[4]
        return self.reset_after - quota.capacity if self[0] and self.reset_after > quota.room else 0.0

    @property
    def full_at(self) -> float:
        """The moment the bucket is full, on the clock of whoever decided."""
        return self[1]

    def __bool__(self) -> bool:
        return self[0]

    def __repr__(self) -> str:
        after = "" if self.retry_after is None else f", retry_after={self.retry_after:.6g}"
        return f"<Decision allowed={self[0]} remaining={self.remaining}/{self.limit}{after}>"


NEW: Final = tuple.__new__
"""Builds a `Decision` without the detour through its class."""
