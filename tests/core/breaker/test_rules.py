import itertools
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from resilience.breaker._cut_offs import CutOffs
from resilience.breaker._rules import Trip, TripLimits, TripRules, judging_rules
from resilience.breaker._window import CallCounts, CallWindow, NoWindow, TimeWindow

OUTCOMES = st.lists(st.sampled_from(["ok", "failed", "slow", "both"]), max_size=80)


def report(rules: TripRules, outcome: str, now: float = 0.0) -> Trip | None:
    if outcome == "ok":
        return rules.judge_success(now)
    if outcome == "slow":
        return rules.record_slow(now)
    return rules.record_failure(now, slow=outcome == "both")


def counted(outcomes: list[str]) -> CallCounts:
    failures = sum(outcome in ("failed", "both") for outcome in outcomes)
    return CallCounts(failures, len(outcomes), sum(outcome in ("slow", "both") for outcome in outcomes))


@given(st.lists(st.booleans(), max_size=60), st.integers(1, 6))
def test_consecutive_rule_trips_at_the_end_of_an_unbroken_run(outcomes: list[bool], limit: int) -> None:
    """The consecutive rule trips exactly when the last `limit` outcomes are all failures."""
    rules = TripRules(TripLimits(limit), NoWindow())
    seen: list[bool] = []
    for failed in outcomes:
        seen.append(failed)
        if failed:
            expected = len(seen) >= limit and all(seen[-limit:])
            assert (rules.record_failure(0.0) is not None) is expected
        else:
            rules.record_success()
        run = len(list(itertools.takewhile(bool, reversed(seen))))
        assert rules.counts(0.0) == CallCounts(run, run)


@settings(max_examples=300)
@given(st.lists(st.sampled_from(["ok", "failed", "slow", "hangs", "ok late", "failed late"]), max_size=60))
def test_a_run_is_one_of_calls_in_the_order_they_end(outcomes: list[str]) -> None:
    """A call that was counted as slow while running joins a run only when it ends, with its outcome."""
    rules, hanging, run = TripRules(TripLimits(2, slow_rate=1.0, minimum=1000), CallWindow(1000)), [], 0
    for outcome in outcomes:
        if outcome == "hangs":
            number, trip = rules.record_slow_running(0.0)
            assert trip is None
            hanging.append(number)
        elif outcome in ("ok", "slow"):
            run = 0
            report(rules, outcome)
        elif outcome == "failed" or (outcome == "failed late" and hanging):
            run += 1
            trip = rules.record_failure(0.0) if outcome == "failed" else rules.record_late_failure(hanging.pop(), 0.0)
            assert (None if trip is None else trip.rule) == (None if run < 2 else "consecutive failures")
        elif outcome == "ok late" and hanging:
            run = 0
            rules.record_late_success()
            hanging.pop()


@given(OUTCOMES, st.integers(1, 12), st.data())
def test_rates_judge_the_last_calls(outcomes: list[str], size: int, data: st.DataObject) -> None:
    """The window holds exactly the last `size` outcomes; a rate is judged from `minimum` calls on, at its own kind."""
    minimum = data.draw(st.integers(1, size))
    rules, seen = TripRules(TripLimits(None, None, 0.5, 0.4, minimum), CallWindow(size)), []
    for outcome in outcomes:
        seen.append(outcome)
        counts = counted(seen[-size:])
        trip = report(rules, outcome)
        failing = counts.failures > 0 and counts.failures >= 0.5 * counts.calls
        slow = counts.slow > 0 and counts.slow >= 0.4 * counts.calls
        expected = "failure rate" if failing else "slow call rate" if slow else None
        if counts.calls < minimum:
            expected = None
        assert trip == (None if expected is None else Trip(expected, counts))
        assert rules.counts(0.0) == counts


@given(
    st.lists(st.tuples(st.sampled_from(["ok", "failed", "slow", "both"]), st.floats(0, 3)), max_size=80),
    st.floats(0.1, 20),
)
def test_window_of_time_holds_the_last_seconds(outcomes: list[tuple[str, float]], seconds: float) -> None:
    """A window of time holds every outcome of its last nine tenths, none older than itself, and each one once."""
    rules, seen, now = TripRules(TripLimits(None, None, 2.0), TimeWindow(seconds, 0.0)), [], 0.0
    for outcome, passed in outcomes:
        now += passed
        report(rules, outcome, now)
        seen.append((outcome, now))
        counts = rules.counts(now)
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
    rules = TripRules(TripLimits(failure_rate=percent / 100, minimum=size), CallWindow(size))
    for _ in range(size - needed + 1):
        report(rules, "ok")
    trips = [report(rules, "failed") for _ in range(needed)]
    assert trips[:-1] == [None] * (needed - 1)
    assert trips[-1] == Trip("failure rate", CallCounts(needed, size))


