"""Which connection goes to which borrower, and when one is closed. Pure: the test passes in the time."""

from __future__ import annotations

import math
from typing import Any

import pytest

from resilience import CircuitOpenError, PoolClosedError
from resilience.pool import PoolOptions
from resilience.pool._connecting import Attempt
from resilience.pool._entry import Borrower, BorrowOutcome, PoolEntry, PoolState
from resilience.pool._machine import PoolMachine

Machine = PoolMachine[str, Borrower]


def machine(*, has_check: bool = False, chance: float = 0.0, **options: Any) -> Machine:
    return PoolMachine(PoolOptions(**options), lambda: chance, has_check=has_check)


def borrower() -> Borrower:
    made = Borrower()
    made.entry, made.error = None, None
    return made


def connect(pool: Machine, name: str, now: float = 0.0) -> None:
    """Bring a connection into the pool that somebody wanted."""
    attempt = pool.connecting.begin_first(now)
    assert pool.connected(attempt, name, now)


def waiter(pool: Machine, now: float = 0.0) -> Borrower:
    """Return a borrower in the queue."""
    made = borrower()
    assert not pool.take(made, now)
    assert pool.arrive(made, now) is BorrowOutcome.QUEUED
    return made


def lent(pool: Machine, now: float = 0.0) -> Borrower:
    """Return a borrower that has an idle entry, fit for use."""
    made = borrower()
    assert pool.take(made, now)
    return made


def held(by: Borrower) -> str | None:
    return None if by.entry is None else by.entry.connection


def exhausted_since(pool: Machine) -> float | None:
    return pool.exhausted_since


def filled(*names: str, now: float = 0.0, has_check: bool = False, chance: float = 0.0, **options: Any) -> Machine:
    pool = machine(has_check=has_check, chance=chance, **options)
    for name in names:
        connect(pool, name, now)
    return pool


def give_back(pool: Machine, by: Borrower, now: float = 0.0) -> None:
    """Give back as a shell does."""
    if not pool.put_back(by, now):
        if by.entry is not None:
            pool.give_back(by, now)
        pool.match(now)


# Lending


def test_the_entry_that_came_back_last_is_lent_first() -> None:
    """Idle entries form a stack, so the others can grow old."""
    pool = filled("a", "b", "c")
    first, second = lent(pool), lent(pool)
    assert (held(first), held(second), pool.idle, pool.in_use) == ("c", "b", 1, 2)
    give_back(pool, first)
    give_back(pool, second)
    assert [held(lent(pool)) for _ in range(3)] == ["b", "c", "a"]
    assert not pool.take(borrower(), 0)


def test_borrowers_are_served_in_the_order_of_their_arrival() -> None:
    """An entry that comes back goes straight to the borrower that has waited longest (L20)."""
    pool = filled("a")
    owner = lent(pool)
    queue = [waiter(pool, now) for now in (1.0, 2.0, 3.0)]
    give_back(pool, owner, 4.0)
    assert [held(each) for each in queue] == ["a", None, None]
    assert pool.handed == [queue[0]]
    assert owner.entry is None
    assert not pool.take(borrower(), 4.0), "an arrival overtook the queue"
    give_back(pool, queue[0], 5.0)
    give_back(pool, queue[1], 6.0)
    assert held(queue[2]) == "a"
    assert pool.handed == queue
    assert (pool.waits, pool.wait_seconds) == (3, 3.0 + 3.0 + 3.0)


def test_the_times_of_uses_are_counted() -> None:
    """Each end of a use counts with its length, in whichever way the entry comes back."""
    pool = filled("a", "b")
    first, second = lent(pool, 10.0), lent(pool, 11.0)
    assert pool.oldest_lease(15.0) == 5.0
    give_back(pool, first, 12.0)
    assert pool.oldest_lease(15.0) == 4.0
    pool.discard(second, 14.0, "discarded")
    assert (pool.uses, pool.use_seconds) == (2, 5.0)
    assert pool.oldest_lease(15.0) is None
    third = lent(pool, 20.0)
    waiter(pool, 20.0)
    give_back(pool, third, 26.0)
    assert (pool.uses, pool.use_seconds) == (3, 11.0)
    assert pool.oldest_lease(27.0) == 1.0
    pool.discard(pool.handed[0], 25.0, "clock went back")
    assert (pool.uses, pool.use_seconds) == (4, 11.0)


