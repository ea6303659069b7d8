"""The options of a circuit breaker, and the settings that follow from them."""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypedDict

from resilience._support.retry_after import RETRY_AFTER_MAX
from resilience._support.rules import exceeds
from resilience.breaker._plan import MODES, OpenTime, Plan, TrialRule
from resilience.breaker._rules import TripLimits, TripRules, judging_rules
from resilience.breaker._window import CallWindow, NoWindow, TimeWindow
from resilience.clock import Clock
from resilience.errors import Problem
from resilience.options import Choice, Duration, Flag, Number, Options, Refused, Whole, option

__all__ = ("BreakerArguments", "BreakerOptions", "WindowLength")

_FAIL_MAX = 5
_TRIALS_FOR_A_RATE = 10
_QUORUM = 0.5


Length = float | str | timedelta


class BreakerArguments(TypedDict, total=False):
    """The parameters of `CircuitBreaker` that pybreaker does not have; `BreakerOptions` explains them."""

    failure_rate_threshold: float | None
    slow_call_rate_threshold: float | None
    failure_count_threshold: int | None
    slow_call_duration_threshold: Length
    sliding_window: Length
    minimum_calls: int | None
    reset_timeout_jitter: float
    reset_timeout_growth: float
    reset_timeout_max: Length | None
    reset_timeout_decay: Length | None
    retry_after_max: Length | None
    half_open_max_calls: int | None
    half_open_failure_rate_threshold: float | None
    half_open_lease: Length | None
    half_open_max_duration: Length | None
    ramp: Length
    ramp_initial: float
    storage_timeout: Length
    mode: str
    shadow: bool
    quorum: float | None


class WindowLength(Duration):
    """A number of calls as a whole number, or a duration as text with a unit, a timedelta or a float of seconds."""

    def __init__(self) -> None:
        super().__init__(0.01)
        self._calls = Whole(1)
        self.expected = "a whole number of calls from 1 to 1,000,000, or a duration with its unit, like 60s or 5m"

    def check(self, value: Any, /) -> float:
        """Return an int for calls, a float for seconds."""
        return self._calls.check(value) if isinstance(value, int) else super().check(value)

    def parse(self, text: str, /) -> float:
        """Take a bare number for calls."""
        try:
            return self._calls.parse(text)
        except Refused:
            if text.strip().replace(".", "").isdecimal():  # "2.5" and "0" are neither
                raise
            return super().parse(text)


class QuorumRule:
    """A number of instances as a whole number from 1, or a share of the live instances as a number up to 1."""

    expected = "a share above 0.0 up to 1.0 of the live instances, or a whole number of instances from 1 to 10,000"

    def __init__(self) -> None:
        self._share, self._number = Number(0, 1, above=True), Whole(1, 10_000)

    def check(self, value: object, /) -> float:
        """Return an int for a number of instances, a float for a share: 1 is one instance, 1.0 is all of them."""
        if isinstance(value, float) and value > 1 and value.is_integer():
            return self._number.check(int(value))
        return self._number.check(value) if isinstance(value, int) else self._share.check(value)

    def parse(self, text: str, /) -> float:
        """Take text without a point for a number of instances."""
        try:
            return self.check(int(text) if text.strip().isdecimal() else float(text))
        except ValueError as error:
            raise Refused from error


