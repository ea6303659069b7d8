"""Each misuse of a pool is one error that says what, which value, and the rule."""

from __future__ import annotations

import asyncio
import math
from typing import Any

import pytest
from lent import Lent, Maker

from resilience import AsyncPool, ConfigurationError, Pool, PoolClosedError, PoolError

OPTIONS: list[tuple[dict[str, Any], str]] = [
    ({"maximum_pool_size": 0}, "maximum_pool_size=0"),
    ({"maximum_pool_size": -3}, "maximum_pool_size=-3"),
    ({"maximum_pool_size": 2.5}, "maximum_pool_size=2.5"),
    ({"maximum_pool_size": "many"}, "maximum_pool_size='many'"),
    ({"maximum_pool_size": True}, "maximum_pool_size=True"),
    ({"maximum_pool_size": None}, "maximum_pool_size=None"),
    ({"minimum_idle": -1}, "minimum_idle=-1"),
    ({"minimum_idle": math.nan}, "minimum_idle=nan"),
    ({"connection_timeout": -1}, "connection_timeout=-1"),
    ({"connection_timeout": 0}, "connection_timeout=0"),
    ({"connection_timeout": math.nan}, "connection_timeout=nan"),
    ({"connection_timeout": math.inf}, "connection_timeout=inf"),
    ({"connection_timeout": "soon"}, "connection_timeout='soon'"),
    ({"connect_timeout": 0}, "connect_timeout=0"),
    ({"validation_timeout": -0.1}, "validation_timeout=-0.1"),
    ({"idle_timeout": 0}, "idle_timeout=0"),
    ({"max_lifetime": -5}, "max_lifetime=-5"),
    ({"max_lifetime_jitter": 1.5}, "max_lifetime_jitter=1.5"),
    ({"max_lifetime_jitter": math.nan}, "max_lifetime_jitter=nan"),
    ({"keepalive_time": 0}, "keepalive_time=0"),
    ({"leak_detection_threshold": -1}, "leak_detection_threshold=-1"),
    ({"max_waiting": 0}, "max_waiting=0"),
    ({"alive_bypass": -1}, "alive_bypass=-1"),
    ({"max_creating": 0}, "max_creating=0"),
    ({"initialization_fail_timeout": -1}, "initialization_fail_timeout=-1"),
    ({"name": ""}, "name=''"),
    ({"name": 7}, "name=7"),
    ({"clock": 7}, "clock=7"),
    ({"breaker": object()}, "breaker=<object"),
    ({"minimum_idle": 11}, "minimum_idle=11: expected at most maximum_pool_size (10)"),
    ({"validation_timeout": 6}, "validation_timeout=6: expected at most connection_timeout (5 s)"),
    (
        {"check": None, "keepalive_time": 60, "max_lifetime": 60},
        "keepalive_time=60: expected below max_lifetime (60 s)",
    ),
    ({"keepalive_time": 60}, "keepalive_time=60"),
]


@pytest.mark.parametrize("make", [Pool, AsyncPool])
@pytest.mark.parametrize(("options", "text"), OPTIONS, ids=[text.split(":")[0] for _, text in OPTIONS])
def test_a_misfit_option_is_refused_by_name(make: Any, options: dict[str, Any], text: str) -> None:
    """Nothing is corrected silently: the error has the name and the value, at construction."""
    maker = Maker()
    connect = maker if make is Pool else maker.aconnect
    with pytest.raises(ConfigurationError) as caught:
        make(connect, **options)
    assert text.partition("=")[0] in str(caught.value)
    assert text.partition("=")[2].partition(":")[0] in str(caught.value)
    assert text.partition("expected ")[2] in str(caught.value)


def test_all_problems_are_named_at_once() -> None:
    """One error has every misfit value."""
    with pytest.raises(ConfigurationError) as caught:
        Pool(Maker(), maximum_pool_size=0, connection_timeout=-1, max_waiting=-2)
    for name in ("maximum_pool_size", "connection_timeout", "max_waiting"):
        assert name in str(caught.value)


async def awaiting(_connection: object = None) -> None:
    """Do nothing."""


def plain(_connection: object = None) -> None:
    """Do nothing."""


@pytest.mark.parametrize("callback", ["connect", "close", "abort", "check", "reset"])
def test_a_coroutine_function_is_refused_by_a_pool_of_threads(callback: str) -> None:
    """The error names the callback and the pool that takes it."""
    given: dict[str, Any] = {"connect": plain, callback: awaiting}
    with pytest.raises(ConfigurationError, match=rf"(?s){callback}.*a plain function; AsyncPool takes coroutine"):
        Pool(**given)


@pytest.mark.parametrize("callback", ["connect", "check", "reset"])
def test_a_plain_function_is_refused_by_a_pool_of_tasks(callback: str) -> None:
    """The error names the callback and the pool that takes it."""
    given: dict[str, Any] = {"connect": awaiting, callback: plain}
    with pytest.raises(ConfigurationError, match=rf"(?s){callback}.*a coroutine function; Pool takes plain functions"):
        AsyncPool(**given)


@pytest.mark.parametrize("make", [Pool, AsyncPool])
@pytest.mark.parametrize("connect", [None, 5, "tcp://ledger"])
def test_a_connect_that_is_no_function_is_refused(make: Any, connect: object) -> None:
    """The error shows the value."""
    with pytest.raises(ConfigurationError, match="connect"):
        make(connect)


@pytest.mark.parametrize("timeout", [-1, math.nan, "soon", object()])
def test_a_timeout_that_is_no_duration_is_refused(timeout: Any) -> None:
    """Whether for a borrow or for a close."""
    with Pool(Maker()) as pool:
        for method in (pool.connection, pool.acquire, pool.close):
            with pytest.raises(ConfigurationError, match="timeout"):
                method(timeout)


