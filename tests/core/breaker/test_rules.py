import itertools
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from resilience.breaker._rules import Judge, Limits, Trip
from resilience.breaker._window import CallWindow, Counts, NoWindow, TimeWindow

OUTCOMES = st.lists(st.sampled_from(["ok", "failed", "slow", "both"]), max_size=80)


def report(judge: Judge, outcome: str, now: float = 0.0) -> Trip | None:
    if outcome == "ok":
        judge.tick(now)
        judge.succeeded()
        return None
    if outcome == "slow":
        return judge.slowed(now)
    return judge.failed(now, slow=outcome == "both")


def counted(outcomes: list[str]) -> Counts:
    failures = sum(outcome in ("failed", "both") for outcome in outcomes)
    return Counts(failures, len(outcomes), sum(outcome in ("slow", "both") for outcome in outcomes))


@given(st.lists(st.booleans(), max_size=60), st.integers(1, 6))
def test_consecutive_rule_trips_at_the_end_of_an_unbroken_run(outcomes: list[bool], limit: int) -> None:
    """The consecutive rule trips exactly when the last `limit` outcomes are all failures."""
    judge = Judge(Limits(limit), NoWindow())
    seen: list[bool] = []
    for failed in outcomes:
        seen.append(failed)
        if failed:
            expected = len(seen) >= limit and all(seen[-limit:])
            assert (judge.failed(0.0) is not None) is expected
        else:
            judge.succeeded()
        run = len(list(itertools.takewhile(bool, reversed(seen))))
        assert judge.counts(0.0) == Counts(run, run)


@settings(max_examples=300)
@given(st.lists(st.sampled_from(["ok", "failed", "slow", "hangs", "ok late", "failed late"]), max_size=60))
def test_a_run_is_one_of_calls_in_the_order_they_end(outcomes: list[str]) -> None:
    """Calls counted as slow while they run come into a run when they end, and as what they end; until then not."""
    judge, hanging, run = Judge(Limits(2, slow_rate=1.0, minimum=1000), CallWindow(1000)), [], 0
    for outcome in outcomes:
        if outcome == "hangs":
            number, trip = judge.hung(0.0)
            assert trip is None
            hanging.append(number)
        elif outcome in ("ok", "slow"):
            run = 0
            report(judge, outcome)
        elif outcome == "failed" or (outcome == "failed late" and hanging):
            run += 1
            trip = judge.failed(0.0) if outcome == "failed" else judge.failed_late(hanging.pop(), 0.0)
            assert (None if trip is None else trip.rule) == (None if run < 2 else "consecutive failures")
        elif outcome == "ok late" and hanging:
            run = 0
            judge.succeeded_late()
            hanging.pop()


@given(OUTCOMES, st.integers(1, 12), st.data())
def test_rates_judge_the_last_calls(outcomes: list[str], size: int, data: st.DataObject) -> None:
    """The window holds exactly the last `size` outcomes; a rate is judged from `minimum` calls on, at its own kind."""
    minimum = data.draw(st.integers(1, size))
    judge, seen = Judge(Limits(None, None, 0.5, 0.4, minimum), CallWindow(size)), []
    for outcome in outcomes:
        seen.append(outcome)
        counts = counted(seen[-size:])
        trip = report(judge, outcome)
        failing = outcome in ("failed", "both") and counts.failures >= 0.5 * counts.calls
        slow = outcome != "ok" and counts.slow > 0 and counts.slow >= 0.4 * counts.calls
        expected = "failure rate" if failing else "slow call rate" if slow else None
        if counts.calls < minimum:
            expected = None
        assert trip == (None if expected is None else Trip(expected, counts))
        assert judge.counts(0.0) == counts


