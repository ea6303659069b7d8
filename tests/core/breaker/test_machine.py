from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from resilience.breaker._machine import CircuitMachine, StateChange
from resilience.breaker._plan import OpenTime, Plan, TrialRule
from resilience.breaker._rules import TripLimits, TripRules
from resilience.breaker._states import (
    UNTRACKED,
    Closed,
    Epoch,
    HalfOpen,
    Open,
    Permit,
    Ramp,
    Refusal,
    RunningCalls,
    TimedCall,
    Trial,
    _NoRules,
)
from resilience.breaker._window import CallCounts, CallWindow, NoWindow, TimeWindow


def plan(
    *, reset: float = 10.0, permits: int = 3, required: int = 3, allowed: int = 1, lease: float = 5.0, **more: Any
) -> Plan:
    trials = TrialRule(permits, required, allowed)
    return Plan(OpenTime(reset), trials, lease, half_open_limit=more.pop("half_open_limit", 1000.0), **more)


def machine(limit: int = 1, **options: float) -> CircuitMachine:
    return CircuitMachine(lambda _now: TripRules(TripLimits(limit), NoWindow()), plan(**options))  # type: ignore[arg-type]  # see `plan`


def admitted(model: CircuitMachine, now: float) -> Trial:
    permit, _ = model.admit(now)
    assert isinstance(permit, Trial)
    return permit


def half_open(**options: float) -> CircuitMachine:
    model = machine(1, **options)
    model.open(0.0, "test")
    model.half_open("test", 0.0)
    return model


def test_open_refuses_until_its_time_is_up() -> None:
    """An open circuit says how long it stays so, and becomes half-open by itself afterwards."""
    model = machine(reset=10.0)
    permit, _ = model.admit(0.0)
    assert isinstance(permit, Closed)
    change = model.record_failure(permit, 0.0)
    assert change is not None
    assert (change.before, change.after, change.counts.failures) == ("closed", "open", 1)
    assert model.admit(9.0) == (Refusal(1.0, "is open"), None)
    trial, change = model.admit(10.0)
    assert isinstance(trial, Trial)
    assert change is not None
    assert change.after == "half-open"


def test_half_open_admits_exactly_its_permits() -> None:
    """Half-open admits `permits` trials and refuses the next one until a lease ends (L5)."""
    model = half_open(permits=3)
    for _ in range(3):
        admitted(model, 0.0)
    assert model.admit(1.0) == (Refusal(4.0), None)


def test_lost_trial_costs_one_permit_for_one_lease() -> None:
    """A trial that never reports is replaced when its lease ends, and its late result changes nothing (L5, L3)."""
    model = half_open(permits=1, required=1)
    lost = admitted(model, 0.0)
    replacement = admitted(model, 5.0)
    assert model.record_failure(lost, 5.5) is None
    assert isinstance(model.epoch, HalfOpen)
    change = model.record_success(replacement, 5.5)
    assert change is not None
    assert change.after == "closed"


def test_cancelled_trial_frees_its_permit() -> None:
    """A cancelled trial gives its permit back at once (L5)."""
    model = half_open(permits=1, required=1)
    first = admitted(model, 0.0)
    assert isinstance(model.admit(0.0)[0], Refusal)
    model.abandon(first)
    assert isinstance(model.admit(0.0)[0], Trial)


def test_abandoning_twice_frees_once() -> None:
    """A permit given back twice counts once (L2)."""
    model = half_open(permits=2, required=2)
    trial = admitted(model, 0.0)
    model.abandon(trial)
    model.abandon(trial)
    assert isinstance(model.epoch, HalfOpen)
    assert model.epoch.available == 2


def test_successes_that_no_longer_suffice_admit_the_trials_missing() -> None:
    """When more successes are required than trials were admitted, exactly the missing trials are admitted (L5)."""
    model = half_open(permits=1, required=1)
    trial = admitted(model, 0.0)
    model.use_plan(plan(permits=3, required=3))
    assert model.record_success(trial, 0.0) is None
    second, third = admitted(model, 0.0), admitted(model, 0.0)
    assert isinstance(model.admit(0.0)[0], Refusal)
    assert model.record_success(second, 0.0) is None
    assert model.record_success(third, 0.0) is not None


