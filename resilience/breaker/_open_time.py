"""How long a circuit stays open."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from resilience.options import LONGEST

__all__ = ("OpenTime",)

_LARGEST_EXPONENT = 64
"""Beyond it the time is at its cap anyway, and a float power would overflow."""


class OpenTime(NamedTuple):
    """`base` seconds the first time, `growth` times as long for each consecutive opening, at most `cap`.

    Up to the share `jitter` of it is left out at random, so that a fleet does not come back in step. Each `decay`
    seconds the circuit stays closed take one opening off the count, as Envoy's outlier ejection does.
    """

    base: float
    growth: float = 1.0
    cap: float = LONGEST
    jitter: float = 0.0
    decay: float = LONGEST

    def seconds(self, openings: int, floor: float, random: Callable[[], float]) -> float:
        """Return the open time of the `openings`-th consecutive opening.

        `floor` is what the dependency itself asked for (its Retry-After): never less, and jittered upward only.
        """
        grown = min(self.cap, self.base * self.growth ** min(openings - 1, _LARGEST_EXPONENT))
        jittered = grown * (1 - self.jitter * random())
        if floor <= jittered:
            return jittered
        return min(LONGEST, floor * (1 + self.jitter * random()))

    def remembered(self, openings: int, closed_for: float) -> int:
        """Return how many consecutive openings still count after so many seconds closed."""
        return max(0, openings - int(closed_for / self.decay))
