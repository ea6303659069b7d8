"""How long to wait before the next attempt. Randomness is passed in: a function that returns a number in [0, 1)."""

from __future__ import annotations

from collections.abc import Callable

from resilience.retry._options import RetryOptions

__all__ = ("backoff", "upward")

_LARGEST_EXPONENT = 64
"""Beyond it the wait is at its cap anyway, and a float power would overflow at attempt 1,024 (as stamina found)."""
_SPREAD = 0.1
"""Share of what a server asked for over which a herd is spread that it sent away at one instant."""
Random = Callable[[], float]


def backoff(options: RetryOptions, attempt: int, previous: float, random: Random) -> float:
    """Return the seconds to wait after `attempt` (1 for the first) failed, having waited `previous` before it."""
    if options.backoff == "decorrelated":
        lowest = options.wait_initial
        return min(options.wait_max, lowest + random() * (3 * max(previous, lowest) - lowest))
    wait = min(options.wait_max, options.wait_initial * _growth(options, attempt))
    jitter = options.wait_jitter
    if not isinstance(jitter, str):
        return min(options.wait_max, wait + jitter * random())
    if jitter == "none":
        return wait
    return wait * random() if jitter == "full" else wait * (1 + random()) / 2


def _growth(options: RetryOptions, attempt: int) -> float:
    if options.backoff == "constant":
        return 1
    return attempt if options.backoff == "linear" else options.wait_exp_base ** min(attempt - 1, _LARGEST_EXPONENT)


def upward(options: RetryOptions, floor: float, random: Random) -> float:
    """Return `floor` and a little more: clients told the same time must not all come back at it, nor any before it."""
    jitter = options.wait_jitter
    if not isinstance(jitter, str):
        return floor + jitter * random()
    return floor if jitter == "none" else floor + min(_SPREAD * floor, options.wait_max) * random()