def test_an_entry_is_given_back_once() -> None:
    """A second way back finds no entry."""
    pool = filled("a")
    owner = lent(pool)
    assert pool.put_back(owner, 0)
    assert not pool.put_back(owner, 0)
    assert (pool.idle, pool.in_use, pool.uses) == (1, 0, 1)


def test_an_entry_that_became_idle_meanwhile_is_lent_in_the_queue() -> None:
    """A borrower that comes to the queue while an entry comes back gets that entry."""
    pool = filled("a")
    late = borrower()
    assert pool.arrive(late, 1.0) is BorrowOutcome.LENT
    assert held(late) == "a"
    assert pool.exhausted_since is None
    assert not pool.waiting


def test_an_entry_that_comes_back_looks_for_the_queue_again() -> None:
    """A borrower that joins the queue in the midst of a way back gets the entry by `match`."""
    pool = filled("a")
    owner, late = lent(pool), borrower()

    class Joining(list[PoolEntry[str]]):
        def __iadd__(self, more: Any) -> Any:  # type: ignore[misc]  # what `+=` of a list calls
            pool.arrive(late, 0.0)
            return super().__iadd__(more)

    pool._shelf = pool._idle = Joining()
    assert not pool.put_back(owner, 0.0)
    assert owner.entry is None
    assert held(late) is None
    pool.match(0.0)
    assert held(late) == "a"
    assert pool.handed == [late]


def test_the_queue_has_an_end() -> None:
    """Beyond `max_waiting` a borrower is refused; one that leaves makes room."""
    pool = filled("a", max_waiting=2)
    lent(pool)
    first = waiter(pool)
    waiter(pool)
    assert pool.arrive(borrower(), 0) is BorrowOutcome.SATURATED
    assert pool.refusals == 1
    assert len(pool.waiting) == 2
    assert pool.give_up(first)
    waiter(pool)
    assert pool.arrive(borrower(), 0) is BorrowOutcome.SATURATED
    assert pool.refusals == 2


def test_a_full_queue_refuses_no_borrower_for_whom_an_entry_is_idle() -> None:
    """An entry that became idle while the borrowers of a full queue are about to get theirs makes room."""
    pool = filled("a", max_waiting=1)
    owner = lent(pool)
    waiting = waiter(pool)
    pool._idle.append(owner.entry)  # type: ignore[arg-type]  # `put_back` in another thread
    assert pool.arrive(second := borrower(), 0) is BorrowOutcome.QUEUED
    assert held(waiting) == "a"
    assert held(second) is None


def test_a_borrower_gives_up_once() -> None:
    """A wait whose time is up counts, unless the borrower has been served meanwhile."""
    pool = filled("a")
    owner = lent(pool)
    first, second = waiter(pool), waiter(pool)
    assert pool.give_up(first)
    assert not pool.give_up(first)
    give_back(pool, owner)
    assert held(second) == "a"
    assert not pool.give_up(second)
    assert not pool.leave(second)
    assert pool.timeouts == 1
    third = waiter(pool)
    assert pool.leave(third)
    assert pool.timeouts == 1


def test_the_pool_is_exhausted_while_anyone_waits() -> None:
    """`exhausted_since` is the arrival of the first borrower of a queue that has not been empty since."""
    pool = filled("a")
    owner = lent(pool)
    assert exhausted_since(pool) is None
    first, second = waiter(pool, 5.0), waiter(pool, 6.0)
    assert exhausted_since(pool) == 5.0
    assert pool.leave(first)
    assert exhausted_since(pool) == 5.0
    give_back(pool, owner, 7.0)
    assert held(second) == "a"
    assert exhausted_since(pool) is None
    third = waiter(pool, 8.0)
    assert exhausted_since(pool) == 8.0
    assert pool.leave(third)
    assert exhausted_since(pool) is None


# Checks


def test_an_entry_in_recent_use_is_lent_without_a_check() -> None:
    """Within `alive_bypass` of its last use an entry is fit; after it, the borrower has it and must check it."""
    pool = filled("a", has_check=True, alive_bypass=0.5)
    give_back(pool, lent(pool, 0.4), 2.0)
    give_back(pool, lent(pool, 2.25), 3.0)
    stale = borrower()
    assert not pool.take(stale, 3.5)
    assert held(stale) == "a"
    assert pool.in_use == 1


