from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resilience.events import Emitter, Event
from resilience.redis import OutageGuard
from resilience.redis._machine import MAX_PAUSE, Availability, Down, OutageTrial, Up


def test_one_failure_closes_the_door() -> None:
    """After a failure no caller asks until the pause is over; then exactly one caller does."""
    availability = Availability(lease=1)
    permit = availability.admit(0)
    assert isinstance(permit, Up)
    assert availability.failed(permit, 0, jitter=0)
    assert availability.admit(0.09) is None
    assert round(availability.trial_after(0.04), 6) == 0.06
    trial = availability.admit(0.1)
    assert isinstance(trial, OutageTrial)
    assert availability.admit(0.1) is None


def test_many_failures_are_one_outage() -> None:
    """Of fifty callers that fail together one starts the outage; none of them lengthens the pause."""
    availability = Availability(lease=1)
    permits = [availability.admit(0) for _ in range(50)]
    found = [availability.failed(permit, 0, jitter=0) for permit in permits if permit is not None]
    assert found == [True] + [False] * 49
    assert availability.admit(0.1) is not None


def test_pauses_grow_and_shrink_back() -> None:
    """Each failed trial doubles the pause up to the longest; a success forgets it all."""
    availability, now, pauses = Availability(lease=1), 0.0, []
    permit = availability.admit(now)
    assert permit is not None
    availability.failed(permit, now, jitter=0)
    for _ in range(9):
        pauses.append(round(availability.trial_after(now), 6))
        now += availability.trial_after(now)
        trial = availability.admit(now)
        assert trial is not None
        assert not availability.failed(trial, now, jitter=0)
    assert pauses == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, MAX_PAUSE, MAX_PAUSE, MAX_PAUSE]
    trial = availability.admit(now + MAX_PAUSE)
    assert trial is not None
    assert availability.succeeded(trial)
    assert isinstance(availability.epoch, Up)
    assert availability.trial_after(now) == 0


@given(st.floats(0, 1))
def test_jitter_only_shortens(jitter: float) -> None:
    """Jitter shortens a pause by up to half, so that a fleet does not come back in one moment."""
    availability = Availability(lease=1)
    availability.failed(availability.epoch if isinstance(availability.epoch, Up) else Up(), 0, jitter)
    assert 0.05 <= availability.trial_after(0) <= 0.1


def test_stragglers_change_nothing() -> None:
    """A report of a call of an earlier epoch, good or bad, neither ends nor starts an outage."""
    availability = Availability(lease=1)
    early = availability.admit(0)
    assert early is not None
    availability.failed(early, 0, jitter=0)
    assert not availability.succeeded(early)
    assert isinstance(availability.epoch, Down)
    trial = availability.admit(1)
    assert trial is not None
    assert availability.succeeded(trial)
    assert not availability.succeeded(trial)
    assert not availability.failed(early, 1, jitter=0)
    assert not availability.failed(trial, 1, jitter=0)
    assert isinstance(availability.epoch, Up)


def test_lost_trial() -> None:
    """A cancelled trial makes room at once; a trial that never reports makes room when its lease is over."""
    availability = Availability(lease=1)
    first = availability.admit(0)
    assert first is not None
    availability.failed(first, 0, jitter=0)
    cancelled = availability.admit(0.1)
    assert cancelled is not None
    availability.abandoned(cancelled)
    availability.abandoned(first)
    lost = availability.admit(0.2)
    assert lost is not None
    assert availability.admit(1.19) is None
    assert availability.admit(1.2) is not None
    assert not availability.succeeded(lost)


def test_guard_reports_each_change_once() -> None:
    """The guard emits one event when Redis stops answering, one when it answers again, and absorbs its errors."""
    now = [0.0]
    events, seen = Emitter(), list[Event]()
    events.subscribe(seen.append)
    guard = OutageGuard("ratelimit", events, lease=1, clock=lambda: now[0], facts={"outage": "local"})
    for _ in range(3):
        with guard.attempt() as attempt:
            if attempt.may_try:
                raise ConnectionError("redis://:secret@host is away")
    away = [guard.is_down]
    now[0] = 1.0
    with guard.attempt() as attempt:
        assert attempt.may_try
    assert [*away, guard.is_down] == [True, False]
    assert [event.kind for event in seen] == ["ratelimit.outage", "ratelimit.recovered"]
    assert seen[0].facts.pop("retry_after") == pytest.approx(0.075, abs=0.025)
    assert seen[0].facts == {"error": "ConnectionError", "outage": "local"}


def test_guard_lets_interrupts_through() -> None:
    """An interrupt inside an attempt goes on, is no outage, and frees the trial."""
    now = [0.0]
    guard = OutageGuard("ratelimit", Emitter(), lease=9, clock=lambda: now[0])
    for error, is_away in (
        (KeyboardInterrupt(), False),
        (ValueError(), False),  # a time limit, perhaps: it says nothing about Redis
        (ConnectionError(), True),
        (KeyboardInterrupt(), True),
    ):
        now[0] += 1
        with contextlib.suppress(KeyboardInterrupt, ValueError), guard.attempt():
            raise error
        assert guard.is_down is is_away
    assert guard.admit() is not None
    assert guard.admit() is None
