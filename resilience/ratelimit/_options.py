"""What a rate limit can be told."""

from __future__ import annotations

from dataclasses import dataclass

from resilience.options import Duration, Options, Text, Whole, option

__all__ = ("RateLimitOptions",)


@dataclass(frozen=True, kw_only=True)
class RateLimitOptions(Options):
    """A token bucket: `rate` fills it, `burst` is its size."""

    rate: str | None = option(
        None, Text("a rate such as 100/second, 5 per 2 minutes", longest=100), "sustained rate", none="no limit"
    )
    burst: int | None = option(None, Whole(1), "calls that may come at once", none="the amount named in the rate")
    max_wait: float = option(0.0, Duration(), "longest wait for a token; 0 refuses at once")
