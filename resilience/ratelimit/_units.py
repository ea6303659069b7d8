"""A quota in whole numbers, for a script whose numbers are doubles."""

from __future__ import annotations

from fractions import Fraction
from typing import NamedTuple

from resilience.errors import ConfigurationError, Problem
from resilience.ratelimit._machine import Quota

__all__ = ("Units", "units_of")

_EXACT = 2**52
"""Half of what a double holds exactly: the sum of two such numbers is still exact."""
_WORST_ERROR = Fraction(1, 1_000_000_000)


class Units(NamedTuple):
    """`token` units a token, `refill` units back per microsecond, `capacity` units in a full bucket."""

    token: int
    refill: int
    capacity: int

    def limit(self, allowance: float) -> int:
        """Return how many units may be missing when a call may wait for `allowance` seconds."""
        return min(_EXACT, self.capacity + int(allowance * 1e6) * self.refill)

    def seconds(self, units: int) -> float:
        """Return how long that many units take to come back."""
        return units / self.refill / 1e6


def units_of(quota: Quota) -> Units:
    """Return the quota in units: exact, or off by less than a billionth where exact numbers would be too large.

    Raises `ConfigurationError` where not even that fits: a bucket that takes a lifetime to fill.
    """
    exact = Fraction(quota.rate.period_seconds * 1_000_000, quota.rate.amount)
    interval = exact
    if quota.burst * exact.numerator > _EXACT:
        finest = int(_EXACT / (quota.burst * exact))
        interval = exact.limit_denominator(finest) if finest else Fraction(0)
    if not interval or abs(interval - exact) / exact > _WORST_ERROR or quota.burst * interval.numerator > _EXACT:
        raise ConfigurationError([Problem("burst", quota.burst, f"a bucket that {quota.rate} fills within 140 years")])
    return Units(interval.numerator, interval.denominator, quota.burst * interval.numerator)
