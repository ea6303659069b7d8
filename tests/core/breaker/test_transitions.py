"""Every transition in full: from where to where, why, with which counts, and for how long."""

import math
from typing import Any

import pytest

from resilience.breaker._machine import CircuitMachine, StateChange
from resilience.breaker._plan import OpenTime, Plan, TrialRule
from resilience.breaker._rules import TripLimits, TripRules
from resilience.breaker._states import Closed, HalfOpen, Open, Permit, Ramp, Refusal, RunningCalls, TimedCall, Trial
from resilience.breaker._window import CallCounts, CallWindow, NoWindow, TimeWindow

START = 1000.0
"""Far from zero, so that a time that is forgotten shows."""


def machine(
    limits: TripLimits | None = None,
    *,
    reset: float = 10.0,
    trials: TrialRule = TrialRule(3, 2),  # noqa: B008 - a tuple
    window: float | None = None,
    **more: Any,
) -> CircuitMachine:
    """Return a machine made at `START`; `window` is a number of calls, or seconds as a float."""
    plan = Plan(OpenTime(reset), trials, lease=more.pop("lease", 5.0), half_open_limit=50.0, **more)

    def rule(now: float) -> TripRules:
        if window is None:
            return TripRules(limits or TripLimits(2), NoWindow())
        return TripRules(
            limits or TripLimits(2), CallWindow(window) if isinstance(window, int) else TimeWindow(window, now)
        )

    return CircuitMachine(rule, plan, now=START)


def admitted(model: CircuitMachine, now: float) -> Permit:
    permit, _ = model.admit(now)
    assert not isinstance(permit, Refusal)
    return permit


def trial(model: CircuitMachine, now: float) -> Trial:
    permit = admitted(model, now)
    assert isinstance(permit, Trial)
    return permit


def timed(model: CircuitMachine, now: float) -> TimedCall:
    permit = admitted(model, now)
    assert isinstance(permit, TimedCall)
    return permit


def half_open(**more: float) -> CircuitMachine:
    model = machine(**more)  # type: ignore[arg-type]  # numbers only
    model.half_open("for a test", START)
    return model


SLOW = TripLimits(slow_rate=0.5, minimum=2)


def test_a_trip_has_its_rule_and_counts() -> None:
    """The rule and the counts of an opening are those of the epoch that ended."""
    model = machine(TripLimits(2))
    assert model.record_failure(admitted(model, START), START) is None
    change = model.record_failure(admitted(model, START + 1), START + 1)
    assert change == StateChange("closed", "open", "consecutive failures", CallCounts(2, 2))
    assert model.retry_after(START + 1) == 10.0
    assert model.retry_after(START + 10.5) == 0.5
    assert model.retry_after(START + 50) == 0.0
    assert model.counts(START + 2) == CallCounts(2, 2)


def test_time_makes_an_open_circuit_half_open() -> None:
    """The first call after the open time is a trial, and the transition says why."""
    model = machine()
    model.open(START, "by hand")
    permit, change = model.admit(START + 10)
    assert isinstance(permit, Trial)
    assert change == StateChange("open", "half-open", "reset timeout elapsed", CallCounts(0, 0))


def test_enough_successful_trials_close() -> None:
    """The counts of a phase that closed the circuit are those of its trials."""
    model = half_open(trials=TrialRule(4, 2, allowed_failures=2))  # type: ignore[arg-type]  # no number, for once
    assert model.record_failure(trial(model, START), START) is None
    assert model.record_success(trial(model, START), START) is None
    change = model.record_success(trial(model, START), START)
    assert change == StateChange("half-open", "closed", "trial calls succeeded", CallCounts(1, 3))
    assert isinstance(model.epoch, Closed)
    assert model.epoch.since == START


def test_a_failed_trial_reopens() -> None:
    """An open circuit remembers the failures of its trials and those that opened it before."""
    model = machine(TripLimits(2))
    for _ in range(2):
        model.record_failure(admitted(model, START), START)
    admitted(model, START + 10)
    change = model.record_failure(trial(model, START + 11), START + 12)
    assert change == StateChange("half-open", "open", "trial call failed", CallCounts(1, 1))
    assert model.counts(START + 12) == CallCounts(3, 3)
    assert model.retry_after(START + 12) == 10.0