def test_failed_trial_opens_again() -> None:
    """One failed trial opens the circuit for another reset timeout, and later results of that phase are void (L3)."""
    model = half_open(permits=3)
    first, second = admitted(model, 0.0), admitted(model, 0.0)
    change = model.record_failure(first, 1.0)
    assert change is not None
    assert (change.after, change.counts) == ("open", CallCounts(1, 1))
    assert model.record_success(second, 0.0) is None
    assert model.retry_after(1.0) == pytest.approx(10.0)


def test_late_failure_of_an_old_epoch_is_void() -> None:
    """A failure admitted before the circuit opened and closed again does not count in the new epoch (L3)."""
    model = machine(limit=1)
    late, _ = model.admit(0.0)
    assert isinstance(late, Closed)
    model.open(0.0, "test")
    model.close("test", 0.0)
    assert model.record_failure(late, 1.0) is None
    assert isinstance(model.epoch, Closed)
    assert model.retry_after(1.0) is None


def test_a_more_patient_caller_takes_over_one_permit() -> None:
    """If no permit is available, the oldest trial of a clearly less patient caller gives up its own, and no other."""
    model = half_open(permits=3)
    assert isinstance(model.epoch, HalfOpen)
    trials = [model.admit(0.0, patience)[0] for patience in (9.0, 1.0, 1.0)]
    taken, _ = model.admit(1.0, 5.0)
    assert isinstance(taken, Trial)
    assert list(model.epoch.in_flight) == [trials[0], trials[2], taken]
    assert model.epoch.available == 0


def test_no_trial_gives_up_its_permit_while_another_is_available() -> None:
    """A patient caller takes a permit that is available, and leaves an impatient trial its own."""
    model = half_open(permits=2)
    assert isinstance(model.epoch, HalfOpen)
    impatient, _ = model.admit(0.0, 1.0)
    patient, _ = model.admit(0.0, 5.0)
    assert list(model.epoch.in_flight) == [impatient, patient]


def test_a_refused_caller_looks_at_ten_trials() -> None:
    """The work of a refusal is bounded: an impatient trial behind ten patient ones keeps its permit."""
    model = half_open(permits=11)
    for _ in range(10):
        admitted(model, 0.0)
    model.admit(0.0, 1.0)
    assert isinstance(model.admit(0.0, 5.0)[0], Refusal)
    assert isinstance(model.epoch, HalfOpen)
    model.abandon(next(iter(model.epoch.in_flight)))
    admitted(model, 0.0)
    assert isinstance(model.admit(0.0, 5.0)[0], Trial)


def test_an_untracked_call_counts_nowhere() -> None:
    """The permit of a call that the circuit does not track takes every outcome, and counts none."""
    for untracked in (UNTRACKED, Closed(_NoRules())):
        untracked.record_success()
        assert untracked.rule.record_failure(0.0) is None
        assert untracked.rule.counts(0.0) == CallCounts(0, 0)
        assert untracked.rule.successes() is None


def test_an_opening_knows_whether_an_operator_made_it() -> None:
    """Only an opening by hand is marked as one."""
    model = machine(limit=1)
    failing(model, 0.0)
    assert isinstance(model.epoch, Open)
    assert model.epoch.is_by_hand is False
    model.open(0.0, "test")
    assert isinstance(model.epoch, Open)
    assert model.epoch.is_by_hand is False
    model.open(0.0, "test", is_by_hand=True)
    assert model.epoch.is_by_hand is True


