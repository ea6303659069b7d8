"""What a rate limit can be told."""

from __future__ import annotations

from dataclasses import dataclass

from resilience._support.retry_after import RETRY_AFTER_MAX
from resilience.options import Duration, Flag, Options, Whole, option
from resilience.ratelimit._rate import RateText

__all__ = ("RateLimitOptions",)


@dataclass(frozen=True, kw_only=True)
class RateLimitOptions(Options):
    """A token bucket: `rate` fills it, `burst` is its size."""

    rate: str | None = option(None, RateText(), "sustained rate", none="no limit")
    burst: int | None = option(
        None, Whole(1, 1_000_000_000), "calls that may come at once", none="the amount named in the rate"
    )
    max_wait: float = option(0.0, Duration(), "longest wait for a token; 0 refuses at once")
    retry_after_max: float = option(
        RETRY_AFTER_MAX,
        Duration(above=True),
        "longest time for which an outcome that matches drain_on empties the bucket",
    )
    shadow: bool = option(False, Flag(), "report what would be refused, and refuse nothing")
