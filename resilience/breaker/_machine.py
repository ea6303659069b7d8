"""The state machine of a circuit: Nygard's "Release It!", with the permits of resilience4j.

States. A circuit is `Closed` (calls pass and are counted), `Open` (calls are refused), `HalfOpen` (a fixed number of
trial calls is admitted), or in a `Ramp` (closed again, but only a growing share of the calls is admitted)::

    Closed --a rule trips--> Open --time is up--> HalfOpen --enough trials succeed--> Ramp --time is up--> Closed
                              ^                      |                                 |
                              +---a trial fails------+----------a call fails-----------+

Without a configured ramp, HalfOpen leads to Closed directly. `admit` returns a permit, or a `Refusal`.

Epochs. Each visit to a state is an object of its own, called an epoch: the second `Closed` of a circuit is another
object than the first. The machine has one present epoch, and every transition replaces it.

Permits. A permit belongs to the epoch that handed it out, compared by identity. An outcome for an old epoch changes
nothing, so a late result can neither open nor close the circuit (L3). There are three kinds of permits. The epoch
itself is the permit of a call that needs no record: all plain calls of a closed circuit share it, and admission
allocates nothing. A `TimedCall` records when a call began, if slow calls count. A `Trial` is a call while half-open.

Counting. A closed epoch counts in its rules (`_rules.py`), a half-open epoch the outcomes of its trials, a ramp calls
and failures. `Open` counts nothing: it remembers the failures that led to it.

Locks. The machine has none. The circuit (`_circuit.py`) holds its lock around every method of this class. Two
operations need no lock and do not pass through here. A success in a closed epoch is one atomic increment, counted even
if the epoch has ended: no rule looks at it any more. A timed call begins and ends by one atomic dictionary operation.

Time. Each method takes `now`. There is no timer: `catch_up` makes the transitions that only time causes (an open time
that is up, running calls that are slow by now) when the next call arrives.

Leases. Each trial has a lease: when it ends, the next caller takes over the permit, and a late result is void (L5).

Cut-offs. A call that the deadline of its caller ended is no outcome; see `_cut_offs.py`. A circuit that such calls have
opened keeps the closed epoch: more patient callers still get permits of it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeAlias, cast

from resilience.breaker._cut_offs import CutOff, CutOffs
from resilience.breaker._plan import Plan
from resilience.breaker._rules import OutcomeRules, Trip, TripRules
from resilience.breaker._states import (
    CallTotals,
    Closed,
    Epoch,
    HalfOpen,
    Open,
    Permit,
    Ramp,
    Refusal,
    RunningCalls,
    StateChange,
    TimedCall,
    Trial,
    begun,
)
from resilience.breaker._window import CallCounts

__all__ = ("CircuitMachine", "StateChange")
_Row: TypeAlias = CutOffs[Closed] | None


class CircuitMachine:
    """`rules` makes the rules of a closed epoch that begins at the given time; `random` returns a number in [0, 1)."""

    def __init__(
        self,
        rules: Callable[[float], OutcomeRules],
        plan: Plan,
        *,
        now: float = 0.0,
        random: Callable[[], float] = float,  # returns 0.0
    ) -> None:
        self._rules = rules
        self.plan = plan
        self._random = random
        self.openings = 0
        """Consecutive openings, as far as they still count."""
        self.totals = CallTotals()
        self.epoch: Epoch = self._new_closed(now)

    def admit(self, now: float, patience: float = math.inf) -> tuple[Permit | Refusal, StateChange | None]:
        """Decide about one call. `patience`: see `_cut_offs.py`."""
        epoch = self.epoch
        cut_offs = epoch.cut_offs if isinstance(epoch, Open | HalfOpen) else None
        if cut_offs is not None and (decision := self._admit_despite(cut_offs, now, patience)) is not None:
            return decision
        change = self.catch_up(now)
        epoch = self.epoch
        if isinstance(epoch, Open):
            return Refusal(epoch.until - now), change
        if isinstance(epoch, HalfOpen):
            return epoch.admit(now, patience, self.plan.lease), change
        if isinstance(epoch, Ramp) and not epoch.takes(now):
            # Without a time: the next call may pass. All callers that knew the end of the ramp would come back then.
            return Refusal(None, "lets only a share of the calls pass yet"), change
        return begun(epoch, now), change

    def catch_up(self, now: float) -> StateChange | None:
        """Make the transition that time alone has caused, if there is one."""
        epoch = self.epoch
        if isinstance(epoch, Open):
            return self.half_open("reset timeout elapsed", now) if now >= epoch.until else None
        if isinstance(epoch, HalfOpen):
            return self._catch_up_trials(epoch, now)
        if isinstance(epoch, Ramp):
            return self._catch_up_ramp(epoch, now)
        return self.count_slow_running(now)

    def count_slow_running(self, now: float) -> StateChange | None:
        """Count the calls of a closed circuit that are slow by now although they are still running."""
        epoch = self._counting_epoch
        if epoch is None or epoch.running is None:
            return None
        for call in epoch.running.overdue(now):
            call.number, trip = cast("TripRules", epoch.rule).record_slow_running(now)
            if (change := self._judged(epoch, trip, now)) is not None:
                return change
        return None

    def record_success(self, permit: Permit, now: float) -> StateChange | None:
        """Count a success that the permit cannot count without the lock."""
        if isinstance(permit, Trial):
            return self._trial_succeeded(permit, now)
        if not isinstance(permit, TimedCall) or not self._counts(permit.epoch):
            return None
        epoch, running = permit.epoch, cast("RunningCalls", permit.epoch.running)
        running.end(permit)
        if permit.number is None and running.is_slow(permit.started, now):
            return self._record_slow(epoch, now)
        if isinstance(epoch, Ramp):
            epoch.record_success()
            return None
        rules = cast("TripRules", epoch.rule)
        if permit.number is None:
            return self._judged(epoch, rules.judge_success(now), now)
        rules.record_late_success()
        return None

    def judge_success(self, rules: TripRules, now: float) -> StateChange | None:
        """Count a success of the epoch with these rules, which may open the circuit."""
        epoch = self._counting_epoch
        return None if epoch is None or epoch.rule is not rules else self._judged(epoch, rules.judge_success(now), now)

    def record_failure(self, permit: Permit, now: float, asked: float = 0.0) -> StateChange | None:
        """Count a failure. The dependency asked to be left alone for `asked` seconds."""
        if isinstance(permit, Trial):
            return self._trial_failed(permit, now, asked=asked) if self._settle(permit) else None
        timed = permit if isinstance(permit, TimedCall) else None
        epoch = permit.epoch if isinstance(permit, TimedCall) else permit
        if epoch is not self.epoch and epoch is not self._counting_epoch:
            return None
        running = epoch.running
        if timed is not None and running is not None:
            running.end(timed)
        self.totals.failures += 1
        epoch.not_before = max(epoch.not_before, now + asked)
        if isinstance(epoch, Ramp):
            return self._ramp_failed(epoch, now) if timed is None or timed.number is None else None
        if timed is None or running is None:
            trip = epoch.rule.record_failure(now)
        elif timed.number is None:
            trip = epoch.rule.record_failure(now, slow=running.is_slow(timed.started, now))
        else:
            trip = cast("TripRules", epoch.rule).record_late_failure(timed.number, now)
        epoch.record_success = epoch.rule.record_success  # as `_judged`, with one step fewer
        return None if trip is None else self._trip(epoch, trip, now)

    def record_cut_off(self, permit: Permit, now: float, cut_off: CutOff) -> StateChange | None:
        """Note a call that the deadline of its caller ended: no outcome, but slow if it took too long."""
        if isinstance(permit, Trial):
            return self._trial_cut_off(permit, now, cut_off)
        epoch = permit.epoch if isinstance(permit, TimedCall) else permit
        if not self._counts(epoch):
            return None
        if isinstance(permit, TimedCall):
            running = cast("RunningCalls", epoch.running)
            running.end(permit)
            if permit.number is not None:
                return None
            if running.is_slow(permit.started, now):
                return self._record_slow(epoch, now)
        return self._cut_off_closed(epoch, now, cut_off) if isinstance(epoch, Closed) else None

    def abandon(self, permit: Permit) -> None:
        """Give back the permit of a call that ended without an outcome."""
        if isinstance(permit, Trial):
            if self._settle(permit):
                permit.epoch.available += 1
        elif isinstance(permit, TimedCall) and permit.epoch.running is not None:
            permit.epoch.running.end(permit)

    def _record_slow(self, epoch: Closed | Ramp, now: float) -> StateChange | None:
        if isinstance(epoch, Ramp):
            return self._ramp_failed(epoch, now)
        return self._judged(epoch, cast("TripRules", epoch.rule).record_slow(now), now)

    # Cut-offs

    @property
    def _counting_epoch(self) -> Closed | None:
        """The closed epoch that counts outcomes: the present one, or the one that patient callers get permits of."""
        epoch = self.epoch
        if isinstance(epoch, Open | HalfOpen):
            return None if epoch.cut_offs is None else epoch.cut_offs.epoch
        return epoch if isinstance(epoch, Closed) else None

    def _counts(self, epoch: Closed | Ramp) -> bool:
        return epoch is self.epoch or epoch is self._counting_epoch

    def _admit_despite(
        self, cut_offs: CutOffs[Closed], now: float, patience: float
    ) -> tuple[Permit | Refusal, StateChange | None] | None:
        """Decide about a caller that the cut-offs do not concern: it is more patient, or a call has succeeded since.

        Returns None for every other caller.
        """
        closed = cut_offs.epoch
        if closed is not None and closed.rule.successes() != cut_offs.successes_before:
            closed.cut_offs = None
            change = self.enter(closed, "calls are answered again", self.counts(now))
            return begun(closed, now), change
        if cut_offs.concern(patience):
            return None
        if closed is not None:
            tripped = self.count_slow_running(now)  # this opens the circuit for all callers
            return (begun(closed, now) if tripped is None else self.admit(now)[0]), tripped
        if isinstance(self.epoch, HalfOpen):  # its trials are for all callers
            return None
        change = self.half_open("a more patient caller", now)
        return cast("HalfOpen", self.epoch).admit(now, patience, self.plan.lease), change

    def _cut_off_closed(self, epoch: Closed, now: float, cut_off: CutOff) -> StateChange | None:
        successes = epoch.rule.successes()
        if successes is None:
            return None
        row = epoch.cut_offs
        if row is None or row.successes_before != successes:
            row = epoch.cut_offs = CutOffs(self.plan.cut_offs, now - cut_off.seconds, successes, epoch)
        row.add(cut_off.patience)
        if epoch is not self.epoch or not row.are_evidence(now, cut_off.allowed):
            return None
        return self._trip(epoch, Trip("calls cut off", epoch.rule.counts(now)), now, row)

    def _trial_cut_off(self, trial: Trial, now: float, cut_off: CutOff) -> StateChange | None:
        """Free the permit. If trials are cut off for a whole lease, without a success, the circuit opens again."""
        epoch = trial.epoch
        is_slow = epoch.running is not None and epoch.running.is_slow(trial.started, now)
        if not self._settle(trial):
            return None
        if is_slow:
            return self._trial_failed(trial, now, "trial call slow")
        epoch.available += 1
        row = epoch.cut_offs
        if row is None or (row.epoch is None and row.successes_before != epoch.successes):
            row = epoch.cut_offs = CutOffs(1, trial.started, epoch.successes)
        row.add(cut_off.patience)
        if row.epoch is None and now - row.since < self.plan.lease:
            return None
        return self._reopen(epoch, now, "trial calls cut off", row)

    def _catch_up_trials(self, epoch: HalfOpen, now: float) -> StateChange | None:
        running, trials = epoch.running, epoch.in_flight
        while running is not None and trials and running.is_slow((oldest := next(iter(trials))).started, now):
            del trials[oldest]
            if (change := self._trial_failed(oldest, now, "trial call slow")) is not None:
                return change
        return self._reopen(epoch, now, "half-open time limit") if now >= epoch.ends else None

    def _trial_succeeded(self, trial: Trial, now: float) -> StateChange | None:
        epoch = trial.epoch
        is_slow = epoch.running is not None and epoch.running.is_slow(trial.started, now)
        if not self._settle(trial):
            return None
        if is_slow:
            return self._trial_failed(trial, now, "trial call slow")
        epoch.successes += 1
        self.totals.past_successes += 1
        epoch.failures = 0  # the failures that opened the circuit are not consecutive any more
        if epoch.successes < epoch.rule.required_successes:
            return None
        return self.end_trials("trial calls succeeded", epoch.trial_counts, now)

    def end_trials(self, reason: str, counts: CallCounts, now: float) -> StateChange:
        """Admit all calls again, or a growing share of them."""
        if not (plan := self.plan).ramp:
            return self.enter(self._new_closed(now), reason, counts)
        return self.enter(Ramp(plan.trials, now, plan.ramp, plan.ramp_initial, self.new_running(now)), reason, counts)

    def _trial_failed(
        self, trial: Trial, now: float, reason: str = "trial call failed", *, asked: float = 0.0
    ) -> StateChange | None:
        epoch = trial.epoch
        epoch.trial_failures += 1
        self.totals.failures += 1
        epoch.not_before = max(epoch.not_before, now + asked)
        return self._reopen(epoch, now, reason) if epoch.trial_failures >= epoch.rule.allowed_failures else None

    def _reopen(self, epoch: HalfOpen, now: float, reason: str, cut_offs: _Row = None) -> StateChange:
        opened = self._new_open(epoch, now, epoch.failures + epoch.trial_failures, cut_offs)
        return self.enter(opened, reason, epoch.trial_counts)

    def _settle(self, trial: Trial) -> bool:
        """Remove `trial`; return whether it still counted: of the present epoch, with a lease that it did not lose.

        Only operators, so that no interrupt strikes between the end of a trial and the return of its permit.
        """
        trials = trial.epoch.in_flight
        if trial.epoch is not self.epoch or trial not in trials:
            return False
        del trials[trial]
        return True

    def _catch_up_ramp(self, ramp: Ramp, now: float) -> StateChange | None:
        for call in () if ramp.running is None else ramp.running.overdue(now):
            call.number = 0
            if (change := self._ramp_failed(ramp, now)) is not None:
                return change
        if now < ramp.started + ramp.seconds:
            return None
        return self.enter(self._new_closed(now), "ramp completed", CallCounts(ramp.failures, ramp.calls))

    def _ramp_failed(self, ramp: Ramp, now: float) -> StateChange | None:
        if not ramp.add_failure():
            return None
        counts = CallCounts(ramp.failures, ramp.calls)
        return self.enter(self._new_open(ramp, now, ramp.failures), "failed while ramping up", counts)

    def _judged(self, epoch: Closed, trip: Trip | None, now: float) -> StateChange | None:
        """Open the circuit if a rule matched. If not, the rules choose how the next success is counted."""
        epoch.record_success = epoch.rule.record_success
        return None if trip is None else self._trip(epoch, trip, now)

    def _trip(self, epoch: Closed, trip: Trip, now: float, cut_offs: _Row = None) -> StateChange:
        opened = self._new_open(epoch, now, trip.counts.failures, cut_offs)
        return self.enter(opened, trip.rule, trip.counts)

    def _new_open(self, ended: Closed | HalfOpen | Ramp, now: float, failures: int, cut_offs: _Row = None) -> Open:
        time, closed_for = self.plan.open_time, now - ended.since if isinstance(ended, Closed) else 0.0
        self.openings = time.remembered(self.openings, closed_for) + 1
        return Open(now + time.seconds(self.openings, ended.not_before - now, self._random), failures, cut_offs)

    def _new_closed(self, now: float) -> Closed:
        return Closed(self._rules(now), now, self.new_running(now))

    def new_running(self, now: float) -> RunningCalls | None:
        """Return the record of the running calls of an epoch that begins now, if slow calls count."""
        return None if self.plan.slow_after is None else RunningCalls(self.plan.slow_after, now)

    def open(self, now: float, reason: str, *, seconds: float | None = None, is_by_hand: bool = False) -> StateChange:
        """Refuse calls from now on, for the reset timeout or for `seconds`."""
        counts = self.counts(now)
        duration = self.plan.open_time.base if seconds is None else seconds
        return self.enter(Open(now + duration, counts.failures, is_by_hand=is_by_hand), reason, counts)

    def half_open(self, reason: str, now: float) -> StateChange:
        """Admit trials from now on."""
        counts, plan = self.counts(now), self.plan
        trials = HalfOpen(plan.trials, now + plan.half_open_limit, counts.failures, self.new_running(now))
        if isinstance(self.epoch, Open) and self.epoch.cut_offs is not None and self.epoch.cut_offs.epoch is not None:
            trials.cut_offs = self.epoch.cut_offs
        return self.enter(trials, reason, counts)

    def close(self, reason: str, now: float) -> StateChange:
        """Admit calls from now on, and forget everything that was counted."""
        self.openings = 0
        return self.enter(self._new_closed(now), reason, self.counts(now))

    def enter(self, epoch: Epoch, reason: str, counts: CallCounts) -> StateChange:
        """Replace the present epoch."""
        change = StateChange(self.epoch.state, epoch.state, reason, counts)
        before = self.epoch if isinstance(self.epoch, Ramp) else self._counting_epoch
        self.epoch = epoch
        self.totals.entered[change.after] += int(change.before != change.after)
        if before is not None and before is not self._counting_epoch:
            self.totals.ended.append(before)
            if len(self.totals.ended) > 1:
                self.totals.add_oldest()
        return change

    def use_plan(self, plan: Plan) -> None:
        """Use other settings from now on; the new time of an open circuit counts from its opening."""
        if isinstance(self.epoch, Open):
            self.epoch.until += plan.open_time.base - self.plan.open_time.base
        elif isinstance(self.epoch, HalfOpen | Ramp):
            self.epoch.use_rule(plan.trials)
        self.plan = plan

    def counts(self, now: float) -> CallCounts:
        """Return the counts of the window while closed, else those that led to the present state."""
        epoch = self.epoch
        return epoch.rule.counts(now) if isinstance(epoch, Closed) else CallCounts(epoch.failures, epoch.failures)

    def retry_after(self, now: float) -> float | None:
        """Return the seconds until the circuit may admit a call, None if it is not open."""
        epoch = self.epoch
        return max(0.0, epoch.until - now) if isinstance(epoch, Open) else None