def test_openings_without_closed_time_in_between_all_count() -> None:
    """A failed trial makes the next open time longer by the whole factor, whatever the decay: it had no closed time."""
    grown = Plan(OpenTime(10.0, growth=2.0, decay=0.5), TrialRule(1, 1), 5.0, 1000.0)
    model = CircuitMachine(lambda _now: TripRules(TripLimits(1), NoWindow()), grown)
    failing(model, 0.0)
    assert model.retry_after(0.0) == 10.0
    model.record_failure(admitted(model, 10.0), 10.0)
    assert model.retry_after(10.0) == 20.0


def test_a_failure_whose_call_was_not_timed_is_not_slow() -> None:
    """A circuit that times calls also takes the failure of a call without a start time, as a plain failure."""
    limits = TripLimits(failures=5, slow_rate=1.0, minimum=10)
    model = CircuitMachine(lambda _now: TripRules(limits, CallWindow(10)), plan(slow_after=2.0))
    assert isinstance(model.epoch, Closed)
    assert model.record_failure(model.epoch, 100.0) is None
    assert model.counts(100.0) == CallCounts(1, 1, 0)


def test_a_dependency_may_ask_for_at_most_the_cap() -> None:
    """Up to the cap the open time is at least as long as asked for; above it, jitter makes it shorter than the cap."""
    time = OpenTime(1.0, jitter=0.5, asked_cap=10.0)
    assert time.seconds(1, 9.9, lambda: 0.5) == 10.0
    assert time.seconds(1, 10.0, lambda: 0.5) == 10.0
    assert time.seconds(1, 10.1, lambda: 0.5) == 7.5
    assert time.seconds(1, 10.1, lambda: 0.0) == 10.0


def failing(model: CircuitMachine, now: float, *, floor: float = 0.0) -> StateChange | None:
    permit, _ = model.admit(now)
    assert not isinstance(permit, Refusal)
    return model.record_failure(permit, now, floor)


def test_rate_of_trials_decides_as_soon_as_it_can() -> None:
    """With a rate, half-open opens at the failure that reaches it and closes when the trials left cannot (early)."""
    rule = TrialRule.by_rate(5, 0.4)
    assert rule == TrialRule(5, 4, 2)
    model = half_open(permits=5, required=4, allowed=2)
    trials = [admitted(model, 0.0) for _ in range(5)]
    assert model.record_failure(trials[0], 0.0) is None
    assert [model.record_success(trial, 0.0) for trial in trials[1:4]] == [None, None, None]
    closed = model.record_success(trials[4], 0.0)
    assert closed is not None
    assert (closed.after, closed.counts) == ("closed", CallCounts(1, 5))
    model = half_open(permits=5, required=4, allowed=2)
    trials = [admitted(model, 0.0) for _ in range(5)]
    assert model.record_failure(trials[0], 0.0) is None
    opened = model.record_failure(trials[1], 0.0)
    assert opened is not None
    assert (opened.after, opened.counts) == ("open", CallCounts(2, 2))


@pytest.mark.parametrize(("permits", "rate"), [(1, 0.1), (1, 1.0), (10, 0.1), (10, 0.3), (7, 0.5), (3, 1.0)])
def test_rate_of_trials_is_that_of_the_whole_phase(permits: int, rate: float) -> None:
    """The verdict by rate is the one that all `permits` results together would have given."""
    rule = TrialRule.by_rate(permits, rate)
    for failures in range(permits + 1):
        opens = failures >= rule.allowed_failures
        assert opens is (failures > 0 and failures / permits >= rate - 1e-9)
        assert (permits - failures >= rule.required_successes) is not opens


def test_half_open_phase_ends_by_time() -> None:
    """A half-open phase that finds no verdict opens again when its time is over, at the next call."""
    model = half_open(permits=1, required=1, lease=100.0, half_open_limit=20.0)
    stuck = admitted(model, 0.0)
    assert isinstance(model.admit(19.9)[0], Refusal)
    answer, change = model.admit(20.0)
    assert answer == Refusal(10.0)
    assert change is not None
    assert (change.after, change.reason) == ("open", "half-open time limit")
    assert model.record_success(stuck, 20.5) is None


