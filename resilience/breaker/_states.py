"""The states of a circuit, and the permits that they hand out. `_machine.py` explains both."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import NamedTuple, Protocol, TypeAlias

from resilience.breaker._cut_offs import CutOffs, is_more_patient
from resilience.breaker._plan import TrialRule
from resilience.breaker._rules import OutcomeRules, Trip, TripLimits
from resilience.breaker._window import CallCounts

__all__ = (
    "CLOSED",
    "HALF_OPEN",
    "IS_OPEN",
    "OPEN",
    "UNTRACKED",
    "CallTotals",
    "Closed",
    "Epoch",
    "HalfOpen",
    "Open",
    "Permit",
    "Ramp",
    "Refusal",
    "RunningCalls",
    "StateChange",
    "TimedCall",
    "Trial",
    "begun",
)

CLOSED, OPEN, HALF_OPEN = "closed", "open", "half-open"  # pybreaker's words
_MAX_LOOKED_AT = 10
"""Trials that `take_over` looks at: it runs for every refused caller."""


IS_OPEN = "is open"


class Refusal(NamedTuple):
    """The circuit refuses a call. It may admit one in `retry_after` seconds; None if that is not known.

    `why` completes the sentence "circuit 'payments' ...".
    """

    retry_after: float | None
    why: str = IS_OPEN


class StateChange(NamedTuple):
    """The circuit changed its state; `counts` are those of the epoch that ended."""

    before: str
    after: str
    reason: str
    counts: CallCounts


class Counting(Protocol):
    """The circuit that hands a permit out, and counts its success."""

    def record_timed_success(self, permit: TimedCall, /) -> None:
        """Count a success."""

    def record_success(self, permit: Trial, /) -> None:
        """Count a success."""


class TimedCall:
    """The permit of a call whose duration counts.

    It has no constructor: that would cost each call a tenth of its guard. `RunningCalls.begin` sets all but `circuit`.
    """

    __slots__ = ("circuit", "epoch", "number", "started")

    circuit: Counting
    """Set by the circuit when it hands the permit out."""
    epoch: Closed | Ramp
    started: float
    number: int | None
    """The number under which the call was counted as slow while it was running."""

    def record_success(self) -> None:
        """Count a success. Every kind of permit has this method."""
        self.circuit.record_timed_success(self)


class Trial:
    """The permit of one call in the half-open state."""

    __slots__ = ("circuit", "epoch", "patience", "started")

    circuit: Counting

    def __init__(self, epoch: HalfOpen, started: float, patience: float = math.inf) -> None:
        self.epoch = epoch
        self.started = started
        self.patience = patience
        """Seconds that the caller waits, if that is less than the service allows."""

    def record_success(self) -> None:
        """Count a success."""
        self.circuit.record_success(self)


class RunningCalls:
    """The timed calls that are running, oldest first. So the circuit finds slow ones without a timer.

    Calls begin and end without a lock. Each step is one atomic operation, and the thread that removes a call counts it.
    """

    __slots__ = ("calls", "due", "slow_after")

    def __init__(self, slow_after: float, now: float) -> None:
        self.slow_after = slow_after
        self.due = now + slow_after
        """Until this time no running call can be slow."""
        self.calls: dict[TimedCall, None] = {}

    def __len__(self) -> int:
        return len(self.calls)

    def begin(self, epoch: Closed | Ramp, now: float) -> TimedCall:
        """Return the permit of a call that begins now."""
        call = TimedCall()
        call.epoch, call.started, call.number = epoch, now, None
        self.calls[call] = None
        return call

    def end(self, call: TimedCall) -> bool:
        """Remove a call that ended; return False if it was removed before."""
        return self.calls.pop(call, self) is None

    def is_slow(self, started: float, now: float) -> bool:
        """Return whether a call from `started` to `now` takes longer than allowed (not just as long)."""
        return now - started > self.slow_after

    def overdue(self, now: float) -> Iterator[TimedCall]:
        """Remove, one by one, the running calls that are slow by now."""
        if now <= self.due:
            return
        self.due = now + self.slow_after
        for call in list(self.calls):
            if not self.is_slow(call.started, now):
                self.due = call.started + self.slow_after
                return
            if self.end(call):
                yield call


class Closed:
    """Calls pass, and their outcomes count. `running` is set only if their durations count, too."""

    __slots__ = ("cut_offs", "not_before", "record_success", "rule", "running", "since")
    state = CLOSED

    def __init__(self, rule: OutcomeRules, since: float = 0.0, running: RunningCalls | None = None) -> None:
        self.rule = rule
        self.since = since
        self.running = running
        self.record_success = rule.record_success
        self.cut_offs: CutOffs[Closed] | None = None
        """The last cut-offs in a row."""
        self.not_before = -math.inf
        """The latest time until which the dependency asked to be left alone."""


class Open:
    """Calls are refused until `until`. With `cut_offs` only the impatient callers are refused."""

    __slots__ = ("cut_offs", "failures", "is_by_hand", "stamp", "until")
    state = OPEN

    def __init__(
        self, until: float, failures: int, cut_offs: CutOffs[Closed] | None = None, *, is_by_hand: bool = False
    ) -> None:
        self.until = until
        self.failures = failures
        self.is_by_hand = is_by_hand
        self.cut_offs = cut_offs
        self.stamp: datetime | None = None
        """The opening time in the storage. A different one in the storage means that another breaker opened again."""


class HalfOpen:
    """`available` more trials are admitted, until `ends`; `rule` says which outcomes close or open the circuit."""

    __slots__ = (
        "available",
        "cut_offs",
        "ends",
        "failures",
        "in_flight",
        "not_before",
        "rule",
        "running",
        "successes",
        "trial_failures",
    )
    state = HALF_OPEN

    def __init__(self, rule: TrialRule, ends: float, failures: int, running: RunningCalls | None = None) -> None:
        self.rule = rule
        self.ends = ends
        self.available = rule.permits
        self.failures = failures
        """The failures that opened the circuit."""
        self.running = running
        self.successes = 0
        self.trial_failures = 0
        self.cut_offs: CutOffs[Closed] | None = None
        """The cut-offs that opened the circuit, or else the last trials in a row that were cut off."""
        self.not_before = -math.inf
        self.in_flight: dict[Trial, float] = {}
        """The running trials and the end of the lease of each, oldest first."""

    @property
    def trial_counts(self) -> CallCounts:
        """The counts of the trials that have ended."""
        return CallCounts(self.trial_failures, self.successes + self.trial_failures)

    def use_rule(self, rule: TrialRule) -> None:
        """Use another rule from the next outcome on."""
        self.rule = rule

    def admit(self, now: float, patience: float, lease: float) -> Trial | Refusal:
        """Hand out a permit if one is available, or if another trial has to give up its own."""
        if not self.available:
            self._take_over(patience)
        if not self.available and self.in_flight:
            oldest, lease_end = next(iter(self.in_flight.items()))
            if lease_end > now:
                return Refusal(lease_end - now)
            del self.in_flight[oldest]  # it never reported: presumed lost, its permit goes to this call (L5)
            self.available += 1
        if not self.available:  # all permits were used without a decision: admit as many trials as are missing
            self.available = max(1, self.rule.required_successes - self.successes)
        trial, lease_end = Trial(self, now, patience), now + lease
        # Only operators from here on: an interrupt strikes before the trial is registered, or when its caller has it.
        self.available -= 1
        self.in_flight[trial] = lease_end
        return trial

    def _take_over(self, patience: float) -> None:
        """Free the permit of a trial that may be cut off without a result, for a more patient caller."""
        for trial in itertools.islice(self.in_flight, _MAX_LOOKED_AT):
            if is_more_patient(patience, trial.patience):
                del self.in_flight[trial]
                self.available += 1
                return


class Ramp:
    """Closed again, but only a growing share of the calls is admitted. The rule of the trials still applies."""

    __slots__ = (
        "_credit",
        "calls",
        "failures",
        "initial",
        "not_before",
        "rule",
        "running",
        "seconds",
        "started",
        "successes",
    )
    state = CLOSED

    def __init__(
        self, rule: TrialRule, now: float, seconds: float, initial: float, running: RunningCalls | None = None
    ) -> None:
        self.rule = rule
        self.started = now
        self.seconds = seconds
        self.initial = initial
        self.running = running
        self.calls = 0
        self.failures = 0
        self.successes = 0
        self.not_before = -math.inf
        self._credit = 1.0  # the first call passes

    def use_rule(self, rule: TrialRule) -> None:
        """Use another rule from the next failure on."""
        self.rule = rule

    def share(self, now: float) -> float:
        """Return the share of calls that is admitted at `now`."""
        return self.initial + (1 - self.initial) * min(1.0, (now - self.started) / self.seconds)

    def takes(self, now: float) -> bool:
        """Return whether to admit one call: evenly, not at random, so that every stretch of calls has the share."""
        self._credit += self.share(now)
        if self._credit < 1:
            return False
        self._credit -= 1
        self.calls += 1
        return True

    def record_success(self) -> None:
        """Count a success, for the metrics alone: it does not change the state of a ramp."""
        self.successes += 1

    def add_failure(self) -> bool:
        """Count a failure; return whether the circuit has to open again."""
        self.failures += 1
        permits, allowed = self.rule.permits, self.rule.allowed_failures
        return self.failures * permits >= allowed * max(self.calls, permits) or allowed == 1


class _NoRules:
    """Counts nothing and never opens the circuit."""

    def __init__(self) -> None:
        self.record_success: Callable[[], object] = int  # the cheapest call there is

    def record_failure(self, _now: float, *, slow: bool = False) -> Trip | None:  # noqa: ARG002 - a rule's signature
        return None

    def counts(self, _now: float) -> CallCounts:
        return CallCounts(0, 0)

    def successes(self) -> None:
        return None

    def use_limits(self, _limits: TripLimits) -> None:
        return None


UNTRACKED = Closed(_NoRules())
"""The permit of a call that passes although the circuit does not track it: an epoch that no circuit is ever in."""

Epoch: TypeAlias = Closed | Open | HalfOpen | Ramp
Permit: TypeAlias = Closed | Ramp | TimedCall | Trial


def begun(epoch: Closed | Ramp, now: float) -> Permit:
    """Return the permit of a call that begins now."""
    return epoch if epoch.running is None else epoch.running.begin(epoch, now)


class CallTotals:
    """What a circuit has counted since its start, over all epochs. It is read without the lock.

    A success in a closed epoch or a ramp is counted by the epoch alone. Its count moves here when the next such epoch
    ends, so a result that comes later still is in no total, as it is in no rule.
    """

    __slots__ = ("ended", "entered", "failures", "past_successes", "refused", "refused_in_shadow")

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """Count from zero."""
        self.failures = self.refused = self.refused_in_shadow = 0
        self.past_successes = 0
        """Successes of trials, and of epochs that ended longer ago."""
        self.ended: list[Closed | Ramp] = []
        """The epoch that ended last; for a moment, the one before it, too."""
        self.entered = {CLOSED: 0, OPEN: 0, HALF_OPEN: 0}
        """How often each state has begun, without the first one."""

    def add_oldest(self) -> None:
        """Move the count of the older epoch that has ended here."""
        epoch = self.ended.pop(0)  # first: who reads meanwhile must not count it twice
        self.past_successes += _successes_of(epoch)

    def successes(self, epoch: Epoch) -> int:
        """Return all successes, with those that the present epoch counts."""
        counting: Closed | Ramp | None
        if isinstance(epoch, Open | HalfOpen):
            counting = None if epoch.cut_offs is None else epoch.cut_offs.epoch
        else:
            counting = epoch
        counted = [*self.ended] if counting is None else [*self.ended, counting]
        return self.past_successes + sum(map(_successes_of, counted))


def _successes_of(epoch: Closed | Ramp) -> int:
    return epoch.successes if isinstance(epoch, Ramp) else epoch.rule.successes() or 0
