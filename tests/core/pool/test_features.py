"""Each knob of a pool does what it says, for threads and for tasks."""

from __future__ import annotations

import asyncio
import gc
import re
import threading
import time
from typing import Any

import pytest
from lent import Lent, Maker
from two_pools import COLOURS, Driven, ThreadDriver

from resilience import (
    CircuitBreaker,
    CircuitOpenError,
    Deadline,
    PoolClosedError,
    PoolError,
    PoolExhaustedError,
    PoolSaturatedError,
    PoolTimeoutError,
)


@pytest.fixture(params=COLOURS)
def colour(request: pytest.FixtureRequest) -> Any:
    return COLOURS[request.param]


def names(driven: Driven, kind: str) -> list[Any]:
    return [event for event in driven.events if event.kind == kind]


# Errors


def test_the_error_of_a_failing_connect_has_its_cause(colour: Any) -> None:
    """A borrower that waits in vain learns why the last attempt failed, and what the pool looked like."""
    with (
        colour(Maker(failures=9), name="ledger", maximum_pool_size=3) as driven,
        pytest.raises(PoolTimeoutError) as caught,
    ):
        driven.acquire(timeout=0.03)
    error = caught.value
    assert type(error) is PoolTimeoutError
    assert isinstance(error.__cause__, ConnectionRefusedError)
    assert re.fullmatch(
        r"pool 'ledger': no connection within 0\.\d+ s \(total 0, idle 0, in use 0, waiting 0, creating 0\); "
        "the last attempt to connect failed: ConnectionRefusedError",
        str(error),
    )
    assert error.waited is not None
    assert error.waited >= 0.02
    assert (error.pool, error.total, error.waiting, error.creating, error.oldest_lease) == ("ledger", 0, 0, 0, None)


def test_the_error_of_an_exhausted_pool_has_the_oldest_lease(colour: Any) -> None:
    """If others have all connections, the error is `PoolExhaustedError`, and says for how long."""
    with colour(Maker(), name="ledger", maximum_pool_size=1) as driven:
        lease = driven.acquire()
        with pytest.raises(PoolExhaustedError, match="in use 1, waiting 0, creating 0; the oldest lease is") as caught:
            driven.acquire(timeout=0.01)
        assert caught.value.__cause__ is None
        assert caught.value.oldest_lease is not None
        assert caught.value.oldest_lease >= 0.01
        driven.release(lease)
        assert driven.pool.snapshot()["timeouts"] == 1
    assert names(driven, "pool.timed_out")[0].facts["in_use"] == 1


def test_the_deadline_of_the_call_ends_the_wait(colour: Any) -> None:
    """A borrow never waits past the deadline in force, and the error says that it was the deadline."""
    with colour(Maker(), maximum_pool_size=1) as driven:
        lease = driven.acquire()
        with Deadline.after(0.02), pytest.raises(PoolTimeoutError, match="the time left of the deadline"):
            driven.acquire(timeout=30)
        with Deadline.after(30), pytest.raises(PoolTimeoutError) as caught:
            driven.acquire(timeout=0.01)
        assert "deadline" not in str(caught.value)
        driven.release(lease)
        with Deadline.after(0):
            driven.release(driven.acquire())  # an idle connection takes no time


def test_a_timeout_of_zero_takes_an_idle_connection_or_fails(colour: Any) -> None:
    """Nobody waits with `timeout=0`, and an idle connection is lent."""
    with colour(Maker(), maximum_pool_size=1) as driven:
        lease = driven.acquire()
        with pytest.raises(PoolExhaustedError):
            driven.acquire(timeout=0)
        driven.release(lease)
        driven.release(driven.acquire(timeout=0))


# Return rules


def test_a_connection_whose_block_raised_is_closed(colour: Any) -> None:
    """Without check and reset its state is unknown."""
    maker = Maker()
    with colour(maker) as driven:
        with pytest.raises(ZeroDivisionError):
            driven.block(lambda _: 1 / 0)
        driven.until(lambda: maker.made[0].is_closed)
        assert driven.pool.snapshot()["closed"] == {"error in use": 1}