def test_open_time_grows_with_consecutive_openings_and_is_forgotten() -> None:
    """Each consecutive opening lasts longer, up to the cap; every decay period closed forgets one of them."""
    time = OpenTime(10.0, growth=2.0, cap=35.0, decay=100.0)
    model = CircuitMachine(
        lambda _now: TripRules(TripLimits(1), NoWindow()), plan(permits=1, required=1)._replace(open_time=time)
    )
    failing(model, 0.0)
    assert model.retry_after(0.0) == 10.0
    failing(model, 10.0)  # the trial
    assert model.retry_after(10.0) == 20.0
    failing(model, 30.0)
    assert model.retry_after(30.0) == 35.0
    model.record_success(admitted(model, 65.0), 65.0)
    failing(model, 265.0)  # closed for two decay periods: two of three openings are forgotten
    assert (model.retry_after(265.0), model.openings) == (20.0, 2)
    model.close("test", 265.0)
    failing(model, 265.0)
    assert (model.retry_after(265.0), model.openings) == (10.0, 1)


def test_jitter_shortens_the_open_time_and_lengthens_a_floor() -> None:
    """Jitter never keeps a circuit open beyond its time, and never lets it try before the dependency allows."""
    time = OpenTime(10.0, jitter=0.2)
    assert time.seconds(1, 0.0, lambda: 0.0) == 10.0
    assert time.seconds(1, 0.0, lambda: 0.5) == 9.0
    assert time.seconds(1, 9.5, lambda: 0.5) == pytest.approx(9.5 * 1.1)
    assert time.seconds(1, 60.0, lambda: 0.0) == 60.0
    assert OpenTime(1.0, growth=100.0, cap=50.0).seconds(10**6, 0.0, lambda: 0.0) == 50.0


def test_latest_floor_of_an_epoch_holds() -> None:
    """The circuit stays open as long as any failing call of the epoch was asked to stay away."""
    model = machine(limit=2, reset=10.0)
    failing(model, 0.0, floor=60.0)
    failing(model, 5.0, floor=1.0)
    assert model.retry_after(5.0) == pytest.approx(55.0)
    trial = admitted(model, 60.0)
    model.record_failure(trial, 60.0, 30.0)
    assert model.retry_after(60.0) == 30.0


@pytest.mark.parametrize("phase", ["trials", "trials out of time", "ramp"])
def test_floor_holds_whichever_failure_brought_it(phase: str) -> None:
    """The time that an earlier failure of trials or ramp asked for holds when the circuit opens again later."""
    model = ramping(permits=4, allowed=2) if phase == "ramp" else half_open(permits=4, allowed=2, half_open_limit=20.0)
    first, _ = model.admit(0.0)
    assert not isinstance(first, Refusal)
    second = first if isinstance(first, Ramp) else admitted(model, 0.0)
    assert model.record_failure(first, 0.0, 60.0) is None
    change = model.catch_up(20.0) if phase == "trials out of time" else model.record_failure(second, 5.0)
    assert change is not None
    assert model.retry_after(20.0) == 40.0


def ramping(
    *, seconds: float = 10.0, allowed: int = 1, permits: int = 1, now: float = 0.0, **more: float
) -> CircuitMachine:
    required = permits - allowed + 1
    model = half_open(permits=permits, required=required, allowed=allowed, ramp=seconds, ramp_initial=0.1, **more)
    for trial in [admitted(model, now) for _ in range(required)]:
        model.record_success(trial, now)
    assert isinstance(model.epoch, Ramp)
    return model


def test_ramp_admits_a_growing_share() -> None:
    """After closing, the share of admitted calls grows from the initial one to all of them, evenly spread."""
    model = ramping()
    for now, share in ((0.0, 0.1), (5.0, 0.55), (9.0, 0.91)):
        answers = [model.admit(now)[0] for _ in range(1000)]
        assert sum(not isinstance(answer, Refusal) for answer in answers) == pytest.approx(1000 * share, abs=2)
        spread = [sum(not isinstance(answer, Refusal) for answer in answers[i : i + 100]) for i in range(0, 1000, 100)]
        assert max(spread) - min(spread) <= 1
    permit, change = model.admit(10.0)
    assert change == StateChange(
        "closed", "closed", "ramp completed", CallCounts(0, change.counts.calls if change else 0)
    )
    assert isinstance(permit, Closed)


