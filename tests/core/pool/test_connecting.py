"""When a pool begins an attempt to connect. Pure."""

from __future__ import annotations

import math
from typing import Any

import pytest

from resilience import CircuitOpenError, RejectedError
from resilience.pool import PoolOptions
from resilience.pool._connecting import Connecting, backoff


def connecting(chance: float = 0.0, **options: Any) -> Connecting:
    return Connecting(PoolOptions(**options), lambda: chance)


@pytest.mark.parametrize(
    ("failures", "chance", "seconds"),
    [
        (1, 0.0, 0.05),
        (1, 1.0, 0.1),
        (2, 1.0, 0.2),
        (3, 0.5, 0.3),
        (7, 1.0, 6.4),
        (8, 1.0, 10.0),
        (8, 0.0, 5.0),
        (10_000, 1.0, 10.0),
    ],
)
def test_the_pause_doubles_up_to_a_limit(failures: int, chance: float, seconds: float) -> None:
    """From 0.1 s to 10 s, a random half of it left out."""
    assert backoff(failures, chance) == pytest.approx(seconds)


def test_a_few_attempts_run_at_once() -> None:
    """Up to `max_creating`, up to those that are needed, and up to the room in the pool."""
    attempts = connecting(max_creating=3)
    assert [attempts.missing(needed, room) for needed, room in ((1, 9), (9, 2), (9, 9), (0, 9), (9, 0), (-1, 9))] == [
        1,
        2,
        3,
        0,
        0,
        0,
    ]
    begun = attempts.begin(2, 0)
    assert len(begun) == attempts.running == 2
    assert [attempts.missing(needed, 9) for needed in (1, 2, 3, 4)] == [0, 0, 1, 1]


def test_one_attempt_at_a_time_after_a_failure() -> None:
    """A server that is away is not asked by several attempts, nor before the pause is over; a success ends both."""
    attempts = connecting(chance=1.0, max_creating=3)
    first, second, third = attempts.begin(3, 0)
    assert attempts.fail(first, OSError("a"), 1)
    assert (attempts.failures, attempts.failed, attempts.retry_at, attempts.running) == (1, 1, 1.1, 2)
    assert attempts.missing(9, 9) == 0
    assert attempts.fail(second, last := OSError("b"), 2)
    assert attempts.retry_at == 2.2
    assert [attempts.last_error] == [last]
    assert attempts.begin(1, 2.1) == []
    assert attempts.running == 1
    assert attempts.succeed(third, 5)
    assert (attempts.failures, attempts.retry_at) == (0, -math.inf)
    assert [attempts.last_error] == [None]
    assert (attempts.created, attempts.failed, attempts.seconds, attempts.running) == (1, 2, 5, 0)
    assert attempts.missing(9, 9) == 3


def test_the_pause_ends_at_its_moment() -> None:
    """An attempt may begin when the pause is over, not before."""
    attempts = connecting(chance=1.0)
    assert attempts.fail(attempts.begin(1, 0)[0], OSError(), 0)
    assert attempts.missing(5, 5) == 1
    assert attempts.begin(1, 0.09) == []
    assert len(attempts.begin(1, 0.1)) == 1


def test_an_attempt_ends_once() -> None:
    """Whatever comes after the end of an attempt is not counted."""
    attempts = connecting()
    attempt = attempts.begin(1, 0)[0]
    assert attempts.fail(attempt, TimeoutError(), 1)
    assert not attempts.fail(attempt, OSError(), 2)
    assert not attempts.succeed(attempt, 3)
    assert (attempts.created, attempts.failed, attempts.failures) == (0, 1, 1)
    assert isinstance(attempts.last_error, TimeoutError)


def test_late_attempts_are_those_that_take_the_time_limit() -> None:
    """An attempt is late at `connect_timeout`."""
    attempts = connecting(connect_timeout=2)
    first = attempts.begin(1, 1.0)[0]
    attempts.begin(1, 2.0)
    assert attempts.late(2.9) == []
    assert attempts.late(3.0) == [first]


def test_a_refusal_of_the_breaker_is_no_failure_of_the_server() -> None:
    """The pause is the `retry_after` of the refusal, however often it refuses."""
    attempts = connecting(chance=1.0)
    for now in (0.0, 30.0, 60.0):
        refusal = CircuitOpenError("open", policy="p", retry_after=30)
        assert attempts.fail(attempts.begin(1, now)[0], refusal, now)
        assert (attempts.failures, attempts.retry_at) == (1, now + 30)
        assert attempts.is_refused(now + 29.9)
        assert not attempts.is_refused(now + 30)
        assert attempts.refusal is refusal
        assert attempts.missing(9, 9) == 1
    silent = RejectedError("no")
    assert attempts.fail(attempts.begin(1, 90)[0], silent, 90)
    assert attempts.retry_at == pytest.approx(90 + backoff(2, 1.0))


def test_only_a_refusal_is_a_refusal() -> None:
    """A failure of the server refuses no borrower."""
    attempts = connecting()
    assert not attempts.is_refused(0)
    assert isinstance(attempts.refusal, RejectedError)
    assert attempts.fail(attempts.begin(1, 0)[0], OSError(), 0)
    assert not attempts.is_refused(0)


def test_the_first_attempt_of_a_service_waits_for_no_pause() -> None:
    """`start` decides itself when it tries again."""
    attempts = connecting()
    assert attempts.fail(attempts.begin(1, 0)[0], OSError(), 0)
    attempt = attempts.begin_first(0.01)
    assert (attempt.since, attempt.is_over, attempts.running) == (0.01, False, 1)
    assert attempts.succeed(attempt, 0.03)
    assert attempts.seconds == pytest.approx(0.02)


def test_a_pool_that_closes_ends_all_attempts() -> None:
    """A connection that one of them still brings comes too late."""
    attempts = connecting()
    first, second = attempts.begin(2, 0)
    attempts.give_up()
    assert attempts.running == 0
    assert not attempts.succeed(first, 1)
    assert not attempts.fail(second, OSError(), 1)
    assert (attempts.created, attempts.failed) == (0, 0)


def test_an_attempt_that_was_withdrawn_counts_as_none() -> None:
    """Its place is free, and whatever it brings comes too late."""
    attempts = connecting()
    assert attempts.last_error is None
    attempt = attempts.begin(1, 0)[0]
    attempts.withdraw(attempt)
    assert (attempts.running, attempts.failed, attempts.failures) == (0, 0, 0)
    assert not attempts.succeed(attempt, 1)


def test_no_attempt_begins_beside_the_start_of_a_service() -> None:
    """While `start` makes attempts of its own, none are missing."""
    attempts = connecting()
    with attempts.start():
        assert attempts.missing(9, 9) == 0
    assert attempts.missing(9, 9) == 3