def test_a_phase_without_a_verdict_reopens() -> None:
    """A half-open phase ends at its time limit, no sooner, with the open time it would have anyway."""
    model = half_open(reset=0.25)
    trial(model, START)
    assert model.catch_up(START + 49.9) is None
    assert model.catch_up(START + 50) == StateChange("half-open", "open", "half-open time limit", CallCounts(0, 0))
    assert model.retry_after(START + 50) == 0.25


def test_a_manual_change_has_its_reason() -> None:
    """A manual change has the operator's reason and the counts of the epoch that it ended."""
    model = machine(TripLimits(5), window=4)
    model.record_failure(admitted(model, START), START)
    assert model.open(START, "no", seconds=3.0) == StateChange("closed", "open", "no", CallCounts(1, 1))
    assert model.retry_after(START + 1) == 2.0
    assert model.half_open("maybe", START) == StateChange("open", "half-open", "maybe", CallCounts(1, 1))
    assert model.close("yes", START) == StateChange("half-open", "closed", "yes", CallCounts(1, 1))
    assert model.openings == 0


@pytest.mark.parametrize("act", ["open", "half_open", "close"])
def test_by_hand_lets_the_window_know_the_time(act: str) -> None:
    """The counts of a manual change are those of the window at that time, not of the last call."""
    model = machine(TripLimits(failures=5), window=10.0)
    model.record_failure(admitted(model, START), START)
    later = START + 60
    change = model.open(later, act) if act == "open" else getattr(model, act)(act, later)
    assert change.counts == CallCounts(0, 0)
    assert change.reason == act


# Calls that are timed


def test_a_slow_success_trips_when_it_ends() -> None:
    """A slow call that ends before any other call arrives counts as slow at that time."""
    model = machine(SLOW, window=10, slow_after=2.0)
    calls = [timed(model, START) for _ in range(2)]
    assert model.record_success(calls[0], START + 3) is None
    change = model.record_success(calls[1], START + 3)
    assert change == StateChange("closed", "open", "slow call rate", CallCounts(0, 2, 2))
    assert model.retry_after(START + 3) == 10.0


def test_a_call_is_slow_only_beyond_its_time() -> None:
    """A call that takes exactly as long as allowed is not slow, by whichever path it is judged."""
    model = machine(SLOW, window=10, slow_after=2.0)
    calls = [timed(model, START) for _ in range(4)]
    assert model.record_success(calls[0], START + 2) is None
    assert model.record_failure(calls[1], START + 2) is None
    assert model.count_slow_running(START + 2) is None
    assert model.counts(START + 2) == CallCounts(1, 2, 0)
    assert model.count_slow_running(START + 2.1) is not None


@pytest.mark.parametrize("ends", ["running", "success", "failure", "late failure"])
def test_timed_calls_let_a_window_of_time_know_the_time(ends: str) -> None:
    """Each outcome of a timed call moves the window: older outcomes do not count any more."""
    model = machine(TripLimits(slow_rate=1.0, minimum=9), window=10.0, slow_after=2.0)
    for call in [timed(model, START) for _ in range(3)]:
        model.record_failure(call, START)
    call = timed(model, START + 60)
    if ends == "running":
        assert model.count_slow_running(START + 63) is None
        expected = CallCounts(0, 1, 1)
    elif ends == "success":
        model.record_success(call, START + 61)
        expected = CallCounts(0, 1, 0)
    elif ends == "failure":
        model.record_failure(call, START + 61)
        expected = CallCounts(1, 1, 0)
    else:
        model.count_slow_running(START + 63)
        model.record_failure(call, START + 64)
        expected = CallCounts(1, 1, 1)
    assert model.counts(START + 64) == expected


