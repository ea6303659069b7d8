import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from resilience.breaker._machine import Closed, HalfOpen, Machine, Open, Refusal, Trial
from resilience.breaker._window import ConsecutiveFailures, FailureRate


def machine(limit: int = 1, *, reset: float = 10.0, permits: int = 3, wanted: int = 3, lease: float = 5.0) -> Machine:
    return Machine(lambda: ConsecutiveFailures(limit), reset_timeout=reset, permits=permits, wanted=wanted, lease=lease)


def admitted(model: Machine, now: float) -> Trial:
    permit, _ = model.admit(now)
    assert isinstance(permit, Trial)
    return permit


def half_open(**options: float) -> Machine:
    model = machine(**options)  # type: ignore[arg-type]  # the options of `machine`
    model.open(0.0, "test")
    model.half_open("test")
    return model


@given(st.lists(st.booleans(), max_size=60), st.integers(1, 6))
def test_consecutive_rule_trips_at_the_end_of_an_unbroken_run(outcomes: list[bool], limit: int) -> None:
    """The consecutive rule trips exactly when the last `limit` outcomes are all failures."""
    trip_rule = ConsecutiveFailures(limit)
    seen: list[bool] = []
    for failed in outcomes:
        seen.append(failed)
        if failed:
            assert trip_rule.failed() is (len(seen) >= limit and all(seen[-limit:]))
        else:
            trip_rule.succeeded()
        run = len(list(itertools.takewhile(bool, reversed(seen))))
        assert trip_rule.counts()[0] == run


@given(st.lists(st.booleans(), max_size=80), st.integers(1, 12), st.data())
def test_rate_rule_judges_the_last_calls(outcomes: list[bool], size: int, data: st.DataObject) -> None:
    """The rate rule sees exactly the last `size` outcomes, and judges from `minimum` calls on."""
    minimum = data.draw(st.integers(1, size))
    trip_rule, seen = FailureRate(0.5, size, minimum), []
    for failed in outcomes:
        seen.append(failed)
        window = seen[-size:]
        if failed:
            expected = len(window) >= minimum and sum(window) >= 0.5 * len(window)
            assert trip_rule.failed() is expected
        else:
            trip_rule.succeeded()
        assert trip_rule.counts() == (sum(window), len(window))


def test_open_refuses_until_its_time_is_up() -> None:
    """An open circuit says how long it stays so, and becomes half-open by itself afterwards."""
    model = machine(reset=10.0)
    permit, _ = model.admit(0.0)
    assert isinstance(permit, Closed)
    change = model.failed(permit, 0.0)
    assert change is not None
    assert (change.before, change.after, change.failures) == ("closed", "open", 1)
    assert model.admit(9.0) == (Refusal(1.0), None)
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
    model = half_open(permits=1, wanted=1)
    lost = admitted(model, 0.0)
    replacement = admitted(model, 5.0)
    assert model.failed(lost, 5.5) is None
    assert isinstance(model.epoch, HalfOpen)
    change = model.succeeded(replacement)
    assert change is not None
    assert change.after == "closed"


def test_cancelled_trial_frees_its_permit() -> None:
    """A cancelled trial gives its permit back at once (L5)."""
    model = half_open(permits=1, wanted=1)
    first = admitted(model, 0.0)
    assert isinstance(model.admit(0.0)[0], Refusal)
    model.abandoned(first)
    assert isinstance(model.admit(0.0)[0], Trial)


def test_abandoning_twice_frees_once() -> None:
    """A permit given back twice counts once (L2)."""
    model = half_open(permits=2, wanted=2)
    trial = admitted(model, 0.0)
    model.abandoned(trial)
    model.abandoned(trial)
    assert isinstance(model.epoch, HalfOpen)
    assert model.epoch.free == 2


def test_successes_that_no_longer_suffice_admit_the_trials_missing() -> None:
    """When more successes are wanted than trials were admitted, exactly the missing trials are admitted (L5)."""
    model = half_open(permits=1, wanted=1)
    trial = admitted(model, 0.0)
    model.adopt(machine(permits=3, wanted=3))
    assert model.succeeded(trial) is None
    second, third = admitted(model, 0.0), admitted(model, 0.0)
    assert isinstance(model.admit(0.0)[0], Refusal)
    assert model.succeeded(second) is None
    assert model.succeeded(third) is not None


def test_failed_trial_opens_again() -> None:
    """One failed trial opens the circuit for another reset timeout, and later results of that phase are void (L3)."""
    model = half_open(permits=3)
    first, second = admitted(model, 0.0), admitted(model, 0.0)
    change = model.failed(first, 1.0)
    assert change is not None
    assert (change.after, change.failures, change.calls) == ("open", 1, 1)
    assert model.succeeded(second) is None
    assert model.retry_after(1.0) == pytest.approx(10.0)


def test_late_failure_of_an_old_epoch_is_void() -> None:
    """A failure admitted before the circuit opened and closed again does not count in the new epoch (L3)."""
    model = machine(limit=1)
    late, _ = model.admit(0.0)
    assert isinstance(late, Closed)
    model.open(0.0, "test")
    model.close("test")
    assert model.failed(late, 1.0) is None
    assert isinstance(model.epoch, Closed)
    assert model.retry_after(1.0) is None


class BreakerModel(RuleBasedStateMachine):
    """Any sequence of calls, outcomes, waits and manual changes keeps the machine's promises."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.machine = machine(limit=2, permits=2, wanted=2)
        self.out: list[Closed | Trial] = []

    @rule(seconds=st.sampled_from([0.5, 3.0, 6.0, 11.0]))
    def pass_time(self, seconds: float) -> None:
        self.now += seconds

    @rule()
    def call(self) -> None:
        permit, _ = self.machine.admit(self.now)
        if isinstance(permit, Refusal):
            assert permit.retry_after > 0
            assert not isinstance(self.machine.epoch, Closed)
        else:
            self.out.append(permit)

    @precondition(lambda self: self.out)
    @rule(data=st.data(), how=st.sampled_from(["success", "failure", "abandon"]))
    def settle(self, data: st.DataObject, how: str) -> None:
        permit = self.out.pop(data.draw(st.integers(0, len(self.out) - 1)))
        before = self.machine.epoch
        current = permit is before or (isinstance(permit, Trial) and permit.epoch is before)
        if how == "abandon":
            self.machine.abandoned(permit)
            assert self.machine.epoch is before
        elif how == "failure":
            self.machine.failed(permit, self.now)
            assert current or self.machine.epoch is before
        elif isinstance(permit, Trial):
            self.machine.succeeded(permit)
            assert current or self.machine.epoch is before
        else:
            permit.succeeded()

    @rule(how=st.sampled_from(["open", "half_open", "close"]))
    def by_hand(self, how: str) -> None:
        if how == "open":
            self.machine.open(self.now, "by hand")
        else:
            getattr(self.machine, how)("by hand")

    @invariant()
    def trials_never_exceed_the_permits(self) -> None:
        epoch = self.machine.epoch
        if isinstance(epoch, HalfOpen):
            assert epoch.free >= 0
            assert epoch.free + len(epoch.out) + epoch.successes == 2
        if isinstance(epoch, Open):
            assert epoch.until <= self.now + 10.0


TestBreakerModel = BreakerModel.TestCase