def test_failure_while_ramping_opens_at_once() -> None:
    """While the ramp goes up, the rule of the trials goes on judging: the first failure opens the circuit again."""
    model = ramping()
    permit, *_ = [model.admit(0.0)[0] for _ in range(100)]
    assert isinstance(permit, Ramp)
    assert permit is model.epoch
    change = model.record_failure(permit, 1.0)
    assert change is not None
    assert (change.before, change.after, change.reason) == ("closed", "open", "failed while ramping up")
    assert model.openings == 1
    assert model.record_failure(permit, 1.0) is None


def test_ramp_judged_by_rate_bears_the_failures_the_rate_allows() -> None:
    """With a rate, a ramp bears failures below it, however many calls it has admitted."""
    model = ramping(permits=10, allowed=2, seconds=1000.0)
    for number in range(2000):
        permit, _ = model.admit(999.0)
        if not isinstance(permit, Refusal) and number % 10 == 0:
            assert model.record_failure(permit, 999.0) is None
    outcomes = [model.record_failure(model.epoch, 999.0) for _ in range(500) if isinstance(model.epoch, Ramp)]
    assert outcomes[-1] is not None


def timed(
    limit: float = 1.0, *, size: int = 10, rate: float = 0.5, minimum: int = 4, **options: float
) -> CircuitMachine:
    limits = TripLimits(None, None, None, rate, minimum)
    return CircuitMachine(lambda _now: TripRules(limits, CallWindow(size)), plan(slow_after=limit, **options))  # type: ignore[arg-type]  # see `plan`


def begin(model: CircuitMachine, now: float) -> TimedCall:
    permit, _ = model.admit(now)
    assert isinstance(permit, TimedCall)
    return permit


def test_calls_still_running_count_as_slow() -> None:
    """Calls that have exceeded the slow threshold open the circuit before any of them has returned."""
    model = timed()
    hung = [begin(model, 0.0) for _ in range(4)]
    assert not isinstance(model.admit(1.0)[0], Refusal)
    answer, change = model.admit(1.001)
    assert isinstance(answer, Refusal)
    assert change is not None
    assert (change.reason, change.counts) == ("slow call rate", CallCounts(0, 4, 4))
    assert [model.record_success(call, 2.0) for call in hung] == [None] * 4
    assert [model.record_failure(call, 2.0) for call in hung] == [None] * 4


def test_call_counted_while_running_is_counted_once() -> None:
    """A call counted as slow while it ran is no second call when it ends; if it fails, the failure is added to it."""
    model = timed(rate=1.0, minimum=10)
    late, other = begin(model, 0.0), begin(model, 0.0)
    model.count_slow_running(5.0)
    assert model.counts(5.0) == CallCounts(0, 2, 2)
    model.record_success(late, 6.0)
    assert model.counts(6.0) == CallCounts(0, 2, 2)
    model.record_failure(other, 6.0)
    assert model.counts(6.0) == CallCounts(1, 2, 2)
    model.record_success(begin(model, 6.0), 6.5)
    assert model.counts(6.5) == CallCounts(1, 3, 2)


def test_slow_means_longer_than_the_threshold() -> None:
    """A call that takes exactly the threshold is not slow; one that takes longer is, failed or not."""
    model = timed(rate=1.0, minimum=10)
    model.record_success(begin(model, 0.0), 1.0)
    assert model.counts(1.0) == CallCounts(0, 1, 0)
    model.record_success(begin(model, 1.0), 2.5)
    model.record_failure(begin(model, 2.5), 4.0)
    model.record_failure(begin(model, 4.0), 4.1)
    assert model.counts(4.1) == CallCounts(2, 4, 2)