def test_a_quick_success_lets_the_window_advance() -> None:
    """A timed success that the machine counts moves a window of time."""
    model = machine(TripLimits(failures=1, slow_rate=1.0), window=10.0, slow_after=2.0)
    early = timed(model, START)
    epoch = model.epoch
    assert isinstance(epoch, Closed)
    assert isinstance(epoch.rule, TripRules)
    edge = epoch.rule.window.edge
    model.record_success(early, START + 1.5)
    assert epoch.rule.window.edge > edge


def test_results_of_timed_calls_of_another_epoch_are_void() -> None:
    """TimedCall calls count only in the epoch they were admitted to, however many there are and end (L3)."""
    model = machine(SLOW, window=10, slow_after=2.0)
    calls = [timed(model, START) for _ in range(6)]
    model.open(START, "by hand")
    model.close("by hand", START)
    assert [model.record_success(call, START + 9) for call in calls[:3]] == [None] * 3
    assert [model.record_failure(call, START + 9) for call in calls[3:]] == [None] * 3
    assert model.counts(START + 9) == CallCounts(0, 0, 0)


def test_a_success_that_counts_itself_is_not_counted_here() -> None:
    """The permit of a closed circuit counts a success itself; the machine adds nothing."""
    model = machine(window=10)
    assert model.record_success(admitted(model, START), START) is None
    assert model.counts(START) == CallCounts(0, 0)


def test_a_slow_success_lets_a_window_of_time_know_the_time() -> None:
    """A call that is found slow at its end counts at that time, and outcomes older than the window do not."""
    model = machine(TripLimits(slow_rate=1.0, minimum=9), window=10.0, slow_after=2.0)
    calls = [timed(model, START) for _ in range(2)]
    assert model.record_failure(calls[0], START) is None
    assert model.record_success(calls[1], START + 60) is None
    assert model.counts(START + 60) == CallCounts(0, 1, 1)


def test_a_successful_trial_ends_the_run_that_led_here() -> None:
    """After a trial that succeeded only the failures of this phase are remembered."""
    model = machine(TripLimits(2), trials=TrialRule(3, 3))
    for _ in range(2):
        model.record_failure(admitted(model, START), START)
    first, second = trial(model, START + 10), trial(model, START + 10)
    assert model.counts(START + 10) == CallCounts(2, 2)
    model.record_success(first, START + 10)
    assert model.counts(START + 10) == CallCounts(0, 0)
    model.record_failure(second, START + 10)
    assert model.counts(START + 10) == CallCounts(1, 1)


def test_a_slow_trial_reopens() -> None:
    """A trial that is slow has failed, whether it ends or is still running, with the open time as it is."""
    ended = half_open(reset=0.25, slow_after=2.0)
    call = trial(ended, START)
    change = ended.record_success(call, START + 3)
    assert change == StateChange("half-open", "open", "trial call slow", CallCounts(1, 1))
    assert ended.retry_after(START + 3) == 0.25
    running = half_open(reset=0.25, slow_after=2.0)
    trial(running, START)
    assert running.catch_up(START + 3) == StateChange("half-open", "open", "trial call slow", CallCounts(1, 1))
    assert running.retry_after(START + 3) == 0.25


# Leases and permits


def test_a_lease_that_ends_frees_one_permit() -> None:
    """One lost trial is replaced by one call; the permits that are out stay out (L5)."""
    model = half_open()
    for moment in (0, 1, 2):
        trial(model, START + moment)
    trial(model, START + 5)
    epoch = model.epoch
    assert isinstance(epoch, HalfOpen)
    assert (epoch.available, len(epoch.in_flight)) == (0, 3)
    assert model.admit(START + 5) == (Refusal(1.0), None)


def test_permits_used_up_without_a_verdict_come_back_one_at_least() -> None:
    """If all permits were used without a decision, the missing successes are admitted, at least one call."""
    model = half_open(trials=TrialRule(2, 2, allowed_failures=3))  # type: ignore[arg-type]  # no number, for once
    for _ in range(2):
        model.record_failure(trial(model, START), START)
    trial(model, START)
    epoch = model.epoch
    assert isinstance(epoch, HalfOpen)
    assert epoch.available == 1
    epoch.successes, epoch.available, epoch.in_flight = 2, 0, {}
    trial(model, START)
    assert epoch.available == 0