def test_without_a_check_an_entry_stays_fit_until_it_expires() -> None:
    """A pool that cannot check lends until the end of the lifetime."""
    pool = filled("a", max_lifetime=100, max_lifetime_jitter=0, alive_bypass=0.5)
    give_back(pool, lent(pool, 50), 60)
    give_back(pool, lent(pool, 99), 99)
    old = borrower()
    assert not pool.take(old, 100)
    assert held(old) == "a"


def test_no_entry_is_fresh_beyond_its_lifetime() -> None:
    """`alive_bypass` does not outlast `max_lifetime`, neither after a use nor after a hand-over or a check."""
    pool = filled("a", has_check=True, alive_bypass=50, max_lifetime=100, max_lifetime_jitter=0)
    owner = lent(pool, 10)
    give_back(pool, owner, 90)
    entry = pool._idle[0]
    assert entry.fresh_until == 100
    owner = lent(pool, 91)
    other = waiter(pool, 91)
    give_back(pool, owner, 92)
    assert other.entry is entry
    assert (entry.fresh_until, entry.borrowed_at, entry.alive_at, entry.idle_since) == (100, 92, 92, 92)
    give_back(pool, other, 20)
    assert entry.fresh_until == 70
    pool.restore(entry, 95, is_alive=True)
    assert entry.fresh_until == 100


# Age


def test_the_lifetime_is_shortened_at_random() -> None:
    """Up to a tenth of `max_lifetime` is subtracted, so connections that began together do not end together."""
    for chance, end in ((0.0, 1000.0), (0.5, 950.0), (1.0, 900.0)):
        pool = filled("a", now=7.0, chance=chance, max_lifetime=1000)
        assert next(iter(pool.entries)).expires_at == 7.0 + end
    assert next(iter(filled("a", max_lifetime=None).entries)).expires_at == math.inf
    pool = filled("a", chance=1.0, max_lifetime=1000, max_lifetime_jitter=0.25)
    assert next(iter(pool.entries)).expires_at == 750


def test_an_old_entry_is_closed_on_its_way_back_and_never_in_use() -> None:
    """`max_lifetime` does not end a use; the entry that comes back is closed, and goes to no borrower."""
    pool = filled("a", max_lifetime=100, max_lifetime_jitter=0)
    owner = lent(pool, 50)
    waiting = waiter(pool, 60)
    assert pool.maintain(500).due == []
    assert not pool.doomed
    give_back(pool, owner, 100)
    assert held(waiting) is None
    assert [(entry.connection, reason) for entry, reason in pool.doomed] == [("a", "max_lifetime")]
    assert pool.closed == {"max_lifetime": 1}
    assert (len(pool.entries), pool.in_use, pool.wanted) == (0, 0, 1)


def test_maintenance_closes_what_has_been_idle_for_long() -> None:
    """Entries above `minimum_idle` end after `idle_timeout`, the one that was idle longest first."""
    pool = filled("a", "b", "c", minimum_idle=1, idle_timeout=10)
    give_back(pool, lent(pool, 5), 5)
    pool.maintain(9.5)
    assert pool.idle == 3
    pool.maintain(10)
    assert [(entry.connection, reason) for entry, reason in pool.doomed] == [
        ("a", "idle_timeout"),
        ("b", "idle_timeout"),
    ]
    pool.maintain(1000)
    assert [held(lent(pool, 1000))] == ["c"]


def test_minimum_idle_entries_stay() -> None:
    """`idle_timeout` never closes below `minimum_idle`, and no entry without it."""
    pool = filled("a", "b", "c", minimum_idle=2, idle_timeout=10)
    pool.maintain(50)
    assert [entry.connection for entry, _ in pool.doomed] == ["a"]
    assert pool.idle == 2
    lasting = filled("a", "b", idle_timeout=None, max_lifetime=None)
    lasting.maintain(1e9)
    assert lasting.idle == 2


def test_maintenance_counts_what_it_takes_out_as_gone() -> None:
    """An old entry, or one that is checked, is not idle: fewer others are spare."""
    pool = filled("a", "b", "c", minimum_idle=2, idle_timeout=10, max_lifetime=40, max_lifetime_jitter=0)
    next(iter(pool.entries)).expires_at = 5
    pool.maintain(20)
    assert [(entry.connection, reason) for entry, reason in pool.doomed] == [("a", "max_lifetime")]
    assert pool.idle == 2
    checked = filled(
        "a", "b", "c", has_check=True, minimum_idle=2, idle_timeout=10, keepalive_time=15, max_lifetime=100
    )
    for entry in list(checked.entries)[1:]:
        entry.alive_at = 20
    next(iter(checked.entries)).idle_since = 20
    assert [entry.connection for entry in checked.maintain(20).due] == ["a"]
    assert not checked.doomed


