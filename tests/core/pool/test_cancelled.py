"""A cancellation between any two awaits of a borrow, a block, a start or a close loses nothing (L21)."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from lent import Lent, Maker

from resilience import AsyncPool, PoolError

Body = Callable[[AsyncPool[Lent]], Awaitable[object]]
LAST = 200  # a body that takes more steps than this hangs


async def pause(_connection: Lent) -> None:
    await asyncio.sleep(0)


async def block(pool: AsyncPool[Lent]) -> None:
    async with pool.connection() as connection:
        connection.use()
        try:
            await asyncio.sleep(0)
        finally:
            connection.leave()


async def failing_block(pool: AsyncPool[Lent]) -> None:
    with contextlib.suppress(ZeroDivisionError):
        async with pool.connection():
            await asyncio.sleep(0)
            raise ZeroDivisionError


async def lease(pool: AsyncPool[Lent]) -> None:
    lease = await pool.acquire()
    try:
        await asyncio.sleep(0)
    finally:
        await lease.release()


async def discarded(pool: AsyncPool[Lent]) -> None:
    lease = await pool.acquire()
    await lease.discard()


async def taken_away(pool: AsyncPool[Lent]) -> None:
    """Wait for a connection that another task gives back."""
    held = [await pool.acquire(), await pool.acquire()]

    async def give_back() -> None:
        await asyncio.sleep(0)
        await held[0].release()
        await held[1].release()

    giving = asyncio.create_task(give_back())
    try:
        await block(pool)
    finally:
        await giving


async def started(pool: AsyncPool[Lent]) -> None:
    await pool.start()


BODIES = [block, failing_block, lease, discarded, taken_away, started]
CALLBACKS: dict[str, dict[str, Any]] = {
    "plain": {},
    "checked": {"check": pause, "alive_bypass": 0},
    "reset": {"reset": pause, "close": pause},
    "all": {"check": pause, "reset": pause, "close": pause, "alive_bypass": 0, "initialization_fail_timeout": 1},
}


async def is_whole(pool: AsyncPool[Lent]) -> None:
    """Check that the pool lends as many connections as it may, each to one borrower, and gets all back."""
    await until_quiet(pool)
    leases = [await pool.acquire(timeout=1) for _ in range(pool.options.maximum_pool_size)]
    assert len({id(lease.connection) for lease in leases}) == len(leases)
    for each in leases:
        await each.release()
    await until_quiet(pool)


async def until_quiet(pool: AsyncPool[Lent]) -> None:
    for _ in range(LAST):
        figures = pool.snapshot()
        if not (figures["in_use"] or figures["waiting"] or figures["creating"]):
            return
        await asyncio.sleep(0)
    raise AssertionError(f"the pool does not come to rest: {pool.snapshot()}")


@pytest.mark.parametrize("warm", [False, True], ids=["empty", "warm"])
@pytest.mark.parametrize("callbacks", CALLBACKS)
@pytest.mark.parametrize("body", BODIES)
def test_a_cancellation_at_any_await_loses_no_connection(body: Body, callbacks: str, *, warm: bool) -> None:
    """Cancelled at each step in turn: the task ends as cancelled, and the pool is as good as new."""

    async def cancelled_at(step: int) -> bool:
        maker = Maker()
        pool = AsyncPool(maker.aconnect, maximum_pool_size=2, **CALLBACKS[callbacks])
        if warm:
            await is_whole(pool)
        task = asyncio.ensure_future(body(pool))
        for _ in range(step):
            await asyncio.sleep(0)
        is_over = task.done()
        task.cancel()
        outcome = (await asyncio.gather(task, return_exceptions=True))[0]
        assert isinstance(outcome, asyncio.CancelledError) is not is_over, "the cancellation was swallowed"
        await is_whole(pool)
        await pool.close(1)
        assert pool.snapshot()["total"] == 0
        return is_over

    async def every_step() -> None:
        for step in range(LAST):
            if await cancelled_at(step):
                return
        raise AssertionError("the body does not end")

    asyncio.run(every_step())


def test_a_cancelled_close_leaves_the_pool_closed() -> None:
    """Cancelled at each step in turn: the pool is closed, and closes each connection when it comes back."""

    async def cancelled_at(step: int) -> bool:
        maker = Maker()
        pool = AsyncPool(maker.aconnect, maximum_pool_size=2, close=slow_close)
        first, second = await pool.acquire(), await pool.acquire()
        await first.release()
        closing = asyncio.ensure_future(pool.close(30))
        for number in range(step):
            if number == 5:
                await second.release()
            await asyncio.sleep(0)
        is_over = closing.done()
        closing.cancel()
        await asyncio.gather(closing, return_exceptions=True)
        if step <= 5:
            await second.release()
        await pool.close(1)
        assert (pool.snapshot()["total"], pool.snapshot()["state"]) == (0, "closed")
        assert maker.open == []
        return is_over

    async def slow_close(connection: Lent) -> None:
        await asyncio.sleep(0)
        connection.close()

    async def every_step() -> None:
        for step in range(LAST):
            if await cancelled_at(step):
                return
        raise AssertionError("close does not end")

    asyncio.run(every_step())


class Storm:
    """Borrowers that use, break, drop, cancel and outwait the connections of a pool at random."""

    def __init__(self, seed: int, callbacks: str) -> None:
        self.chance = random.Random(seed)
        self.maker = Maker()
        self.swallowed = self.cancelled = self.served = 0
        options: dict[str, Any] = {}
        if callbacks != "plain":
            options = {"check": self.check, "reset": self.reset, "alive_bypass": 0}
        self.fails = callbacks == "failing"
        self.pool = AsyncPool(
            self.connect, close=self.close, maximum_pool_size=3, connect_timeout=0.2, connection_timeout=20, **options
        )

    async def connect(self) -> Lent:
        await asyncio.sleep(0)
        if self.fails and self.chance.random() < 0.1:
            raise ConnectionRefusedError("down")
        return self.maker()

    async def check(self, _connection: Lent) -> bool:
        await asyncio.sleep(0)
        return not (self.fails and self.chance.random() < 0.05)

    async def reset(self, _connection: Lent) -> None:
        await asyncio.sleep(0)
        if self.fails and self.chance.random() < 0.05:
            raise ConnectionResetError("gone")

    async def close(self, connection: Lent) -> None:
        await asyncio.sleep(0)
        connection.close()

    async def borrow(self) -> None:
        timeout = self.chance.choice([None, None, None, 0, 0.0005])
        async with self.pool.connection(timeout) as connection:
            connection.use()
            try:
                for _ in range(self.chance.randrange(3)):
                    await asyncio.sleep(0)
                if self.chance.random() < 0.02:
                    raise ZeroDivisionError
            finally:
                connection.leave()
        self.served += 1

    async def one(self) -> None:
        task = asyncio.ensure_future(self.borrow())
        is_cancelled = self.chance.random() < 0.3
        if is_cancelled:
            for _ in range(self.chance.randrange(12)):
                await asyncio.sleep(0)
            is_cancelled = task.cancel()
        outcome = (await asyncio.gather(task, return_exceptions=True))[0]
        if isinstance(outcome, BaseException) and not isinstance(
            outcome, PoolError | ZeroDivisionError | asyncio.CancelledError
        ):
            raise outcome
        self.cancelled += is_cancelled
        # An error of the block that was on its way when the cancellation came is raised as it is.
        self.swallowed += is_cancelled and outcome is None

    async def rage(self, tasks: int) -> None:
        for _ in range(tasks // 100):
            async with asyncio.TaskGroup() as group:
                for _ in range(100):
                    group.create_task(self.one())


@pytest.mark.parametrize("callbacks", ["plain", "checked", "failing"])
def test_a_storm_of_tasks_loses_no_connection(callbacks: str) -> None:
    """Of 15,000 tasks many are cancelled: no connection is lost or lent twice, and no cancellation is swallowed."""
    storm = Storm(7, callbacks)

    async def story() -> None:
        await storm.rage(5_000)
        assert storm.served > 1_000
        assert storm.cancelled > 500
        assert storm.swallowed == 0
        await is_whole(storm.pool)
        figures = storm.pool.snapshot()
        assert figures["total"] == figures["idle"] == len(storm.maker.open) <= 3
        await storm.pool.close()
        assert storm.maker.open == []

    asyncio.run(story())
