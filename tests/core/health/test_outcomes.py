"""What a check's outcome says of it, in full."""

from resilience.health._machine import Machine, Outcome

START = 1000.0
"""Far from zero, so that a duration is not taken for a time."""


def test_a_run_that_is_late_says_since_when() -> None:
    """The outcome of a run that has not answered tells how long it has been, and when that was asked."""
    machine = Machine(timeout=1.0, cache=5.0)
    run = machine.begin(START)
    outcome, change = machine.ask(START + 2)
    assert outcome == Outcome(ok=False, reason="no answer after 2 s", at=START + 2, seconds=2.0)
    assert change is not None
    assert (change.before, change.outcome) == (None, outcome)
    assert machine.overdue(run, START + 3)[1] is None


def test_a_run_that_was_given_up_says_so() -> None:
    """Whoever still waits for a run that was given up is told that, and nobody's verdict changes."""
    machine = Machine(timeout=1.0, cache=5.0)
    run = machine.begin(START)
    seen = [run.is_over]
    machine.give_up(run)
    assert [*seen, run.is_over] == [False, True]
    expected = Outcome(ok=False, reason="given up before it answered", at=START + 2, seconds=2.0)
    assert machine.overdue(run, START + 2) == (expected, None)
    assert machine.was_ok is None


def test_a_run_that_is_not_the_present_one_changes_no_verdict() -> None:
    """A run of another machine's, asked about here, is late without a change being told."""
    machine, other = (Machine(timeout=1.0, cache=5.0) for _ in range(2))
    outcome, change = machine.overdue(other.begin(START), START + 2)
    assert (outcome.ok, change, machine.was_ok) == (False, None, None)


def test_an_answer_in_the_last_moment_is_in_time() -> None:
    """A run may take its whole timeout; what it took is told."""
    machine = Machine(timeout=1.0, cache=5.0)
    change = machine.finish(machine.begin(START), "", START + 1)
    assert change is not None
    assert change.outcome == Outcome(ok=True, reason="", at=START + 1, seconds=1.0)
    late = machine.finish(machine.begin(START), "", START + 3)
    assert late is not None
    assert late.outcome == Outcome(ok=False, reason="answered after 3 s, allowed 1 s", at=START + 3, seconds=3.0)