@pytest.mark.parametrize("is_alive", [True, False])
def test_a_connection_whose_block_raised_is_kept_if_its_check_passes(colour: Any, is_alive: bool) -> None:  # noqa: FBT001 - a parameter of the test
    """With a check, an error of the block alone closes nothing."""
    maker = Maker()
    checked: list[Lent] = []

    def check(connection: Lent) -> bool:
        checked.append(connection)
        return is_alive

    with colour(maker, check=check) as driven:
        with pytest.raises(ZeroDivisionError):
            driven.block(lambda _: 1 / 0)
        driven.until(lambda: driven.pool.snapshot()["idle"] == is_alive)
        assert checked == maker.made
        driven.until(lambda: maker.made[0].is_closed is not is_alive)


def test_reset_cleans_each_connection_that_comes_back(colour: Any) -> None:
    """After a use, and after one that raised, `reset` runs before the next borrower; if it fails, the end has come."""
    maker = Maker()
    cleaned: list[Lent] = []
    with colour(maker, reset=cleaned.append) as driven:
        driven.block(lambda _: None)
        with pytest.raises(ZeroDivisionError):
            driven.block(lambda _: 1 / 0)
        driven.until(lambda: driven.pool.snapshot()["idle"] == 1)
        assert cleaned == [maker.made[0]] * 2

    def fail(_connection: Lent) -> None:
        raise ConnectionResetError

    with colour(maker, reset=fail) as driven:
        driven.block(lambda _: None)
        driven.until(lambda: maker.made[1].is_closed)
        assert driven.pool.snapshot()["closed"] == {"reset failed": 1}


def test_reset_is_not_run_on_a_connection_that_is_closed_anyway(colour: Any) -> None:
    """A drained connection needs no reset: no borrower follows."""
    maker = Maker()
    cleaned: list[Lent] = []
    with colour(maker, reset=cleaned.append) as driven:
        lease = driven.acquire()
        operate(driven, driven.pool.drain)
        driven.release(lease)
        driven.until(lambda: maker.made[0].is_closed)
        assert cleaned == []
        assert driven.pool.snapshot()["closed"] == {"drained": 1}


def test_a_dropped_lease_is_reclaimed(colour: Any) -> None:
    """A lease that is collected without a release gives its place back; the connection is closed, and it is said."""
    maker = Maker()
    with colour(maker, maximum_pool_size=1) as driven:
        lease = driven.acquire()
        del lease
        gc.collect()
        driven.release(driven.acquire(timeout=5))
        driven.until(lambda: maker.made[0].is_closed)
        assert driven.pool.snapshot()["lost"] == 1
    assert driven.kinds() == ["pool.lease_lost"]


def test_a_context_manager_holds_one_connection(colour: Any) -> None:
    """Entered while it holds a connection, `pool.connection()` raises, and the first connection is not lost."""
    maker = Maker()
    with colour(maker) as driven:
        if colour is COLOURS["threads"]:
            block = driven.pool.connection()
            with block:
                with pytest.raises(PoolError, match="holds a connection already"), block:
                    pass
                assert driven.pool.snapshot()["in_use"] == 1
        else:

            async def story() -> None:
                block = driven.pool.connection()
                async with block:
                    with pytest.raises(PoolError, match="holds a connection already"):
                        async with block:
                            pass
                    assert driven.pool.snapshot()["in_use"] == 1

            driven.run(story())
        driven.until(lambda: driven.pool.snapshot()["in_use"] == 0)
        assert driven.pool.snapshot()["idle"] == 1


# Leaks