# The ramp


def ramping(initial: float = 0.5, *, allowed: int = 2, **more: float) -> CircuitMachine:
    model = half_open(trials=TrialRule(4, 1, allowed), ramp=10.0, ramp_initial=initial, **more)  # type: ignore[arg-type]  # no number
    change = model.record_success(trial(model, START), START)
    assert change == StateChange("half-open", "closed", "trial calls succeeded", CallCounts(0, 1))
    return model


def taken(model: CircuitMachine, now: float, calls: int) -> str:
    answers = [model.admit(now)[0] for _ in range(calls)]
    return "".join("." if isinstance(answer, Refusal) else "x" for answer in answers)


def test_a_ramp_admits_its_share_evenly() -> None:
    """The first call passes and then every other one at a share of one half; a share of one is never exceeded."""
    assert taken(ramping(0.5), START, 7) == "xx.x.x."
    assert taken(ramping(0.25), START, 9) == "x..x...x."
    ramp = Ramp(TrialRule(4, 1), START, 10.0, 0.5)
    assert [ramp.share(START + seconds) for seconds in (0, 5, 10, 15)] == [0.5, 0.75, 1.0, 1.0]


def test_a_ramp_ends_when_its_time_is_up() -> None:
    """A ramp without enough failures closes the circuit, and its event has the number of admitted calls."""
    model = ramping(allowed=3)
    calls = [admitted(model, START) for _ in range(2)]
    assert model.record_failure(calls[0], START) is None
    assert model.catch_up(START + 9.9) is None
    change = model.catch_up(START + 10)
    assert change == StateChange("closed", "closed", "ramp completed", CallCounts(1, 2))
    assert isinstance(model.epoch, Closed)
    assert model.epoch.since == START + 10


def test_a_ramp_breaks_off_at_the_trials_share_of_failures() -> None:
    """With two of four trials allowed to fail it is half of the calls admitted, judged on four of them at least."""
    model = ramping(1.0)
    calls = [admitted(model, START) for _ in range(8)]
    assert [model.record_failure(call, START) for call in calls[:3]] == [None] * 3
    change = model.record_failure(calls[3], START)
    assert change == StateChange("closed", "open", "failed while ramping up", CallCounts(4, 8))
    assert model.counts(START) == CallCounts(4, 4)
    assert model.retry_after(START) == 10.0


@pytest.mark.parametrize("allowed", [7, 14, 28, 55, 56])
def test_a_ramp_breaks_off_at_exactly_that_share(allowed: int) -> None:
    """However floats round, the share of failures that ends a ramp is that of the trials."""
    ramp = Ramp(TrialRule(100, 1, allowed), START, 10.0, 1.0)
    ramp.calls = 200
    assert [ramp.add_failure() for _ in range(2 * allowed)] == [False] * (2 * allowed - 1) + [True]


def test_a_delay_asked_for_during_a_ramp_is_a_minimum() -> None:
    """A failure that asks to be left alone keeps the circuit open that long; others leave the open time as it is."""
    asked, plain = ramping(1.0, allowed=1, reset=0.25), ramping(1.0, allowed=1, reset=0.25)
    asked.record_failure(admitted(asked, START), START, 40.0)
    assert asked.retry_after(START) == 40.0
    plain.record_failure(admitted(plain, START), START)
    assert plain.retry_after(START) == 0.25


def test_slow_calls_of_a_ramp_fail_it_once_each() -> None:
    """A call that is slow while the circuit ramps up is one failure, found running or at its end."""
    for ends in ("running", "success", "failure"):
        model = ramping(1.0, allowed=1, reset=0.25, slow_after=2.0)
        call = timed(model, START)
        if ends == "running":
            change = model.catch_up(START + 3)
        else:
            change = (
                model.record_success(call, START + 3) if ends == "success" else model.record_failure(call, START + 1)
            )
        assert change == StateChange("closed", "open", "failed while ramping up", CallCounts(1, 1))
        assert model.retry_after(START + (1 if ends == "failure" else 3)) == 0.25
    model = ramping(1.0, allowed=3, slow_after=2.0)
    call = timed(model, START)
    assert model.catch_up(START + 3) is None
    assert model.record_success(call, START + 3) is None
    assert model.record_failure(timed(model, START + 3), START + 3) is None
    epoch = model.epoch
    assert isinstance(epoch, Ramp)
    assert epoch.failures == 2


