"""The machine of the bulkhead: who gets a place, and whose wait is hopeless."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from resilience.bulkhead._machine import Arrival, Places, ShortestHold


class PlacesModel(RuleBasedStateMachine):
    """Places are neither lost nor lent twice, the line is served in order, whatever arrives, leaves or is resized."""

    def __init__(self) -> None:
        super().__init__()
        self.places: Places[int] = Places(2, 3)
        self.total = 2
        self.inside: dict[int, float] = {}
        self.line: dict[int, float] = {}
        self.next, self.now = 0, 0.0

    @initialize(total=st.integers(1, 4))
    def begin(self, total: int) -> None:
        self.places, self.total = Places(total, 3), total

    @rule(seconds=st.sampled_from([0.0, 0.5, 1.0, 45.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @rule(patience=st.sampled_from([0.0, 0.5, 1.0, 5.0]))
    def arrive(self, patience: float) -> None:
        self.next += 1
        until = self.now + patience
        arrival = self.places.arrive(self.next, self.now, until)
        if arrival is Arrival.ADMITTED:
            assert not self.line
            self.inside[self.next] = self.now
        elif arrival is Arrival.QUEUED:
            self.line[self.next] = until
        elif arrival is Arrival.REFUSED:
            assert len(self.line) == 3
        else:
            assert patience == 0 or self.places.minimum_wait(self.now, until) > patience

    @rule()
    def take(self) -> None:
        self.next += 1
        free = len(self.inside) < self.total
        assert self.places.take(self.next, self.now) == free
        if free:
            self.inside[self.next] = self.now

    @precondition(lambda self: self.inside)
    @rule(data=st.data())
    def give_back(self, data: st.DataObject) -> None:
        holder = data.draw(st.sampled_from(sorted(self.inside)))
        del self.inside[holder]
        woken = self.places.release(holder, self.now)
        self._admitted([] if woken is None else [woken])
        assert self.places.release(holder, self.now) is None

    @precondition(lambda self: self.line)
    @rule(data=st.data())
    def withdraw(self, data: st.DataObject) -> None:
        waiter = data.draw(st.sampled_from(sorted(self.line)))
        del self.line[waiter]
        assert self.places.withdraw(waiter)
        assert not self.places.withdraw(waiter)

    @rule(total=st.integers(1, 4))
    def resize(self, total: int) -> None:
        self.total = total
        self._admitted(self.places.resize(total, self.now))

    def _admitted(self, woken: list[int]) -> None:
        room = max(0, self.total - len(self.inside))
        assert woken == list(self.line)[:room]
        for waiter in woken:
            del self.line[waiter]
            self.inside[waiter] = self.now

    @invariant()
    def adds_up(self) -> None:
        assert self.places.held == len(self.inside)
        assert self.places.waiting == len(self.line)
        assert self.places._ends == sorted(self.line.values())
        assert not self.line or len(self.inside) >= self.total


TestPlaces = PlacesModel.TestCase


def test_a_place_has_a_holder_until_its_release() -> None:
    """The bulkhead knows which callers hold a place; a caller in the queue holds none."""
    places: Places[str] = Places(1, 1)
    assert not places.holds("first")
    places.arrive("first", 0.0, 10.0)
    places.arrive("second", 0.0, 10.0)
    assert (places.holds("first"), places.holds("second")) == (True, False)
    places.release("first", 1.0)
    assert (places.holds("first"), places.holds("second")) == (False, True)


def test_a_caller_waits_for_whole_turns() -> None:
    """Two places serve two waiters in one turn: only every second caller before a new one costs it a hold more."""
    places: Places[int] = Places(2, 10)
    for holder in (1, 2, 3):
        places.arrive(holder, 0.0, 100.0)
    assert places.release(1, 4.0) == 3  # a hold of four seconds
    waits = []
    for waiter in (4, 5, 6, 7):
        waits.append(places.minimum_wait(4.0))
        places.arrive(waiter, 4.0, 100.0)
    assert waits == [0.0, 0.0, 4.0, 4.0]


def begins(line: list[tuple[float, float]], frees: list[float], until: float) -> bool:
    """Return whether a caller that joins `line` (until, hold) at 0 gets one of the places, free at `frees`, in time."""
    free = sorted(frees)
    for gives_up, hold in line:
        if free[0] <= gives_up:
            free = sorted([*free[1:], free[0] + hold])
    return free[0] <= until


@settings(max_examples=300)
@given(
    line=st.lists(st.tuples(st.sampled_from([0.5, 1.0, 2.0, 3.0, 6.0]), st.sampled_from([1.0, 1.5])), max_size=6),
    total=st.integers(1, 3),
    patience=st.sampled_from([0.5, 1.0, 1.5, 2.0, 3.0]),
)
def test_no_wait_is_refused_that_could_have_succeeded(
    line: list[tuple[float, float]], total: int, patience: float
) -> None:
    """A hopeless wait succeeds in no future: whenever the places become free, and whichever caller gives up first."""
    places: Places[int] = Places(total, 100)
    for number in range(total):
        places.take(-2 - number, -1.0)
    places.release(-2, 0.0)  # the shortest hold known is 1 s, and no call here is quicker
    places.take(-2, 0.0)
    for number, (until, _hold) in enumerate(line):
        if places.arrive(number, 0.0, until) is not Arrival.QUEUED:
            return
    if places.arrive(-1, 0.0, patience) is Arrival.HOPELESS:
        for frees in itertools.product([0.0, 0.4, 0.9, 1.2, 2.1, 2.9], repeat=total):
            assert not begins(line, list(frees), patience)


def test_hopeless_where_the_line_alone_takes_longer() -> None:
    """With 2 places and holds of 1 s, 4 patient callers ahead mean 2 s at best: 1.9 s are hopeless, 2 s are not."""
    places: Places[str] = Places(2, 100)
    for holder in ("first", "second"):
        places.take(holder, -1.0)
    places.release("first", 0.0)
    places.take("third", 0.0)
    for name in "abcd":
        assert places.arrive(name, 0.0, 10.0) is Arrival.QUEUED
    assert places.minimum_wait(0.0) == 2.0
    assert places.arrive("hurried", 0.0, 1.9) is Arrival.HOPELESS
    assert places.arrive("patient", 0.0, 2.0) is Arrival.QUEUED


def test_those_who_may_give_up_first_do_not_count() -> None:
    """Callers ahead who leave before the new one does may make room for it: its wait is not hopeless."""
    places: Places[str] = Places(1, 100)
    places.take("first", -1.0)
    places.release("first", 0.0)
    places.take("second", 0.0)
    for name in "abcd":
        places.arrive(name, 0.0, 0.5)
    assert places.arrive("new", 0.0, 0.6) is Arrival.QUEUED


def test_nothing_is_known_without_holds() -> None:
    """As long as no hold has been seen no wait is hopeless, unless there is no time at all."""
    places: Places[str] = Places(1, 100)
    places.take("inside", 0.0)
    for name in "abcd":
        assert places.arrive(name, 0.0, 10.0) is Arrival.QUEUED
    assert places.arrive("new", 0.0, 0.001) is Arrival.QUEUED
    assert places.arrive("late", 5.0, 5.0) is Arrival.HOPELESS


@pytest.mark.parametrize(("age", "expected"), [(0, 1.0), (29, 1.0), (31, 1.0), (59, 1.0), (60, 0.0), (1e9, 0.0)])
def test_short_holds_are_forgotten(age: float, expected: float) -> None:
    """The shortest hold of the last half minute is known, of more than a minute ago never, in two numbers."""
    holds = ShortestHold()
    holds.record(100.0, 3.0)
    holds.record(100.0, 1.0)
    holds.record(100.0, 2.0)
    assert holds.seconds(100.0 + age) == expected


def test_a_newer_longer_hold_takes_over() -> None:
    """Once the short one is old, the shortest of the newer ones counts."""
    holds = ShortestHold()
    holds.record(0.0, 1.0)
    holds.record(31.0, 5.0)
    assert holds.seconds(40.0) == 1.0
    assert holds.seconds(62.0) == 5.0
    holds = ShortestHold()
    holds.record(0.0, 1.0)
    holds.record(30.0, 5.0)  # half a minute to the second: another period
    assert holds.seconds(60.0) == 5.0
    assert holds.seconds(125.0) == 0.0
