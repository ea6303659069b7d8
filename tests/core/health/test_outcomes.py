"""All fields of a check's outcomes."""

from resilience.health._machine import CheckMachine, CheckOutcome

START = 1000.0
"""Far from zero, so that a duration is not taken for a time."""


def test_a_run_that_is_late_says_since_when() -> None:
    """The outcome of a run without an answer has its duration so far and the time of the question."""
    machine = CheckMachine(timeout=1.0, cache=5.0)
    run = machine.begin(START)
    outcome, change = machine.ask(START + 2)
    assert outcome == CheckOutcome(ok=False, reason="no answer after 2 s", at=START + 2, seconds=2.0)
    assert change is not None
    assert (change.before, change.outcome) == (None, outcome)
    assert machine.overdue(run, START + 3)[1] is None


def test_a_run_that_was_given_up_says_so() -> None:
    """A caller that waits for a run that was given up gets that as the reason, and no verdict changes."""
    machine = CheckMachine(timeout=1.0, cache=5.0)
    run = machine.begin(START)
    seen = [run.is_over]
    machine.give_up(run)
    assert [*seen, run.is_over] == [False, True]
    expected = CheckOutcome(ok=False, reason="given up before it answered", at=START + 2, seconds=2.0)
    assert machine.overdue(run, START + 2) == (expected, None)
    assert machine.was_ok is None


def test_a_run_that_is_not_the_present_one_changes_no_verdict() -> None:
    """A run of another machine's, asked about here, is late without a change."""
    machine, other = (CheckMachine(timeout=1.0, cache=5.0) for _ in range(2))
    outcome, change = machine.overdue(other.begin(START), START + 2)
    assert (outcome.ok, change, machine.was_ok) == (False, None, None)


def test_an_answer_in_the_last_moment_is_in_time() -> None:
    """A run may take its whole timeout, and the outcome has its duration."""
    machine = CheckMachine(timeout=1.0, cache=5.0)
    change = machine.finish(machine.begin(START), "", START + 1)
    assert change is not None
    assert change.outcome == CheckOutcome(ok=True, reason="", at=START + 1, seconds=1.0)
    late = machine.finish(machine.begin(START), "", START + 3)
    assert late is not None
    assert late.outcome == CheckOutcome(ok=False, reason="answered after 3 s, allowed 1 s", at=START + 3, seconds=3.0)


# Checks that run by themselves, and verdicts that take several outcomes to turn


def judged(machine: CheckMachine, reason: str, now: float) -> CheckOutcome:
    """Begin and end a run at once, and return its change."""
    machine.finish(machine.begin(now), reason, now)
    assert machine.last is not None
    return machine.last


def test_an_outcome_that_is_too_old_says_so_once() -> None:
    """A background check without a new outcome has failed, with the time since the last; the change comes once."""
    machine = CheckMachine(timeout=2.0, cache=0.0, every=10.0, success_threshold=2)
    judged(machine, "", START)
    latest = START + 3 * 10 + 2
    assert machine.ask(latest)[0] == machine.last
    asked = latest + 8
    outcome, change = machine.ask(asked)
    expected = CheckOutcome(ok=False, reason="no answer for 40 s", at=START, seconds=0.0, is_stale=True)
    assert outcome == expected
    assert change is not None
    assert (change.before, change.outcome) == (True, expected)
    assert machine.ask(asked) == (expected, None)
    assert [judged(machine, "", asked + pause).ok for pause in (0, 10)] == [False, True]


def test_a_check_that_runs_is_looked_after_one_period_later() -> None:
    """While a run is under way the next look is a period away; without a period, a timeout."""
    by_itself, asked_for = CheckMachine(timeout=2.0, cache=0.0, every=10.0), CheckMachine(timeout=2.0, cache=0.0)
    for machine in (by_itself, asked_for):
        machine.begin(START)
    assert (by_itself.due_in(START), asked_for.due_in(START)) == (10.0, 2.0)


def test_a_run_given_up_fails_unless_one_failure_more_would_change_nothing() -> None:
    """If several failures are needed, a check that passed before still passes when its run is given up."""
    for threshold, reasons, ok in (
        (1, [""], False),
        (2, [""], True),
        (3, [""], True),
        (2, [], False),
        (2, ["boom"], False),
    ):
        machine = CheckMachine(timeout=2.0, cache=0.0, failure_threshold=threshold)
        for reason in reasons:
            judged(machine, reason, START)
        run = machine.begin(START)
        machine.give_up(run)
        assert machine.overdue(run, START + 5)[0].ok is ok


def test_a_run_that_hangs_counts_once_for_each_timeout() -> None:
    """A run that hangs is one failure, and one more for each whole timeout after the first; its end is none."""
    machine = CheckMachine(timeout=4.0, cache=0.0, failure_threshold=3)
    judged(machine, "", START)
    run = machine.begin(START)
    assert [machine.overdue(run, START + seconds)[0].ok for seconds in (4, 7.9, 8, 11.9, 12)] == [True] * 4 + [False]
    machine = CheckMachine(timeout=4.0, cache=0.0, failure_threshold=2)
    judged(machine, "", START)
    run = machine.begin(START)
    assert [machine.overdue(run, START + seconds)[0].ok for seconds in (4, 7.9, 8)] == [True, True, False]
    machine = CheckMachine(timeout=4.0, cache=0.0, failure_threshold=3)
    judged(machine, "", START)
    run = machine.begin(START)
    machine.overdue(run, START + 9)
    machine.finish(run, "boom", START + 10)
    assert machine.last is not None
    assert machine.last.ok
    assert not judged(machine, "boom", START + 11).ok


def test_each_run_that_fails_counts() -> None:
    """Runs that end in time count one each."""
    machine = CheckMachine(timeout=4.0, cache=0.0, failure_threshold=2)
    assert [judged(machine, reason, START).ok for reason in ("", "boom", "boom")] == [True, True, False]


def test_an_outcome_that_agrees_with_the_verdict_begins_the_count_anew() -> None:
    """Only outcomes in a row turn a verdict: after a pass, the next failure is the first one again."""
    machine = CheckMachine(timeout=1.0, cache=5.0, failure_threshold=3)
    judged(machine, "", START)
    notes = [judged(machine, reason, START + 1).note for reason in ("down", "down", "", "down", "down")]
    assert notes == ["1 of 3 failures", "2 of 3 failures", "", "1 of 3 failures", "2 of 3 failures"]
    assert machine.was_ok is True
    judged(machine, "down", START + 2)
    assert machine.was_ok is False