def test_number_of_failures_in_the_window_trips() -> None:
    """An absolute count trips at that many failures in the window, whatever else there was."""
    rules = TripRules(TripLimits(None, 3), TimeWindow(10.0, 0.0))
    assert report(rules, "failed", 0.0) is None
    assert report(rules, "failed", 9.0) is None
    for _ in range(100):
        report(rules, "ok", 9.0)
    assert report(rules, "failed", 11.0) is None  # the first one has left
    assert report(rules, "failed", 11.0) == Trip("failure count", CallCounts(3, 103))


def test_any_of_several_rules_trips() -> None:
    """Rules that are named together each trip on their own, and the trip says which one did."""
    limits = TripLimits(consecutive=3, failures=5, failure_rate=0.9, slow_rate=0.5, minimum=4)
    rules = TripRules(limits, CallWindow(20))
    assert [report(rules, "failed") for _ in range(3)][-1] == Trip("consecutive failures", CallCounts(3, 3))
    rules = TripRules(limits, CallWindow(20))
    trips = [report(rules, outcome) for outcome in ["failed", "ok"] * 5]
    assert trips[8] == Trip("failure count", CallCounts(5, 9))
    rules = TripRules(limits, CallWindow(20))
    assert [report(rules, "slow") for _ in range(4)][-1] == Trip("slow call rate", CallCounts(0, 4, 4))


@pytest.mark.parametrize("window", [lambda: CallWindow(5), lambda: TimeWindow(10.0, 0.0)])
def test_late_failure_is_put_where_its_call_was_counted(window: Callable[[], CallWindow | TimeWindow]) -> None:
    """The failure of a call that was counted while it ran leaves the window when that call does."""
    rules = TripRules(TripLimits(None, None, 2.0), window())
    number, _ = rules.record_slow_running(0.0)
    report(rules, "ok", 4.0)
    report(rules, "failed", 4.0)
    rules.record_late_failure(number, 5.0)
    assert rules.counts(5.0) == CallCounts(2, 3, 1)
    for _ in range(3):
        report(rules, "ok", 10.5)
    assert rules.counts(10.5) == CallCounts(1, 5, 0)


def test_window_of_time_keeps_little() -> None:
    """However many failures there are, a window of time keeps ten buckets, and one of calls at most its size."""
    in_time, in_calls = TimeWindow(10.0, 0.0), CallWindow(50)
    for window in (in_time, in_calls):
        rules = TripRules(TripLimits(None, None, 2.0), window)
        for step in range(5000):
            rules.record_failure(step / 10, slow=True)
    assert len(in_time._buckets) == 10
    assert len(in_calls._failures) == len(in_calls._slow) == 50


def test_time_that_stands_still_or_leaps_is_borne() -> None:
    """A clock that leaps far ahead empties the window of time at once."""
    rules = TripRules(TripLimits(None, None, 2.0), TimeWindow(10.0, 0.0))
    for _ in range(5):
        rules.record_failure(0.0)
    rules.judge_success(1e9)
    assert rules.counts(1e9) == CallCounts(0, 1, 0)


def test_consecutive_failures_report_the_window_if_another_rule_looks_at_it() -> None:
    """With a window rule, the counts of a trip are those of the window, whichever rule matches."""
    rules = TripRules(TripLimits(consecutive=2, failure_rate=1.0, minimum=100), CallWindow(100))
    trips = [report(rules, outcome) for outcome in ["failed", "ok", "failed", "failed"]]
    assert trips[-1] == Trip("consecutive failures", CallCounts(3, 4))


def test_a_running_call_is_a_success_only_when_it_succeeds() -> None:
    """A call that is counted while it runs becomes a success by a late success, and never by a late failure."""
    rules = TripRules(TripLimits(slow_rate=1.0, minimum=100), CallWindow(100))
    rules.record_success()
    first, _ = rules.record_slow_running(0.0)
    second, _ = rules.record_slow_running(0.0)
    assert rules.successes() == 1
    rules.record_late_success()
    rules.record_late_failure(second, 0.0)
    assert (second - first, rules.successes()) == (1, 2)


def test_a_success_at_the_edge_of_a_bucket_belongs_to_the_next_one() -> None:
    """A success that comes exactly when a bucket ends moves the window of time before it counts."""
    judged: list[object] = []
    window = TimeWindow(10.0, 0.0)
    rules = judging_rules(TripLimits(failures=1), window, lambda: window.edge, judged.append)
    rules.record_success()
    assert [each() for each in judged] == [rules]  # type: ignore[operator]  # weak references