@given(
    st.lists(st.tuples(st.sampled_from(["ok", "failed", "slow", "both"]), st.floats(0, 3)), max_size=80),
    st.floats(0.1, 20),
)
def test_window_of_time_holds_the_last_seconds(outcomes: list[tuple[str, float]], seconds: float) -> None:
    """A window of time holds every outcome of its last nine tenths, none older than itself, and each one once."""
    judge, seen, now = Judge(Limits(None, None, 2.0), TimeWindow(seconds, 0.0)), [], 0.0
    for outcome, passed in outcomes:
        now += passed
        report(judge, outcome, now)
        seen.append((outcome, now))
        counts = judge.counts(now)
        newest = counted([each for each, at in seen if at > now - 0.9 * seconds + 1e-6])
        oldest = counted([each for each, at in seen if at > now - seconds - 1e-6])
        assert all(low <= got <= high for low, got, high in zip(newest, counts, oldest, strict=True))
        window = [each for each, _ in seen[len(seen) - counts.calls :]]
        assert counts == counted(window)


@pytest.mark.parametrize("size", [10, 100, 1000])
@pytest.mark.parametrize("percent", range(1, 101))
def test_a_rate_is_reached_by_exactly_its_share(percent: int, size: int) -> None:
    """However floats round, so many percent of the window trip: that number of failures, and not one less."""
    needed = -(-percent * size // 100)
    judge = Judge(Limits(failure_rate=percent / 100, minimum=size), CallWindow(size))
    for _ in range(size - needed + 1):
        report(judge, "ok")
    trips = [report(judge, "failed") for _ in range(needed)]
    assert trips[:-1] == [None] * (needed - 1)
    assert trips[-1] == Trip("failure rate", Counts(needed, size))


def test_number_of_failures_in_the_window_trips() -> None:
    """An absolute count trips at that many failures in the window, whatever else there was."""
    judge = Judge(Limits(None, 3), TimeWindow(10.0, 0.0))
    assert report(judge, "failed", 0.0) is None
    assert report(judge, "failed", 9.0) is None
    for _ in range(100):
        report(judge, "ok", 9.0)
    assert report(judge, "failed", 11.0) is None  # the first one has left
    assert report(judge, "failed", 11.0) == Trip("failure count", Counts(3, 103))


def test_any_of_several_rules_trips() -> None:
    """Rules that are named together each trip on their own, and the trip says which one did."""
    limits = Limits(consecutive=3, failures=5, failure_rate=0.9, slow_rate=0.5, minimum=4)
    judge = Judge(limits, CallWindow(20))
    assert [report(judge, "failed") for _ in range(3)][-1] == Trip("consecutive failures", Counts(3, 3))
    judge = Judge(limits, CallWindow(20))
    trips = [report(judge, outcome) for outcome in ["failed", "ok"] * 5]
    assert trips[8] == Trip("failure count", Counts(5, 9))
    judge = Judge(limits, CallWindow(20))
    assert [report(judge, "slow") for _ in range(4)][-1] == Trip("slow call rate", Counts(0, 4, 4))


@pytest.mark.parametrize("window", [lambda: CallWindow(5), lambda: TimeWindow(10.0, 0.0)])
def test_late_failure_is_put_where_its_call_was_counted(window: Callable[[], CallWindow | TimeWindow]) -> None:
    """The failure of a call that was counted while it ran leaves the window when that call does."""
    judge = Judge(Limits(None, None, 2.0), window())
    number, _ = judge.hung(0.0)
    report(judge, "ok", 4.0)
    report(judge, "failed", 4.0)
    judge.failed_late(number, 5.0)
    assert judge.counts(5.0) == Counts(2, 3, 1)
    for _ in range(3):
        report(judge, "ok", 10.5)
    assert judge.counts(10.5) == Counts(1, 5, 0)


def test_window_of_time_keeps_little() -> None:
    """However many failures there are, a window of time keeps ten buckets, and one of calls at most its size."""
    in_time, in_calls = TimeWindow(10.0, 0.0), CallWindow(50)
    for window in (in_time, in_calls):
        judge = Judge(Limits(None, None, 2.0), window)
        for step in range(5000):
            judge.failed(step / 10, slow=True)
    assert len(in_time._buckets) == 10
    assert len(in_calls._failures) == len(in_calls._slow) == 50


def test_time_that_stands_still_or_leaps_is_borne() -> None:
    """A clock that leaps far ahead empties the window of time at once."""
    judge = Judge(Limits(None, None, 2.0), TimeWindow(10.0, 0.0))
    for _ in range(5):
        judge.failed(0.0)
    judge.tick(1e9)
    assert judge.counts(1e9) == Counts(0, 0, 0)
