"""Cut-offs as the machine sees them: when they open the circuit, for which callers, and what ends that."""

from __future__ import annotations

import math
from typing import cast

import pytest

from resilience.breaker._cut_offs import CutOff, CutOffs, is_more_patient
from resilience.breaker._machine import CircuitMachine, StateChange
from resilience.breaker._plan import OpenTime, Plan, TrialRule
from resilience.breaker._rules import TripLimits, TripRules
from resilience.breaker._states import UNTRACKED, Closed, HalfOpen, Open, Permit, Ramp, Refusal, TimedCall, Trial
from resilience.breaker._window import CallCounts, TimeWindow

OPEN_TIME, LEASE, HALF_OPEN_LIMIT = 10.0, 5.0, 1000.0
ALLOWED = 3.0
"""Seconds that the service allows a call."""
SLOW = TripLimits(slow_rate=0.5, minimum=2)


def circuit(
    limits: TripLimits = TripLimits(failures=5),  # noqa: B008 - a constant
    *,
    trials: TrialRule = TrialRule(1, 1),  # noqa: B008 - a constant
    slow_after: float | None = None,
    ramp: float = 0.0,
) -> CircuitMachine:
    settings = Plan(
        OpenTime(OPEN_TIME),
        trials,
        LEASE,
        HALF_OPEN_LIMIT,
        ramp=ramp,
        ramp_initial=1.0,
        cut_offs=3,
        slow_after=slow_after,
    )
    return CircuitMachine(lambda now: TripRules(limits, TimeWindow(600.0, now)), settings)


def admitted(model: CircuitMachine, now: float, patience: float = math.inf) -> Permit:
    permit, _ = model.admit(now, patience)
    assert not isinstance(permit, Refusal)
    return permit


def cut_off(model: CircuitMachine, now: float, patience: float = 1.0, allowed: float = ALLOWED) -> StateChange | None:
    """Have a call begin `patience` seconds before `now`, and cut it off now."""
    permit = admitted(model, now - patience, patience)
    return model.record_cut_off(permit, now, CutOff(patience, patience, allowed))


def opened(model: CircuitMachine) -> Closed:
    """Have three callers with a patience of 1 s cut off, until 3.0; return the closed epoch."""
    closed = cast("Closed", model.epoch)
    changes = [cut_off(model, now) for now in (1.0, 2.0, 3.0)]
    assert changes[:2] == [None, None]
    assert changes[2] is not None
    assert isinstance(model.epoch, Open)
    return closed


def half_open(model: CircuitMachine) -> HalfOpen:
    """Make the circuit half-open at 0.0, for a reason that concerns every caller."""
    model.open(0.0, "test")
    model.half_open("test", 0.0)
    assert isinstance(model.epoch, HalfOpen)
    return model.epoch


# What is evidence


def test_clearly_more_patient_is_more_by_a_quarter() -> None:
    """A caller is more patient than another one if it waits longer by more than 25 %."""
    assert not is_more_patient(1.25, 1.0)
    assert is_more_patient(1.26, 1.0)


def test_a_row_remembers_the_longest_patiences() -> None:
    """The row concerns callers as patient as its third longest patience, if three cut-offs are enough."""
    row: CutOffs[Closed] = CutOffs(3, 0.0, 0)
    for patience, longest in ((5.0, 0.0), (1.0, 0.0), (3.0, 1.0), (2.0, 2.0), (4.0, 3.0), (0.5, 3.0)):
        row.add(patience)
        assert row.patience == longest
        assert row.are_enough is (longest > 0)
    assert row.concern(3.75)
    assert not row.concern(3.76)


def test_a_short_row_concerns_no_caller() -> None:
    """Before the row has as many cut-offs as the options ask for, it says nothing about any caller."""
    row: CutOffs[Closed] = CutOffs(3, 0.0, 0)
    row.add(5.0)
    assert not row.concern(0.001)


def test_a_row_is_no_longer_than_a_hundred() -> None:
    """However many calls a rule needs, a hundred cut-offs are enough."""
    row: CutOffs[Closed] = CutOffs(1000, 0.0, 0)
    for _ in range(99):
        row.add(1.0)
    assert not row.are_enough
    row.add(1.0)
    assert row.are_enough


@pytest.mark.parametrize(("allowed", "needed"), [(3.0, 3.0), (10.0, 10.0), (30.0, 10.0), (math.inf, 10.0)])
def test_a_row_is_evidence_after_the_time_of_one_call(allowed: float, needed: float) -> None:
    """The row has to last as long as the service allows one call, ten seconds at most."""
    row: CutOffs[Closed] = CutOffs(1, 7.0, 0)
    assert not row.are_evidence(100.0, allowed)
    row.add(1.0)
    assert not row.are_evidence(7.0 + needed - 0.01, allowed)
    assert row.are_evidence(7.0 + needed, allowed)