def test_a_long_lease_is_reported_with_the_stack_of_its_borrower(colour: Any) -> None:
    """Once, after `leak_detection_threshold`; when the connection comes back, that is said as well."""
    with colour(Maker(), name="ledger", leak_detection_threshold=0.02) as driven:

        def forgetful_borrower() -> Any:
            return driven.acquire()

        lease = forgetful_borrower()
        driven.until(lambda: names(driven, "pool.leak_suspected"))
        end = time.monotonic() + 0.05
        driven.until(lambda: time.monotonic() > end)
        driven.release(lease)
        driven.until(lambda: names(driven, "pool.leak_returned"))
    assert driven.kinds() == ["pool.leak_suspected", "pool.leak_returned"]
    suspected, returned = (event.facts for event in driven.events if "leak" in event.kind)
    assert "in forgetful_borrower" in suspected["stack"] or colour is COLOURS["tasks"]
    assert __file__ in suspected["stack"] or "two_pools" in suspected["stack"]
    assert "resilience/pool" not in suspected["stack"]
    assert returned["in_use_for"] > suspected["in_use_for"] >= 0.02
    assert driven.pool.snapshot()["leaks"] == 1


# Ages


def test_an_idle_connection_ends_and_minimum_idle_stay(colour: Any) -> None:
    """`idle_timeout` closes what nobody has used for so long, down to `minimum_idle`."""
    maker = Maker()
    with colour(maker, idle_timeout=0.02, minimum_idle=1) as driven:
        leases = [driven.acquire() for _ in range(3)]
        for lease in leases:
            driven.release(lease)
        driven.until(lambda: len(maker.open) == 1)
        assert driven.pool.snapshot()["closed"] == {"idle_timeout": driven.pool.snapshot()["created"] - 1}


def test_an_old_connection_is_replaced(colour: Any) -> None:
    """`max_lifetime` closes an idle connection, and one in use when it comes back."""
    maker = Maker()
    with colour(maker, max_lifetime=0.03) as driven:
        lease = driven.acquire()
        driven.release(driven.acquire())
        driven.until(lambda: maker.made[1].is_closed)
        assert not maker.made[0].is_closed
        end = time.monotonic() + 0.03
        driven.until(lambda: time.monotonic() > end)
        driven.release(lease)
        driven.until(lambda: maker.made[0].is_closed)
        assert driven.pool.snapshot()["closed"] == {"max_lifetime": 2}


def test_keepalive_checks_idle_connections(colour: Any) -> None:
    """An idle connection is checked in the background, again and again, and closed when the check fails."""
    maker = Maker()
    checked: list[Lent] = []

    def check(connection: Lent) -> bool:
        checked.append(connection)
        return len(checked) < 3

    with colour(maker, check=check, keepalive_time=0.02) as driven:
        driven.release(driven.acquire())
        driven.until(lambda: maker.made[0].is_closed)
        assert checked == [maker.made[0]] * 3
        assert driven.pool.snapshot()["closed"] == {"check failed": 1}


def test_a_connection_in_recent_use_is_lent_without_a_check(colour: Any) -> None:
    """Within `alive_bypass` no check; after it, one, and a dead connection is replaced before the borrower sees it."""
    maker = Maker()
    checked: list[Lent] = []

    def check(connection: Lent) -> bool:
        checked.append(connection)
        return connection.number > 0

    with colour(maker, check=check, alive_bypass=60) as driven:
        driven.release(driven.acquire())
        driven.release(driven.acquire())
        assert checked == []
    with colour(maker := Maker(), check=check, alive_bypass=0) as driven:
        driven.release(driven.acquire())
        lease = driven.acquire()
        assert lease.connection is maker.made[1]
        driven.release(lease)
        assert checked[0] is maker.made[0]
        driven.until(lambda: maker.made[0].is_closed)


def test_a_check_that_hangs_is_a_dead_connection() -> None:
    """`validation_timeout` ends the wait for a check; the borrower gets another connection."""
    maker, is_over = Maker(), threading.Event()

    def check(connection: Lent) -> bool:
        return connection.number > 0 or is_over.wait(20)

    with ThreadDriver(maker, check=check, alive_bypass=0, validation_timeout=0.01) as driven:
        driven.release(driven.acquire())
        lease = driven.acquire()
        assert lease.connection is maker.made[1]
        driven.release(lease)
        is_over.set()


# Operators


