"""The rules that open a closed circuit, applied to the outcomes of one epoch."""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable
from typing import NamedTuple, Protocol, cast

from resilience.breaker._window import CallCounts, Numbers, TimeWindow, Window
from resilience.clock import Clock

__all__ = ("OutcomeRules", "Trip", "TripLimits", "TripRules", "judge_under_lock", "judging_rules", "rules_of")


class Trip(NamedTuple):
    """The circuit has to open: the rule that matched, and the counts that it matched on."""

    rule: str
    counts: CallCounts


class TripLimits(NamedTuple):
    """The limit of each rule; a rule whose limit is None is off. Rates apply from `minimum` calls on."""

    consecutive: int | None = None
    failures: int | None = None
    failure_rate: float | None = None
    slow_rate: float | None = None
    minimum: int = 1


class OutcomeRules(Protocol):
    """The rules of one closed epoch. The caller holds the circuit's lock, except for `record_success`."""

    record_success: Callable[[], object]
    """Counts a success; atomic. An attribute, so that a success costs no Python frame of the rules."""

    def record_failure(self, now: float, /, *, slow: bool = False) -> Trip | None:
        """Count a failure; return the rule that opens the circuit, if one does."""
        ...

    def counts(self, now: float, /) -> CallCounts:
        """Return the counts that the rules see now."""
        ...

    def successes(self) -> int | None:
        """Return how many calls have succeeded so far, None if that is not known. Needs no lock."""
        ...

    def use_limits(self, limits: TripLimits, /) -> None:
        """Use other limits from the next outcome on."""
        ...


class TripRules:
    """All rules over one numbering: consecutive failures, and counts and rates in a window.

    The rules are checked when a failure or a slow call arrives. A plain success is checked only if it can open the
    circuit: if it completes the minimum of calls after a failure, or if it moves a window of time, so that older
    successes leave. Until the minimum is complete, `record_success` is therefore `judged_success`, which takes the lock
    of the circuit, and calls `judge_success`. The caller of the other methods copies the attribute to the epoch.

    A *run* is a number of consecutive failures. It is unbroken as long as its last outcome has the newest number.
    """

    def __init__(self, limits: TripLimits, window: Window) -> None:
        self.limits = limits
        self.window = window
        self._numbers = Numbers()
        self.count_success: Callable[[], object] = self._numbers.next
        """Counts a success at a time before the edge of the window."""
        self.record_success: Callable[[], object] = self._numbers.next
        self._plain_success: Callable[[], object] = self._numbers.next
        self.judged_success: Callable[[], object] | None = None
        """Counts and judges a success under the lock of the circuit. None: no success is judged."""
        self._run = 0
        self._run_end = 0
        self._not_successful = 0

    def record_failure(self, now: float, *, slow: bool = False) -> Trip | None:
        """Count a failure, which may have been slow as well."""
        self._not_successful += 1  # first: who reads `successes` meanwhile must not count this one
        number, window = self._numbers.next(), self.window
        window.advance(now, number - 1)
        window.add_failure(number)
        if slow:
            window.add_slow(number)
        self._run = self._run + 1 if number == self._run_end + 1 else 1
        self._run_end = number
        return self._check(window.counts(number))

    def judge_success(self, now: float) -> Trip | None:
        """Count a success that may open the circuit. The caller holds the lock."""
        number = self._numbers.next()
        self.window.advance(now, number - 1)
        return self._check(self.window.counts(number), failed=False)

    def record_slow(self, now: float) -> Trip | None:
        """Count a success that took too long."""
        number = self._numbers.next()
        self.window.advance(now, number - 1)
        self.window.add_slow(number)
        return self._check(self.window.counts(number), failed=False)

    def record_slow_running(self, now: float) -> tuple[int, Trip | None]:
        """Count a call that is slow although it is still running; `record_late_failure` takes the number returned."""
        self._not_successful += 1
        number = self._numbers.next()
        self.window.advance(now, number - 1)
        self.window.add_slow(number)
        if number == self._run_end + 1:  # its end is not known yet, so it does not break a run of failures
            self._run_end = number
        return number, self._check(self.window.counts(number), failed=False)

    def record_late_success(self) -> None:
        """Break the run: a call that was counted while it was running has succeeded."""
        self._run = 0
        self._not_successful -= 1

    def record_late_failure(self, number: int, now: float) -> Trip | None:
        """Count the failure of a call that was counted as slow, under `number`, while it was running."""
        last = self._numbers.last()
        self.window.advance(now, last)
        if not self.window.holds(number):
            return self.record_failure(now, slow=True)  # the window has moved on: this is a new outcome
        self.window.add_failure(number)
        self._run = self._run + 1 if last == self._run_end else 1
        self._run_end = last
        return self._check(self.window.counts(last))

    def counts(self, now: float) -> CallCounts:
        """Return the counts of the window; if only consecutive failures count, the unbroken run."""
        last = self._numbers.last()
        if self._has_window_rules:
            return self.window.counts(last, now)
        run = self._run if last == self._run_end else 0
        return CallCounts(run, run)

    def successes(self) -> int:
        """Return how many calls have succeeded so far. Needs no lock."""
        return self._numbers.last() - self._not_successful

    def use_limits(self, limits: TripLimits) -> None:
        """Use other limits from the next outcome on."""
        self.limits = limits

    @property
    def _has_window_rules(self) -> bool:
        return not (self.limits.failures is self.limits.failure_rate is self.limits.slow_rate is None)

    def judge_successes(self, in_time: Callable[[], object] | None, judged: Callable[[], object]) -> None:
        """Judge successes, too. `in_time` counts a success in a window of time, None in a window of calls."""
        self.judged_success = judged
        if in_time is not None:
            self.record_success = self._plain_success = in_time

    def _check(self, counts: CallCounts, *, failed: bool = True) -> Trip | None:
        """Return the first rule that matches, and choose how the next success is counted.

        A success (`failed` is false) can match only a rate.
        """
        limits, judged = self.limits, self.judged_success
        if judged is not None:
            has_rate = not (limits.failure_rate is limits.slow_rate is None)
            if has_rate and counts.calls < limits.minimum and (counts.failures or counts.slow):
                self.record_success = self.count_success = judged
            else:
                self.record_success, self.count_success = self._plain_success, self._numbers.next
        if failed:
            if limits.consecutive is not None and self._run >= limits.consecutive:
                return Trip(
                    "consecutive failures", counts if self._has_window_rules else CallCounts(self._run, self._run)
                )
            if limits.failures is not None and counts.failures >= limits.failures:
                return Trip("failure count", counts)
        if counts.calls < limits.minimum:
            return None
        if _reaches(counts.failures, limits.failure_rate, counts.calls):
            return Trip("failure rate", counts)
        return Trip("slow call rate", counts) if _reaches(counts.slow, limits.slow_rate, counts.calls) else None


