"""`AsyncAdaptedResiliencePool` below asyncio engines of SQLAlchemy, on SQLite and on a real PostgreSQL."""

from __future__ import annotations

import asyncio
import gc
import os
import random
import signal
import time
import warnings
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from postgres_process import PostgresProcess, PostgresServer
from sqlalchemy import exc, text
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine

from resilience import ConfigurationError, Deadline, PoolExhaustedError
from resilience_sql import AsyncAdaptedResiliencePool, ResiliencePool


def make(url: str, **arguments: Any) -> AsyncEngine:
    return create_async_engine(url, poolclass=AsyncAdaptedResiliencePool, **arguments)


def snapshot(engine: AsyncEngine) -> dict[str, Any]:
    assert isinstance(engine.pool, AsyncAdaptedResiliencePool)
    return engine.pool.snapshot()


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite+aiosqlite:///{tmp_path / 'shop.db'}"


@pytest.fixture
async def engine(url: str) -> AsyncIterator[AsyncEngine]:
    made = make(url, pool_size=1, max_overflow=0)
    yield made
    await made.dispose()


async def one(engine: AsyncEngine) -> int:
    async with engine.connect() as connection:
        return int((await connection.execute(text("select 1"))).scalar_one())


async def test_one_argument_is_enough(engine: AsyncEngine) -> None:
    """An asyncio engine, its transactions and its sessions work as before, and use a connection again."""
    async with engine.begin() as connection:
        await connection.execute(text("create table orders (cents integer)"))
        await connection.execute(text("insert into orders values (5)"))
    async with AsyncSession(engine) as session:
        assert (await session.execute(text("select cents from orders"))).scalar() == 5
    assert snapshot(engine)["created"] == 1


async def test_a_task_that_waits_does_not_block_the_loop(engine: AsyncEngine) -> None:
    """Other tasks run while one waits for a connection; the error is that of both libraries."""
    beats = 0

    async def beat() -> None:
        nonlocal beats
        while True:
            beats += 1
            await asyncio.sleep(0)

    async with engine.connect():
        beating = asyncio.create_task(beat())
        with Deadline.after(0.05), pytest.raises(exc.TimeoutError) as caught:
            await engine.connect()
        beating.cancel()
    error: object = caught.value
    assert isinstance(error, PoolExhaustedError)
    assert beats > 10


async def test_borrowers_are_served_in_the_order_in_which_they_came(engine: AsyncEngine) -> None:
    """Twenty tasks on one connection get their turns in order, three times."""
    turns: list[int] = []

    async def take_turns(number: int) -> None:
        for _ in range(3):
            async with engine.connect():
                turns.append(number)
                await asyncio.sleep(0)

    await asyncio.gather(*(take_turns(number) for number in range(20)))
    assert turns == [*range(20)] * 3


async def test_no_connection_is_lost_under_cancellation(url: str) -> None:
    """Tasks that are cancelled at random moments leave the pool whole."""
    chance = random.Random(3)
    engine = make(url, pool_size=3, max_overflow=0)

    async def use() -> None:
        async with engine.connect() as connection:
            await connection.execute(text("select 1"))

    async def use_and_cancel() -> None:
        task = asyncio.create_task(use())
        await asyncio.sleep(chance.random() * 0.01)
        task.cancel()
        await asyncio.wait([task])

    for _ in range(10):
        await asyncio.gather(*(use_and_cancel() for _ in range(20)))
    assert await asyncio.gather(*(one(engine) for _ in range(20))) == [1] * 20
    assert snapshot(engine)["in_use"] == 0
    assert snapshot(engine)["total"] <= 3
    await engine.dispose()


async def test_an_invalidated_connection_is_not_lent(engine: AsyncEngine) -> None:
    """The next borrower gets a new connection, in the one place of the pool."""
    async with engine.connect() as connection:
        before = (await connection.get_raw_connection()).driver_connection
        await connection.invalidate()
    async with engine.connect() as connection:
        assert (await connection.get_raw_connection()).driver_connection is not before
    assert snapshot(engine)["total"] == 1


async def test_a_connection_that_was_dropped_gives_its_place_back(engine: AsyncEngine) -> None:
    """SQLAlchemy warns, and ends a connection that is garbage-collected; the pool connects anew."""
    connection: Any = await engine.connect()
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        del connection
        gc.collect()
    assert any("garbage collector" in str(each.message) for each in said)
    assert await asyncio.wait_for(one(engine), 20) == 1


