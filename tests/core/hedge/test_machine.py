import math
import random
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from resilience.hedge._machine import Latencies, Race, Rank, RankedOutcome

SECONDS = st.floats(1e-6, 1e5)


def learned(values: list[float], quantile: float = 0.95, window: int = 500) -> float:
    latencies = Latencies(quantile, 1, window)
    for value in values:
        latencies.observe(value)
    assert latencies.slow is not None
    return latencies.slow


@given(st.lists(SECONDS, min_size=1, max_size=200), st.sampled_from([0.5, 0.9, 0.95, 0.99]), st.integers(1, 60))
def test_quantile_is_that_of_the_latest_answers(values: list[float], quantile: float, window: int) -> None:
    """The estimate is never below the exact quantile of the window, and at most 4.5 % above it."""
    latest = sorted(values[-window:])
    exact = latest[math.ceil(quantile * len(latest)) - 1]
    assert exact * 0.999999 <= learned(values, quantile, window) <= exact * 1.0451


@given(st.lists(st.just(0.0) | SECONDS, min_size=1, max_size=60), st.sampled_from([0.5, 0.9]), st.integers(1, 8))
def test_answers_that_took_no_time_leave_the_window_too(values: list[float], quantile: float, window: int) -> None:
    """What a clock that stands still calls no time at all is an answer like any other, and forgotten like any other."""
    assert learned(values, quantile, window) == learned(values[-window:], quantile, window)


def test_the_oldest_answer_leaves_the_window_first() -> None:
    """A full window replaces its answers in the order in which they came, again and again."""
    latencies = Latencies(0.99, 1, 3)  # of three answers, the longest
    longest = []
    for value in (8.0, 4.0, 2.0, 1.0, 1.0, 1.0, 16.0, 1.0, 1.0, 1.0):
        latencies.observe(value)
        assert latencies.slow is not None
        longest.append(latencies.slow)
    expected = [8.0, 8.0, 8.0, 4.0, 2.0, 1.0, 16.0, 16.0, 16.0, 1.0]
    assert longest == pytest.approx(expected, rel=0.05)


@pytest.mark.parametrize("quantile", [0.5, 0.75, 0.9])
def test_quantile_follows_answers_that_rise_and_fall(quantile: float) -> None:
    """After each of many answers, no time at all among them, the estimate is the quantile of the window."""
    chance, latencies, values = random.Random(1), Latencies(quantile, 1, 5), []
    for _ in range(500):
        values.append(chance.choice([0.0, 1e-3, 1e-2, 1.0, 8.0]))
        latencies.observe(values[-1])
        latest = sorted(values[-5:])
        exact = max(latest[math.ceil(quantile * len(latest)) - 1], 1e-6)
        assert latencies.slow == pytest.approx(exact, rel=0.0451)


@given(st.lists(SECONDS, min_size=1, max_size=100))
def test_typical_is_the_median(values: list[float]) -> None:
    """Half of the answers came within the typical latency."""
    latencies = Latencies(0.95, 1, 500)
    for value in values:
        latencies.observe(value)
    exact = sorted(values)[math.ceil(len(values) / 2) - 1]
    assert latencies.typical is not None
    assert exact * 0.999999 <= latencies.typical <= exact * 1.0451


def test_a_rise_is_followed_within_some_calls() -> None:
    """When every call takes ten times longer, the estimate has followed after 5 % of the window."""
    before = [0.01] * 500
    assert learned([*before, *[0.1] * 25]) == pytest.approx(0.01, rel=0.05)
    assert learned([*before, *[0.1] * 26]) == pytest.approx(0.1, rel=0.05)


def test_a_fall_is_followed_within_the_window() -> None:
    """When every call takes a tenth, the estimate has followed within 500 calls."""
    before = [0.1] * 500
    assert learned([*before, *[0.01] * 474]) == pytest.approx(0.1, rel=0.05)
    assert learned([*before, *[0.01] * 475]) == pytest.approx(0.01, rel=0.05)


def test_nothing_is_said_before_enough_is_known() -> None:
    """No estimate is made from fewer answers than asked for."""
    latencies = Latencies(0.95, 3, 10)
    for _ in range(2):
        latencies.observe(0.1)
    assert (latencies.samples, latencies.slow, latencies.typical) == (2, None, None)
    latencies.observe(0.1)
    assert latencies.slow is not None
    assert latencies.slow == latencies.typical


