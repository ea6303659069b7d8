"""A ceiling on how much of the traffic may be retries, so that retries cannot become the outage."""

from __future__ import annotations

import threading
from dataclasses import dataclass

from resilience._fork import renew_after_fork
from resilience.options import Number, Options, Whole, option

__all__ = ("BudgetOptions", "RetryBudget")


@dataclass(frozen=True, kw_only=True)
class BudgetOptions(Options):
    """Shares of the calls in flight, as in Envoy and failsafe-go."""

    ratio: float = option(0.2, Number(0, 1), "share of the calls in flight that may be retries")
    minimum: int = option(3, Whole(0), "retries in flight that are always allowed")


class RetryBudget:
    """At most `ratio` of the calls in flight, and at least `minimum`, may be retries at any time.

    Share one object between retries of the same dependency: it counts over all of them.
    """

    def __init__(self, ratio: float = 0.2, minimum: int = 3) -> None:
        self.options = BudgetOptions(ratio=ratio, minimum=minimum)
        self.after_fork()
        renew_after_fork(self)

    def after_fork(self) -> None:
        """Forget the parent's calls: they never end here."""
        self._lock = threading.Lock()  # guards the counts
        self.calls = 0
        self.retries = 0

    def enter(self) -> None:
        """Count a call as in flight."""
        with self._lock:
            self.calls += 1

    def leave(self, *, retrying: bool) -> None:
        """Count a call as ended; `retrying` where its last attempt was a retry."""
        with self._lock:
            self.calls = max(0, self.calls - 1)
            self.retries = max(0, self.retries - retrying)

    def spend(self, *, retrying: bool) -> bool:
        """Return whether a call may (go on to) retry; `retrying` where it is counted as one already."""
        with self._lock:
            if retrying:
                return True
            if self.retries >= max(self.options.minimum, self.options.ratio * self.calls):
                return False
            self.retries += 1
            return True

    def __repr__(self) -> str:
        return f"<RetryBudget {self.retries} of {self.calls} in flight are retries>"
