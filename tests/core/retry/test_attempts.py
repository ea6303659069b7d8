"""The record of one call's attempts."""

from __future__ import annotations

from resilience.retry._machine import Attempts


def failed(number: int) -> Attempts:
    """Return the attempts of a call that has failed so many times, with an error that says which time."""
    attempts = Attempts(0.0)
    for each in range(1, number + 1):
        attempts.record(OSError(f"failure {each}"), None, 1.0 if each < number else None)
    return attempts


def test_a_record_with_a_wait_leads_to_the_next_attempt() -> None:
    """The wait becomes the last wait; without a wait, the attempt under way stays the last one."""
    attempts = Attempts(0.0)
    assert (attempts.number, attempts.previous, attempts.skipped) == (1, 0.0, 0.0)
    attempts.record(OSError(), None, 1.5)
    assert (attempts.number, attempts.previous) == (2, 1.5)
    attempts.record(OSError(), None, 2.5)
    assert (attempts.number, attempts.previous) == (3, 2.5)
    attempts.record(OSError(), None)
    assert (attempts.number, attempts.previous, attempts.skipped) == (3, 2.5, 0.0)


def test_a_call_that_begins_is_counted_nowhere() -> None:
    """A new record says that neither the budget nor the counts of the retry know the call yet."""
    attempts = Attempts(3.0)
    flags = (attempts.is_last, attempts.is_retry_counted, attempts.is_over, attempts.is_counted, attempts.is_retrying)
    assert flags == (False,) * 5
    assert (attempts.started, attempts.state, attempts._history) == (3.0, None, ())


def test_a_result_is_reported_by_its_type() -> None:
    """The history names the type of a result, not its text, which may be long or secret."""
    attempts = Attempts(0.0)
    attempts.record(None, {"card": "4111"}, 0.25)
    attempts.record(None, b"4111")
    assert attempts.report() == ["1 returned dict, then waited 0.250 s", "2 returned bytes"]


def test_the_history_keeps_the_first_two_and_the_last_six() -> None:
    """Each attempt in between is left out, and the report says how many there were."""
    for number in range(1, 30):
        lines = [line.split(",")[0] for line in failed(number).report()]
        every = [f"{each} OSError: failure {each}" for each in range(1, number + 1)]
        if number <= 8:
            assert lines == every
        else:
            assert lines == [*every[:2], f"... {number - 8} more", *every[-6:]]


def test_the_history_keeps_little_of_a_message() -> None:
    """Of a long message the history keeps 160 characters, and the report shows 80."""
    attempts = Attempts(0.0)
    attempts.record(OSError("x" * 1000), None)
    assert [message for _, _, message, _ in attempts._history] == ["x" * 160]
    assert attempts.report() == ["1 OSError: " + "x" * 80 + "..."]