async def test_a_leak_is_reported_with_the_stack_of_the_task(url: str) -> None:
    """The event ends with the line of the application, across the greenlets of SQLAlchemy."""
    engine = make(url, leak_detection_threshold=0.01)
    found: list[Any] = []
    assert isinstance(engine.pool, AsyncAdaptedResiliencePool)
    engine.pool.events.subscribe(found.append)
    async with AsyncSession(engine) as session:
        await session.execute(text("select 1"))
        async with asyncio.timeout(20):
            while not any(each.kind == "pool.leak_suspected" for each in found):
                await asyncio.sleep(0.005)
    report = next(each for each in found if each.kind == "pool.leak_suspected")
    frames = [line for line in report.facts["stack"].splitlines() if line.startswith("  File")]
    assert Path(__file__).name in frames[-1]
    await engine.dispose()


def test_a_second_loop_is_refused_until_dispose(url: str) -> None:
    """The error says that the pool belongs to another loop; after `dispose` it belongs to the next one."""
    engine = make(url)

    async def use_and_dispose() -> None:
        assert await one(engine) == 1
        await engine.dispose()

    asyncio.run(use_and_dispose())
    asyncio.run(use_and_dispose())
    with asyncio.Runner() as runner:
        assert runner.run(one(engine)) == 1
        with asyncio.Runner() as other, pytest.raises(ConfigurationError, match="belongs to the event loop"):
            other.run(one(engine))
        runner.run(engine.dispose())


def test_the_pool_of_threads_does_not_fit_an_asyncio_engine(url: str) -> None:
    """It would block the loop: the error names the class to use."""
    with pytest.raises(exc.ArgumentError, match="use AsyncAdaptedResiliencePool for create_async_engine"):
        create_async_engine(url, poolclass=ResiliencePool)


@pytest.mark.servers
@pytest.mark.everywhere
async def test_tasks_share_few_connections_of_postgresql(postgres: PostgresServer) -> None:
    """A hundred queries run on two connections, also after the server has ended one of them."""
    engine = make(postgres.url, pool_size=2, max_overflow=0, pool_pre_ping=True, alive_bypass=0)

    async def pid() -> int:
        async with engine.connect() as connection:
            return int((await connection.execute(text("select pg_backend_pid()"))).scalar_one())

    pids = set(await asyncio.gather(*(pid() for _ in range(100))))
    assert len(pids) == 2
    other = make(postgres.url, isolation_level="AUTOCOMMIT")
    async with other.connect() as connection:
        await connection.execute(text("select pg_terminate_backend(:pid)"), {"pid": min(pids)})
    await other.dispose()
    assert len(set(await asyncio.gather(*(pid() for _ in range(100)))) - pids) == 1
    await engine.dispose()


@pytest.mark.servers
async def test_a_cancelled_query_leaves_no_reply(postgres: PostgresServer) -> None:
    """After cancellations at random moments of queries, each borrower gets the answer to its own question."""
    chance = random.Random(9)
    engine = make(postgres.url, pool_size=2, max_overflow=0)
    wrong: list[tuple[int, object]] = []

    async def ask(number: int) -> None:
        async with engine.connect() as connection:
            question = text("select cast(:n as int), pg_sleep(0.002)")
            row = (await connection.execute(question, {"n": number})).one()
            if row[0] != number:
                wrong.append((number, row))

    async def ask_and_cancel(number: int) -> None:
        task = asyncio.create_task(ask(number))
        await asyncio.sleep(chance.random() * 0.03)
        task.cancel()
        await asyncio.wait([task])

    await ask(1)
    await asyncio.gather(*(ask_and_cancel(number) for number in range(60)))
    await asyncio.gather(*(ask(number) for number in range(100, 120)))
    assert wrong == []
    assert snapshot(engine)["in_use"] == 0
    await engine.dispose()


@pytest.mark.servers
@pytest.mark.realtime
async def test_a_server_that_hangs_costs_one_limit_of_time(own_postgres: PostgresProcess) -> None:
    """A ping of a connection whose server process stands still ends after `validation_timeout`."""
    limits = {"alive_bypass": 0, "validation_timeout": 0.2}
    engine = make(own_postgres.url, pool_size=1, max_overflow=0, pool_pre_ping=True, **limits)
    async with engine.connect() as connection:
        hung = int((await connection.execute(text("select pg_backend_pid()"))).scalar_one())
    os.kill(hung, signal.SIGSTOP)
    try:
        before = time.monotonic()
        assert await one(engine) == 1
        assert time.monotonic() - before < 3
    finally:
        os.kill(hung, signal.SIGCONT)
    await engine.dispose()
