"""The decision of a window, with the attributes of that of a bucket."""

from __future__ import annotations

from resilience.ratelimit._decision import Decision
from resilience.ratelimit._machine import Quota
from resilience.ratelimit.windows._machine import Found

__all__ = ("WindowDecision",)

_ROUNDING = 1e-9


class WindowDecision(Decision):
    """Whether a call fits into a window. No call waits for its turn.

    Attributes:
        found: The answer of the window.
    """

    __slots__ = ("found",)

    found: Found

    @classmethod
    def from_window(cls, quota: Quota, cost: int, found: Found) -> WindowDecision:
        """Return the decision about a call of `cost`."""
        decision = cls()
        decision.quota, decision.cost, decision.allowed = quota, cost, found.allowed
        decision.full_at, decision.made_at, decision.found = found.reset_after, 0.0, found
        return decision

    def undone(self) -> Decision:
        """Return the decision itself: windows give nothing back."""
        return self

    @property
    def remaining(self) -> int:
        """Calls of cost 1 that still fit now."""
        return max(0, int(self.quota.burst - self.found.used + _ROUNDING))

    @property
    def retry_after(self) -> float | None:
        """Seconds until the same call fits: 0 if it did, None if it costs more than the window ever holds."""
        return None if self.cost > self.quota.burst else self.found.retry_after

    @property
    def wait(self) -> float:
        """Zero: no call waits for a window."""
        return 0.0
