"""The options of a timeout."""

from __future__ import annotations

from dataclasses import dataclass

from resilience.options import Duration, Options, Whole, option

__all__ = ("TimeoutOptions",)


@dataclass(frozen=True, kw_only=True)
class TimeoutOptions(Options):
    """The time of one call; a deadline that ends sooner wins."""

    seconds: float | None = option(
        30.0, Duration(above=True, usual=60), "time one call may take", none="only the deadline in force counts"
    )
    margin: float = option(
        0.0, Duration(usual=10), "kept back from the deadline in force, for what the caller does afterwards"
    )
    max_threads: int = option(64, Whole(1, 10_000), "blocking calls in flight at once, late ones included")
