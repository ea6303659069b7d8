from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resilience.errors import ConfigurationError
from resilience.ratelimit import Rate
from resilience.ratelimit._machine import BucketTable, Quota
from resilience.ratelimit.on_redis._codec import units_of

rates = st.builds(Rate, st.integers(1, 10_000), st.sampled_from([1, 7, 60, 3600, 86400]))
quotas = st.builds(Quota, st.just("q"), rates, st.integers(1, 500))
steps = st.lists(st.tuples(st.floats(0, 30), st.integers(1, 5)), max_size=200)


@given(quotas, steps, st.floats(0, 1e6))
def test_never_more_than_rate_times_time_plus_burst(quota: Quota, steps: list[tuple[float, int]], start: float) -> None:
    """Whatever the pattern of arrival, every stretch of time admits at most rate x time + burst."""
    now, full_at = start, float("-inf")
    admitted: list[tuple[float, int]] = []
    for pause, cost in steps:
        now += pause * quota.interval
        paid = quota.spend(full_at, now, cost)
        full_at = paid.full_at
        if paid.is_paid:
            admitted.append((now, cost))
    for first, (begin, _) in enumerate(admitted):
        total = 0
        for end, cost in admitted[first:]:
            total += cost
            assert total <= (end - begin) / quota.interval + quota.burst + 0.01


@given(quotas, st.integers(1, 1000))
def test_refusal_is_free(quota: Quota, tries: int) -> None:
    """However often a call is refused, the next token comes when it would have come."""
    full_at = quota.spend(0, 0, quota.burst).full_at
    for attempt in range(min(tries, 50)):
        refused = quota.spend(full_at, quota.interval * 0.9 * attempt / 50)
        assert not refused.is_paid
        full_at = refused.full_at
    assert quota.spend(full_at, quota.interval).is_paid


@given(quotas)
def test_exactly_the_burst_at_once(quota: Quota) -> None:
    """A full bucket gives its burst at one moment and not one more."""
    full_at = 1000.0
    for _ in range(quota.burst):
        paid = quota.spend(full_at, 1000.0)
        assert paid.is_paid
        full_at = paid.full_at
    assert not quota.spend(full_at, 1000.0).is_paid


@given(quotas, st.floats(0, 1000), st.floats(0, 1000))
def test_clock_going_back_grants_nothing(quota: Quota, now: float, back: float) -> None:
    """A clock that goes back finds the bucket no fuller than it left it."""
    full_at = quota.spend(0, now, quota.burst).full_at
    assert not quota.spend(full_at, now - back).is_paid


@given(quotas, st.integers(1, 20))
def test_waiting_in_line(quota: Quota, places: int) -> None:
    """With an allowance calls line up one interval apart, and the allowance ends the line."""
    full_at = quota.spend(0, 0, quota.burst).full_at
    for place in range(1, places + 1):
        paid = quota.spend(full_at, 0, 1, allowance=places * quota.interval)
        assert paid.is_paid
        assert paid.full_at - quota.capacity == pytest.approx(place * quota.interval)
        full_at = paid.full_at
    assert not quota.spend(full_at, 0, 1, allowance=places * quota.interval).is_paid


def test_repr_says_the_quota() -> None:
    """A quota can be read in a debugger."""
    assert repr(Quota("q", Rate(5, 60), 7)) == "Quota('q', '5/minute', burst=7)"


@given(st.lists(st.tuples(st.integers(0, 60), st.floats(0, 5), st.floats(0, 10)), max_size=300), st.integers(1, 20))
def test_table_is_bounded_and_keeps_count(entries: list[tuple[int, float, float]], most: int) -> None:
    """However keys come and go, the table never holds more than it may and never loses sight of one."""
    table, now = BucketTable(most), 0.0
    for key, pause, missing in entries:
        now += pause
        if str(key) in table.cells:
            table.cells[str(key)] = [now + missing]
        else:
            table.add(str(key), now + missing, now)
        assert len(table) <= most
        assert sorted(table._order) == sorted(table.cells)


def test_full_buckets_are_forgotten() -> None:
    """A hundred thousand clients that came once leave nothing behind once as many others have come."""
    table = BucketTable(1_000_000)
    for client in range(10_000):
        table.add(f"a{client}", 1.0, 0.0)
    for client in range(5_001):
        table.add(f"b{client}", 101.0, 100.0)
    assert not [key for key in table.cells if key.startswith("a")]
    assert table.displaced == 0


def test_who_is_displaced() -> None:
    """When all places are in use, the bucket nearest to full makes room, and that is counted."""
    table = BucketTable(3)
    for key, missing in (("a", 30.0), ("b", 10.0), ("c", 20.0), ("d", 40.0)):
        table.add(key, missing, 0.0)
    assert sorted(table.cells) == ["a", "c", "d"]
    assert table.displaced == 1


def test_those_who_were_spared_go_to_the_end() -> None:
    """A bucket that another was displaced instead of is not asked again before all others were."""
    table = BucketTable(30)
    for number in range(30):
        table.add(str(number), 100.0, 0.0)
    line = list(table._order)
    for place, key in enumerate(line):
        table.cells[key] = [100.0 + place]
    table.add("x", 500.0, 0.0)
    table.add("y", 500.0, 0.0)
    assert set(line) - set(table.cells) == {line[2], line[12]}


@given(st.builds(Rate, st.integers(1, 10**9), st.integers(1, 360 * 86400)), st.integers(1, 10**6))
def test_units_are_exact_enough(rate: Rate, burst: int) -> None:
    """In the script's whole numbers a rate is off by less than a billionth, and every sum stays below 2^53."""
    try:
        units = units_of(Quota("q", rate, burst))
    except ConfigurationError:
        assert burst * rate.interval > 1e9
        return
    assert math.isclose(units.token / units.refill / 1e6, rate.interval, rel_tol=1e-9)
    assert units.capacity == burst * units.token
    assert units.capacity + burst * units.token <= 2**53


def test_a_bucket_that_takes_a_lifetime() -> None:
    """A bucket that Redis could not count exactly is refused where it is made."""
    with pytest.raises(ConfigurationError, match="burst=1000000000: expected a bucket that 1/hour fills within"):
        units_of(Quota("q", Rate(1, 3600), 10**9))


def test_a_payment_is_one_token_and_no_credit() -> None:
    """By default a call pays one token, and the bucket goes no further than empty."""
    quota = Quota("default", Rate(1, 1), 2)
    first = quota.spend(0.0, 0.0)
    assert first == (True, 1.0)
    second = quota.spend(first.full_at, 0.0)
    assert second == (True, 2.0)
    assert quota.spend(second.full_at, 0.5) == (False, 2.0)