def test_drain_replaces_all_connections(colour: Any) -> None:
    """Idle ones at once, others when they come back."""
    maker = Maker()
    with colour(maker) as driven:
        lease = driven.acquire()
        driven.release(driven.acquire())
        operate(driven, driven.pool.drain)
        driven.until(lambda: maker.made[1].is_closed)
        assert not maker.made[0].is_closed
        driven.release(lease)
        driven.until(lambda: maker.made[0].is_closed)
        assert driven.kinds() == ["pool.drained"]


async def _later(function: Any, *arguments: Any) -> None:
    function(*arguments)


def operate(driven: Driven, function: Any, *arguments: Any) -> None:
    run = getattr(driven, "run", None)
    if run is None:
        function(*arguments)
    else:
        run(_later(function, *arguments))


def test_resize_changes_the_number_of_connections(colour: Any) -> None:
    """Fewer: idle ones end now. More: borrowers that wait get new ones."""
    maker = Maker()
    with colour(maker, maximum_pool_size=3) as driven:
        leases = [driven.acquire() for _ in range(3)]
        for lease in leases:
            driven.release(lease)
        operate(driven, driven.pool.resize, 1)
        driven.until(lambda: len(maker.open) == 1)
        lease = driven.acquire()
        with pytest.raises(PoolExhaustedError):
            driven.acquire(timeout=0)
        operate(driven, driven.pool.resize, 2, 2)
        second = driven.acquire()
        driven.release(lease)
        driven.release(second)
        snapshot = driven.pool.snapshot()
        assert (snapshot["maximum_pool_size"], snapshot["minimum_idle"], snapshot["total"]) == (2, 2, 2)
    resized = names(driven, "pool.resized")
    assert [(event.facts["before"], event.facts["after"]) for event in resized] == [(3, 1), (1, 2)]


def test_a_suspended_pool_lends_after_resume(colour: Any) -> None:
    """Until `resume` every borrow waits, and fails in its time."""
    with colour(Maker()) as driven:
        driven.release(driven.acquire())
        operate(driven, driven.pool.suspend)
        assert driven.pool.snapshot()["state"] == "suspended"
        with pytest.raises(PoolTimeoutError):
            driven.acquire(timeout=0.01)
        operate(driven, driven.pool.resume)
        driven.release(driven.acquire(timeout=0))
        assert driven.kinds() == ["pool.suspended", "pool.timed_out", "pool.resumed"]


# Connecting


def test_a_pool_keeps_trying_to_connect(colour: Any) -> None:
    """A server that is away for a while costs the borrower a wait, and no error."""
    maker = Maker(failures=2)
    with colour(maker) as driven:
        driven.release(driven.acquire(timeout=10))
        assert maker.attempts == 3
        failed = names(driven, "pool.connect_failed")
        assert [event.facts["failures"] for event in failed] == [1, 2]
        assert 0.0 <= failed[0].facts["retry_after"] <= 0.1
        assert driven.pool.snapshot()["connect_failures"] == 2
        assert driven.pool.snapshot()["last_error"] is None


def test_an_open_breaker_refuses_borrowers_of_an_empty_pool_at_once(colour: Any) -> None:
    """The first borrower gets the failure or the refusal within a moment, the next ones the refusal at once."""
    breaker = CircuitBreaker(name="ledger", fail_max=1, reset_timeout=60)
    maker = Maker(failures=99)
    with colour(maker, breaker=breaker, connection_timeout=30) as driven:
        since = time.monotonic()
        with pytest.raises(CircuitOpenError) as caught:
            driven.acquire()
        assert caught.value.retry_after is not None
        with pytest.raises(CircuitOpenError):
            driven.acquire()
        assert time.monotonic() - since < 5
        assert maker.attempts == 1
        assert driven.pool.snapshot()["waiting"] == 0


def test_a_connect_that_returns_none_is_a_failure(colour: Any) -> None:
    """The cause says what was returned."""
    with colour(lambda: None) as driven, pytest.raises(PoolTimeoutError) as caught:
        driven.acquire(timeout=0.05)
    assert isinstance(caught.value.__cause__, TypeError)
    assert "None" in str(caught.value.__cause__)


# Start


