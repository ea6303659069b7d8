"""The states a circuit can be in, and the permits they hand out.

A permit belongs to one epoch, by identity: what it reports to an epoch that is over changes nothing (L3).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import NamedTuple, TypeAlias

from resilience.breaker._cut_offs import CutOffs
from resilience.breaker._rules import TripRule

__all__ = (
    "CLOSED",
    "HALF_OPEN",
    "OPEN",
    "Closed",
    "Epoch",
    "HalfOpen",
    "Open",
    "Permit",
    "Ramp",
    "Running",
    "Timed",
    "Trial",
    "TrialRule",
    "unreported",
)

CLOSED, OPEN, HALF_OPEN = "closed", "open", "half-open"  # pybreaker's words


def unreported(_permit: Permit) -> None:
    """Stand in until a permit is handed out."""


class Timed:
    """The permit of a call that is timed, because being slow counts."""

    __slots__ = ("epoch", "number", "report", "started")

    def __init__(self, epoch: Closed | Ramp, started: float) -> None:
        self.epoch = epoch
        self.started = started
        self.number: int | None = None
        """Under which number the call was counted as slow while it was still running."""
        self.report: Callable[[Permit], object] = unreported
        """Set by whoever admits: what a success is told to."""

    def succeeded(self) -> None:
        """Report a success; every kind of permit is told of one in the same way."""
        self.report(self)


class Trial:
    """The permit of one call admitted while half-open."""

    __slots__ = ("epoch", "patience", "report", "started")

    def __init__(self, epoch: HalfOpen, started: float, patience: float = math.inf) -> None:
        self.epoch = epoch
        self.started = started
        self.patience = patience
        """Seconds for which its caller waits, if that is less than the service allows."""
        self.report: Callable[[Permit], object] = unreported

    def succeeded(self) -> None:
        """Report a success."""
        self.report(self)


class Running:
    """Timed calls under way, oldest first, so that finding those that are too slow by now costs no timer.

    Calls begin and end without a lock: each step is one atomic operation, and whoever takes a call out counts it.
    """

    __slots__ = ("_calls", "due", "slow_after")

    def __init__(self, slow_after: float, now: float) -> None:
        self.slow_after = slow_after
        self.due = now + slow_after
        """Until then no call under way can be slow."""
        self._calls: dict[Timed, None] = {}

    def __len__(self) -> int:
        return len(self._calls)

    def begin(self, epoch: Closed | Ramp, now: float) -> Timed:
        """Return the permit of a call that begins now."""
        call = Timed(epoch, now)
        self._calls[call] = None
        return call

    def end(self, call: Timed) -> bool:
        """Take out a call that ended; False where it was taken out before."""
        return self._calls.pop(call, self) is None

    def is_slow(self, started: float, now: float) -> bool:
        """Whether a call that takes from `started` to `now` is slow: it takes longer than allowed, not just as long."""
        return now - started > self.slow_after

    def overdue(self, now: float) -> Iterator[Timed]:
        """Take out, one by one, the calls that are slow by now although they have not ended."""
        if now <= self.due:
            return
        self.due = now + self.slow_after
        for call in list(self._calls):
            if not self.is_slow(call.started, now):
                self.due = call.started + self.slow_after
                return
            if self.end(call):
                yield call


class Closed:
    """Calls pass and their outcomes are counted; `running` only where their time counts as well."""

    __slots__ = ("cut_offs", "floor", "rule", "running", "since", "succeeded")
    state = CLOSED

    def __init__(self, rule: TripRule, since: float = 0.0, running: Running | None = None) -> None:
        self.rule = rule
        self.since = since
        self.running = running
        self.succeeded = rule.succeeded
        self.cut_offs: CutOffs | None = None
        """The last calls in a row that their callers cut off."""
        self.floor = -math.inf
        """The latest moment that the dependency asked to be left alone until."""


class Open:
    """Calls are refused until `until`; with `cut_offs` only those that these concern."""

    __slots__ = ("cut_offs", "failures", "stamp", "until")
    state = OPEN

    def __init__(self, until: float, failures: int, cut_offs: CutOffs | None = None) -> None:
        self.until = until
        self.cut_offs = cut_offs
        self.failures = failures
        self.stamp: datetime | None = None
        """When a storage says this began, so that an opening made elsewhere since then is told from it."""


class TrialRule(NamedTuple):
    """`permits` trials are admitted; `wanted` successes close the circuit, `losses` failures open it again.

    With a rate both follow from it, so that either verdict falls as soon as the trials still out cannot change it.
    """

    permits: int
    wanted: int
    losses: int = 1

    @classmethod
    def by_rate(cls, permits: int, rate: float) -> TrialRule:
        """Open again where at least `rate` of `permits` trials fail."""
        losses = max(1, math.ceil(rate * permits - 1e-9))
        return cls(permits, permits - losses + 1, losses)


class HalfOpen:
    """`free` more trials are admitted, until `ends`; the rule says what they have to show."""

    __slots__ = ("cut_offs", "ends", "failures", "floor", "free", "losses", "out", "rule", "running", "successes")
    state = HALF_OPEN

    def __init__(self, rule: TrialRule, ends: float, failures: int, running: Running | None = None) -> None:
        self.rule = rule
        self.ends = ends
        self.free = rule.permits
        self.failures = failures
        self.running = running
        self.successes = 0
        self.losses = 0
        self.cut_offs: CutOffs | None = None
        """Those that led here, or else the trials in a row that their callers cut off."""
        self.floor = -math.inf
        self.out: dict[Trial, float] = {}
        """Trials on their way and when each one's lease ends, oldest first."""


class Ramp:
    """Closed again, but only a growing share of the calls is admitted; the trials' rule goes on judging them."""

    __slots__ = ("_credit", "calls", "failures", "floor", "initial", "rule", "running", "seconds", "started")
    state = CLOSED

    def __init__(
        self, rule: TrialRule, now: float, seconds: float, initial: float, running: Running | None = None
    ) -> None:
        self.rule = rule
        self.started = now
        self.seconds = seconds
        self.initial = initial
        self.running = running
        self.calls = 0
        self.failures = 0
        self.floor = -math.inf
        self._credit = 1.0  # the first call passes

    def share(self, now: float) -> float:
        """Return the share of calls admitted at `now`."""
        return self.initial + (1 - self.initial) * min(1.0, (now - self.started) / self.seconds)

    def takes(self, now: float) -> bool:
        """Admit one call or not: evenly, not at random, so that the share holds over any stretch of calls."""
        self._credit += self.share(now)
        if self._credit < 1:
            return False
        self._credit -= 1
        self.calls += 1
        return True

    def succeeded(self) -> None:
        """Count nothing: a success changes no verdict here."""

    def failed(self) -> bool:
        """Count a failure; return whether the circuit has to open again."""
        self.failures += 1
        permits, losses = self.rule.permits, self.rule.losses
        return self.failures * permits >= losses * max(self.calls, permits) or losses == 1


Epoch: TypeAlias = Closed | Open | HalfOpen | Ramp
Permit: TypeAlias = Closed | Ramp | Timed | Trial