@pytest.mark.parametrize(
    ("odd", "taken_for"),
    [(0.0, 1e-6), (-5.0, 1e-6), (math.nan, 1e-6), (math.inf, 2.0**22), (1e9, 2.0**22), (2.0**22, 2.0**22)],
)
def test_odd_latencies_do_no_harm(odd: float, taken_for: float) -> None:
    """A clock that stood still, went back or jumped far ahead gives the shortest or longest latency there is."""
    assert learned([odd]) == pytest.approx(taken_for, rel=0.05)


@given(st.lists(SECONDS, max_size=200), st.integers(1, 20))
def test_memory_is_bounded(values: list[float], window: int) -> None:
    """However many answers come, no more than the window is kept."""
    latencies = Latencies(0.95, 1, window)
    for value in values:
        latencies.observe(value)
    assert latencies.samples == min(len(values), window)
    assert sum(latencies._counts) == latencies.samples


def hedged_share(takes: Callable[[random.Random], float]) -> tuple[float, float]:
    """Play 20,000 calls, hedged after the learned delay; return the share hedged of the last half, and the delay."""
    chance, latencies, hedged = random.Random(1), Latencies(0.95, 100, 500), 0
    for number in range(20_000):
        delay = math.inf if latencies.slow is None else latencies.slow
        race = Race(delay, 2, 0.0)
        race.start(0.0)
        first, second = takes(chance), delay + takes(chance)
        if first > delay:
            hedged += number >= 10_000
            race.start(delay)
        if first > second:
            race.end(RankedOutcome(2, Rank.ANSWERED), second)
        else:
            race.end(RankedOutcome(1, Rank.ANSWERED), first)
        latency = race.latency(min(first, second))
        if latency is not None:
            latencies.observe(latency)
    assert latencies.slow is not None
    return hedged / 10_000, latencies.slow


def quick(chance: random.Random) -> float:
    return 0.01 * math.exp(chance.gauss(0, 0.3))


@pytest.mark.parametrize(
    "takes",
    [
        quick,
        lambda chance: 0.01 * math.exp(chance.gauss(0, 1)),
        lambda chance: chance.uniform(0.1, 1) if chance.random() < 0.1 else quick(chance),
        lambda chance: 0.05 * chance.paretovariate(1) if chance.random() < 0.1 else quick(chance),
        lambda chance: chance.choice([0.1, 0.3, 0.5, 1]) if chance.random() < 0.1 else quick(chance),
        lambda chance: chance.uniform(0.3, 0.7) if chance.random() < 0.03 else quick(chance),
    ],
    ids=["narrow", "wide", "stalls", "heavy tail", "steps", "rare stalls"],
)
def test_hedging_does_not_make_the_quantile_collapse(takes: Callable[[random.Random], float]) -> None:
    """First attempts that lost count as slow: the share of hedged calls stays at or below the configured share."""
    share, _ = hedged_share(takes)
    assert 0.03 < share < 0.053


def test_quick_failures_do_not_pull_the_quantile_down() -> None:
    """What fails at once says nothing about how long answers take."""
    latencies = Latencies(0.95, 100, 500)
    for number in range(1000):
        race = Race(math.inf if latencies.slow is None else latencies.slow, 2, 0.0)
        race.start(0.0)
        took = 0.001 if number % 2 else 0.1
        race.end(RankedOutcome(1, Rank.FAILED if number % 2 else Rank.ANSWERED), took)
        if (latency := race.latency(took)) is not None:
            latencies.observe(latency)
    assert latencies.samples == 500
    assert latencies.slow == pytest.approx(0.1, rel=0.05)


def test_what_was_cut_off_before_the_delay_says_nothing() -> None:
    """A caller that goes away early teaches nothing; one that goes away late counts as twice as slow."""
    early, late = Race(1.0, 2, 100.0), Race(1.0, 2, 100.0)
    for race in (early, late):
        race.start(100.0)
    assert early.latency(100.9) is None
    assert late.latency(101.5) == pytest.approx(3.0)


