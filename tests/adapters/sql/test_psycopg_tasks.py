"""Pools of psycopg connections to a real PostgreSQL, for tasks."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import time
from collections.abc import AsyncIterator
from typing import Any

import psycopg
import pytest
from postgres_process import PostgresProcess, PostgresServer
from psycopg.pq import TransactionStatus
from psycopg.rows import dict_row

from resilience import AsyncPool
from resilience_sql import aio_psycopg_connector

pytestmark = pytest.mark.servers

PoolOfConnections = AsyncPool[psycopg.AsyncConnection[Any]]


@pytest.fixture
async def pool(postgres: PostgresServer) -> AsyncIterator[PoolOfConnections]:
    async with AsyncPool(aio_psycopg_connector(postgres.conninfo), maximum_pool_size=1, alive_bypass=0) as made:
        yield made


async def divide_by_zero(pool: PoolOfConnections) -> None:
    async with pool.connection() as connection:
        await connection.execute("select 1/0")


@pytest.mark.everywhere
async def test_a_connection_comes_back_clean(pool: PoolOfConnections) -> None:
    """The transaction is rolled back and the settings are set back, also after an error of the block."""
    async with pool.connection() as connection:
        first = connection.info.backend_pid
        await connection.set_read_only(True)
        connection.row_factory = dict_row
        await connection.execute("select 1")
    async with pool.connection() as connection:
        assert connection.read_only is None
        assert await (await connection.execute("select 1")).fetchone() == (1,)
    with pytest.raises(psycopg.errors.DivisionByZero):
        await divide_by_zero(pool)
    async with pool.connection() as connection:
        assert connection.info.transaction_status is TransactionStatus.IDLE
        assert connection.info.backend_pid == first


@pytest.mark.everywhere
async def test_a_cancelled_query_leaves_no_reply(postgres: PostgresServer) -> None:
    """After cancellations at random moments of queries, each borrower gets the answer to its own question."""
    chance = random.Random(5)
    async with AsyncPool(aio_psycopg_connector(postgres.conninfo), maximum_pool_size=2) as pool:
        wrong: list[tuple[int, object]] = []

        async def ask(number: int) -> None:
            async with pool.connection() as connection:
                cursor = await connection.execute("select %s::int, pg_sleep(0.002)", (number,))
                row: Any = await cursor.fetchone()
                if row[0] != number:
                    wrong.append((number, row))

        async def ask_and_cancel(number: int) -> bool:
            task = asyncio.create_task(ask(number))
            await asyncio.sleep(chance.random() * 0.02)
            task.cancel()
            await asyncio.wait([task])
            return task.cancelled()

        cancelled = await asyncio.gather(*(ask_and_cancel(number) for number in range(60)))
        assert any(cancelled)
        await asyncio.gather(*(ask(number) for number in range(100, 120)))
        assert wrong == []
        assert pool.snapshot()["in_use"] == 0


async def test_a_connection_that_the_server_ended_is_replaced(
    pool: PoolOfConnections, postgres: PostgresServer
) -> None:
    """A borrower gets a connection that works."""
    async with pool.connection() as connection:
        first = connection.info.backend_pid
    async with await psycopg.AsyncConnection.connect(postgres.conninfo, autocommit=True) as other:
        await other.execute("select pg_terminate_backend(%s)", (first,))
    async with pool.connection() as connection:
        assert await (await connection.execute("select 1")).fetchone() == (1,)
        assert connection.info.backend_pid != first


@pytest.mark.realtime
async def test_a_server_that_hangs_costs_one_limit_of_time(own_postgres: PostgresProcess) -> None:
    """A check of a connection whose server process stands still ends after `validation_timeout`."""
    connector = aio_psycopg_connector(own_postgres.conninfo)
    async with AsyncPool(connector, maximum_pool_size=1, alive_bypass=0, validation_timeout=0.2) as pool:
        async with pool.connection() as connection:
            hung = connection.info.backend_pid
        os.kill(hung, signal.SIGSTOP)
        try:
            before = time.monotonic()
            async with pool.connection() as connection:
                assert connection.info.backend_pid != hung
            assert time.monotonic() - before < 3
        finally:
            os.kill(hung, signal.SIGCONT)
