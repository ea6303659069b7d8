"""The circuit breaker's decisions, after Nygard's "Release It!" and resilience4j's permits.

Told the time, not thread-safe, silent. What time alone brings about - an open circuit that may be tried, calls that
have become slow, a phase that has lasted too long - happens at the next call, so that no timer is needed.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import cast

from resilience.breaker._cut_offs import CutOff, CutOffs, is_more
from resilience.breaker._epochs import Closed, Epoch, HalfOpen, Open, Permit, Ramp, Running, Timed, Trial
from resilience.breaker._plan import Plan, Refusal, Transition
from resilience.breaker._rules import Judge, Trip, TripRule
from resilience.breaker._window import Counts

__all__ = ("Machine", "Plan", "Refusal", "Transition")

_MOST_LOOKED_AT = 10


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

    def admit(self, now: float, patience: float = math.inf) -> tuple[Permit | Refusal, Transition | None]:
        """Decide about one call, whose caller waits for `patience` seconds if that is less than the service allows."""
        known = self.epoch.cut_offs if isinstance(self.epoch, Open | HalfOpen) else None
        if known is not None and (answer := self._pass_by(known, now, patience)) is not None:
            return answer
        change = self.catch_up(now)
        epoch = self.epoch
        if isinstance(epoch, Open):
            return Refusal(epoch.until - now), change
        if isinstance(epoch, HalfOpen):
            return self._try(epoch, now, patience), change
        if isinstance(epoch, Ramp) and not epoch.takes(now):
            # No time: the next call may pass, and whoever was told of the ramp's end would come then with all others.
            return Refusal(None, "lets only a share of the calls pass yet"), change
        return self._begin(epoch, now), change

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
        epoch = self._judging
        if epoch is None or epoch.running is None:
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
        if not isinstance(permit, Timed) or not self._counts(permit.epoch):
            return None
        epoch, running = permit.epoch, cast("Running", permit.epoch.running)
        running.end(permit)
        if permit.number is None and running.is_slow(permit.started, now):
            return self._slowed(epoch, now)
        if isinstance(epoch, Ramp):
            return None
        judge = cast("Judge", epoch.rule)
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
        if not self._counts(epoch):
            return None
        if timed is not None and epoch.running is not None:
            epoch.running.end(timed)
        epoch.floor = max(epoch.floor, now + floor)
        if isinstance(epoch, Ramp):
            return self._ramp_failed(epoch, now) if timed is None or timed.number is None else None
        trip = _judged(epoch, timed, now)
        return None if trip is None else self._trip(epoch, trip, now)

    def cut_off(self, permit: Permit, now: float, cut_off: CutOff) -> Transition | None:
        """Take note of a call that its caller cut off: no outcome, but slow if it took too long."""
        if isinstance(permit, Trial):
            return self._trial_cut_off(permit, now, cut_off)
        epoch = permit.epoch if isinstance(permit, Timed) else permit
        if not self._counts(epoch):
            return None
        if isinstance(permit, Timed):
            running = cast("Running", epoch.running)
            running.end(permit)
            if permit.number is not None:
                return None
            if running.is_slow(permit.started, now):
                return self._slowed(epoch, now)
        return self._cut_off_closed(epoch, now, cut_off) if isinstance(epoch, Closed) else None

    def abandoned(self, permit: Permit) -> None:
        """Give back the permit of a call that ended without a verdict."""
        if isinstance(permit, Trial):
            if self._settle(permit):
                permit.epoch.free += 1
        elif isinstance(permit, Timed) and permit.epoch.running is not None:
            permit.epoch.running.end(permit)

    def _slowed(self, epoch: Closed | Ramp, now: float) -> Transition | None:
        if isinstance(epoch, Ramp):
            return self._ramp_failed(epoch, now)
        trip = cast("Judge", epoch.rule).slowed(now)
        return None if trip is None else self._trip(epoch, trip, now)

    # Calls that their callers cut off

    @property
    def _judging(self) -> Closed | None:
        """The closed epoch that calls are judged in: the present one, or the one that more patient callers pass by."""
        epoch = self.epoch
        if isinstance(epoch, Open | HalfOpen):
            return None if epoch.cut_offs is None else epoch.cut_offs.epoch
        return epoch if isinstance(epoch, Closed) else None

    def _counts(self, epoch: Closed | Ramp) -> bool:
        return epoch is self.epoch or epoch is self._judging

    def _pass_by(
        self, known: CutOffs, now: float, patience: float
    ) -> tuple[Permit | Refusal, Transition | None] | None:
        """Decide about a caller whom cut-offs do not concern, because it waits longer, or because an answer has come.

        None for any other caller.
        """
        closed = known.epoch
        if closed is not None and closed.rule.answers() != known.answers:
            closed.cut_offs = None
            change = self._become(closed, "calls are answered again", self.counts(now))
            return self._begin(closed, now), change
        if known.concern(patience):
            return None
        if closed is not None:
            tripped = self.look(now)  # for everybody
            return (self._begin(closed, now) if tripped is None else self.admit(now)[0]), tripped
        if isinstance(self.epoch, HalfOpen):  # its trials are for everybody
            return None
        change = self.half_open("a more patient caller", now)
        return self._try(cast("HalfOpen", self.epoch), now, patience), change

    @staticmethod
    def _begin(epoch: Closed | Ramp, now: float) -> Permit:
        return epoch if epoch.running is None else epoch.running.begin(epoch, now)

    def _cut_off_closed(self, epoch: Closed, now: float, cut_off: CutOff) -> Transition | None:
        answers = epoch.rule.answers()
        if answers is None:
            return None
        row = epoch.cut_offs
        if row is None or row.answers != answers:
            row = epoch.cut_offs = CutOffs(self.plan.cut_offs, now - cut_off.seconds, answers, epoch)
        row.add(cut_off.patience)
        if epoch is not self.epoch or not row.show_something(now, cut_off.allowed):
            return None
        change = self._trip(epoch, Trip("calls cut off", epoch.rule.counts(now)), now)
        cast("Open", self.epoch).cut_offs = row
        return change

    def _trial_cut_off(self, trial: Trial, now: float, cut_off: CutOff) -> Transition | None:
        """Free the permit. Trials that are cut off for a whole lease, without an answer, open the circuit again."""
        epoch = trial.epoch
        is_slow = epoch.running is not None and epoch.running.is_slow(trial.started, now)
        if not self._settle(trial):
            return None
        if is_slow:
            return self._trial_failed(trial, now, "trial call slow")
        epoch.free += 1
        row = epoch.cut_offs
        if row is None or (row.epoch is None and row.answers != epoch.successes):
            row = epoch.cut_offs = CutOffs(1, trial.started, epoch.successes)
        row.add(cut_off.patience)
        if row.epoch is None and now - row.since < self.plan.lease:
            return None
        change = self._reopen(epoch, now, "trial calls cut off")
        cast("Open", self.epoch).cut_offs = row
        return change

    # Half-open

    def _try(self, epoch: HalfOpen, now: float, patience: float) -> Trial | Refusal:
        if not epoch.free:
            self._take_over(epoch, patience)
        if not epoch.free and epoch.out:
            oldest, lease_end = next(iter(epoch.out.items()))
            if lease_end > now:
                return Refusal(lease_end - now)
            del epoch.out[oldest]  # it never reported: presumed lost, its permit goes to this call (L5)
            epoch.free += 1
        if not epoch.free:  # every permit was used up without a verdict: as many more as it can still take
            epoch.free = max(1, epoch.rule.wanted - epoch.successes)
        trial, lease_end = Trial(epoch, now, patience), now + self.plan.lease
        # Operators alone from here on: an interrupt comes before the trial has its place, or when its caller has it.
        epoch.free -= 1
        epoch.out[trial] = lease_end
        return trial

    @staticmethod
    def _take_over(epoch: HalfOpen, patience: float) -> None:
        """Free the permit of a trial that may be cut off before it shows anything, for a more patient caller."""
        for trial in itertools.islice(epoch.out, _MOST_LOOKED_AT):
            if is_more(patience, trial.patience):
                del epoch.out[trial]
                epoch.free += 1
                return

    def _catch_up_trials(self, epoch: HalfOpen, now: float) -> Transition | None:
        running = epoch.running
        while running is not None and epoch.out and running.is_slow((oldest := next(iter(epoch.out))).started, now):
            del epoch.out[oldest]
            if (change := self._trial_failed(oldest, now, "trial call slow")) is not None:
                return change
        return self._reopen(epoch, now, "half-open time limit") if now >= epoch.ends else None

    def _trial_succeeded(self, trial: Trial, now: float) -> Transition | None:
        epoch = trial.epoch
        is_slow = epoch.running is not None and epoch.running.is_slow(trial.started, now)
        if not self._settle(trial):
            return None
        if is_slow:
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
        """Take `trial` out; return whether it still counted: of this epoch, and its lease not given to another call.

        Operators alone, so that no interrupt comes between the end of a trial and the return of its place.
        """
        out = trial.epoch.out
        if trial.epoch is not self.epoch or trial not in out:
            return False
        del out[trial]
        return True

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
        if isinstance(self.epoch, Open) and self.epoch.cut_offs is not None and self.epoch.cut_offs.epoch is not None:
            trials.cut_offs = self.epoch.cut_offs
        return self._become(trials, reason, counts)

    def close(self, reason: str, now: float) -> Transition:
        """Admit calls, with nothing remembered of earlier ones."""
        self.openings = 0
        return self._become(self._new_closed(now), reason, self.counts(now))

    def _become(self, epoch: Epoch, reason: str, counts: Counts) -> Transition:
        change = Transition(self.epoch.state, epoch.state, reason, counts)
        self.epoch = epoch
        return change

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