# Closed


def test_enough_cut_offs_for_long_enough_open_the_circuit() -> None:
    """The transition names the reason and the counts of the closed epoch, and the circuit stays open for its time."""
    model = circuit()
    assert model.record_failure(admitted(model, 0.0), 0.0) is None
    changes = [cut_off(model, now) for now in (1.0, 2.0, 3.0)]
    assert changes == [None, None, StateChange("closed", "open", "calls cut off", CallCounts(1, 1))]
    assert model.retry_after(3.0) == OPEN_TIME
    assert model.counts(3.0) == CallCounts(1, 1)


def test_the_row_begins_with_the_first_call_that_was_cut_off() -> None:
    """The time of a row counts from the begin of its first call, not from its end."""
    model = circuit()
    assert [cut_off(model, now) for now in (1.5, 2.0, 3.4)] == [None] * 3
    assert cut_off(model, 3.5) is not None


def test_a_success_begins_a_new_row() -> None:
    """Neither the number nor the time of the cut-offs before a success counts."""
    model = circuit()
    cut_off(model, 1.0)
    cut_off(model, 2.0)
    admitted(model, 2.0).record_success()
    assert [cut_off(model, now) for now in (5.0, 6.0)] == [None] * 2
    assert cut_off(model, 7.0) is not None


def test_a_failure_does_not_interrupt_a_row() -> None:
    """A failure is no answer: the cut-offs before it and after it make one row."""
    model = circuit()
    cut_off(model, 1.0)
    model.record_failure(admitted(model, 1.0), 1.0)
    cut_off(model, 2.0)
    assert cut_off(model, 3.0) is not None


def test_a_cut_off_of_another_epoch_is_void() -> None:
    """A call admitted before the circuit opened and closed again is no evidence in the new epoch (L3)."""
    model = circuit()
    old = cast("Closed", admitted(model, 0.0))
    model.open(0.0, "test")
    model.close("test", 0.0)
    for permit in (old, UNTRACKED):
        for now in range(1, 20):
            assert model.record_cut_off(permit, float(now), CutOff(1.0, 1.0, ALLOWED)) is None
        assert permit.cut_offs is None
    assert cast("Closed", model.epoch).cut_offs is None


def test_rules_that_know_no_successes_know_no_cut_offs() -> None:
    """If the rules cannot say whether a call has succeeded in between, no number of cut-offs opens the circuit."""
    model = circuit()
    model.epoch = UNTRACKED
    assert [cut_off(model, float(now)) for now in range(1, 20)] == [None] * 19
    assert UNTRACKED.cut_offs is None


# Closed, with timed calls


def test_a_cut_off_that_took_too_long_is_slow() -> None:
    """A call that was slow when it was cut off counts as slow, and as no cut-off; a faster one the other way round."""
    model = circuit(SLOW, slow_after=2.0)
    closed = cast("Closed", model.epoch)
    assert cut_off(model, 3.0, patience=2.0) is None
    assert model.counts(3.0) == CallCounts(0, 0, 0)
    assert closed.cut_offs is not None
    closed.cut_offs = None
    assert cut_off(model, 4.0, patience=2.5) is None
    assert model.counts(4.0) == CallCounts(0, 1, 1)
    assert closed.cut_offs is None
    assert cut_off(model, 8.0, patience=2.5) == StateChange("closed", "open", "slow call rate", CallCounts(0, 2, 2))


def test_a_call_that_is_cut_off_does_not_run_any_more() -> None:
    """The circuit does not find a call slow after it was cut off."""
    model = circuit(SLOW, slow_after=2.0)
    cut_off(model, 1.0)
    assert model.catch_up(100.0) is None
    assert model.counts(100.0) == CallCounts(0, 0, 0)


def test_a_call_that_was_counted_while_running_counts_once() -> None:
    """A call that another caller found slow adds nothing when it is cut off."""
    model = circuit(SLOW, slow_after=2.0)
    permit = admitted(model, 0.0)
    model.catch_up(3.0)
    assert model.counts(3.0) == CallCounts(0, 1, 1)
    assert model.record_cut_off(permit, 4.0, CutOff(4.0, 4.0, ALLOWED)) is None
    assert model.counts(4.0) == CallCounts(0, 1, 1)
    assert cast("Closed", model.epoch).cut_offs is None


def test_during_a_ramp_only_a_slow_cut_off_counts() -> None:
    """While the circuit ramps up, a cut-off changes nothing; if the call was slow, it is a failure of the ramp."""
    model = circuit(SLOW, slow_after=2.0, ramp=100.0)
    half_open(model)
    model.record_success(admitted(model, 0.0), 0.0)
    assert isinstance(model.epoch, Ramp)
    assert [cut_off(model, float(now)) for now in range(2, 12)] == [None] * 10
    change = cut_off(model, 20.0, patience=3.0)
    assert change is not None
    assert (change.after, change.reason) == ("open", "failed while ramping up")