@pytest.mark.parametrize("ends", ["record_success", "record_failure"])
def test_a_slow_call_of_a_ramp_that_was_counted_running_is_not_counted_again(ends: str) -> None:
    """How a call ends that was slow while it ran changes nothing any more, and a quick success never did."""
    model = ramping(1.0, allowed=2, slow_after=2.0)
    call, quick = timed(model, START), timed(model, START)
    assert model.record_success(quick, START + 1) is None
    assert model.catch_up(START + 3) is None
    getattr(model, ends)(call, START + 3)
    epoch = model.epoch
    assert isinstance(epoch, Ramp)
    assert epoch.failures == 1


# Defaults


def test_a_failure_asks_for_nothing_by_itself() -> None:
    """Without a floor the open time is the plan's, however short."""
    model = machine(TripLimits(1), reset=0.25)
    model.record_failure(admitted(model, START), START)
    assert model.retry_after(START) == 0.25


def test_a_machine_needs_no_chance() -> None:
    """Without a source of randomness nothing is subtracted from the open time; without a time it begins at zero."""
    plan = Plan(OpenTime(10.0, jitter=0.5), TrialRule(1, 1), 5.0, 50.0)
    since: list[float] = []

    def rule(now: float) -> TripRules:
        since.append(now)
        return TripRules(TripLimits(1), NoWindow())

    model = CircuitMachine(rule, plan)
    assert since == [0.0]
    model.record_failure(admitted(model, 0.0), 0.0)
    assert model.retry_after(0.0) == 10.0
    assert Closed(TripRules(TripLimits(1), NoWindow())).since == 0.0


class Heard:
    """Stands in for a circuit, and hears which permits report a success."""

    def __init__(self) -> None:
        self.timed: list[TimedCall] = []
        self.trials: list[Trial] = []

    def record_timed_success(self, call: TimedCall) -> None:
        self.timed.append(call)

    def record_success(self, tried: Trial) -> None:
        self.trials.append(tried)


def test_a_permit_reports_its_success_to_the_circuit_that_handed_it_out() -> None:
    """The permit names itself, so the circuit can see whether it still counts."""
    call, tried, heard = timed(machine(SLOW, slow_after=2.0), START), trial(half_open(), START), Heard()
    call.circuit = tried.circuit = heard
    call.record_success()
    tried.record_success()
    assert (heard.timed, heard.trials) == ([call], [tried])


# Windows and rules


def test_a_window_that_looks_back_on_nothing_is_empty() -> None:
    """It holds no outcome and counts none."""
    window = NoWindow()
    assert not window.holds(1)
    assert window.counts(5) == CallCounts(0, 0)


def test_an_empty_window_holds_the_next_outcomes() -> None:
    """A window of calls without outcomes holds the next ones."""
    window = CallWindow(2)
    assert [window.holds(number) for number in (-2, -1, 0, 1)] == [False, True, True, True]


def test_buckets_begin_at_their_edge() -> None:
    """A bucket covers its beginning and not its end, and those before a leap of time are forgotten."""
    window = TimeWindow(10.0, START)
    window.add_failure(1)
    window.advance(START + 1, 1)
    assert window.edge == START + 2
    window.advance(START + 1.5, 1)
    assert len(window._buckets) == 2
    window.advance(START + 35.5, 1)
    assert window.edge == START + 36
    assert [bucket.tick for bucket in window._buckets] == [35]


