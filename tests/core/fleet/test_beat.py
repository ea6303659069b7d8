"""The machine of the fleet's rounds: when the next one is due, and which count is believed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resilience.fleet._machine import BEAT, GAP, HOLD, LIFETIME, MAX_BACKOFF, Beat

JITTERS = st.floats(0, 1)


def test_the_first_round_is_due_at_once() -> None:
    """A new instance waits for nothing."""
    assert Beat(100.0).wait(100.0) == 0


@given(JITTERS)
def test_rounds_come_a_beat_apart(jitter: float) -> None:
    """After an answer the next round is due in one beat, 10 % earlier or later: always within a second."""
    beat = Beat(0.0)
    beat.answered(0.0, jitter, 1)
    assert 0.9 * BEAT - 1e-9 <= beat.wait(0.0) <= 1.1 * BEAT + 1e-9 < 1


def test_a_nudge_is_due_at_once_but_not_twice_within_the_gap() -> None:
    """A thousand nudges make one round, and the next round comes a gap later at the earliest."""
    beat = Beat(0.0)
    beat.answered(0.0, 0.5, 1)
    beat.nudge(0.5)
    assert beat.wait(0.5) == 0
    beat.answered(0.5, 0.5, 1)
    beat.nudge(0.5)
    assert beat.wait(0.5) == pytest.approx(GAP)


def test_a_nudge_never_makes_a_round_later() -> None:
    """A round that is due stays due."""
    beat = Beat(0.0)
    beat.answered(0.0, 0.5, 1)
    beat.nudge(5.0)
    assert beat.wait(5.0) == 0


def test_the_backoff_doubles_up_to_its_bound() -> None:
    """A server that does not answer is asked less and less often, and an answer starts anew."""
    beat, pauses = Beat(0.0), list[float]()
    for _ in range(6):
        beat.failed(0.0, 1.0)
        pauses.append(beat.wait(0.0))
    assert pauses == [0.5, 1, 2, 4, 4, 4]
    assert MAX_BACKOFF < LIFETIME
    beat.answered(0.0, 0.5, 1)
    beat.failed(0.0, 1.0)
    assert beat.wait(0.0) == 0.5


def test_the_backoff_has_full_jitter() -> None:
    """Thousands of instances come back one after the other, from at once to the whole backoff."""
    beat = Beat(0.0)
    beat.failed(0.0, 0.0)
    assert beat.wait(0.0) == GAP
    beat.failed(0.0, 0.25)
    assert beat.wait(0.0) == 0.25


def test_nudges_do_not_hurry_while_redis_is_lost() -> None:
    """A breaker that trips again and again does not make this process ask a dead server again and again."""
    beat = Beat(0.0)
    beat.failed(0.0, 1.0)
    beat.nudge(0.1)
    assert beat.wait(0.1) == pytest.approx(0.4)


def test_lost_and_found_are_each_reported_once() -> None:
    """The first failure loses Redis, and the first answer after it finds it."""
    beat = Beat(0.0)
    assert not beat.answered(0.0, 0.5, 1)
    assert [beat.failed(1.0, 0.5), beat.failed(2.0, 0.5)] == [True, False]
    assert [beat.answered(3.0, 0.5, 1), beat.answered(4.0, 0.5, 1)] == [True, False]


def test_a_higher_count_is_believed_at_once_and_a_lower_one_later() -> None:
    """After a FLUSHALL the count climbs from 1 again, and no reader sees it."""
    beat, seen = Beat(0.0), list[int]()
    for now, count in [(0, 4), (1, 1), (2, 3), (3, 4), (4, 2), (5, 2), (6, 2), (7, 9)]:
        beat.answered(now, 0.5, count)
        seen.append(beat.instances)
    assert seen == [4, 4, 4, 4, 4, 4, 2, 9]


def test_an_outage_keeps_the_count_and_holds_it_on_return() -> None:
    """A server that comes back empty counts 1, and the count from before the outage holds until it is out of date."""
    beat = Beat(0.0)
    beat.answered(0.0, 0.5, 8)
    beat.failed(60.0, 0.5)
    assert beat.instances == 8
    beat.answered(100.0, 0.5, 1)
    beat.answered(101.0, 0.5, 2)
    assert beat.instances == 8
    beat.answered(100.0 + HOLD, 0.5, 2)
    assert beat.instances == 2


@given(st.lists(st.tuples(st.floats(0, 3), st.one_of(st.none(), st.integers(0, 50))), max_size=40), JITTERS)
def test_the_count_is_never_below_those_of_the_hold(steps: list[tuple[float, int | None]], jitter: float) -> None:
    """Whatever fails between them, the count is at least each count of the last seconds, and at least 1."""
    beat, now, counts = Beat(0.0), 0.0, list[tuple[float, int]]()
    for pause, count in steps:
        now += pause
        if count is None:
            before = beat.instances
            beat.failed(now, jitter)
            assert beat.instances == before
            assert 0 < beat.wait(now) <= MAX_BACKOFF + 1e-9  # a difference of two times, which are rounded
            continue
        beat.answered(now, jitter, count)
        counts.append((now, count))
        recent = [each for at, each in counts if at + HOLD > now]
        assert beat.instances >= max(1, *recent)
        assert beat.instances <= max(1, *(each for _, each in counts))
