"""The options of a hedge."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from resilience.budget import BUDGET_NAME
from resilience.errors import Problem
from resilience.options import Duration, Number, Options, Whole, option

__all__ = ("HedgeOptions",)


@dataclass(frozen=True, kw_only=True)
class HedgeOptions(Options):
    """Options under the names of Polly and failsafe-go. A `delay` of 0 starts all attempts at once."""

    delay: float | None = option(
        None,
        Duration(usual=60),
        "time without an answer before the next attempt",
        none="the quantile learned from latencies",
    )
    quantile: float = option(0.95, Number(0.5, 0.999), "share of answers that come before a learned delay is over")
    max_hedges: int = option(1, Whole(1, 10), "attempts beside the first one")
    minimum_samples: int = option(100, Whole(1, 10_000), "answers seen before a learned delay is used")
    sliding_window: int = option(500, Whole(10, 10_000), "latest answers the latencies are learned from")
    cancel_timeout: float = option(1.0, Duration(above=True, usual=60), "longest wait for cancelled attempts to end")
    max_threads: int = option(64, Whole(2, 10_000), "attempts of blocking calls under way at once, late ones included")
    budget: str | None = option(
        None, BUDGET_NAME, "name of the budget shared with retries and other hedges", none="no limit"
    )

    def _together(self) -> Iterable[Problem]:
        if self.delay is None and self.minimum_samples > self.sliding_window:
            yield Problem("minimum_samples", self.minimum_samples, f"at most sliding_window ({self.sliding_window})")
