"""Whatever borrowers, connections, checks and operators do: no connection is lost or lent twice (L20, L21)."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from resilience import CircuitOpenError, PoolClosedError
from resilience.pool import PoolOptions
from resilience.pool._connecting import Attempt
from resilience.pool._entry import Borrower, BorrowOutcome, PoolEntry, PoolState
from resilience.pool._machine import PoolMachine

numbers = st.integers(min_value=0, max_value=99)


class PoolOfChance(RuleBasedStateMachine):
    """Plays the shell: it keeps its own books, and compares."""

    def __init__(self) -> None:
        super().__init__()
        options = PoolOptions(
            maximum_pool_size=3,
            minimum_idle=1,
            max_waiting=4,
            max_creating=2,
            max_lifetime=50,
            idle_timeout=20,
            keepalive_time=10,
            leak_detection_threshold=15,
            alive_bypass=2,
        )
        self.pool: PoolMachine[int, Borrower] = PoolMachine(options, lambda: 0.5, has_check=True)
        self.now = 0.0
        self.made = 0
        self.lent: list[Borrower] = []
        self.queue: list[Borrower] = []
        self.aside: list[PoolEntry[int]] = []
        self.attempts: list[Attempt] = []
        self.over: list[Attempt] = []
        self.closed: set[int] = set()

    def settle(self) -> None:
        """Work off the outcomes as a shell does, and hold the queue to its order."""
        self.pool.match(self.now)
        for borrower in self.pool.handed:
            if borrower.entry is None:
                assert borrower.error is not None
                self.queue.remove(borrower)
                continue
            assert self.queue.pop(0) is borrower, "a borrower was overtaken"
            self.hold(borrower)
        self.pool.handed.clear()
        for entry, reason in self.pool.doomed:
            assert reason
            assert entry.connection not in self.closed, "closed twice"
            assert all(borrower.entry is not entry for borrower in self.lent), "closed in use"
            self.closed.add(entry.connection)
        self.pool.doomed.clear()
        self.pool.found.clear()
        self.attempts += self.pool.begin_attempts(self.now)

    def hold(self, borrower: Borrower) -> None:
        """Lend for good, or close an entry that is too old as a shell does."""
        entry = borrower.entry
        assert entry is not None
        assert entry.connection not in self.closed, "lent after its end"
        assert all(other.entry is not entry for other in self.lent), "lent twice"
        self.lent.append(borrower)

    @rule()
    def borrow(self) -> None:
        borrower = Borrower()
        borrower.entry, borrower.error = None, None
        if self.pool.take(borrower, self.now) or borrower.entry is not None:
            assert self.pool.state is PoolState.OPEN
            assert not self.queue, "an arrival overtook the queue"
            self.hold(borrower)
            return
        outcome = self.pool.arrive(borrower, self.now)
        if outcome is BorrowOutcome.QUEUED:
            self.queue.append(borrower)
        else:
            assert outcome in {BorrowOutcome.SATURATED, BorrowOutcome.REFUSED, BorrowOutcome.CLOSED}
            assert (outcome is BorrowOutcome.CLOSED) is (self.pool.state is PoolState.CLOSED)
            assert outcome is not BorrowOutcome.SATURATED or len(self.queue) == 4
        self.settle()

    @precondition(lambda self: self.lent)
    @rule(which=numbers, is_simple=st.booleans())
    def give_back(self, which: int, *, is_simple: bool) -> None:
        borrower = self.lent.pop(which % len(self.lent))
        if not (is_simple and self.pool.put_back(borrower, self.now)) and borrower.entry is not None:
            self.pool.give_back(borrower, self.now)
        assert borrower.entry is None
        self.settle()

    @precondition(lambda self: self.lent)
    @rule(which=numbers)
    def discard(self, which: int) -> None:
        borrower = self.lent.pop(which % len(self.lent))
        self.pool.discard(borrower, self.now, "discarded")
        assert borrower.entry is None
        self.settle()

    @precondition(lambda self: self.queue)
    @rule(which=numbers)
    def give_up(self, which: int) -> None:
        assert self.pool.give_up(self.queue.pop(which % len(self.queue)))
        self.settle()

    @precondition(lambda self: self.attempts)
    @rule(which=numbers)
    def connect(self, which: int) -> None:
        attempt = self.attempts.pop(which % len(self.attempts))
        self.made += 1
        if not self.pool.connected(attempt, self.made, self.now):
            self.closed.add(self.made)
        self.over.append(attempt)
        self.settle()

    @precondition(lambda self: self.attempts)
    @rule(which=numbers, is_refusal=st.booleans())
    def fail_to_connect(self, which: int, *, is_refusal: bool) -> None:
        attempt = self.attempts.pop(which % len(self.attempts))
        error = CircuitOpenError("open", policy="p", retry_after=5) if is_refusal else ConnectionError()
        self.pool.failed(attempt, error, self.now)
        self.over.append(attempt)
        self.settle()

    @precondition(lambda self: self.over)
    @rule(which=numbers)
    def come_too_late(self, which: int) -> None:
        attempt = self.over[which % len(self.over)]
        assert not self.pool.connected(attempt, -1, self.now)
        assert not self.pool.failed(attempt, OSError(), self.now)

    @rule(seconds=st.sampled_from([0.1, 1, 5, 12, 30]))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule()
    def maintain(self) -> None:
        round_ = self.pool.maintain(self.now)
        self.aside += round_.due
        for entry, seconds in round_.suspects:
            assert seconds >= 15
            assert any(borrower.entry is entry for borrower in self.lent)
        for attempt in round_.late:
            self.pool.failed(attempt, TimeoutError(), self.now)
            self.attempts.remove(attempt)
        self.settle()

    @precondition(lambda self: self.aside)
    @rule(which=numbers, is_alive=st.booleans())
    def check(self, which: int, *, is_alive: bool) -> None:
        entry = self.aside.pop(which % len(self.aside))
        self.pool.restore(entry, self.now, is_alive=is_alive)
        self.settle()

    @rule(maximum=st.integers(1, 4))
    def resize(self, maximum: int) -> None:
        self.pool.resize(maximum, min(maximum, 1))
        self.settle()

    @rule()
    def drain(self) -> None:
        self.pool.recycle("drained")
        self.settle()

    @rule()
    def suspend(self) -> None:
        self.pool.suspend()

    @rule()
    def resume(self) -> None:
        self.pool.resume(self.now)
        self.settle()

    @precondition(lambda self: self.made > 5)
    @rule()
    def close(self) -> None:
        self.pool.close(PoolClosedError("closed"))
        self.attempts.clear()
        self.settle()

    @invariant()
    def each_connection_has_one_place(self) -> None:
        idle = list(self.pool._shelf)
        lent = [borrower.entry for borrower in self.lent]
        everywhere = [*idle, *lent, *self.aside]
        assert len(everywhere) == len(set(everywhere)) == len(self.pool.entries)
        assert set(everywhere) == set(self.pool.entries)
        assert {entry.connection for entry in self.pool.entries} == set(range(1, self.made + 1)) - self.closed
        assert (self.pool.idle, self.pool.in_use) == (len(idle), len(lent))

    @invariant()
    def nobody_waits_beside_an_idle_connection(self) -> None:
        assert list(self.pool.waiting) == self.queue
        assert (self.pool.exhausted_since is None) is (not self.queue)
        if self.pool.state is PoolState.OPEN and self.queue:
            assert self.pool.idle == 0

    @invariant()
    def nobody_waits_in_vain(self) -> None:
        pool = self.pool
        assert pool.state is not PoolState.CLOSED or not (self.queue or pool.idle or self.attempts)
        if self.queue and pool.state is PoolState.OPEN and not pool.entries:
            is_paused = self.now < pool.connecting.retry_at
            assert self.attempts or is_paused or pool.wanted, "nobody connects"
            assert not pool.connecting.is_refused(self.now) or self.attempts, "a refusal is kept from the queue"

    @invariant()
    def the_pool_is_never_too_large(self) -> None:
        usable = [entry for entry in self.pool.entries if entry.expires_at > self.now]
        assert len(usable) <= self.pool.maximum
        assert self.pool.connecting.running == len(self.attempts)


TestPoolOfChance = PoolOfChance.TestCase
TestPoolOfChance.settings = settings(stateful_step_count=40)
