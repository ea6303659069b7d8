import sys
import threading
from concurrent.futures import ThreadPoolExecutor

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from resilience.keyed._machine import RecentKeys

KEYS = st.sampled_from("abcdef")


def recent(most: int = 3, idle: float = 10.0, busy: tuple[str, ...] = ()) -> RecentKeys[str]:
    return RecentKeys(most, idle, lambda value: value in busy)


def test_least_recently_used_is_forgotten() -> None:
    """Beyond the bound the value that was not used for longest goes."""
    known = recent()
    for key in "abc":
        known.add(key, key, 0.0)
    known.use("a", 1.0)
    known.add("d", "d", 2.0)
    assert [key for key, _ in known.items()] == ["c", "a", "d"]


def test_idle_value_is_forgotten() -> None:
    """A value not used for the idle time goes at the next use of any other, and is kept one moment before."""
    known = recent()
    known.add("a", "a", 0.0)
    known.add("b", "b", 9.999)
    assert known.peek("a") == "a"
    assert known.use("b", 10.0) == "b"
    assert (known.peek("a"), len(known)) == (None, 1)


def test_idle_time_counts_from_the_last_use() -> None:
    """A value that is used again, or is busy when it would go, is kept for the whole idle time from then on."""
    busy: set[str] = set()
    known: RecentKeys[str] = RecentKeys(3, 10.0, busy.__contains__)
    known.add("a", "a", 0.0)
    known.use("a", 5.0)
    known.add("b", "b", 10.0)
    known.use("b", 14.9)
    assert known.peek("a") == "a"
    busy.add("a")
    known.use("b", 15.0)
    busy.clear()
    known.use("b", 24.9)
    assert known.peek("a") == "a"
    known.use("b", 25.0)
    assert known.peek("a") is None


def test_busy_value_is_never_forgotten() -> None:
    """A busy value outlives both bounds: the next one in line goes, or the bound is exceeded."""
    known = recent(most=1, busy=("a", "b"))
    for key in "abc":
        known.add(key, key, 0.0)
    assert [key for key, _ in known.items()] == ["a", "b", "c"]
    known.add("d", "d", 100.0)
    known.use("d", 101.0)
    assert {"a", "b", "d"} == {key for key, _ in known.items()}


def test_surplus_goes_once_nothing_is_busy() -> None:
    """Values that were busy beyond the bound are forgotten with the next one that comes after that."""
    busy = set("abcd")
    known: RecentKeys[str] = RecentKeys(2, 10.0, busy.__contains__)
    for key in "abcd":
        known.add(key, key, 0.0)
    busy.clear()
    known.add("e", "e", 1.0)
    assert [key for key, _ in known.items()] == ["d", "e"]


def test_first_value_of_a_key_stays() -> None:
    """Adding a key that is there gives the value it has."""
    known = recent()
    assert known.add("a", "first", 0.0) == "first"
    assert known.add("a", "second", 0.0) == "first"


def test_value_that_is_used_while_it_is_to_go_stays() -> None:
    """A use that comes before the removal keeps the value, by either rule, although it takes no lock."""

    def use_meanwhile(value: str) -> bool:
        assert known.touch(value, 20.0) == value
        return False

    known: RecentKeys[str] = RecentKeys(2, 10.0, use_meanwhile)
    for key in "ab":
        known.add(key, key, 0.0)
    known.add("c", "c", 5.0)  # surplus: both others are used meanwhile
    assert [key for key, _ in known.items()] == ["c", "a", "b"]
    known.use("b", 100.0)  # the oldest is idle for too long, and is used meanwhile
    assert {key for key, _ in known.items()} == set("abc")


def test_threads_that_use_and_add_at_once() -> None:
    """Uses without a lock leave the bound and the order as they are, however threads take turns."""
    known, lock = recent(most=3), threading.Lock()
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)

    def work(seed: int) -> None:
        for number in range(seed, seed + 2000):
            key = "abcdef"[number * 7 % 6]
            found = known.touch(key, 0.0)
            if found is None:
                with lock:
                    found = known.add(key, key, 0.0)
            assert found == key

    try:
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(work, range(4)))
    finally:
        sys.setswitchinterval(interval)
    known.add("x", "x", 1.0)
    known.add("y", "y", 2.0)
    known.add("z", "z", 3.0)
    assert [key for key, _ in known.items()] == ["x", "y", "z"]


class RecentModel(RuleBasedStateMachine):
    """Whatever is used and added, what is kept is what a list of recent uses says."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.known = recent(most=3, idle=1000.0)
        self.order: list[str] = []

    @rule(key=KEYS)
    def call(self, key: str) -> None:
        self.now += 1
        found = self.known.use(key, self.now)
        assert found == (key if key in self.order else None)
        if found is None:
            self.known.add(key, key, self.now)
        others = [each for each in self.order if each != key]
        self.order = [*(others[-2:] if found is None else others), key]

    @invariant()
    def keeps_the_most_recent(self) -> None:
        assert [key for key, _ in self.known.items()] == self.order


TestRecentModel = RecentModel.TestCase