def test_maintenance_closes_old_idle_entries() -> None:
    """An idle entry ends with its lifetime, `minimum_idle` or not."""
    pool = filled("a", "b", minimum_idle=2, max_lifetime=100, max_lifetime_jitter=0)
    pool.maintain(99)
    assert pool.idle == 2
    pool.maintain(100)
    assert [reason for _, reason in pool.doomed] == ["max_lifetime", "max_lifetime"]
    assert (pool.idle, pool.wanted) == (0, 2)


def test_keepalive_checks_idle_entries() -> None:
    """An entry that was not known alive for `keepalive_time` is set aside, checked, and comes back."""
    pool = filled("a", "b", has_check=True, alive_bypass=50, keepalive_time=30, idle_timeout=None, max_lifetime=1000)
    entry = lent(pool, 20)
    give_back(pool, entry, 20)
    assert pool.maintain(29).due == []
    round_ = pool.maintain(30)
    assert [each.connection for each in round_.due] == ["a"]
    assert (pool.idle, pool.in_use, len(pool.entries)) == (1, 0, 2)
    assert pool.oldest_lease(30) is None
    assert pool.maintain(30).due == []
    pool.restore(round_.due[0], 31, is_alive=True)
    assert (pool.idle, pool.in_use) == (2, 0)
    assert (round_.due[0].alive_at, round_.due[0].idle_since, round_.due[0].fresh_until) == (31, 0, 81)
    assert pool.maintain(49).due == []


def test_an_entry_that_fails_the_keepalive_is_closed() -> None:
    """A dead connection is found before a borrower finds it."""
    pool = filled("a", has_check=True, keepalive_time=30, minimum_idle=1)
    due = pool.maintain(40).due
    pool.restore(due[0], 41, is_alive=False)
    assert [(entry.connection, reason) for entry, reason in pool.doomed] == [("a", "check failed")]
    assert (len(pool.entries), pool.in_use, pool.idle, pool.wanted) == (0, 0, 0, 1)


def test_an_entry_that_was_checked_goes_to_a_borrower_that_waits() -> None:
    """While an entry is set aside a borrower may come: it gets the entry after the check."""
    pool = filled("a", has_check=True, maximum_pool_size=1, keepalive_time=30)
    due = pool.maintain(40).due
    waiting = waiter(pool, 40)
    pool.restore(due[0], 41, is_alive=True)
    assert held(waiting) == "a"
    assert pool.in_use == 1
    pool.recycle("drained")
    give_back(pool, waiting, 42)
    connect(pool, "b", 42)
    due = pool.maintain(90).due
    pool.recycle("drained")
    pool.restore(due[0], 91, is_alive=True)
    assert [entry.connection for entry, _ in pool.doomed] == ["a", "b"]


# Leaks


def test_a_long_use_is_reported_once_and_its_end_as_well() -> None:
    """After `leak_detection_threshold` a lease is a suspect, once; when it comes back, that is found."""
    pool = filled("a", "b", leak_detection_threshold=60)
    long, short = lent(pool, 0), lent(pool, 30)
    assert pool.maintain(59).suspects == []
    assert [(entry.connection, held) for entry, held in pool.maintain(61).suspects] == [("b", 61)]
    assert pool.maintain(62).suspects == []
    assert pool.leaks == 1
    give_back(pool, short, 65)
    give_back(pool, long, 70)
    assert [(entry.connection, seconds) for entry, seconds in pool.found] == [("b", 70)]
    assert pool.idle == 2
    again = lent(pool, 100)
    assert [entry.connection for entry, _ in pool.maintain(160).suspects] == ["b"]
    pool.discard(again, 161, "discarded")
    assert len(pool.found) == 2
    assert pool.leaks == 2


def test_leaks_are_not_looked_for_by_default() -> None:
    """Without a threshold nobody is suspected."""
    pool = filled("a")
    lent(pool)
    assert pool.maintain(1e6).suspects == []


# Attempts to connect


