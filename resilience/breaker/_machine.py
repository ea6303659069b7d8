"""The circuit breaker's states and transitions, after Nygard's "Release It!" and resilience4j's permits.

Told the time, not thread-safe, silent. A permit is the `Closed` epoch itself or one `Trial` of a `HalfOpen` epoch;
a result whose permit does not belong to the current epoch changes nothing (L3).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

from resilience.breaker._window import TripRule

__all__ = ("Closed", "Epoch", "HalfOpen", "Machine", "Open", "Permit", "Refusal", "Transition", "Trial")

CLOSED, OPEN, HALF_OPEN = "closed", "open", "half-open"  # pybreaker's words


class Closed:
    """Calls pass and their outcomes are counted."""

    __slots__ = ("rule", "succeeded")
    state = CLOSED

    def __init__(self, rule: TripRule) -> None:
        self.rule = rule
        self.succeeded = rule.succeeded


class Open:
    """Calls are refused until `until`."""

    __slots__ = ("failures", "until")
    state = OPEN

    def __init__(self, until: float, failures: int) -> None:
        self.until = until
        self.failures = failures


class HalfOpen:
    """`free` more trials are admitted; `wanted` more successes close the circuit; one failure opens it again."""

    __slots__ = ("failures", "free", "out", "successes")
    state = HALF_OPEN

    def __init__(self, permits: int, failures: int) -> None:
        self.free = permits
        self.failures = failures
        self.successes = 0
        self.out: dict[Trial, float] = {}
        """Trials on their way and when each one's lease ends, oldest first."""


def _unreported(_trial: Trial) -> None:
    """Stand in until the trial is handed out."""


class Trial:
    """The permit of one call admitted while half-open."""

    __slots__ = ("epoch", "report")

    def __init__(self, epoch: HalfOpen) -> None:
        self.epoch = epoch
        self.report: Callable[[Trial], object] = _unreported
        """Set by whoever admits: what a success is told to."""

    def succeeded(self) -> None:
        """Report a success; both kinds of permit are told of one in the same way."""
        self.report(self)


Epoch: TypeAlias = Closed | Open | HalfOpen
Permit: TypeAlias = Closed | Trial


class Refusal(NamedTuple):
    """No: try again in `retry_after` seconds."""

    retry_after: float


class Transition(NamedTuple):
    """The state changed, and why; `failures` of `calls` are what the epoch that ended had counted."""

    before: str
    after: str
    reason: str
    failures: int
    calls: int


class Machine:
    """`rule` makes the judge of a new closed epoch; durations are seconds."""

    def __init__(
        self, rule: Callable[[], TripRule], *, reset_timeout: float, permits: int, wanted: int, lease: float
    ) -> None:
        self._rule = rule
        self.reset_timeout = reset_timeout
        self.permits = permits
        self.wanted = wanted
        self.lease = lease
        self.epoch: Epoch = Closed(rule())

    def admit(self, now: float) -> tuple[Permit | Refusal, Transition | None]:
        """Decide about one call; an open circuit whose time is up becomes half-open here, with no timer."""
        epoch = self.epoch
        if isinstance(epoch, Closed):
            return epoch, None
        if isinstance(epoch, HalfOpen):
            return self._try(epoch, now), None
        if now < epoch.until:
            return Refusal(epoch.until - now), None
        trials = HalfOpen(self.permits, epoch.failures)
        change = self._become(trials, "reset timeout elapsed", *self.counts())
        return self._try(trials, now), change

    def _try(self, epoch: HalfOpen, now: float) -> Trial | Refusal:
        if not epoch.free and epoch.out:
            oldest, lease_end = next(iter(epoch.out.items()))
            if lease_end > now:
                return Refusal(lease_end - now)
            del epoch.out[oldest]  # it never reported: presumed lost, its permit goes to this call (L5)
            epoch.free += 1
        if not epoch.free:  # every permit was used up by successes that do not suffice: more are wanted than there were
            epoch.free = self.wanted - epoch.successes
        epoch.free -= 1
        trial = Trial(epoch)
        epoch.out[trial] = now + self.lease
        return trial

    def succeeded(self, trial: Trial) -> Transition | None:
        """Count a trial that went well."""
        if not self._settle(trial):
            return None
        trial.epoch.successes += 1
        if trial.epoch.successes < self.wanted:
            return None
        return self.close("trial calls succeeded")

    def failed(self, permit: Permit, now: float) -> Transition | None:
        """Count a failure."""
        if isinstance(permit, Trial):
            if not self._settle(permit):
                return None
            epoch = Open(now + self.reset_timeout, permit.epoch.failures + 1)
            return self._become(epoch, "trial call failed", 1, permit.epoch.successes + 1)
        if permit is not self.epoch or not permit.rule.failed():
            return None
        return self.open(now, permit.rule.reason)

    def abandoned(self, permit: Permit) -> None:
        """Give back the permit of a call that ended without a verdict."""
        if isinstance(permit, Trial) and self._settle(permit):
            permit.epoch.free += 1

    def _settle(self, trial: Trial) -> bool:
        """Return whether `trial` still counts: of this epoch, and its lease not given to another call."""
        return trial.epoch is self.epoch and trial.epoch.out.pop(trial, None) is not None

    def open(self, now: float, reason: str, *, seconds: float | None = None) -> Transition:
        """Refuse calls from now on, for the reset timeout or the `seconds` given."""
        failures, calls = self.counts()
        duration = self.reset_timeout if seconds is None else seconds
        return self._become(Open(now + duration, failures), reason, failures, calls)

    def half_open(self, reason: str) -> Transition:
        """Admit trial calls."""
        failures, calls = self.counts()
        return self._become(HalfOpen(self.permits, failures), reason, failures, calls)

    def close(self, reason: str) -> Transition:
        """Admit calls, with nothing remembered of earlier ones."""
        return self._become(Closed(self._rule()), reason, *self.counts())

    def _become(self, epoch: Epoch, reason: str, failures: int, calls: int) -> Transition:
        before, self.epoch = self.epoch.state, epoch
        return Transition(before, epoch.state, reason, failures, calls)

    def adopt(self, limits: Machine) -> None:
        """Take over the limits of another machine: an open circuit's time counts from when it opened."""
        if isinstance(self.epoch, Open):
            self.epoch.until += limits.reset_timeout - self.reset_timeout
        self.reset_timeout, self.lease = limits.reset_timeout, limits.lease
        self.permits, self.wanted = limits.permits, limits.wanted

    def counts(self) -> tuple[int, int]:
        """Return (failures, calls): of the window while closed, else those that led here."""
        epoch = self.epoch
        if isinstance(epoch, Closed):
            return epoch.rule.counts()
        return epoch.failures, epoch.failures

    def retry_after(self, now: float) -> float | None:
        """Return the seconds until a call may be admitted, or None where one may be now."""
        epoch = self.epoch
        return max(0.0, epoch.until - now) if isinstance(epoch, Open) else None