@pytest.mark.parametrize(
    ("sizes", "name"), [((0,), "maximum_pool_size"), (("2",), "maximum_pool_size"), ((2, 3), "minimum_idle")]
)
def test_a_resize_keeps_the_rules(sizes: tuple[Any, ...], name: str) -> None:
    """A pool is never made impossible while it runs, and a refused resize changes nothing."""
    with Pool(Maker(), maximum_pool_size=4) as pool:
        with pytest.raises(ConfigurationError, match=name):
            pool.resize(*sizes)
        assert pool.snapshot()["maximum_pool_size"] == 4


def test_a_lease_is_released_once_and_by_its_owner() -> None:
    """The second release, the discard after it, and the release by another pool are errors of their own text."""

    async def story() -> None:
        async with (
            AsyncPool(Maker().aconnect, name="ledger") as pool,
            AsyncPool(Maker().aconnect, name="other") as other,
        ):
            lease = await pool.acquire()
            with pytest.raises(PoolError, match="pool 'other': the lease belongs to another pool"):
                await other.release(lease)
            await pool.release(lease)
            for again in (lease.release, lease.discard):
                with pytest.raises(PoolError, match="pool 'ledger': the lease has been released already"):
                    await again()
            with pytest.raises(PoolError, match="released already"):
                _ = lease.connection

    asyncio.run(story())
    with Pool(Maker(), name="ledger") as pool:
        lease = pool.acquire()
        lease.discard()
        for again in (lease.release, lease.discard):
            with pytest.raises(PoolError, match="pool 'ledger': the lease has been released already"):
                again()


# Event loops


async def borrow(pool: AsyncPool[Lent]) -> None:
    async with pool.connection():
        pass


def test_a_second_event_loop_is_refused() -> None:
    """The pool belongs to the loop that used it first; the error says whether that one is closed."""
    pool = AsyncPool(Maker().aconnect, name="ledger")
    with asyncio.Runner() as first:
        first.run(borrow(pool))
        with asyncio.Runner() as second:
            for use in (borrow(pool), pool.start(), pool.close()):
                with pytest.raises(
                    ConfigurationError, match=r"AsyncPool 'ledger' belongs to .*still open.*one pool for"
                ):
                    second.run(use)
        first.run(pool.close())


def test_the_loop_of_a_pool_that_was_not_closed() -> None:
    """After the end of its loop the pool says so; `close` in another loop aborts its connections."""
    maker = Maker()
    pool = AsyncPool(maker.aconnect, name="ledger", abort=Lent.abort)
    asyncio.run(borrow(pool))
    with pytest.raises(ConfigurationError, match="the first one is closed"):
        asyncio.run(borrow(pool))
    asyncio.run(pool.close())
    assert maker.made[0].is_aborted
    with pytest.raises(ConfigurationError, match="the first one is closed"):
        asyncio.run(borrow(pool))


def test_trio_is_refused() -> None:
    """The pool of tasks needs asyncio, and says so."""
    trio = pytest.importorskip("trio")
    pool = AsyncPool(Maker().aconnect, name="ledger")
    with pytest.raises(ConfigurationError, match=r"AsyncPool 'ledger' needs asyncio"):
        trio.run(borrow, pool)


def test_an_operator_in_another_thread_is_refused() -> None:
    """A pool of tasks is changed in its own loop only."""

    async def story() -> None:
        async with AsyncPool(Maker().aconnect, name="ledger") as pool:
            await borrow(pool)
            for change in (pool.drain, pool.suspend, pool.resume):
                with pytest.raises(ConfigurationError, match="AsyncPool 'ledger'"):
                    await asyncio.to_thread(change)
            await borrow(pool)

    asyncio.run(story())


# Hangs


def test_an_awaiting_pool_outlives_callbacks_that_hang() -> None:
    """A connect, check, reset or close that hangs ends at its limit, and no borrower waits longer."""
    maker = Maker()
    aborted: list[Lent] = []

    async def hang(connection: Lent) -> None:
        if connection.number == 0:
            await asyncio.sleep(60)

    async def story() -> None:
        async with AsyncPool(
            maker.aconnect, check=hang, close=hang, abort=aborted.append, alive_bypass=0, validation_timeout=0.02
        ) as pool:
            await borrow(pool)
            async with pool.connection() as second:
                assert second is maker.made[1]
            await asyncio.sleep(0.1)
            assert aborted == [maker.made[0]]
        pool = AsyncPool(Maker().aconnect, reset=hang, validation_timeout=0.02)
        await borrow(pool)
        assert pool.snapshot()["closed"] == {"reset failed": 1}
        await pool.close()

        async def connect() -> Lent:
            await hang(Lent())
            return maker()

        pool = AsyncPool(connect, connect_timeout=0.02)
        with pytest.raises(PoolError, match="TimeoutError"):
            await pool.acquire(timeout=0.1)
        await pool.close(0)

    asyncio.run(story())


def test_close_ends_the_waits_of_tasks() -> None:
    """Each borrower in the queue gets `PoolClosedError` at once."""

    async def story() -> None:
        pool = AsyncPool(Maker().aconnect, maximum_pool_size=1)
        lease = await pool.acquire()
        waiting = [asyncio.create_task(pool.acquire()) for _ in range(3)]
        await asyncio.sleep(0)
        closing = asyncio.create_task(pool.close())
        outcomes = await asyncio.gather(*waiting, return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [PoolClosedError] * 3
        assert not closing.done()
        await lease.release()
        await closing
        assert pool.snapshot()["total"] == 0

    asyncio.run(story())
