"""Options of a rate limit."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from resilience._support.retry_after import RETRY_AFTER_MAX
from resilience.errors import Problem
from resilience.options import Duration, Flag, Options, Whole, option
from resilience.ratelimit._rate import RateText

__all__ = ("RateLimitOptions",)


@dataclass(frozen=True, kw_only=True)
class RateLimitOptions(Options):
    """The size and the rate of a token bucket, and how a call meets an empty one.

    Attributes:
        rate: The sustained rate, such as `100/minute`, or several: `10/second;500/hour`. None is no limit.
        burst: The size of the bucket. None is the amount named in the rate.
        max_wait: The longest time that a call waits for its turn, in seconds. 0 refuses at once.
        retry_after_max: The longest time for which an outcome that matches `drain_on` empties the bucket, in seconds.
        shadow: Report the calls that would be refused, and refuse none.
    """

    rate: str | None = option(None, RateText(), "sustained rate", none="no limit")
    burst: int | None = option(
        None, Whole(1, 1_000_000_000), "calls that may come at once", none="the amount named in the rate"
    )
    max_wait: float = option(0.0, Duration(usual=60), "longest wait for a token; 0 refuses at once")
    retry_after_max: float = option(
        RETRY_AFTER_MAX,
        Duration(above=True),
        "longest time for which an outcome that matches drain_on empties the bucket",
    )
    shadow: bool = option(False, Flag(), "report the calls that would be refused, and refuse none")

    def _together(self) -> Iterable[Problem]:
        if self.burst is not None and ";" in (self.rate or ""):
            yield Problem("burst", self.burst, "none beside several rates: each bucket has the amount of its own rate")