def test_a_pool_connects_for_its_borrowers_and_up_to_minimum_idle() -> None:
    """As many attempts as borrowers wait, or idle entries are missing, and as there is room for."""
    pool = machine(maximum_pool_size=4, minimum_idle=2, max_creating=3)
    assert pool.wanted == 2
    waiter(pool)
    assert pool.wanted == 2
    waiter(pool)
    waiter(pool)
    assert pool.wanted == 3
    waiter(pool)
    assert len(pool.begin_attempts(0)) == 3
    assert pool.wanted == 0
    for name, attempt in zip("abc", pool.connecting.late(5), strict=True):
        pool.connected(attempt, name, 6)
    assert (pool.in_use, pool.wanted) == (3, 1)
    attempt = pool.begin_attempts(7)[0]
    assert pool.wanted == 0
    pool.connected(attempt, "d", 8)
    assert (len(pool.entries), pool.in_use, pool.wanted) == (4, 4, 0)


def test_minimum_idle_counts_idle_entries_only() -> None:
    """A pool keeps `minimum_idle` ready beside those in use."""
    pool = filled("a", "b", maximum_pool_size=5, minimum_idle=2)
    assert pool.wanted == 0
    lent(pool)
    assert pool.wanted == 1
    lent(pool)
    assert pool.wanted == 2


def test_a_new_connection_goes_to_the_queue() -> None:
    """It is handed over at once, or idle if no borrower waits any more."""
    pool = machine()
    waiting = waiter(pool, 1)
    attempt = pool.begin_attempts(1)[0]
    assert pool.connected(attempt, "a", 2)
    assert held(waiting) == "a"
    assert (waiting.entry.borrowed_at if waiting.entry else None) == 2
    assert (pool.waits, pool.wait_seconds, pool.exhausted_since) == (1, 1, None)
    second = waiter(pool, 3)
    attempt = pool.begin_attempts(3)[0]
    assert pool.give_up(second)
    assert pool.connected(attempt, "b", 4)
    assert (pool.idle, pool.in_use) == (1, 1)


def test_a_connection_that_comes_too_late_is_not_taken() -> None:
    """An attempt that has failed, or whose pool has closed, brings nothing into the pool."""
    pool = machine()
    waiter(pool)
    attempt = pool.begin_attempts(0)[0]
    assert pool.failed(attempt, TimeoutError("late"), 5)
    assert not pool.failed(attempt, OSError("later"), 6)
    assert not pool.connected(attempt, "a", 6)
    attempt = pool.begin_attempts(7)[0]
    pool.close(PoolClosedError("closed"))
    assert not pool.connected(attempt, "b", 8)
    assert not pool.entries
    assert pool.wanted == 0


def refused(retry_after: float | None = 10.0) -> CircuitOpenError:
    return CircuitOpenError("open", policy="ledger", retry_after=retry_after)


def test_a_pool_that_was_emptied_while_it_was_suspended_refuses_after_resume() -> None:
    """A borrower of a suspended pool waits in spite of a refusal, because lent entries may come back; not after it."""
    pool = filled("one")
    by = lent(pool)
    waiting = waiter(pool)
    error = refused()
    pool.failed(pool.connecting.begin_first(0.0), error, 0.0)
    pool.suspend()
    give_back(pool, by)
    pool.recycle("drained")
    assert (waiting.entry, waiting.error) == (None, None)
    pool.resume(1.0)
    assert waiting.error is error
    assert not pool.waiting


def test_a_refusal_of_the_breaker_ends_the_waits_of_an_empty_pool() -> None:
    """No borrower waits for a circuit that is open: each gets the refusal, the next ones at once."""
    pool = machine()
    queue = [waiter(pool), waiter(pool)]
    error = refused()
    assert pool.failed(pool.begin_attempts(0)[0], error, 1)
    assert [each.error for each in queue] == [error, error]
    assert pool.handed == queue
    assert (list(pool.waiting), pool.exhausted_since) == ([], None)
    assert pool.arrive(borrower(), 10.9) is BorrowOutcome.REFUSED
    assert pool.arrive(borrower(), 11) is BorrowOutcome.QUEUED


def test_a_refusal_ends_no_wait_for_a_connection_in_use() -> None:
    """While the pool has connections, borrowers wait for those."""
    pool = filled("a")
    owner = lent(pool)
    waiting = waiter(pool)
    assert pool.failed(pool.begin_attempts(0)[0], refused(), 1)
    assert waiting.error is None
    give_back(pool, owner, 2)
    assert held(waiting) == "a"


