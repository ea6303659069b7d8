"""The circuit breaker's decisions, after Nygard's "Release It!" and resilience4j's permits.

Told the time, not thread-safe, silent. What time alone brings about - an open circuit that may be tried, calls that
have become slow, a phase that has lasted too long - happens at the next call, so that no timer is needed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, cast

from resilience.breaker._epochs import Closed, Epoch, HalfOpen, Open, Permit, Ramp, Running, Timed, Trial, TrialRule
from resilience.breaker._open_time import OpenTime
from resilience.breaker._rules import Judge, Trip, TripRule
from resilience.breaker._window import Counts

__all__ = ("Machine", "Plan", "Refusal", "Transition")


class Refusal(NamedTuple):
    """No: try again in `retry_after` seconds, or who knows when; `why` is what the circuit does meanwhile."""

    retry_after: float | None
    why: str = "is open"


class Transition(NamedTuple):
    """The state changed, and why; `counts` is what the epoch that ended had seen."""

    before: str
    after: str
    reason: str
    counts: Counts


class Plan(NamedTuple):
    """What a circuit does besides judging; durations are seconds. `slow_after` None: calls are not timed."""

    open_time: OpenTime
    trials: TrialRule
    lease: float
    half_open_limit: float
    ramp: float = 0.0
    ramp_initial: float = 0.1
    slow_after: float | None = None


def _no_chance() -> float:
    return 0.0


class Machine:
    """`rule` makes the judge of a closed epoch that begins at the time given; `random` gives [0, 1)."""

    def __init__(
        self,
        rule: Callable[[float], TripRule],
        plan: Plan,
        *,
        now: float = 0.0,
        random: Callable[[], float] = _no_chance,
    ) -> None:
        self._rule = rule
        self.plan = plan
        self._random = random
        self.openings = 0
        """Consecutive openings, as far as they still count."""
        self.epoch: Epoch = self._new_closed(now)

    def admit(self, now: float) -> tuple[Permit | Refusal, Transition | None]:
        """Decide about one call."""
        change = self.catch_up(now)
        epoch = self.epoch
        if isinstance(epoch, Open):
            return Refusal(epoch.until - now), change
        if isinstance(epoch, HalfOpen):
            return self._try(epoch, now), change
        if isinstance(epoch, Ramp) and not epoch.takes(now):
            # No time: the next call may pass, and whoever was told of the ramp's end would come then with all others.
            return Refusal(None, "lets only a share of the calls pass yet"), change
        return (epoch if epoch.running is None else epoch.running.begin(epoch, now)), change

    def catch_up(self, now: float) -> Transition | None:
        """Do what time alone has brought about."""
        epoch = self.epoch
        if isinstance(epoch, Open):
            return self.half_open("reset timeout elapsed", now) if now >= epoch.until else None
        if isinstance(epoch, HalfOpen):
            return self._catch_up_trials(epoch, now)
        if isinstance(epoch, Ramp):
            return self._catch_up_ramp(epoch, now)
        return self.look(now)

    def look(self, now: float) -> Transition | None:
        """Count the calls of a closed circuit that are slow by now although they are still running."""
        epoch = self.epoch
        if not isinstance(epoch, Closed) or epoch.running is None:
            return None
        for call in epoch.running.overdue(now):
            call.number, trip = cast("Judge", epoch.rule).hung(now)
            if trip is not None:
                return self._trip(epoch, trip, now)
        return None

    def succeeded(self, permit: Permit, now: float) -> Transition | None:
        """Count a success that its permit does not count by itself."""
        if isinstance(permit, Trial):
            return self._trial_succeeded(permit, now)
        if not isinstance(permit, Timed) or permit.epoch is not self.epoch:
            return None
        epoch, running = permit.epoch, cast("Running", permit.epoch.running)
        running.end(permit)
        if isinstance(epoch, Ramp):
            return (
                self._ramp_failed(epoch, now)
                if permit.number is None and running.is_slow(permit.started, now)
                else None
            )
        judge = cast("Judge", epoch.rule)
        if permit.number is None and running.is_slow(permit.started, now):
            trip = judge.slowed(now)
            return None if trip is None else self._trip(epoch, trip, now)
        judge.tick(now)
        if permit.number is None:
            judge.succeeded()
        else:
            judge.succeeded_late()
        return None

    def failed(self, permit: Permit, now: float, floor: float = 0.0) -> Transition | None:
        """Count a failure; `floor` is for how long, in seconds, the dependency asked to be left alone."""
        if isinstance(permit, Trial):
            return self._trial_failed(permit, now, floor=floor) if self._settle(permit) else None
        timed = permit if isinstance(permit, Timed) else None
        epoch = permit.epoch if isinstance(permit, Timed) else permit
        if epoch is not self.epoch:
            return None
        if timed is not None and epoch.running is not None:
            epoch.running.end(timed)
        epoch.floor = max(epoch.floor, now + floor)
        if isinstance(epoch, Ramp):
            return self._ramp_failed(epoch, now) if timed is None or timed.number is None else None
        trip = _judged(epoch, timed, now)
        return None if trip is None else self._trip(epoch, trip, now)

    def abandoned(self, permit: Permit) -> None:
        """Give back the permit of a call that ended without a verdict."""
        if isinstance(permit, Trial):
            if self._settle(permit):
                permit.epoch.free += 1
        elif isinstance(permit, Timed) and permit.epoch.running is not None:
            permit.epoch.running.end(permit)

    # Half-open

    def _try(self, epoch: HalfOpen, now: float) -> Trial | Refusal:
        if not epoch.free and epoch.out:
            oldest, lease_end = next(iter(epoch.out.items()))
            if lease_end > now:
                return Refusal(lease_end - now)
            del epoch.out[oldest]  # it never reported: presumed lost, its permit goes to this call (L5)
            epoch.free += 1
        if not epoch.free:  # every permit was used up without a verdict: as many more as it can still take
            epoch.free = max(1, epoch.rule.wanted - epoch.successes)
        epoch.free -= 1
        trial = Trial(epoch, now)
        epoch.out[trial] = now + self.plan.lease
        return trial

    def _catch_up_trials(self, epoch: HalfOpen, now: float) -> Transition | None:
        running = epoch.running
        while running is not None and epoch.out and running.is_slow((oldest := next(iter(epoch.out))).started, now):
            del epoch.out[oldest]
            if (change := self._trial_failed(oldest, now, "trial call slow")) is not None:
                return change
        return self._reopen(epoch, now, "half-open time limit") if now >= epoch.ends else None

    def _trial_succeeded(self, trial: Trial, now: float) -> Transition | None:
        if not self._settle(trial):
            return None
        epoch = trial.epoch
        if epoch.running is not None and epoch.running.is_slow(trial.started, now):
            return self._trial_failed(trial, now, "trial call slow")
        epoch.successes += 1
        epoch.failures = 0  # those that led here are followed by others no more
        if epoch.successes < epoch.rule.wanted:
            return None
        counts = Counts(epoch.losses, epoch.successes + epoch.losses)
        if not self.plan.ramp:
            return self._become(self._new_closed(now), "trial calls succeeded", counts)
        ramp = Ramp(epoch.rule, now, self.plan.ramp, self.plan.ramp_initial, self._new_running(now))
        return self._become(ramp, "trial calls succeeded", counts)

    def _trial_failed(
        self, trial: Trial, now: float, reason: str = "trial call failed", *, floor: float = 0.0
    ) -> Transition | None:
        epoch = trial.epoch
        epoch.losses += 1
        epoch.floor = max(epoch.floor, now + floor)
        return self._reopen(epoch, now, reason) if epoch.losses >= epoch.rule.losses else None

    def _reopen(self, epoch: HalfOpen, now: float, reason: str) -> Transition:
        counts = Counts(epoch.losses, epoch.successes + epoch.losses)
        return self._become(self._new_open(epoch, now, epoch.failures + epoch.losses), reason, counts)

    def _settle(self, trial: Trial) -> bool:
        """Return whether `trial` still counts: of this epoch, and its lease not given to another call."""
        return trial.epoch is self.epoch and trial.epoch.out.pop(trial, None) is not None

    # Ramped re-close

    def _catch_up_ramp(self, ramp: Ramp, now: float) -> Transition | None:
        for call in () if ramp.running is None else ramp.running.overdue(now):
            call.number = 0
            if (change := self._ramp_failed(ramp, now)) is not None:
                return change
        if now < ramp.started + ramp.seconds:
            return None
        return self._become(self._new_closed(now), "ramp completed", Counts(ramp.failures, ramp.calls))

    def _ramp_failed(self, ramp: Ramp, now: float) -> Transition | None:
        if not ramp.failed():
            return None
        counts = Counts(ramp.failures, ramp.calls)
        return self._become(self._new_open(ramp, now, ramp.failures), "failed while ramping up", counts)

    # Opening and closing

    def _trip(self, epoch: Closed, trip: Trip, now: float) -> Transition:
        self.openings = self.plan.open_time.remembered(self.openings, now - epoch.since)
        return self._become(self._new_open(epoch, now, trip.counts.failures), trip.rule, trip.counts)

    def _new_open(self, ended: Closed | HalfOpen | Ramp, now: float, failures: int) -> Open:
        self.openings += 1
        return Open(now + self.plan.open_time.seconds(self.openings, ended.floor - now, self._random), failures)

    def _new_closed(self, now: float) -> Closed:
        return Closed(self._rule(now), now, self._new_running(now))

    def _new_running(self, now: float) -> Running | None:
        return None if self.plan.slow_after is None else Running(self.plan.slow_after, now)

    def open(self, now: float, reason: str, *, seconds: float | None = None) -> Transition:
        """Refuse calls from now on, for the reset timeout or the `seconds` given."""
        counts = self.counts(now)
        duration = self.plan.open_time.base if seconds is None else seconds
        return self._become(Open(now + duration, counts.failures), reason, counts)

    def half_open(self, reason: str, now: float) -> Transition:
        """Admit trial calls."""
        counts, plan = self.counts(now), self.plan
        trials = HalfOpen(plan.trials, now + plan.half_open_limit, counts.failures, self._new_running(now))
        return self._become(trials, reason, counts)

    def close(self, reason: str, now: float) -> Transition:
        """Admit calls, with nothing remembered of earlier ones."""
        self.openings = 0
        return self._become(self._new_closed(now), reason, self.counts(now))

    def _become(self, epoch: Epoch, reason: str, counts: Counts) -> Transition:
        before, self.epoch = self.epoch.state, epoch
        return Transition(before, epoch.state, reason, counts)

    def adopt(self, plan: Plan) -> None:
        """Follow another plan from now on: an open circuit's time counts from when it opened."""
        if isinstance(self.epoch, Open):
            self.epoch.until += plan.open_time.base - self.plan.open_time.base
        elif isinstance(self.epoch, HalfOpen | Ramp):
            self.epoch.rule = plan.trials
        self.plan = plan

    def counts(self, now: float) -> Counts:
        """Return what was counted: in the window while closed, else what led here."""
        epoch = self.epoch
        if isinstance(epoch, Closed):
            return epoch.rule.counts(now)
        return Counts(epoch.failures, epoch.failures)

    def retry_after(self, now: float) -> float | None:
        """Return the seconds until a call may be admitted, or None where one may be now."""
        epoch = self.epoch
        return max(0.0, epoch.until - now) if isinstance(epoch, Open) else None


def _judged(epoch: Closed, timed: Timed | None, now: float) -> Trip | None:
    """Return whether the failure of a call of this epoch trips the circuit."""
    if timed is None:
        return epoch.rule.failed(now)
    judge, running = cast("Judge", epoch.rule), cast("Running", epoch.running)
    if timed.number is not None:
        return judge.failed_late(timed.number, now)
    return judge.failed(now, slow=running.is_slow(timed.started, now))