# Open because of cut-offs


def test_callers_as_impatient_are_refused() -> None:
    """The circuit refuses callers that wait no longer than the callers that were cut off, for the open time."""
    model = circuit()
    opened(model)
    for patience in (0.1, 1.0, 1.25):
        assert model.admit(4.0, patience) == (Refusal(9.0), None)


def test_a_more_patient_caller_passes_as_if_the_circuit_were_closed() -> None:
    """Its permit is of the closed epoch, which goes on counting; the circuit stays open for the others."""
    model = circuit()
    closed = opened(model)
    assert model.admit(4.0, 1.26) == (closed, None)
    assert model.admit(4.0) == (closed, None)
    assert isinstance(model.epoch, Open)
    assert isinstance(model.admit(4.0, 1.0)[0], Refusal)


def test_the_call_of_a_more_patient_caller_is_timed() -> None:
    """If slow calls count, those of more patient callers do, from their admission on."""
    model = circuit(SLOW, slow_after=2.0)
    closed = opened(model)
    permit = admitted(model, 4.0)
    assert isinstance(permit, TimedCall)
    assert (permit.epoch, permit.started) == (closed, 4.0)


def test_the_first_success_closes_the_circuit() -> None:
    """After a success of a patient caller the next caller is admitted, however impatient, and the row is over."""
    model = circuit()
    assert model.record_failure(admitted(model, 0.0), 0.0) is None
    closed = opened(model)
    admitted(model, 4.0).record_success()
    expected = StateChange("open", "closed", "calls are answered again", CallCounts(1, 1))
    assert model.admit(5.0, 0.1) == (closed, expected)
    assert model.epoch is closed
    assert closed.cut_offs is None
    assert [cut_off(model, now) for now in (10.0, 11.0)] == [None, None]
    assert cut_off(model, 12.0) is not None


def test_the_call_after_the_first_success_is_timed() -> None:
    """The caller whose admission closes the circuit gets a permit that begins then."""
    model = circuit(SLOW, slow_after=2.0)
    closed = opened(model)
    model.record_success(admitted(model, 4.0), 4.0)
    permit, change = model.admit(5.0, 0.1)
    assert change is not None
    assert isinstance(permit, TimedCall)
    assert (permit.epoch, permit.started) == (closed, 5.0)


def test_slow_calls_of_patient_callers_open_the_circuit_for_all() -> None:
    """Running calls of patient callers that are slow by now count; the caller that finds them is refused, too."""
    model = circuit(SLOW, slow_after=2.0)
    opened(model)
    admitted(model, 4.0)
    admitted(model, 4.0)
    decision, change = model.admit(7.0)
    assert change == StateChange("open", "open", "slow call rate", CallCounts(0, 2, 2))
    assert decision == Refusal(OPEN_TIME)


def test_failures_of_patient_callers_open_the_circuit_for_all() -> None:
    """The rules of the closed epoch go on deciding: a failure that reaches a limit leaves no caller an exception."""
    model = circuit(TripLimits(failures=2))
    opened(model)
    assert model.record_failure(admitted(model, 4.0), 4.0) is None
    assert model.record_failure(admitted(model, 5.0), 5.0) is not None
    assert model.admit(6.0) == (Refusal(9.0), None)


def test_more_cut_offs_change_nothing_while_the_circuit_is_open() -> None:
    """A patient caller that is cut off as well makes the row longer, but opens no open circuit."""
    model = circuit()
    opened(model)
    for now in (9.0, 10.0):
        assert cut_off(model, now, patience=5.0) is None
    assert model.retry_after(10.0) == 3.0
    assert isinstance(model.admit(10.0, 5.0)[0], Closed)
    assert cut_off(model, 11.0, patience=5.0) is None
    assert isinstance(model.admit(11.0, 5.0)[0], Refusal)


# Half-open


def test_a_trial_that_is_cut_off_gives_its_permit_back() -> None:
    """The cut-off of a trial is neither a success nor a failure, and frees exactly one permit."""
    model = circuit(trials=TrialRule(3, 3))
    epoch = half_open(model)
    first, _ = admitted(model, 0.0), admitted(model, 0.0)
    assert model.record_cut_off(first, 1.0, CutOff(1.0, 1.0, ALLOWED)) is None
    assert (epoch.available, epoch.trial_counts) == (2, CallCounts(0, 0))
    assert model.record_cut_off(first, 1.0, CutOff(1.0, 1.0, ALLOWED)) is None
    assert epoch.available == 2


