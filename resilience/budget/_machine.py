"""The counts of a retry budget, and whether there is room for one more repeated call.

A *call* is in flight from `enter` to `leave`. It becomes a *retry* at its second attempt (`repeat`) and stays one until
it ends: a call that retries five times counts as one retry. A hedged attempt is an *extra*: it runs beside the call and
counts from `repeat(is_extra=True)` to `release_extra`.

The limit for retries and extras together is a share of the calls that are at their first attempt. It is not a share of
all calls, because then retries would make room for retries: at a ratio of 0.2, an outage would get 1.28 times the calls
(simulated) and not 1.2 times.

Refusals come in *episodes*. An episode begins with a refusal after ten quiet seconds, and only that refusal is
reported. Room comes and goes with every call that ends, so an episode that ended with the next grant would end all the
time.

A call may end in another process than the one that counted it, because it crossed a fork. So no count goes below zero.
Every method changes a count by plain statements without a call in between: the owner's lock is re-entrant, and a
finalizer may end a call in the middle. Not thread-safe by itself.
"""

from __future__ import annotations

import math

__all__ = ("BudgetCounts",)

_QUIET = 10.0
"""Seconds without a refusal that end an episode."""
_ROUNDING = 1e-9
"""For products such as 0.29 * 100, which are below 29 as floats."""


class BudgetCounts:
    """Calls in flight, retries among them, and hedged attempts (extras)."""

    __slots__ = ("_refused_at", "calls", "extras", "refused", "retries")

    def __init__(self) -> None:
        self.calls = 0
        self.retries = 0
        self.extras = 0
        self.refused = 0
        self._refused_at = -math.inf

    def limit(self, ratio: float, minimum: int) -> float:
        """Return how many retries and extras may be in flight now."""
        return max(minimum, ratio * (self.calls - self.retries))

    def has_room(self, ratio: float, minimum: int) -> bool:
        """Whether one more repeated call fits."""
        return self.fits(self.limit(ratio, minimum))

    def fits(self, limit: float) -> bool:
        """Whether one more repeated call fits into `limit`."""
        return self.retries + self.extras + 1 <= limit + _ROUNDING

    def repeat(self, *, is_extra: bool) -> None:
        """Count an extra, or a call that becomes a retry."""
        if is_extra:
            self.extras += 1
        else:
            self.retries += 1

    def leave(self, *, retrying: bool) -> None:
        """Count a call as ended; `retrying` if it was a retry."""
        if self.calls:
            self.calls -= 1
        if retrying and self.retries:
            self.retries -= 1

    def undo(self, *, is_extra: bool) -> None:
        """Undo `repeat`: the attempt was not made."""
        if is_extra:
            self.release_extra()
        elif self.retries:
            self.retries -= 1

    def release_extra(self) -> None:
        """Count a hedged attempt as ended."""
        if self.extras:
            self.extras -= 1

    def refuse(self, now: float) -> bool:
        """Count a refusal; return whether it begins an episode."""
        begins = now - self._refused_at >= _QUIET
        self.refused += 1
        self._refused_at = now
        return begins
