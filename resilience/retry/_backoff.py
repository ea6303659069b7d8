"""The wait before the next attempt. Randomness is an argument: a function that returns a number in [0, 1)."""

from __future__ import annotations

from collections.abc import Callable

from resilience.retry._options import RetryOptions

__all__ = ("above_floor", "backoff")

_MAX_EXPONENT = 64
"""A larger exponent changes nothing, because `wait_max` is reached, and the power overflows at attempt 1,024."""
_SPREAD = 0.1
"""Clients that a server sent away until one instant come back over this share of the time, not at once."""
Random = Callable[[], float]


def backoff(options: RetryOptions, attempt: int, previous: float, random: Random) -> float:
    """Return the seconds to wait after an attempt failed.

    The full, equal and decorrelated jitters are those of Marc Brooker, "Exponential Backoff And Jitter" (AWS, 2015);
    a duration as jitter is stamina's.

    Args:
        options: How waits grow, their limits, and the jitter.
        attempt: The number of the attempt that failed; 1 is the first.
        previous: The seconds that were waited before this attempt; 0 before the first.
        random: Returns a number in [0, 1).
    """
    kind, longest = options.backoff, options.wait_max
    if kind == "decorrelated":
        shortest = options.wait_initial
        return min(longest, shortest + random() * (3 * max(previous, shortest) - shortest))
    wait, jitter = options.wait_initial, options.wait_jitter
    if kind == "exponential":
        wait *= options.wait_exp_base ** (attempt - 1 if attempt <= _MAX_EXPONENT else _MAX_EXPONENT)
    elif kind == "linear":
        wait *= attempt
    if wait > longest:  # noqa: PLR1730 - `min` takes ten times as long, and a jitter of 0 needs no other call
        wait = longest
    if jitter == "full":
        return wait * random()
    if jitter == "equal":
        return wait * (1 + random()) / 2
    return wait if isinstance(jitter, str) or not jitter else min(longest, wait + jitter * random())


def above_floor(options: RetryOptions, floor: float, random: Random) -> float:
    """Return `floor` and a little more: no client returns too early, and not all of them at the same instant."""
    jitter = options.wait_jitter
    if not isinstance(jitter, str):
        return floor + jitter * random()
    return floor if jitter == "none" else floor + min(_SPREAD * floor, options.wait_max) * random()