def test_trials_cut_off_for_a_lease_open_the_circuit_again() -> None:
    """A whole lease without an answer to a trial opens the circuit, for callers as impatient as the last ones."""
    model = circuit()
    half_open(model)
    assert cut_off(model, 3.0, patience=2.0) is None
    assert cut_off(model, 5.9) is None
    expected = StateChange("half-open", "open", "trial calls cut off", CallCounts(0, 0))
    assert cut_off(model, 6.0, patience=1.0) == expected
    assert model.admit(7.0, 2.5) == (Refusal(9.0), None)


def test_a_success_of_a_trial_begins_a_new_row() -> None:
    """The lease counts from the first trial that was cut off after the last success."""
    model = circuit(trials=TrialRule(2, 2))
    half_open(model)
    assert cut_off(model, 1.0) is None
    assert model.record_success(admitted(model, 2.0), 2.0) is None
    assert [cut_off(model, now) for now in (5.0, 8.9)] == [None, None]
    change = cut_off(model, 9.0)
    assert change is not None
    assert change.counts == CallCounts(0, 1)


def test_a_more_patient_caller_is_a_trial_at_once() -> None:
    """If cut-off trials have opened the circuit again, a more patient caller does not wait for the open time."""
    model = circuit()
    half_open(model)
    cut_off(model, 1.0)
    assert cut_off(model, 6.0) is not None
    trial, change = model.admit(7.0, 1.26)
    assert change == StateChange("open", "half-open", "a more patient caller", CallCounts(0, 0))
    assert isinstance(trial, Trial)
    assert (trial.started, trial.patience) == (7.0, 1.26)
    assert isinstance(model.epoch, HalfOpen)
    assert model.epoch.in_flight == {trial: 7.0 + LEASE}
    assert model.epoch.ends == 7.0 + HALF_OPEN_LIMIT


def test_trials_are_for_all_callers() -> None:
    """Half-open, a caller with more patience than the trials that were cut off is a trial as well."""
    model = circuit()
    half_open(model)
    cut_off(model, 1.0)
    trial, change = model.admit(2.0, 50.0)
    assert change is None
    assert isinstance(trial, Trial)


def test_the_row_of_cut_off_trials_ends_with_the_open_time() -> None:
    """When the open time after cut-off trials is up, it takes a whole lease again to open the circuit."""
    model = circuit()
    half_open(model)
    cut_off(model, 1.0)
    assert cut_off(model, 6.0) is not None
    assert cut_off(model, 17.0) is None
    assert isinstance(model.epoch, HalfOpen)
    assert cut_off(model, 20.9) is None
    assert cut_off(model, 21.0) is not None


def test_a_slow_trial_that_is_cut_off_has_failed() -> None:
    """A trial that was slow when it was cut off opens the circuit for all callers."""
    model = circuit(SLOW, slow_after=2.0)
    half_open(model)
    assert cut_off(model, 2.0, patience=2.0) is None
    change = cut_off(model, 5.0, patience=2.5)
    assert change == StateChange("half-open", "open", "trial call slow", CallCounts(1, 1))
    assert model.admit(6.0) == (Refusal(9.0), None)


def test_a_trial_that_lost_its_lease_does_not_count_when_it_is_cut_off() -> None:
    """The result of a trial whose permit another call has taken over is void, also if it was slow."""
    model = circuit(slow_after=50.0)
    epoch = half_open(model)
    lost = admitted(model, 0.0)
    admitted(model, 6.0)
    assert model.record_cut_off(lost, 60.0, CutOff(60.0, 60.0, ALLOWED)) is None
    assert (epoch.available, epoch.trial_failures, epoch.cut_offs) == (0, 0, None)


# Half-open after an opening by cut-offs


def test_after_an_opening_by_cut_offs_one_trial_that_is_cut_off_opens_again() -> None:
    """The row goes on while half-open: the first trial that is cut off is enough, long before its lease ends."""
    model = circuit()
    opened(model)
    assert isinstance(admitted(model, 13.0, 1.0), Trial)
    model.abandon(next(iter(cast("HalfOpen", model.epoch).in_flight)))
    expected = StateChange("half-open", "open", "trial calls cut off", CallCounts(0, 0))
    assert cut_off(model, 14.5, patience=1.0) == expected
    assert isinstance(model.admit(15.0, 1.0)[0], Refusal)


def test_half_open_patient_callers_go_on_passing() -> None:
    """While trials of impatient callers run, a more patient caller still gets a permit of the closed epoch."""
    model = circuit()
    closed = opened(model)
    assert isinstance(admitted(model, 13.0, 1.0), Trial)
    assert model.admit(13.0, 5.0) == (closed, None)
    admitted(model, 13.0, 5.0).record_success()
    expected = StateChange("half-open", "closed", "calls are answered again", CallCounts(0, 0))
    assert model.admit(14.0, 0.1) == (closed, expected)
