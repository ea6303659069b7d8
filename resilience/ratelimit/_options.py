"""Options of a rate limit."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from resilience._support.retry_after import RETRY_AFTER_MAX
from resilience.errors import Problem
from resilience.options import Choice, Duration, Flag, Options, Whole, option
from resilience.ratelimit._rate import RateText, as_rate, as_rates

__all__ = ("MOST_LEASED", "RateLimitOptions")

MOST_LEASED: Final = 10_000
"""The largest lease, in tokens."""


class LeaseText:
    """The rule of the largest lease: a number of tokens, or the word `auto`."""

    expected = f"a whole number from 1 to {MOST_LEASED:,}, or auto"

    def __init__(self) -> None:
        self._tokens = Whole(1, MOST_LEASED)

    def check(self, value: object, /) -> int | str:
        """Return the number or the word."""
        return "auto" if value == "auto" else self._tokens.check(value)

    def parse(self, text: str, /) -> int | str:
        """Accept decimal digits, or the word in any case."""
        return "auto" if text.strip().lower() == "auto" else self._tokens.parse(text)


BUCKET = "token-bucket"
WINDOWS = ("fixed-window", "moving-window", "sliding-window-counter")
_MOST_REMEMBERED = 100_000
"""The largest amount of a moving window: it remembers that many calls for each key."""


@dataclass(frozen=True, kw_only=True)
class RateLimitOptions(Options):
    """The size and the rate of a token bucket, and how a call meets an empty one.

    Attributes:
        rate: The sustained rate, such as `100/minute`, or several: `10/second;500/hour`. None is no limit.
        burst: The size of the bucket. None is the amount named in the rate.
        max_wait: The longest time that a call waits for its turn, in seconds. 0 refuses at once.
        retry_after_max: The longest time for which an outcome that matches `drain_on` empties the bucket, in seconds.
        shadow: Report the calls that would be refused, and refuse none.
        strategy: How calls are counted: a token bucket, or a window under its name in the package limits.
        lease: The most tokens that an instance takes ahead from a bucket on Redis, or `auto`: as many as it needs.
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
    strategy: str = option(BUCKET, Choice(BUCKET, *WINDOWS), "how calls are counted")
    lease: int | str | None = option(
        None,
        LeaseText(),
        "most tokens that an instance takes ahead from a bucket on Redis and spends without it",
        none="each decision asks Redis",
    )

    @property
    def is_window(self) -> bool:
        """Whether calls are counted in a window of time."""
        return self.strategy != BUCKET

    def _together(self) -> Iterable[Problem]:
        if self.is_window:
            yield from self._of_windows()
        if self.burst is not None and ";" in (self.rate or ""):
            yield Problem("burst", self.burst, "none beside several rates: each bucket has the amount of its own rate")
        if self.lease is not None and ";" in (self.rate or ""):
            yield Problem("lease", self.lease, "none beside several rates: a lease is of one bucket")
        elif isinstance(self.lease, int) and self.rate is not None:
            burst = as_rate(self.rate).amount if self.burst is None else self.burst
            if self.lease > burst:
                yield Problem("lease", self.lease, f"no more than the burst, which is {burst:,}")

    def _of_windows(self) -> Iterable[Problem]:
        rule = f"none with strategy {self.strategy}:"
        rates = as_rates(self.rate) if self.rate else ()
        if len(rates) > 1:
            yield Problem("rate", self.rate, f"one rate with strategy {self.strategy}")
        elif self.strategy == "moving-window" and rates and rates[0].amount > _MOST_REMEMBERED:
            reason = f"at most {_MOST_REMEMBERED:,} calls with strategy moving-window, which remembers each call"
            yield Problem("rate", self.rate, reason)
        if self.burst is not None:
            yield Problem("burst", self.burst, f"{rule} a window admits the amount of its rate")
        if self.max_wait:
            yield Problem("max_wait", self.max_wait, f"{rule} windows give no turns")
        if self.lease is not None:
            yield Problem("lease", self.lease, f"{rule} a lease is of a bucket")
