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
    seconds the circuit stays closed take one opening off the count, as Envoy's outlier ejection does. A dependency can
    ask for at most `asked_cap` seconds.
    """

    base: float
    growth: float = 1.0
    cap: float = LONGEST
    jitter: float = 0.0
    decay: float = LONGEST
    asked_cap: float = LONGEST

    def seconds(self, openings: int, floor: float, random: Callable[[], float]) -> float:
        """Return the open time of the `openings`-th consecutive opening.

        `floor` is what the dependency itself asked for (its Retry-After): never less, and jittered upward only. Of a
        floor above `asked_cap` only the cap counts, and it is jittered downward like an open time of our own.
        """
        grown = min(self.cap, self.base * self.growth ** min(openings - 1, _LARGEST_EXPONENT))
        jittered = grown * (1 - self.jitter * random())
        if floor <= jittered:
            return jittered
        if floor > self.asked_cap:
            return max(jittered, self.asked_cap * (1 - self.jitter * random()))
        return min(self.asked_cap, floor * (1 + self.jitter * random()))

    def remembered(self, openings: int, closed_for: float) -> int:
        """Return how many consecutive openings still count after so many seconds closed."""
        return max(0, openings - int(closed_for / self.decay))
