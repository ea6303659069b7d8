"""An interrupt (a signal handler that raises) at any point of a borrow or a return loses no connection (L21)."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
from interrupts import KINDS, every_interrupt, in_another_thread
from lent import Lent, Maker

from resilience import Pool, PoolTimeoutError

Subject = tuple[Callable[[], object], Callable[[], object]]
SCENARIOS: dict[str, Callable[[], Subject]] = {}

pytestmark = pytest.mark.realtime  # threads that wait for each other, hundreds of times


def scenario(make: Callable[[], Subject]) -> Callable[[], Subject]:
    SCENARIOS[make.__name__] = make
    return make


def alive(_connection: Lent) -> bool:
    return True


def warm(size: int = 1, **options: Any) -> Pool[Lent]:
    """Return a pool whose connections are idle."""
    pool = Pool(Maker(), maximum_pool_size=size, connection_timeout=30, connect_timeout=0.3, **options)
    for lease in [pool.acquire() for _ in range(size)]:
        lease.release()
    return pool


def forget_traceback() -> None:
    """Let go of what the frames of the interrupt hold, as the end of its handling does."""
    error = sys.exception()
    if error is not None:
        error.__traceback__ = None
    del error


def whole(pool: Pool[Lent]) -> None:
    """Check that the pool lends all its connections, each to one borrower, and has them back at the end."""
    forget_traceback()

    def borrow_all() -> None:
        leases = [pool.acquire(timeout=1.5) for _ in range(pool.options.maximum_pool_size)]
        assert len({lease.connection for lease in leases}) == len(leases), "lent twice"
        for lease in leases:
            assert not lease.connection.is_closed, "lent after its end"
            lease.release()

    in_another_thread(borrow_all, seconds=5)
    end = time.monotonic() + 5
    while (figures := pool.snapshot())["in_use"] or figures["waiting"]:
        assert time.monotonic() < end, figures
        time.sleep(0.0002)


def subject(call: Callable[[], object], pool: Pool[Lent]) -> Subject:
    return call, lambda: whole(pool)


def block_of(pool: Pool[Lent], within: Callable[[], object] = lambda: None) -> None:
    with pool.connection() as connection:
        connection.use()
        try:
            within()
        finally:
            connection.leave()


@scenario
def block() -> Subject:
    pool = warm()
    return subject(lambda: block_of(pool), pool)


@scenario
def failing_block() -> Subject:
    pool = warm()
    return subject(lambda: block_of(pool, lambda: 1 / 0), pool)


@scenario
def lease() -> Subject:
    pool = warm(2)

    def call() -> None:
        first, second = pool.acquire(), pool.acquire()
        first.release()
        second.discard()

    return subject(call, pool)


@scenario
def first_borrow() -> Subject:
    pool = Pool(Maker(), maximum_pool_size=1, connection_timeout=30, connect_timeout=0.3)
    return subject(lambda: block_of(pool), pool)


@scenario
def checked_block() -> Subject:
    pool = warm(check=alive, alive_bypass=0)
    return subject(lambda: block_of(pool), pool)


@scenario
def reset_block() -> Subject:
    pool = warm(reset=alive)
    return subject(lambda: block_of(pool), pool)


@scenario
def failing_checked_block() -> Subject:
    pool = warm(check=alive, reset=alive)
    return subject(lambda: block_of(pool, lambda: 1 / 0), pool)


@scenario
def timed_out() -> Subject:
    pool = warm()
    held = [pool.acquire()]

    def call() -> None:
        with suppress(PoolTimeoutError):
            pool.acquire(timeout=0.0001)

    def check() -> None:
        forget_traceback()
        held.pop().release()
        whole(pool)

    return call, check


@scenario
def queue() -> Subject:
    """Interrupt a thread that waits for a connection that another one gives back."""
    pool = warm()
    held = pool.acquire()
    thread = threading.Timer(0.001, held.release)
    thread.start()

    def check() -> None:
        thread.join(5)
        whole(pool)

    return lambda: block_of(pool), check


@scenario
def hand_over() -> Subject:
    """Interrupt a thread that gives back a connection that another one waits for."""
    pool = warm()
    held: list[Any] = [pool.acquire()]
    thread = threading.Thread(target=block_of, args=(pool,), daemon=True)
    thread.start()
    while not pool.snapshot()["waiting"]:
        time.sleep(0.0001)

    def call() -> None:
        held.pop().release()

    def check() -> None:
        forget_traceback()
        held.clear()
        thread.join(5)
        assert not thread.is_alive(), "the one that waits was forgotten"
        whole(pool)

    return call, check


@scenario
def operated() -> Subject:
    pool = warm(2)

    def call() -> None:
        pool.drain()
        pool.resize(1)

    def check() -> None:
        forget_traceback()
        pool.resize(2)
        whole(pool)

    return call, check


@scenario
def suspended() -> Subject:
    pool = warm(2)

    def call() -> None:
        pool.suspend()
        pool.resume()

    def check() -> None:
        forget_traceback()
        pool.resume()
        whole(pool)

    return call, check


@scenario
def resumed() -> Subject:
    """Interrupt a thread that serves several others at once."""
    pool = warm(2)
    pool.suspend()
    threads = [threading.Thread(target=block_of, args=(pool,), daemon=True) for _ in range(2)]
    for thread in threads:
        thread.start()
    while pool.snapshot()["waiting"] < 2:
        time.sleep(0.0001)

    def check() -> None:
        forget_traceback()
        pool.resume()
        for thread in threads:
            thread.join(5)
            assert not thread.is_alive(), "one that waits was forgotten"
        whole(pool)

    return pool.resume, check


@scenario
def closed() -> Subject:
    pool = warm(2)
    held = pool.acquire()

    def call() -> None:
        pool.close(timeout=0)

    def check() -> None:
        forget_traceback()
        held.release()
        in_another_thread(lambda: pool.close(timeout=1), seconds=5)
        assert pool.snapshot()["total"] == 0
        assert pool.is_closed

    return call, check


# From Python 3.12 on, fewer instructions of a loop stand inside the `try` around it.
_LOOPS = {"operated", "resumed", "closed"}
CASES = [
    pytest.param(name, KINDS[number % 2], id=name, marks=[pytest.mark.everywhere] if name in _LOOPS else [])
    for number, name in enumerate(SCENARIOS)
]


# An interrupt in `Loan.__del__` ends nowhere, as in any finalizer.
@pytest.mark.filterwarnings(
    "ignore:Exception ignored in. <function Loan.__del__:pytest.PytestUnraisableExceptionWarning"
)
@pytest.mark.filterwarnings("ignore:Exception ignored in thread started by:pytest.PytestUnraisableExceptionWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize(("name", "kind"), CASES)
def test_an_interrupt_at_any_point_loses_no_connection(name: str, kind: type[BaseException]) -> None:
    """Wherever an interrupt strikes: no connection, place or lock is lost once the interrupt has been handled."""
    assert list(every_interrupt(SCENARIOS[name], kind))
