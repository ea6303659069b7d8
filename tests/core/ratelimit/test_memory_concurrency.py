"""The bucket in memory when threads, interrupts and forks get in between."""

from __future__ import annotations

import gc
import linecache
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from types import FrameType
from typing import Any

import pytest

from resilience.errors import RateLimitedError
from resilience.policy import Wait
from resilience.ratelimit import MemoryStore, RateLimit, TokenBucket, _machine, _memory
from resilience.ratelimit._machine import BucketTable

THREADS = 8
OURS = frozenset({_memory.__file__, _machine.__file__})
needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")


class ManualClock:
    def __init__(self, now: float = 1000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def _restless_threads() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


@pytest.fixture
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give a lost number up at once: no other thread is there to bring it back."""
    monkeypatch.setattr(_memory, "_PAUSES", (0.0,))


def table_of(store: MemoryStore, name: str = "default") -> BucketTable:
    return store._tables[name].table


def admitted_by_threads(work: Callable[[int], int]) -> int:
    """Return the sum of what `work(number)` returned on each of the threads, all started at once."""
    counts: list[int] = []
    start = threading.Barrier(THREADS)

    def run(number: int) -> None:
        start.wait(10)
        counts.append(work(number))

    threads = [threading.Thread(target=run, args=(number,)) for number in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(counts) == THREADS
    return sum(counts)


@pytest.mark.usefixtures("_restless_threads")
def test_exact_in_every_way_of_asking() -> None:
    """Calls of cost 1, of cost 2 and through a policy, from eight threads on one bucket, spend its burst exactly."""
    store, clock = MemoryStore(), ManualClock()
    bucket = TokenBucket("20000/second", store=store, name="n", clock=clock)
    limit = RateLimit("20000/second", store=store, name="n", clock=clock)

    def is_admitted() -> bool:
        try:
            limit.admit()
        except RateLimitedError:
            return False
        return True

    def work(number: int) -> int:
        if number % 4 == 3:
            return 2 * sum(bucket.acquire("", 2).allowed for _ in range(2000))
        if number % 4 == 2:
            return sum(is_admitted() for _ in range(4000))
        return sum(bucket.acquire().allowed for _ in range(4000))

    assert admitted_by_threads(work) == 20000
    assert len(table_of(store, "n").cells[""]) == 1


@pytest.mark.usefixtures("_restless_threads")
def test_exact_while_buckets_are_dropped_under_the_threads() -> None:
    """Full buckets are forgotten while other threads spend from them: a bucket that is not full loses nothing by it."""
    for _ in range(5):
        store = MemoryStore(max_keys=1000)
        hot = TokenBucket("100/day", store=store, name="n")
        quick = TokenBucket("1000000000/second", burst=1, store=store, name="n")

        def work(number: int, hot: TokenBucket = hot, quick: TokenBucket = quick) -> int:
            paid = 0
            for turn in range(200):
                quick.acquire(f"{(turn + number) % 12}")
                paid += hot.acquire("hot").allowed
            return paid

        assert admitted_by_threads(work) == 100
        assert table_of(store, "n").displaced == 0
        assert len(store) <= 13


@pytest.mark.usefixtures("_restless_threads")
def test_displacing_gives_each_newcomer_one_burst_and_no_more() -> None:
    """While keys crowd each other out, tokens given out are at most a burst for each bucket that was ever made."""
    burst, most = 5, 4
    for _ in range(5):
        store = MemoryStore(max_keys=most)
        bucket = TokenBucket("1/day", burst, store=store, clock=ManualClock())

        def work(number: int, bucket: TokenBucket = bucket) -> int:
            return sum(bucket.acquire(f"{(turn * number) % 9}").allowed for turn in range(300))

        paid = admitted_by_threads(work)
        table = table_of(store)
        missing = sum(full_at - 1000.0 for (full_at,) in table.cells.values()) / 86400
        assert round(missing) <= paid <= round(missing) + burst * table.displaced
        assert sorted(table._order) == sorted(table.cells)
        assert len(table) < most + THREADS


def test_a_bucket_in_use_is_not_displaced() -> None:
    """A bucket from which a thread spends keeps its place; the surplus goes when the next keys come."""
    table = BucketTable(2)
    table.add("a", 30.0, 0.0)
    table.add("b", 20.0, 0.0)
    held = {key: table.cells[key].pop() for key in ("a", "b")}
    table.add("c", 10.0, 0.0)
    assert (sorted(table.cells), table.displaced) == (["a", "b", "c"], 0)
    for key, full_at in held.items():
        table.cells[key].append(full_at)
    table.add("d", 40.0, 0.0)
    assert (sorted(table.cells), table.displaced) == (["a", "d"], 2)
    assert sorted(table._order) == ["a", "d"]


def test_lost_numbers_do_not_stop_displacing() -> None:
    """Buckets that stay in use for good take up their own places, and no turn of other buckets."""
    table = BucketTable(10)
    for number in range(10):
        table.add(str(number), 30.0, 0.0)
    for key in list(table._order)[:8]:
        table.cells[key].clear()
    for number in range(10, 30):
        table.add(str(number), 30.0, 0.0)
        assert len(table) <= 12
    assert len(table) == 10


def test_line_survives_an_interrupt() -> None:
    """A place in line whose bucket is gone is given up, whichever way its turn comes."""
    table = BucketTable(2)
    table._order.extend(("gone", "gone too"))
    table.add("a", 10.0, 0.0)
    assert list(table._order) == ["a"]
    table.add("b", 20.0, 0.0)
    table._order.appendleft("gone")
    table._order.appendleft("gone")
    table.add("c", 30.0, 0.0)
    assert (sorted(table.cells), sorted(table._order)) == (["b", "c"], ["b", "c"])


@pytest.mark.realtime
def test_lost_number_counts_as_all_spent() -> None:
    """A bucket whose number never comes back is empty after 0.1 s or so, fills at its rate, and holds its burst."""
    store, clock = MemoryStore(), ManualClock()
    bucket = TokenBucket("10/second", burst=5, store=store, clock=clock)
    bucket.acquire("k")
    cell = table_of(store).cells["k"]
    cell.clear()
    began = time.monotonic()
    assert not bucket.acquire("k")
    assert 0.1 <= time.monotonic() - began < 5
    clock.now += 0.11
    assert [bucket.acquire("k").allowed for _ in range(3)] == [True, False, False]
    cell.append(0.0)  # late after all: this must change nothing
    assert not bucket.acquire("k")
    clock.now += 1000
    assert sum(bucket.acquire("k").allowed for _ in range(20)) == 5


@pytest.mark.realtime
@pytest.mark.usefixtures("_restless_threads")
def test_lost_number_found_by_many_threads() -> None:
    """Eight threads that find a number lost repair it once, and are given nothing for it."""
    store = MemoryStore()
    bucket = TokenBucket("5/day", store=store)
    bucket.acquire("k")
    table_of(store).cells["k"].clear()
    assert admitted_by_threads(lambda _: sum(bucket.acquire("k").allowed for _ in range(50))) == 0


def test_number_that_comes_back_is_waited_for() -> None:
    """A call that meets another call in the same bucket waits for it, and decides by the number that it left."""
    store, clock = MemoryStore(), ManualClock()
    bucket = TokenBucket("5/second", store=store, clock=clock)
    bucket.acquire("k")
    cell = table_of(store).cells["k"]
    full_at = cell.pop()
    back = threading.Timer(0.02, cell.append, [full_at])
    back.start()
    assert bucket.acquire("k").remaining == 3
    back.join()


@pytest.mark.usefixtures("_impatient")
def test_turns_to_come_are_not_given_twice() -> None:
    """If the number of a bucket with calls in line is lost, no call is admitted before them."""
    store, clock = MemoryStore(), ManualClock()
    limit = RateLimit("1/second", max_wait=3, store=store, clock=clock)
    waits = [limit.admit() for _ in range(4)]
    assert [wait.after for wait in waits if isinstance(wait, Wait)] == pytest.approx([1, 2, 3])
    table_of(store, limit.name).cells[""].clear()
    with pytest.raises(RateLimitedError):
        limit.admit()
    clock.now += 1.01
    behind = limit.admit()
    assert isinstance(behind, Wait)
    assert clock.now + behind.after > 1003


@pytest.mark.usefixtures("_impatient")
def test_giving_back_and_resetting_a_lost_number() -> None:
    """A lost number counts as a bucket that is empty: it can be reset, and payments can be given back."""
    store, clock = MemoryStore(), ManualClock()
    bucket = TokenBucket("5/second", store=store, clock=clock)
    decision = bucket.acquire("k")
    cells = table_of(store).cells
    cells["k"].clear()
    bucket._buckets.give_back("k", decision)
    assert [bucket.acquire("k").allowed for _ in range(2)] == [True, False]
    cells["k"].clear()
    bucket.reset("k")
    assert bucket.acquire("k").remaining == 4


def test_a_clock_that_raises_costs_nothing() -> None:
    """An interrupt while the time is read takes nothing out of the bucket, for whatever cost."""

    class Interrupted(ManualClock):
        is_due = False

        def __call__(self) -> float:
            if self.is_due:
                raise KeyboardInterrupt
            return self.now

    clock = Interrupted()
    bucket = TokenBucket("5/second", clock=clock)
    bucket.acquire("k")
    for cost in (1, 2):
        clock.is_due = True
        with pytest.raises(KeyboardInterrupt):
            bucket.acquire("k", cost)
        clock.is_due = False
        assert bucket.acquire("k").remaining == 4 - cost


class InterruptAt:
    """Raises KeyboardInterrupt before line number `due`, counted over all lines run in the modules under test."""

    def __init__(self, due: int) -> None:
        self.due = due
        self.fell_on = ""

    def __call__(self, frame: FrameType, event: str, _: Any) -> Any:
        if frame.f_code.co_filename not in OURS:
            return None
        line = linecache.getline(frame.f_code.co_filename, frame.f_lineno).strip()
        # Around a block's own instructions the interpreter looks for no signals: only tracing can raise there.
        if event == "line" and not line.startswith(("with ", "try:")):
            self.due -= 1
            if self.due == 0:
                self.fell_on = line
                raise KeyboardInterrupt
        return self

    def run(self, action: Callable[[], object]) -> bool:
        """Return whether the interrupt came before `action` was over."""
        before = sys.gettrace()
        sys.settrace(self)
        try:
            action()
        except KeyboardInterrupt:
            return True
        finally:
            sys.settrace(before)
        return False


ACTIONS: tuple[Callable[[TokenBucket, RateLimit], object], ...] = (
    lambda bucket, limit: bucket.acquire("k"),
    lambda bucket, limit: bucket.acquire("k", 2),
    lambda bucket, limit: bucket.acquire("new"),
    lambda bucket, limit: bucket.reset("other"),
    lambda bucket, limit: limit.admit(),
)


@pytest.mark.usefixtures("_impatient")
@pytest.mark.parametrize("action", ACTIONS)
def test_interrupt_on_any_line(action: Callable[[TokenBucket, RateLimit], object]) -> None:
    """Wherever an interrupt lands, no token is given twice, and the bucket is whole again when it is due to be."""
    interrupted: set[str] = set()
    for due in range(1, 200):
        store, clock = MemoryStore(max_keys=2), ManualClock()
        bucket = TokenBucket("5/second", store=store, name="n", clock=clock)
        limit = RateLimit("5/second", key="k", store=store, name="n", clock=clock)
        assert bucket.acquire("other")
        assert bucket.acquire("k", 2)  # so that a new key displaces the other
        interrupt = InterruptAt(due)
        was_interrupted = interrupt.run(partial(action, bucket, limit))
        left = sum(bucket.acquire("k").allowed for _ in range(10))
        assert left <= 3, interrupt.fell_on
        clock.now += 1
        assert [sum(bucket.acquire(key).allowed for _ in range(10)) for key in ("k", "a", "b")] == [5, 5, 5]
        table = table_of(store, "n")
        assert set(table._order) >= set(table.cells)
        assert len(table) == 2
        if not was_interrupted:
            break
        interrupted.add(interrupt.fell_on)
    else:
        pytest.fail("the action never came to its end")
    assert len(interrupted) >= 5


@needs_fork
@pytest.mark.realtime
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_fork_while_a_thread_is_spending() -> None:
    """A child forked in the middle of a payment finds that bucket empty, and every other as it was."""
    store = MemoryStore()
    bucket = TokenBucket("3/hour", store=store)
    bucket.acquire("k")
    bucket.acquire("j")
    cell = table_of(store).cells["k"]
    full_at = cell.pop()
    child = os.fork()
    if child == 0:
        others = sum(bucket.acquire("j").allowed for _ in range(5))
        os._exit(10 * bucket.acquire("k").allowed + others)
    cell.append(full_at)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 2
    assert bucket.acquire("k").remaining == 1


def test_finalizer_may_call_in_the_midst_of_a_call() -> None:
    """A call that a finalizer makes in the middle of another call causes no deadlock."""
    bucket = TokenBucket("1000000000/second", store=MemoryStore(max_keys=50))
    finished: list[int] = []

    class Loose:
        calls = 0

        def __init__(self) -> None:
            self.me = self

        def __del__(self) -> None:
            Loose.calls += 1
            bucket.acquire(f"finalizer {Loose.calls}")
            bucket.acquire("k", cost=2)

    def work() -> None:
        for step in range(1, 40):
            gc.set_threshold(step)
            for number in range(20):
                Loose()
                bucket.acquire(f"{step} {number}")
                bucket.acquire("k", cost=2)
        finished.append(Loose.calls)

    threshold = gc.get_threshold()
    thread = threading.Thread(target=work, daemon=True)
    try:
        thread.start()
        thread.join(60)
    finally:
        gc.set_threshold(*threshold)
    assert finished
    assert finished[0] > 0
