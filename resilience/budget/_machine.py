"""Who is in flight, and whether there is room for one more repeated call. Pure; not thread-safe."""

from __future__ import annotations

import math

__all__ = ("Shares",)

_QUIET = 10.0
"""Seconds without a refusal that end an episode of exhaustion.

Room comes and goes with every call that ends, so an episode that ended with the next grant would end all the time.
"""
_ROUNDING = 1e-9
"""For products such as 0.29 * 100, which as floats come out below 29."""


class Shares:
    """Calls in flight, and those among them that are retries or hedged attempts (extras)."""

    __slots__ = ("_refused_at", "calls", "extras", "refused", "retries")

    def __init__(self) -> None:
        self.calls = 0
        self.retries = 0
        self.extras = 0
        self.refused = 0
        self._refused_at = -math.inf

    def limit(self, ratio: float, minimum: int) -> float:
        """Return how many repeated calls may be in flight right now.

        `ratio` is of the calls that are at their first attempt: of all of them, retries would make room for retries,
        and an outage would be called 1.28 times as often at a ratio of 0.2 (simulated), not 1.2 times.
        """
        return max(minimum, ratio * (self.calls - self.retries))

    def has_room(self, ratio: float, minimum: int) -> bool:
        """Whether one more repeated call fits."""
        return self.retries + self.extras + 1 <= self.limit(ratio, minimum) + _ROUNDING

    def repeat(self, *, is_extra: bool) -> None:
        """Count a call as made again: as an attempt beside the others, or in place of the one before."""
        if is_extra:
            self.extras += 1
        else:
            self.retries += 1

    def leave(self, *, retrying: bool) -> None:
        """Count a call as ended. One that crossed a fork ends where it was never counted: nothing goes below zero."""
        if self.calls:
            self.calls -= 1
        if retrying and self.retries:
            self.retries -= 1

    def undo(self, *, is_extra: bool) -> None:
        """Take `repeat` back: the attempt was not made."""
        if is_extra:
            self.release_extra()
        elif self.retries:
            self.retries -= 1

    def release_extra(self) -> None:
        """Count a hedged attempt as ended."""
        if self.extras:
            self.extras -= 1

    def refuse(self, now: float) -> bool:
        """Count a refusal; True where it begins an episode, which lasts until nothing was refused for a while."""
        begins = now - self._refused_at >= _QUIET
        self.refused += 1
        self._refused_at = now
        return begins