def test_the_last_connection_that_breaks_ends_the_waits_as_well() -> None:
    """If the circuit is open, and the last connection is closed, the pool is empty: the waits end with the refusal."""
    pool = filled("a")
    owner = lent(pool)
    waiting = waiter(pool)
    error = refused()
    assert pool.failed(pool.begin_attempts(0)[0], error, 1)
    pool.discard(owner, 2, "error in use")
    assert waiting.error is error
    assert pool.handed == [waiting]


@pytest.mark.parametrize("way", ["expired", "checked"])
def test_so_does_the_last_connection_that_is_closed_for_another_reason(way: str) -> None:
    """An old connection, or one that fails its check, leaves the pool as empty as a broken one."""
    pool = filled("a", has_check=True, alive_bypass=50, keepalive_time=30, max_lifetime=40, max_lifetime_jitter=0)
    owner = lent(pool)
    due: list[PoolEntry[str]] = []
    if way == "checked":
        give_back(pool, owner, 1)
        due = pool.maintain(32).due
    waiting = waiter(pool, 32)
    error = refused()
    assert pool.failed(pool.begin_attempts(32)[0], error, 33)
    assert waiting.error is None
    if way == "checked":
        pool.restore(due[0], 34, is_alive=False)
    else:
        give_back(pool, owner, 40)
    assert waiting.error is error


def test_an_ordinary_failure_ends_no_wait() -> None:
    """A server that is away may come back before the time of the borrower is up."""
    pool = machine()
    waiting = waiter(pool)
    assert pool.failed(pool.begin_attempts(0)[0], ConnectionRefusedError(), 1)
    assert waiting.error is None
    assert list(pool.waiting) == [waiting]
    assert pool.arrive(borrower(), 1) is BorrowOutcome.QUEUED


def test_maintenance_finds_late_attempts() -> None:
    """An attempt that takes `connect_timeout` is over."""
    pool = machine(connect_timeout=2)
    waiter(pool)
    attempt = pool.begin_attempts(1)[0]
    assert pool.maintain(2.9).late == []
    assert pool.maintain(3).late == [attempt]


# What an operator does


def test_resize_to_fewer_closes_idle_entries_first() -> None:
    """Of too many, those that have been idle longest are closed now, and others when they come back."""
    pool = filled("a", "b", "c", "d", maximum_pool_size=4, max_lifetime=None)
    owners = [lent(pool), lent(pool)]
    pool.resize(3, 0)
    assert [(entry.connection, reason) for entry, reason in pool.doomed] == [("a", "resized")]
    assert (pool.maximum, pool.idle, pool.in_use) == (3, 1, 2)
    pool.resize(1, 1)
    assert [entry.connection for entry, _ in pool.doomed] == ["a", "b"]
    assert pool.minimum_idle == 1
    for owner in owners:
        give_back(pool, owner, 1)
    assert [(entry.connection, reason) for entry, reason in pool.doomed[2:]] == [("c", "resized")]
    assert [held(lent(pool, 2))] == ["d"]


def test_resize_keeps_the_order_of_idle_entries() -> None:
    """The entry that came back last is still lent first."""
    pool = filled("a", "b", "c", maximum_pool_size=3)
    pool.resize(2, 0)
    assert [held(lent(pool)), held(lent(pool))] == ["c", "b"]
    pool.resize(5, 0)
    waiter(pool)
    assert pool.wanted == 1


def test_resize_never_has_more_connections_than_the_maximum() -> None:
    """Connections that are being made when the pool shrinks are not taken into it."""
    pool = machine(maximum_pool_size=3)
    for _ in range(3):
        waiter(pool)
    attempts = pool.begin_attempts(0)
    pool.resize(1, 0)
    assert [pool.connected(attempt, name, 1) for attempt, name in zip(attempts, "abc", strict=True)] == [
        True,
        False,
        False,
    ]
    assert len(pool.entries) == 1
    assert pool.connecting.running == 0


def test_drain_replaces_every_connection() -> None:
    """Idle entries are closed now, others when they come back, in time for their lifetime or not."""
    pool = filled("a", "b", max_lifetime=None)
    owner = lent(pool)
    pool.recycle("drained")
    assert [(entry.connection, reason) for entry, reason in pool.doomed] == [("a", "drained")]
    give_back(pool, owner, 0)
    assert [(entry.connection, reason) for entry, reason in pool.doomed[1:]] == [("b", "drained")]
    assert pool.closed == {"drained": 2}
    connect(pool, "c")
    assert held(lent(pool)) == "c"


