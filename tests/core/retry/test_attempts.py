"""The record of one call's attempts."""

from __future__ import annotations

import math
from typing import Any

import pytest

from resilience.options import LONGEST
from resilience.retry import RetryOptions
from resilience.retry._machine import Attempts, RetryCounts, stop_reason


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


def test_a_message_of_eighty_characters_is_shown_whole() -> None:
    """Three points mean that something was left out."""
    attempts = Attempts(0.0)
    attempts.record(OSError("x" * 80), None)
    assert attempts.report() == ["1 OSError: " + "x" * 80]


def test_a_call_that_ends_at_its_first_attempt_was_not_retried() -> None:
    """The counts of retried calls contain only calls with a second attempt, however they ended."""
    counts = RetryCounts()
    counts.abandon(1)
    counts.fail(1)
    assert counts.as_data() == dict.fromkeys(counts.as_data(), 0) | {"failed_without_retry": 1}
    counts.retry(1)
    counts.retry(2)
    counts.abandon(3)
    counts.retry(1)
    counts.fail(2)
    counts.retry(1)
    assert counts.as_data() == {
        "retries": 4,
        "retried_calls": 3,
        "succeeded_with_retry": 1,
        "failed_with_retry": 1,
        "failed_without_retry": 1,
        "abandoned_with_retry": 1,
    }


@pytest.mark.parametrize(
    ("number", "wait", "limits", "reason"),
    [
        (2, 1.0, {}, None),
        (3, 1.0, {}, "attempts"),
        (1, 1.0, {"max_attempts": 2}, None),
        (2, 1.0, {"max_attempts": 2}, "attempts"),
        (1, LONGEST, {}, None),
        (1, math.nextafter(LONGEST, math.inf), {}, "wait"),
        (1, 1.0, {"remaining": 1.01}, None),
        (1, 1.0, {"remaining": 1.0}, "deadline"),
    ],
)
def test_a_limit_ends_the_attempts(number: int, wait: float, limits: dict[str, Any], reason: str | None) -> None:
    """No attempt begins beyond a limit, no wait begins that would end at a limit, and the reason is the limit."""
    attempts = Attempts(0.0)
    attempts.number = number
    options = RetryOptions(attempts=3)
    assert stop_reason(options, attempts, 5.0, wait, **({"remaining": None} | limits)) == reason


@pytest.mark.parametrize(("now", "reason"), [(13.9, None), (14.0, "timeout")])
def test_the_total_time_counts_from_the_first_attempt(now: float, reason: str | None) -> None:
    """No wait begins that would end `timeout` seconds after the call began."""
    assert stop_reason(RetryOptions(timeout=5.0), Attempts(10.0), now, 1.0, None) == reason
