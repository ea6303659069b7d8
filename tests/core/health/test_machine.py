from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from resilience.health._machine import CheckMachine, CheckOutcome, CheckRun


def begun(machine: CheckMachine, now: float) -> CheckRun:
    assert machine.ask(now) == (None, None)
    return machine.begin(now)


def test_one_run_at_a_time() -> None:
    """Each caller during a run gets that run, not another."""
    machine = CheckMachine(timeout=1.0, cache=5.0)
    run = begun(machine, 0.0)
    assert machine.ask(0.999) == (run, None)


def test_outcome_is_used_again_until_the_cache_ends() -> None:
    """An outcome is good for `cache` seconds from its end, and not an instant longer."""
    machine = CheckMachine(timeout=1.0, cache=5.0)
    run = begun(machine, 0.0)
    change = machine.finish(run, "", 0.5)
    assert change is not None
    assert (change.before, change.outcome) == (None, CheckOutcome(ok=True, reason="", at=0.5, seconds=0.5))
    assert machine.ask(5.499) == (change.outcome, None)
    assert machine.ask(5.5) == (None, None)


def test_a_stuck_run_is_reported_and_kept() -> None:
    """After its timeout a run counts as failed, with one change, and is not started again (L18)."""
    machine = CheckMachine(timeout=1.0, cache=0.0)
    run = begun(machine, 0.0)
    outcome, change = machine.ask(1.0)
    assert isinstance(outcome, CheckOutcome)
    assert (outcome.ok, change is not None) == (False, True)
    later, again = machine.ask(1000.0)
    assert isinstance(later, CheckOutcome)
    assert (later.ok, again, machine.run) == (False, None, run)
    assert "1e+03 s" in later.reason


def test_a_late_answer_is_a_failure() -> None:
    """A check that passes after its timeout has failed; otherwise it would flap for ever."""
    machine = CheckMachine(timeout=1.0, cache=5.0)
    run = begun(machine, 0.0)
    machine.finish(run, "", 3.0)
    outcome, _ = machine.ask(4.0)
    assert isinstance(outcome, CheckOutcome)
    assert (outcome.ok, outcome.seconds) == (False, 3.0)
    assert "allowed 1 s" in outcome.reason
    assert machine.ask(8.0) == (None, None)


def test_a_run_given_up_counts_for_nothing() -> None:
    """The late answer of a run that was given up changes nothing for the next run."""
    machine = CheckMachine(timeout=1.0, cache=5.0)
    lost = begun(machine, 0.0)
    assert machine.give_up(lost)
    assert not machine.give_up(lost)
    run = begun(machine, 0.1)
    assert machine.finish(lost, "boom", 0.2) is None
    assert machine.run is run
    outcome, change = machine.overdue(lost, 0.3)
    assert (outcome.ok, change) == (False, None)


def test_changes_are_returned_once() -> None:
    """Only a change of the verdict is reported: a pass after a failure is, a second failure is not."""
    machine = CheckMachine(timeout=1.0, cache=0.0)
    changes = [machine.finish(begun(machine, at), reason, at) for at, reason in enumerate(["", "", "x", "y", ""])]
    assert [change and (change.before, change.outcome.ok) for change in changes] == [
        (None, True),
        None,
        (True, False),
        None,
        (False, True),
    ]


class OneCheck(RuleBasedStateMachine):
    """In any order of events there is at most one run, and each verdict comes from an outcome."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.machine = CheckMachine(timeout=1.0, cache=2.0)
        self.under_way: CheckRun | None = None
        self.given_up: list[CheckRun] = []

    @rule(seconds=st.sampled_from([0.0, 0.5, 1.0, 2.0, 3.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule()
    def ask(self) -> None:
        answer, _ = self.machine.ask(self.now)
        if answer is None:
            assert self.under_way is None
            self.under_way = self.machine.begin(self.now)
        elif isinstance(answer, CheckRun):
            assert answer is self.under_way
            assert self.now < answer.until
        elif self.under_way is not None:
            assert not answer.ok
        else:
            assert self.now < answer.at + 2.0

    @precondition(lambda self: self.under_way)
    @rule(reason=st.sampled_from(["", "broken"]))
    def finish(self, reason: str) -> None:
        run, self.under_way = self.under_way, None
        assert run is not None
        self.machine.finish(run, reason, self.now)
        assert run.outcome is not None
        assert run.outcome.ok == (not reason and self.now <= run.until)

    @precondition(lambda self: self.under_way)
    @rule()
    def give_up(self) -> None:
        assert self.under_way is not None
        assert self.machine.give_up(self.under_way)
        self.given_up.append(self.under_way)
        self.under_way = None

    @precondition(lambda self: self.given_up)
    @rule()
    def report_late(self) -> None:
        assert self.machine.finish(self.given_up.pop(), "", self.now) is None

    @invariant()
    def the_run_is_the_one_under_way(self) -> None:
        assert self.machine.run is self.under_way


TestOneCheck = OneCheck.TestCase
TestOneCheck.settings = settings(max_examples=50, stateful_step_count=30, deadline=None)