@dataclass(frozen=True, kw_only=True)
class BreakerOptions(Options):
    """The options of a circuit breaker: pybreaker's parameters, and resilience4j's names for the others."""

    fail_max: int | None = option(
        None, Whole(1), "consecutive failures that open the circuit", none="5 if no other rule is set"
    )
    failure_rate_threshold: float | None = option(
        None, Number(0, 1, above=True), "share of failed calls in the window that opens the circuit", none="not a rule"
    )
    slow_call_rate_threshold: float | None = option(
        None, Number(0, 1, above=True), "share of slow calls in the window that opens the circuit", none="not a rule"
    )
    failure_count_threshold: int | None = option(
        None, Whole(1), "failed calls in the window that open the circuit", none="not a rule"
    )
    slow_call_duration_threshold: float = option(
        60.0, Duration(above=True, usual=60), "a call that takes longer is slow"
    )
    sliding_window: float = option(100, WindowLength(), "window of the rules: a number of calls, or a time")
    minimum_calls: int | None = option(
        None, Whole(1), "calls in the window from which on a rate counts", none="20, or sliding_window if smaller"
    )
    reset_timeout: float = option(
        60.0, Duration(above=True, usual=3600), "how long the circuit stays open before trial calls"
    )
    reset_timeout_jitter: float = option(0.1, Number(0, 1), "up to this share of the open time is subtracted at random")
    reset_timeout_growth: float = option(1.0, Number(1, 100), "growth of the open time with each consecutive opening")
    reset_timeout_max: float | None = option(
        None, Duration(above=True), "longest open time that growth leads to", none="ten times reset_timeout"
    )
    reset_timeout_decay: float | None = option(
        None,
        Duration(above=True),
        "time in the closed state that removes one opening from the count",
        none="reset_timeout_max",
    )
    retry_after_max: float | None = option(
        None,
        Duration(above=True),
        "longest open time that the dependency may ask for, as by Retry-After",
        none="reset_timeout_max if it is set, else 5m",
    )
    success_threshold: int = option(1, Whole(1, 10_000), "successful trial calls that close the circuit")
    half_open_max_calls: int | None = option(
        None, Whole(1, 10_000), "trial calls admitted while half-open", none="success_threshold, or 10 beside a rate"
    )
    half_open_failure_rate_threshold: float | None = option(
        None,
        Number(0, 1, above=True),
        "share of failed trial calls that reopens the circuit",
        none="the first failure does",
    )
    half_open_lease: float | None = option(
        None,
        Duration(above=True),
        "time after which a trial call that never reported is replaced",
        none="reset_timeout",
    )
    half_open_max_duration: float | None = option(
        None,
        Duration(above=True),
        "time after which the circuit opens again without a decision of the trials",
        none="ten times half_open_lease",
    )
    ramp: float = option(0.0, Duration(), "time after closing in which the share of admitted calls grows to all")
    ramp_initial: float = option(0.1, Number(0, 1, above=True), "share of the calls admitted when the ramp begins")
    storage_timeout: float = option(
        0.05, Duration(above=True, maximum=60), "longest wait of a call for an access to state_storage"
    )
    mode: str = option(
        "automatic", Choice(*MODES), "whether calls are refused by the rules, always, never, or only in the reports"
    )
    shadow: bool = option(False, Flag(), "report the calls that would be refused, and refuse none (mode metrics_only)")
    shared: bool = option(False, Flag(), "share the circuit with the other instances, through Redis")
    quorum: float | None = option(
        None,
        QuorumRule(),
        "instances that have to trip until the circuit opens in all: a share of the live ones, or a number",
        none="0.5, if the circuit is shared",
    )
    throw_new_error_on_trip: bool = option(
        False, Flag(), "the call that opens the circuit gets CircuitOpenError, with its own error as the cause"
    )

    @property
    def first_mode(self) -> str:
        """The mode of a new breaker."""
        return "metrics_only" if self.shadow else self.mode

    @property
    def votes(self) -> float:
        """The quorum of a shared circuit: an int is a number of instances, a float a share of them."""
        return _QUORUM if self.quorum is None else self.quorum

    @property
    def consecutive(self) -> int | None:
        """Consecutive failures that open the circuit, None if that is not a rule."""
        others = (self.failure_rate_threshold, self.slow_call_rate_threshold, self.failure_count_threshold)
        return _FAIL_MAX if self.fail_max is None and others == (None, None, None) else self.fail_max

    @property
    def looks_back(self) -> bool:
        """Whether any rule needs the window."""
        return (self.failure_rate_threshold, self.slow_call_rate_threshold, self.failure_count_threshold) != (
            None,
            None,
            None,
        )

    @property
    def evidence(self) -> int:
        """Calls in the window from which on a rate counts."""
        if self.minimum_calls is not None:
            return self.minimum_calls
        return min(20, self.sliding_window) if isinstance(self.sliding_window, int) else 20

    def trip_rules(self, now: float, clock: Clock, judge: Callable[[weakref.ref[TripRules]], None]) -> TripRules:
        """Return the rules of a closed circuit.

        Args:
            now: Monotonic seconds at which the circuit closes.
            clock: Returns monotonic seconds.
            judge: See `judging_rules`.
        """
        if not self.looks_back:
            return TripRules(self.limits, NoWindow())
        size = self.sliding_window
        window = CallWindow(size) if isinstance(size, int) else TimeWindow(size, now)
        return judging_rules(self.limits, window, clock, judge)

    @functools.cached_property
    def limits(self) -> TripLimits:
        """The limits of the rules of a closed circuit."""
        return TripLimits(
            self.consecutive,
            self.failure_count_threshold,
            self.failure_rate_threshold,
            self.slow_call_rate_threshold,
            self.evidence,
        )

    @functools.cached_property
    def plan(self) -> Plan:
        """The settings of the machine apart from the rules."""
        longest = self.reset_timeout_max or 10 * self.reset_timeout
        lease = self.half_open_lease or self.reset_timeout
        rate = self.half_open_failure_rate_threshold
        permits = self.half_open_max_calls or (self.success_threshold if rate is None else _TRIALS_FOR_A_RATE)
        return Plan(
            open_time=OpenTime(
                base=self.reset_timeout,
                growth=self.reset_timeout_growth,
                cap=longest,
                jitter=self.reset_timeout_jitter,
                decay=self.reset_timeout_decay or longest,
                asked_cap=self.retry_after_max or self.reset_timeout_max or RETRY_AFTER_MAX,
            ),
            trials=TrialRule(permits, self.success_threshold) if rate is None else TrialRule.by_rate(permits, rate),
            lease=lease,
            half_open_limit=self.half_open_max_duration or 10 * lease,
            ramp=self.ramp,
            ramp_initial=self.ramp_initial,
            cut_offs=self.consecutive or self.evidence,
            slow_after=None if self.slow_call_rate_threshold is None else self.slow_call_duration_threshold,
        )

    def _together(self) -> Iterable[Problem]:
        yield from self._within_window()
        if exceeds(self.success_threshold, self.half_open_max_calls):
            expected = f"at least success_threshold ({self.success_threshold}), or the circuit could never close"
            yield Problem("half_open_max_calls", self.half_open_max_calls, expected)
        if self.half_open_failure_rate_threshold is not None and exceeds(self.success_threshold, 1):
            expected = "None beside success_threshold: a rate of half_open_max_calls decides, or a number of successes"
            yield Problem("half_open_failure_rate_threshold", self.half_open_failure_rate_threshold, expected)
        if exceeds(self.reset_timeout, self.reset_timeout_max):
            expected = f"at least reset_timeout ({self.reset_timeout:g} s)"
            yield Problem("reset_timeout_max", self.reset_timeout_max, expected)
        if exceeds(self.retry_after_max, self.reset_timeout_max):
            expected = f"at most reset_timeout_max ({self.reset_timeout_max:g} s)"
            yield Problem("retry_after_max", self.retry_after_max, expected)
        if self.shadow is True and self.mode not in ("automatic", "metrics_only"):
            yield Problem("shadow", self.shadow, f"false beside mode={self.mode}: it means metrics_only")
        if self.quorum is not None and self.shared is False:
            yield Problem("quorum", self.quorum, "None unless the circuit is shared: it counts the votes of instances")

    def _within_window(self) -> Iterable[Problem]:
        if isinstance(self.sliding_window, int) and exceeds(self.minimum_calls, self.sliding_window):
            expected = f"at most sliding_window ({self.sliding_window}), or a rate could never be judged"
            yield Problem("minimum_calls", self.minimum_calls, expected)
        if isinstance(self.sliding_window, int) and exceeds(self.failure_count_threshold, self.sliding_window):
            expected = f"at most sliding_window ({self.sliding_window}), or it could never be reached"
            yield Problem("failure_count_threshold", self.failure_count_threshold, expected)