def test_cut_offs_are_evidence_after_exactly_the_time_allowed() -> None:
    """Enough cut-offs are evidence from the time on that the service allows one call, at most ten seconds."""
    row: CutOffs[None] = CutOffs(2, 5.0, 0)
    row.add(1.0)
    assert not row.are_evidence(100.0, 1.0)
    row.add(1.0)
    assert [row.are_evidence(now, 4.0) for now in (8.9, 9.0)] == [False, True]
    assert [row.are_evidence(now, 60.0) for now in (14.9, 15.0)] == [False, True]


@pytest.mark.parametrize(
    "completing",
    [
        lambda rules: rules.judge_success(0.0),
        lambda rules: rules.record_slow(0.0),
        lambda rules: rules.record_slow_running(0.0)[1],
    ],
    ids=["success", "slow success", "slow and running"],
)
def test_every_outcome_completes_the_minimum(completing: Callable[[TripRules], Trip | None]) -> None:
    """A rate is judged with the call that completes the minimum, whatever its outcome is; counts are not."""
    rules = TripRules(TripLimits(failure_rate=0.5, slow_rate=0.9, minimum=4), CallWindow(10))
    assert [rules.record_failure(0.0) for _ in range(3)] == [None] * 3
    trip = completing(rules)
    assert trip is not None
    assert (trip.rule, trip.counts[:2]) == ("failure rate", (3, 4))
    counting = TripRules(TripLimits(consecutive=9, failures=3, minimum=4), CallWindow(10))
    assert [counting.record_failure(0.0) is None for _ in range(3)] == [True, True, False]
    assert completing(counting) is None


def test_reading_the_counts_does_not_move_a_window() -> None:
    """A window of time moves with an outcome only, so that the rates are judged when old outcomes leave."""
    window = TimeWindow(10.0, 0.0)
    rules = TripRules(TripLimits(failure_rate=0.5), window)
    rules.record_success()
    assert [rules.counts(now) for now in (0.0, 9.9, 10.1, 99.0)] == [(0, 1, 0), (0, 1, 0), (0, 0, 0), (0, 0, 0)]
    assert window.edge == 1.0


def test_successes_are_the_outcomes_that_are_no_failures() -> None:
    """A slow call that still runs is no success yet; it is one when it ends well."""
    rules = TripRules(TripLimits(slow_rate=1.0, minimum=100), CallWindow(100))
    for _ in range(5):
        rules.record_success()
    for _ in range(3):
        rules.record_failure(0.0)
    rules.record_slow(0.0)
    assert rules.successes() == 6
    rules.record_slow_running(0.0)
    assert rules.successes() == 6
    rules.record_late_success()
    assert rules.successes() == 7


def test_a_success_ends_the_run_that_the_counts_show() -> None:
    """With consecutive failures only, the counts are those of the unbroken run: none after a success."""
    rules = TripRules(TripLimits(5), NoWindow())
    rules.record_failure(0.0)
    rules.record_failure(0.0)
    assert rules.counts(0.0) == CallCounts(2, 2)
    rules.record_success()
    assert rules.counts(0.0) == CallCounts(0, 0)


def test_a_late_success_ends_the_run() -> None:
    """A call that was counted as slow and then succeeds leaves no failure in the run."""
    rules = TripRules(TripLimits(2, slow_rate=1.0, minimum=100), CallWindow(100))
    rules.record_failure(0.0)
    rules.record_slow_running(0.0)
    rules.record_late_success()
    assert rules.record_failure(0.0) is None
    assert rules.record_failure(0.0) is not None


def test_a_late_failure_after_a_success_begins_a_run() -> None:
    """A late failure does not join the failures before a success that came in between: it is the first of a run."""
    rules = TripRules(TripLimits(3, slow_rate=1.0, minimum=100), CallWindow(100))
    rules.record_failure(0.0)
    rules.record_failure(0.0)
    number, _ = rules.record_slow_running(0.0)
    rules.record_success()
    assert rules.record_late_failure(number, 0.0) is None
    assert rules.record_failure(0.0) is None
    assert rules.record_failure(0.0) is not None


def test_a_bucket_of_time_counts_every_slow_call() -> None:
    """Slow calls of one bucket add up."""
    window = TimeWindow(10.0, 0.0)
    for number in (1, 2, 3):
        window.add_slow(number)
    assert window.counts(3) == CallCounts(0, 3, 3)