def test_abandoned_timed_call_counts_for_nothing() -> None:
    """A cancelled call is not slow, however long it ran."""
    model = timed()
    for _ in range(4):
        model.abandon(begin(model, 0.0))
    assert model.count_slow_running(100.0) is None
    assert model.counts(100.0) == CallCounts(0, 0, 0)


def test_failure_that_left_the_window_counts_anew() -> None:
    """A call that fails after its slow mark has left the window is an outcome of its own."""
    model = timed(size=2, rate=1.0, minimum=2)
    late = begin(model, 0.0)
    model.count_slow_running(2.0)
    for _ in range(2):
        model.record_success(begin(model, 2.0), 2.1)
    assert model.counts(2.1) == CallCounts(0, 2, 0)
    model.record_failure(late, 3.0)
    assert model.counts(3.0) == CallCounts(1, 2, 1)


def test_slow_trial_is_a_failed_trial() -> None:
    """A trial that is slow opens the circuit again, when it returns or already while it is running."""
    model = timed(permits=1, required=1)
    model.half_open("test", 0.0)
    change = model.record_success(admitted(model, 0.0), 1.5)
    assert change is not None
    assert (change.after, change.reason) == ("open", "trial call slow")
    model.half_open("test", 10.0)
    admitted(model, 10.0)
    answer, change = model.admit(11.5)
    assert isinstance(answer, Refusal)
    assert change is not None
    assert (change.after, change.reason) == ("open", "trial call slow")


def test_slow_call_while_ramping_opens_at_once() -> None:
    """A call that is slow while the ramp goes up opens the circuit, when it returns or while it is running."""
    model = ramping(slow_after=1.0)
    call = begin(model, 0.0)
    assert model.record_success(call, 2.0) is not None
    assert isinstance(model.epoch, Open)
    model = ramping(slow_after=1.0)
    call = begin(model, 0.0)
    assert model.catch_up(2.0) is not None
    assert model.record_failure(call, 2.0) is None