def test_start_waits_for_nothing_by_default(colour: Any) -> None:
    """Without `initialization_fail_timeout` the pool fills in the background."""
    maker = Maker(failures=1)
    with colour(maker, minimum_idle=2) as driven:
        driven.start()
        driven.until(lambda: driven.pool.snapshot()["idle"] == 2)


def test_start_makes_one_attempt(colour: Any) -> None:
    """`initialization_fail_timeout=0`: the first failure ends it, with the cause."""
    maker = Maker(failures=1)
    with colour(maker, initialization_fail_timeout=0) as driven:
        with pytest.raises(PoolTimeoutError, match="ConnectionRefusedError") as caught:
            driven.start()
        assert isinstance(caught.value.__cause__, ConnectionRefusedError)
        assert maker.attempts == 1
        driven.start()
        assert driven.pool.snapshot()["total"] == 1
        driven.start()
        assert maker.attempts == 2


def test_start_tries_for_a_while(colour: Any) -> None:
    """`initialization_fail_timeout` above 0: it tries again until then, and then fails."""
    maker = Maker(failures=2)
    with colour(maker, initialization_fail_timeout=10) as driven:
        driven.start()
        assert (maker.attempts, driven.pool.snapshot()["idle"]) == (3, 1)
    with colour(Maker(failures=99), initialization_fail_timeout=0.1) as driven:
        since = time.monotonic()
        with pytest.raises(PoolTimeoutError):
            driven.start()
        assert 0.09 < time.monotonic() - since < 5


# Close


def test_use_after_close_is_an_error(colour: Any) -> None:
    """A closed pool lends nothing and starts nothing; a second close does no harm."""
    maker = Maker()
    for options in ({}, {"initialization_fail_timeout": 0}):
        with colour(maker, name="ledger", **options) as driven:
            driven.release(driven.acquire())
            driven.close()
            driven.close()
            with pytest.raises(PoolClosedError, match="pool 'ledger' is closed"):
                driven.acquire()
            with pytest.raises(PoolClosedError, match="pool 'ledger' is closed"):
                driven.block(lambda _: None)
            with pytest.raises(PoolClosedError, match="pool 'ledger' is closed"):
                driven.start()
            assert driven.pool.is_closed
            assert driven.pool.snapshot()["state"] == "closed"
            assert driven.pool.snapshot()["total"] == 0
    assert maker.open == []


def test_a_lease_that_comes_back_after_close_is_closed(colour: Any) -> None:
    """`close` waits for it, gives up after its time, and aborts; the connection ends when it comes back."""
    maker = Maker()
    with colour(maker, abort=Lent.abort) as driven:
        lease = driven.acquire()
        driven.close(timeout=0.01)
        assert maker.made[0].is_aborted
        assert not maker.made[0].is_closed
        driven.release(lease)
        driven.until(lambda: maker.made[0].is_closed)
        assert driven.pool.snapshot()["total"] == 0


def test_a_refused_borrower_leaves_no_trace(colour: Any) -> None:
    """`max_waiting` borrowers wait, one more is refused with the counts."""
    with colour(Maker(), maximum_pool_size=1, max_waiting=1, name="ledger") as driven:
        lease = driven.acquire()
        if colour is COLOURS["threads"]:
            thread = threading.Thread(target=lambda: driven.acquire().release())
            thread.start()
            driven.until(lambda: driven.pool.snapshot()["waiting"] == 1)
            with pytest.raises(PoolSaturatedError, match=r"pool 'ledger': 1 borrowers wait already.*waiting 1"):
                driven.acquire()
            driven.release(lease)
            thread.join(5)
        else:

            async def story() -> None:
                waiting = asyncio.create_task(driven.pool.acquire())
                await asyncio.sleep(0)
                with pytest.raises(PoolSaturatedError, match=r"pool 'ledger': 1 borrowers wait already.*waiting 1"):
                    await driven.pool.acquire()
                await lease.release()
                second = await waiting
                await second.release()

            driven.run(story())
        assert driven.pool.snapshot()["refusals"] == 1
        assert driven.pool.snapshot()["waiting"] == 0