def test_a_loser_is_cut_off_when_the_winner_comes() -> None:
    """The time a loser is known to have taken ends with the decision, not with the clean-up after it."""
    race = Race(1.0, 2, 0.0)
    race.start(0.0)
    race.start(1.0)
    race.end(RankedOutcome(2, Rank.ANSWERED), 1.5)
    assert race.is_over
    assert race.latency(9.0) == 3.0


def test_a_new_race_has_neither_begun_nor_been_counted() -> None:
    """No attempt has started, the first one is due, and neither budget nor statistics know the call."""
    race = Race(1.0, 2, 5.0)
    assert {race.is_over, race.is_closed, race.is_counted, race.is_single} == {False}
    assert (race.started, race.began, race.best, race.failures, race.is_due) == (0, 5.0, None, [], True)


def test_delay_counts_from_the_latest_attempt() -> None:
    """Each attempt gets the delay to answer before the next one is due."""
    race = Race(1.0, 3, 0.0)
    assert race.is_due
    assert race.start(0.0) == 1
    assert (race.wait(0.25), race.is_due) == (0.75, False)
    race.elapse()
    assert race.start(1.5) == 2
    assert race.wait(1.5) == 1.0
    race.elapse()
    assert race.start(2.5) == 3
    assert race.wait(2.5) is None


class Racing(RuleBasedStateMachine):
    """A race against a simple model: a list of the attempts that have ended."""

    @initialize(limit=st.integers(1, 4), delay=st.sampled_from([0.0, 1.0]))
    def begin(self, limit: int, delay: float) -> None:
        self.now, self.limit, self.delay = 0.0, limit, delay
        self.race = Race(delay, limit, self.now)
        self.running: list[int] = []
        self.ended: list[RankedOutcome] = []
        self.refused = False

    @precondition(lambda self: not self.race.is_over and self.race.is_due)
    @rule(denied=st.booleans())
    def next_attempt(self, denied: bool) -> None:  # noqa: FBT001 - drawn by name
        if denied and self.race.started:
            self.race.deny(self.now)
        else:
            self.running.append(self.race.start(self.now))

    @precondition(lambda self: not self.race.is_over and not self.race.is_due and self.race.wait(self.now) is not None)
    @rule()
    def nothing_came(self) -> None:
        self.now += self.race.wait(self.now) or 0.0
        self.race.elapse()

    @precondition(lambda self: not self.race.is_over and self.running)
    @rule(data=st.data(), ending=st.sampled_from(Rank))
    def attempt_ends(self, data: st.DataObject, ending: Rank) -> None:
        attempt = data.draw(st.sampled_from(self.running))
        self.running.remove(attempt)
        is_error = ending in {Rank.REFUSED, Rank.FAILED}
        outcome = RankedOutcome(attempt, ending, error=OSError() if is_error else None)
        self.ended.append(outcome)
        self.refused |= ending is Rank.REFUSED
        self.race.end(outcome, self.now)
        if ending in {Rank.FAILED, Rank.UNACCEPTABLE, Rank.SUBSTITUTED} and not self.refused:
            assert self.race.is_due == (self.race.started < self.limit)

    @precondition(lambda self: self.race.is_over)
    @rule()
    def stays_over(self) -> None:
        assert self.race.latency(self.now + 1) == self.race.latency(self.now + 2)

    @invariant()
    def best_is_the_latest_of_the_greatest(self) -> None:
        if self.ended:
            greatest = max(outcome.rank for outcome in self.ended)
            assert self.race.best is [each for each in self.ended if each.rank == greatest][-1]

    @invariant()
    def is_over_when_nothing_better_can_come(self) -> None:
        decisive = any(outcome.rank >= Rank.ANSWERED for outcome in self.ended)
        exhausted = bool(self.ended) and not self.running and not self.race.is_due
        assert self.race.is_over == (decisive or exhausted)

    @invariant()
    def never_more_attempts_than_allowed(self) -> None:
        assert self.race.started <= self.limit
        assert self.race.started == len(self.running) + len(self.ended)
        if self.refused:
            assert not self.race.is_due

    @invariant()
    def somebody_is_always_at_work(self) -> None:
        assert self.race.is_over or self.race.is_due or self.running


TestRacing = Racing.TestCase
