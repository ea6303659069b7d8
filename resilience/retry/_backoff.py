"""How long to wait before the next attempt. Randomness is passed in."""

from __future__ import annotations

from collections.abc import Callable

from resilience.retry._options import RetryOptions

__all__ = ("backoff",)

_LARGEST_EXPONENT = 64
"""Beyond it the wait is at its cap anyway, and a float power would overflow at attempt 1,024 (as stamina found)."""


def backoff(options: RetryOptions, attempt: int, random: Callable[[], float]) -> float:
    """Return the seconds to wait after `attempt` (1 for the first) failed; `random` gives [0, 1)."""
    growth = options.wait_exp_base ** min(attempt - 1, _LARGEST_EXPONENT)
    return min(options.wait_max, options.wait_initial * growth + options.wait_jitter * random())