def judging_rules(
    limits: TripLimits,
    window: Window,
    clock: Clock,
    judge: Callable[[weakref.ref[TripRules]], None],
) -> TripRules:
    """Return rules over a window. In a window of time, the first success of each bucket is judged.

    `judge` counts and judges a success under the circuit's lock. It gets the rules as a weak reference, to make no
    cycle.
    """
    rules = TripRules(limits, window)
    judged = functools.partial(judge, weakref.ref(rules))
    in_time = None
    if isinstance(window, TimeWindow):
        in_time = functools.partial(_count_in_time, clock, window, judged, rules.record_success)
    rules.judge_successes(in_time, judged)
    return rules


def _count_in_time(clock: Clock, window: TimeWindow, judged: Callable[[], object], count: Callable[[], object]) -> None:
    """Count a success. Atomic, except for the first call of each bucket."""
    if clock() >= window.edge:
        judged()
    else:
        count()


def _reaches(part: int, rate: float | None, whole: int) -> bool:
    # Less a little: 0.07 * 100 is slightly more than 7.
    return rate is not None and part > 0 and part >= rate * whole - 1e-9


class _Judging(Protocol):
    """The circuit that the rules belong to."""

    def judge_success(self, rules: TripRules, /) -> None:
        """Count a success under the lock, and open the circuit if a rule says so."""


def judge_under_lock(owner: weakref.ref[_Judging], rules: weakref.ref[TripRules]) -> None:
    """Count and judge a success, if `rules` and their circuit still exist."""
    circuit, counting = owner(), rules()
    if circuit is not None and counting is not None:
        circuit.judge_success(counting)


class _RulesMaker(Protocol):
    def new_rules(self, now: float) -> OutcomeRules: ...


def rules_of(owner: weakref.ref[_RulesMaker]) -> Callable[[float], OutcomeRules]:
    """Return the function that makes the rules of each closed epoch; its circuit is alive when it is called."""
    return lambda now: cast("_RulesMaker", owner()).new_rules(now)
