"""What a circuit breaker can be told."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from resilience.errors import Problem
from resilience.options import Duration, Flag, Number, Options, Whole, option

__all__ = ("BreakerOptions",)


@dataclass(frozen=True, kw_only=True)
class BreakerOptions(Options):
    """pybreaker's parameters under their own names, resilience4j's words for the rest."""

    fail_max: int = option(5, Whole(1), "consecutive failures that open the circuit, when no rate is set")
    reset_timeout: float = option(60.0, Duration(above=True), "how long the circuit stays open before trial calls")
    success_threshold: int = option(1, Whole(1, 10_000), "successful trial calls that close the circuit")
    half_open_max_calls: int | None = option(
        None, Whole(1, 10_000), "trial calls admitted while half-open", none="success_threshold"
    )
    half_open_lease: float | None = option(
        None, Duration(above=True), "when a trial call that never reported is replaced", none="reset_timeout"
    )
    failure_rate_threshold: float | None = option(
        None, Number(0, 1, above=True), "share of failed calls that opens the circuit", none="count fail_max instead"
    )
    sliding_window: int = option(100, Whole(1), "calls the failure rate looks back on")
    minimum_calls: int | None = option(
        None, Whole(1), "calls before the failure rate is judged", none="20, or sliding_window if smaller"
    )
    throw_new_error_on_trip: bool = option(
        False, Flag(), "the call that opens the circuit gets CircuitOpenError, its own error as cause"
    )

    @property
    def trials(self) -> int:
        """Trial calls admitted while half-open."""
        return self.half_open_max_calls or self.success_threshold

    @property
    def evidence(self) -> int:
        """Calls needed before a failure rate means anything."""
        return self.minimum_calls or min(20, self.sliding_window)

    def _together(self) -> Iterable[Problem]:
        if _exceeds(self.minimum_calls, self.sliding_window):
            expected = f"at most sliding_window ({self.sliding_window}), or the rate could never be judged"
            yield Problem("minimum_calls", self.minimum_calls, expected)
        if _exceeds(self.success_threshold, self.half_open_max_calls):
            expected = f"at least success_threshold ({self.success_threshold}), or the circuit could never close"
            yield Problem("half_open_max_calls", self.half_open_max_calls, expected)


def _exceeds(number: object, limit: object) -> bool:
    """Compare what may still be None or, in an object full of problems, not a number at all."""
    return isinstance(number, int) and isinstance(limit, int) and number > limit
