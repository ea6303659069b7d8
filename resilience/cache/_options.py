"""The options of a cache."""

from __future__ import annotations

from dataclasses import dataclass

from resilience.options import Duration, Number, Options, Whole, option

__all__ = ("CacheOptions",)


@dataclass(frozen=True, kw_only=True)
class CacheOptions(Options):
    """How long a cache keeps results, and how many."""

    ttl: float = option(60.0, Duration(above=True), "how long a result answers further calls")
    max_size: int = option(1024, Whole(1, 10_000_000), "results kept; beyond it the least recently used one goes")
    stale_on_error: float = option(
        0.0, Duration(), "how long after its ttl a result may still answer a call that failed; 0 never"
    )
    jitter: float = option(
        0.1, Number(0, 1), "share of the ttl by which each result expires sooner, at random: not all at once"
    )