def test_every_edge_begins_another_bucket() -> None:
    """However the division of times is rounded, at its edge a bucket is over."""
    for seconds in (0.07, 0.3, 1.1, 10.0, 59.9):
        window = TimeWindow(seconds, START / 3)
        for _ in range(300):
            edge = window.edge
            window.advance(edge, 0)
            assert window.edge > edge
            assert len({bucket.tick for bucket in window._buckets}) == len(window._buckets)


def test_a_late_failure_of_a_forgotten_call_is_one_of_this_moment() -> None:
    """If the slow call has left the window, its failure counts as a new outcome."""
    model = machine(TripLimits(slow_rate=1.0, minimum=9), window=10.0, slow_after=2.0)
    call = timed(model, START)
    assert model.count_slow_running(START + 3) is None
    assert model.record_failure(call, START + 60) is None
    assert model.counts(START + 60) == CallCounts(1, 1, 1)
    assert model.counts(START + 69) == CallCounts(1, 1, 1)


def test_no_failure_reaches_a_rate() -> None:
    """Only failures reach a rate: without one, even a rate of 0 is not reached."""
    model = machine(TripLimits(slow_rate=0.5, failure_rate=1e-9, minimum=1), window=10, slow_after=2.0)
    call = timed(model, START)
    model.record_success(timed(model, START), START)
    assert model.record_success(call, START + 1) is None
    assert model.record_failure(timed(model, START + 1), START + 1) is not None
    model = machine(TripLimits(slow_rate=1e-12, minimum=1), window=10, slow_after=2.0)
    assert model.record_failure(timed(model, START), START) is None


def test_a_first_failure_begins_a_run_of_one() -> None:
    """A run counts from the first failure; that it is the first outcome of all adds nothing."""
    for successes in (0, 1, 2):
        rules = TripRules(TripLimits(2), NoWindow())
        for _ in range(successes):
            rules.record_success()
        assert rules.record_failure(START) is None
        assert rules.counts(START) == CallCounts(1, 1)
        assert rules.record_failure(START) is not None


def test_a_failure_is_not_slow_unless_it_was() -> None:
    """A failure that was quick does not change the count of slow calls."""
    rules = TripRules(TripLimits(slow_rate=1.0, minimum=5), CallWindow(5))
    rules.record_failure(START)
    rules.record_failure(START, slow=True)
    assert rules.counts(START) == CallCounts(2, 2, 1)


def test_a_floor_as_long_as_the_open_time_changes_nothing() -> None:
    """Jitter is added to the time that a dependency asks for only if it is longer than the open time."""
    chance = iter((0.0, 1.0))
    assert OpenTime(10.0, jitter=0.5).seconds(1, 10.0, lambda: next(chance)) == 10.0
    assert OpenTime(10.0, jitter=0.5).seconds(1, 10.1, lambda: 1.0) == pytest.approx(15.15)
    assert OpenTime(10.0, jitter=0.5).seconds(1, -math.inf, lambda: 1.0) == 5.0


def test_running_calls_are_found_once() -> None:
    """A call that is overdue is handed over once; one that ended before is not, and the next look comes in time."""
    running = RunningCalls(2.0, START)
    epoch = Closed(TripRules(TripLimits(1), NoWindow()), START, running)
    first, second, third = (running.begin(epoch, START + moment) for moment in (0, 0, 1))
    assert running.end(first)
    assert not running.end(first)
    assert list(running.overdue(START + 2)) == []
    assert list(running.overdue(START + 2.5)) == [second]
    assert running.due == START + 3
    assert list(running.overdue(START + 3)) == []
    assert list(running.overdue(START + 3.5)) == [third]
    assert running.due == START + 5.5
    assert len(running) == 0


def test_nothing_is_looked_for_before_it_can_be_slow() -> None:
    """The running calls are not searched before the first one of them can be slow."""
    assert RunningCalls(2.0, START).due == START + 2


def test_an_open_epoch_knows_when_it_ends() -> None:
    """A circuit opened by hand for a time ends with that time, not with the reset timeout."""
    model = machine()
    model.open(START, "by hand", seconds=2.0)
    assert isinstance(model.epoch, Open)
    assert model.epoch.until == START + 2
    assert model.epoch.stamp is None