def test_a_suspended_pool_lends_nothing() -> None:
    """Borrowers wait until `resume`, which serves them first; entries that come back become idle."""
    pool = filled("a", "b", minimum_idle=5)
    owner = lent(pool)
    pool.suspend()
    pool.suspend()
    assert pool.state.value == "suspended"
    waiting = waiter(pool, 1)
    give_back(pool, owner, 2)
    assert (held(waiting), pool.idle, pool.in_use, pool.wanted) == (None, 2, 0, 0)
    pool.match(2)
    assert held(waiting) is None
    pool.maintain(3)
    pool.resume(4)
    assert pool.state.value == "open"
    assert held(waiting) == "b"
    assert pool.waits == 1
    assert pool.wait_seconds == 3
    assert (pool.idle, pool.in_use) == (1, 1)
    pool.resume(5)
    give_back(pool, waiting, 5)
    assert [held(lent(pool, 6)), held(lent(pool, 6))] == ["b", "a"]


def test_a_closed_pool_lends_nothing_and_takes_all_back() -> None:
    """Waits end with an error, idle entries are closed now, and others when they come back."""
    pool = filled("a", "b")
    owner = lent(pool)
    pool.suspend()
    waiting = waiter(pool)
    error = PoolClosedError("closed")
    pool.close(error)
    assert pool.state is PoolState.CLOSED
    assert waiting.error is error
    assert pool.handed == [waiting]
    assert pool.arrive(borrower(), 0) is BorrowOutcome.CLOSED
    assert not pool.take(borrower(), 0)
    pool.suspend()
    pool.resume(0)
    assert pool.state is PoolState.CLOSED
    give_back(pool, owner, 1)
    assert [(entry.connection, reason) for entry, reason in pool.doomed] == [
        ("a", "pool closed"),
        ("b", "pool closed"),
    ]
    assert not pool.entries


def test_a_forked_child_has_no_connections() -> None:
    """The entries are the parent's: they come back to no pool, and are not closed."""
    pool = filled("a", "b")
    owner = lent(pool)
    pool.disown()
    assert not pool.entries
    give_back(pool, owner, 1)
    assert not pool.doomed
    assert owner.entry is None


def test_a_new_pool_is_open_and_empty() -> None:
    """All counts begin at zero."""
    pool = machine(maximum_pool_size=7, minimum_idle=3)
    assert pool.state is PoolState.OPEN
    assert (pool.maximum, pool.minimum_idle) == (7, 3)
    assert (pool.uses, pool.waits, pool.timeouts, pool.refusals, pool.leaks, pool.lost) == (0, 0, 0, 0, 0, 0)
    assert (pool.use_seconds, pool.wait_seconds, pool.exhausted_since) == (0.0, 0.0, None)
    assert (pool.idle, pool.in_use, pool.oldest_lease(0)) == (0, 0, None)


@pytest.mark.parametrize("error", [TimeoutError(), refused()])
def test_a_first_attempt_counts_as_any_other(error: BaseException) -> None:
    """The attempt of `start` takes a place while it runs."""
    pool = machine(maximum_pool_size=1)
    attempt: Attempt = pool.connecting.begin_first(0)
    waiter(pool)
    assert pool.wanted == 0
    assert pool.failed(attempt, error, 1)
    assert pool.connecting.running == 0


# What changes nothing else


def test_counts_go_on() -> None:
    """Uses, attempts and their times are sums, and not those of the last one."""
    pool = filled("a", max_lifetime=None)
    give_back(pool, lent(pool, 1), 2)
    give_back(pool, lent(pool, 3), 5)
    assert (pool.uses, pool.use_seconds) == (2, 3)
    for number in range(2):
        assert pool.connected(pool.connecting.begin_first(10), f"b{number}", 11)
    assert (pool.connecting.created, pool.connecting.seconds) == (3, 2)


def test_an_entry_that_expires_at_this_moment_is_closed() -> None:
    """The lifetime ends at its last moment, on each way."""
    pool = filled("a", max_lifetime=100, max_lifetime_jitter=0)
    owner = lent(pool, 50)
    assert not pool.put_back(owner, 100)
    assert held(owner) == "a"
    assert next(iter(pool.entries)).borrowed_at == 50


