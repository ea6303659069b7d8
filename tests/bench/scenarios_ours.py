"""Our breakers, as the scenarios set them up."""

from __future__ import annotations

from scenarios_guards import breaker, with_timeout

__all__ = ("LEASED", "RAMPED", "RUNNING", "SECONDS", "STRICT", "STRICT_RAMPED", "TIMED", "WIDE", "WINDOW")

WINDOW = breaker("window", "50 % of the last 100 calls, from 20 on", failure_rate_threshold=0.5)
WIDE = breaker(
    "window of 1000",
    "50 % of the last 1000 calls, from 1000 on",
    failure_rate_threshold=0.5,
    sliding_window=1000,
    minimum_calls=1000,
)
STRICT = breaker("window, 30 %", "30 % of the last 100 calls, from 20 on", failure_rate_threshold=0.3)
RUNNING = breaker(
    "slow calls while running",
    "50 % of the last 100 calls failed, or took longer than 0.8 s, those still running included",
    failure_rate_threshold=0.5,
    slow_call_rate_threshold=0.5,
    slow_call_duration_threshold=0.8,
)
SECONDS = breaker(
    "window of 10 s", "50 % of the calls of the last 10 s", failure_rate_threshold=0.5, sliding_window="10s"
)
RAMPED = breaker(
    "window and ramp",
    "the window; after closing 10 % of the calls are admitted, all of them 10 s later, judged by rate meanwhile: "
    "`ramp=10, half_open_failure_rate_threshold=0.5`",
    failure_rate_threshold=0.5,
    half_open_failure_rate_threshold=0.5,
    ramp=10,
)
STRICT_RAMPED = breaker(
    "window, 30 %, ramp",
    "the same with `ramp=10, half_open_failure_rate_threshold=0.5`",
    failure_rate_threshold=0.3,
    half_open_failure_rate_threshold=0.5,
    ramp=10,
)
LEASED = breaker(
    "window, short lease",
    "the window; a trial call that has not answered within a second makes room for another: `half_open_lease=1`",
    failure_rate_threshold=0.5,
    half_open_lease=1,
)
TIMED = with_timeout("window and timeout", "the window with `Timeout(0.8)` inside", 0.8, failure_rate_threshold=0.5)