class BreakerModel(RuleBasedStateMachine):
    """Any sequence of calls, outcomes, waits and manual changes keeps the machine's promises, whatever is set."""

    @initialize(
        permits=st.integers(1, 4),
        allowed=st.integers(1, 2),
        slow_after=st.sampled_from([None, 4.0]),
        slow_rate=st.sampled_from([0.5, 1.0]),
        ramp=st.sampled_from([0.0, 8.0]),
        growth=st.sampled_from([1.0, 2.0]),
    )
    def begin(
        self, permits: int, allowed: int, slow_after: float | None, slow_rate: float, ramp: float, growth: float
    ) -> None:
        allowed = min(allowed, permits)
        self.permits, self.slow_after = permits, slow_after
        required = permits - allowed + 1
        time = OpenTime(10.0, growth=growth, cap=40.0, jitter=0.1, decay=20.0)
        full = plan(permits=permits, required=required, allowed=allowed, half_open_limit=30.0, ramp=ramp)
        limits = TripLimits(2, None, None, None if slow_after is None else slow_rate, 5)
        self.machine = CircuitMachine(
            lambda now: TripRules(limits, TimeWindow(15.0, now)), full._replace(open_time=time, slow_after=slow_after)
        )
        self.now = 0.0
        self.out: list[Permit] = []
        self.run = 0
        """Failures in a row of the calls of a closed circuit, in the order in which they ended."""
        self.asked = 0.0
        """Until when the failures of the present epoch asked to be left alone."""

    @rule(seconds=st.sampled_from([0.5, 3.0, 6.0, 11.0]))
    def pass_time(self, seconds: float) -> None:
        self.now += seconds

    def _seen(self, change: StateChange | None, before: Epoch) -> None:
        """Check that a change is returned exactly if the epoch is another one, with the states of both."""
        assert (change is not None) is (self.machine.epoch is not before)
        if change is not None:
            assert (change.before, change.after) == (before.state, self.machine.epoch.state)
            assert change.counts.failures >= 0
            assert max(change.counts.failures, change.counts.slow) <= max(change.counts.calls, change.counts.failures)
            assert (change.reason == "consecutive failures") is (self.run == 2)
            if isinstance(self.machine.epoch, Open) and change.reason != "by hand":
                assert self.machine.epoch.until >= self.asked
            self.run, self.asked = 0, 0.0

    @rule()
    def call(self) -> None:
        before = self.machine.epoch
        permit, change = self.machine.admit(self.now)
        self._seen(change, before)
        if isinstance(permit, Refusal):
            assert permit.retry_after is None or permit.retry_after > 0
            assert (permit.retry_after is None) is isinstance(self.machine.epoch, Ramp)
            assert not isinstance(self.machine.epoch, Closed)
            return
        timed = self.slow_after is not None
        expected = {Closed: TimedCall if timed else Closed, Ramp: TimedCall if timed else Ramp, HalfOpen: Trial}
        assert type(permit) is expected[type(self.machine.epoch)]
        self.out.append(permit)

    @precondition(lambda self: self.out)
    @rule(data=st.data(), how=st.sampled_from(["success", "failure", "abandon"]), floor=st.sampled_from([0.0, 25.0]))
    def settle(self, data: st.DataObject, how: str, floor: float) -> None:
        permit = self.out.pop(data.draw(st.integers(0, len(self.out) - 1)))
        before = self.machine.epoch
        is_current = permit is before or (isinstance(permit, TimedCall | Trial) and permit.epoch is before)
        if how == "abandon":
            self.machine.abandon(permit)
            assert self.machine.epoch is before
            return
        if is_current and isinstance(before, Closed):
            self.run = self.run + 1 if how == "failure" else 0
        if how == "failure":
            if is_current and not (isinstance(permit, Trial) and permit not in permit.epoch.in_flight):
                self.asked = max(self.asked, self.now + floor)
            change = self.machine.record_failure(permit, self.now, floor)
        elif isinstance(permit, TimedCall | Trial):
            change = self.machine.record_success(permit, self.now)
        else:
            permit.record_success()
            return
        assert is_current or change is None
        self._seen(change, before)

    @rule(how=st.sampled_from(["open", "half_open", "close"]))
    def by_hand(self, how: str) -> None:
        before = self.machine.epoch
        if how == "open":
            change = self.machine.open(self.now, "by hand")
        else:
            change = getattr(self.machine, how)("by hand", self.now)
        self._seen(change, before)

    @invariant()
    def trials_never_exceed_the_permits(self) -> None:
        epoch = self.machine.epoch
        if isinstance(epoch, HalfOpen):
            assert epoch.available >= 0
            assert len(epoch.in_flight) <= self.permits
            used = epoch.available + len(epoch.in_flight) + epoch.successes + epoch.trial_failures
            assert used <= self.permits + epoch.rule.allowed_failures
            assert epoch.trial_failures < epoch.rule.allowed_failures
            assert epoch.successes < epoch.rule.required_successes

    @invariant()
    def a_run_opens_a_closed_circuit(self) -> None:
        assert not isinstance(self.machine.epoch, Closed) or self.run < 2

    @invariant()
    def open_time_is_bounded(self) -> None:
        if isinstance(self.machine.epoch, Open):
            assert self.machine.epoch.until <= self.now + 40.0
        assert self.machine.openings >= 0

    @invariant()
    def calls_under_way_are_known(self) -> None:
        running = getattr(self.machine.epoch, "running", None)
        if isinstance(running, RunningCalls):
            mine = sum(isinstance(permit, TimedCall) and permit.epoch is self.machine.epoch for permit in self.out)
            assert len(running) <= mine


TestBreakerModel = BreakerModel.TestCase
TestBreakerModel.settings = settings(max_examples=150, stateful_step_count=60, deadline=None)
