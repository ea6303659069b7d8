"""A pool of threads lends each connection to one borrower at a time."""

from __future__ import annotations

import threading

import pytest

from resilience import Pool, PoolClosedError, PoolError, PoolExhaustedError, PoolSaturatedError


class Connection:
    """Something to lend."""

    def __init__(self) -> None:
        self.is_closed = False

    def close(self) -> None:
        self.is_closed = True


def test_a_connection_is_lent_again() -> None:
    """The connection that came back is lent to the next borrower."""
    with Pool(Connection, name="ledger") as pool:
        with pool.connection() as first:
            pass
        with pool.connection() as second:
            assert second is first
        assert pool.snapshot()["created"] == 1


def test_an_exception_in_the_block_closes_the_connection() -> None:
    """Without check and reset, a connection whose block raised is closed and never lent again."""
    with Pool(Connection, name="ledger") as pool:
        with pytest.raises(ZeroDivisionError), pool.connection() as first:
            raise ZeroDivisionError
        with pool.connection() as second:
            assert second is not first
        pool.close()
        assert first.is_closed


def test_close_waits_for_connections_that_are_being_closed() -> None:
    """A connection that is closed in the background when the pool is closed is closed when `close` returns."""
    begun, go_on = threading.Event(), threading.Event()
    ended: list[Connection] = []

    def close(connection: Connection) -> None:
        begun.set()
        assert go_on.wait(5)
        ended.append(connection)

    pool = Pool(Connection, close=close, name="ledger")
    with pytest.raises(ZeroDivisionError), pool.connection() as first:
        raise ZeroDivisionError
    assert begun.wait(5)
    threading.Timer(0.1, go_on.set).start()
    pool.close()
    assert ended == [first]


def test_an_exhausted_pool_says_why() -> None:
    """The error of a borrower that waited in vain has the name, the counts and the age of the oldest lease."""
    with Pool(Connection, maximum_pool_size=1, name="ledger") as pool:
        lease = pool.acquire()
        with pytest.raises(PoolExhaustedError, match=r"pool 'ledger'.*total 1, idle 0, in use 1") as caught:
            pool.acquire(timeout=0.01)
        assert caught.value.pool == "ledger"
        assert (caught.value.total, caught.value.in_use) == (1, 1)
        assert caught.value.oldest_lease is not None
        lease.release()


def test_a_lease_can_be_released_once() -> None:
    """A second release is an error, and so is a release by another pool."""
    with Pool(Connection) as pool, Pool(Connection) as other:
        lease = pool.acquire()
        with pytest.raises(PoolError, match="another pool"):
            other.release(lease)
        lease.release()
        with pytest.raises(PoolError, match="released already"):
            lease.release()
        with pytest.raises(PoolError, match="released already"):
            _ = lease.connection


def test_a_full_queue_refuses_at_once() -> None:
    """Beyond `max_waiting` borrowers a further one is refused without a wait."""
    with Pool(Connection, maximum_pool_size=1, max_waiting=1) as pool:
        lease = pool.acquire()
        waiter = threading.Thread(target=lambda: pool.acquire().release())
        waiter.start()
        while pool.snapshot()["waiting"] == 0:
            pass
        with pytest.raises(PoolSaturatedError, match="max_waiting"):
            pool.acquire()
        lease.release()
        waiter.join()


def test_close_ends_waits() -> None:
    """A borrower that waits gets `PoolClosedError` when the pool is closed."""
    pool = Pool(Connection, maximum_pool_size=1)
    lease = pool.acquire()
    errors: list[BaseException] = []

    def borrow() -> None:
        try:
            pool.acquire()
        except PoolClosedError as error:
            errors.append(error)

    waiter = threading.Thread(target=borrow)
    waiter.start()
    while pool.snapshot()["waiting"] == 0:
        pass
    connection = lease.connection
    pool.close(timeout=0)
    waiter.join()
    assert len(errors) == 1
    lease.release()
    pool.close()
    assert connection.is_closed