def test_a_new_entry_knows_when_it_was_made() -> None:
    """It has been idle, and alive, since then."""
    entry = next(iter(filled("a", now=7.0).entries))
    assert (entry.borrowed_at, entry.idle_since, entry.alive_at) == (7.0, 7.0, 7.0)


def test_maintenance_looks_at_every_idle_entry() -> None:
    """An old entry above a young one is found, and entries that come back meanwhile stay on top."""
    pool = filled("a", "b", "c", idle_timeout=None, max_lifetime=100, max_lifetime_jitter=0)
    entries = list(pool.entries)
    entries[1].expires_at = 5
    pool.maintain(10)
    assert [entry.connection for entry, _ in pool.doomed] == ["b"]
    taken = lent(pool, 10)
    pool._shelve([entries[0]])
    assert [entry.connection for entry in pool._shelf] == ["a", "a"]
    assert held(taken) == "c"


def test_a_suspect_is_reported_with_its_time_in_use() -> None:
    """The time counts from the moment of the loan."""
    pool = filled("a", leak_detection_threshold=10)
    lent(pool, 5)
    assert [seconds for _, seconds in pool.maintain(20).suspects] == [15]


def test_resize_closes_no_more_than_it_must() -> None:
    """A pool that is small enough keeps its connections, idle or in use."""
    pool = filled("a", "b")
    owner = lent(pool)
    pool.resize(2, 0)
    give_back(pool, owner, 1)
    assert not pool.doomed
    assert pool.idle == 2


def test_those_who_fail_are_woken_beside_those_who_are_served() -> None:
    """The end of the waits forgets no borrower that has just got an entry."""
    pool = filled("a")
    owner = lent(pool)
    served, failed = waiter(pool), waiter(pool)
    give_back(pool, owner, 1)
    pool.close(PoolClosedError("closed"))
    assert pool.handed == [served, failed]


def test_an_interrupted_match_keeps_the_entry() -> None:
    """An interrupt between the shelf and the borrower puts the entry back."""
    pool = filled("a")
    late = borrower()
    pool.waiting[late] = None
    late.since = 0

    class Interrupt(BaseException):
        """Raised by the handler of a signal."""

    def interrupted(_entry: PoolEntry[str], _now: float) -> None:
        raise Interrupt

    hand, pool._hand = pool._hand, interrupted  # type: ignore[method-assign,assignment]  # the moment of the interrupt
    with pytest.raises(Interrupt):
        pool.match(0)
    pool._hand = hand  # type: ignore[method-assign]  # as before
    assert pool.idle == 1
    pool.match(1)
    assert held(late) == "a"


def test_a_closed_pool_may_lend_again() -> None:
    """After `reopen` it connects anew; what is still in use from before is closed when it comes back."""
    pool = filled("a", "b")
    owner = lent(pool)
    pool.close(PoolClosedError("closed"))
    pool.reopen()
    assert pool.state is PoolState.OPEN
    connect(pool, "c")
    assert held(lent(pool, 1)) == "c"
    give_back(pool, owner, 2)
    assert [entry.connection for entry, _ in pool.doomed] == ["a", "b"]
    waiting = waiter(pool, 3)
    connect(pool, "d", 4)
    assert held(waiting) == "d"


def test_the_end_of_an_event_loop_ends_all() -> None:
    """Entries, attempts and borrowers are forgotten, because no task is left that could use or close them."""
    pool = filled("a", "b", has_check=True, keepalive_time=5)
    owner = lent(pool)
    pool.maintain(10)
    waiting = waiter(pool, 10)
    pool.handed.append(waiting)
    attempt = pool.begin_attempts(10)[0]
    pool.abandon()
    assert (pool.idle, pool.in_use, len(pool.entries), list(pool.waiting)) == (0, 0, 0, [])
    assert (pool.handed, pool.doomed, pool.exhausted_since) == ([], [], None)
    assert not pool.connected(attempt, "c", 11)
    pool.discard(owner, 12, "discarded")
    assert not pool.doomed


def test_resize_marks_as_many_as_are_too_many() -> None:
    """Of three in use, a maximum of three marks none, and two marks one."""
    for maximum, closed in ((3, []), (2, ["c"])):
        pool = filled("c", "b", "a", maximum_pool_size=3)
        owners = [lent(pool) for _ in range(3)]
        pool.resize(maximum, 0)
        for owner in owners:
            give_back(pool, owner, 1)
        assert [entry.connection for entry, _ in pool.doomed] == closed
