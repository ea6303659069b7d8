"""What a retry can be told."""

from __future__ import annotations

from dataclasses import dataclass

from resilience.options import Duration, Number, Options, Whole, option

__all__ = ("RetryOptions",)


@dataclass(frozen=True, kw_only=True)
class RetryOptions(Options):
    """stamina's words. The n-th wait is `wait_initial * wait_exp_base ** (n - 1)` plus jitter, at most `wait_max`."""

    attempts: int | None = option(3, Whole(1, 1000), "calls in total, the first one included", none="no limit")
    timeout: float | None = option(
        None, Duration(above=True), "time in total; no wait is begun that would end after it", none="no limit"
    )
    wait_initial: float = option(0.1, Duration(), "wait before the second attempt")
    wait_max: float = option(5.0, Duration(), "longest wait")
    wait_jitter: float = option(1.0, Duration(), "up to this much is added to each wait, at random")
    wait_exp_base: float = option(2.0, Number(1, 100), "growth of the wait from attempt to attempt")
