"""Asking Redis and awaiting the answer: all callers that ask in one turn of an event loop share one round trip.

A busy server has several requests in hand in each turn, and a round trip costs its process more than the rest of
a limiter does. No caller waits for company: the questions of one turn are sent in the next. If no connection is free
then, the round trip waits for one, and more callers may join it.
"""

from __future__ import annotations

import asyncio
from contextvars import Context
from typing import TYPE_CHECKING, Any

from resilience.ratelimit._batch import Batch
from resilience.redis import Attempt
from resilience.redis._exchange_aio import talk_awaiting
from resilience.running import needs_asyncio

if TYPE_CHECKING:
    from redis.asyncio.connection import AbstractConnection

    from resilience.ratelimit._decision import Decision
    from resilience.ratelimit._redis import RedisLedger, RedisStore
    from resilience.redis._machine import Permit

__all__ = ("take",)


async def take(ledger: RedisLedger, key: str, cost: int, allowance: float) -> Decision:
    """Pay `cost` tokens on Redis, or decide alone while it is away. Never raises because of Redis."""
    try:  # `running_loop`, written out; also while Redis is away: a call must not depend on that
        loop = asyncio.get_running_loop()
    except RuntimeError:
        raise needs_asyncio(f"RateLimit {ledger.name!r} on a RedisStore") from None
    redis_key, arguments = ledger.question(key, cost, allowance)
    permit = ledger.store.outage.admit()
    if permit is not None:
        trip = _trip(ledger.store, permit, loop)  # held here: a loop keeps no task alive by itself
        decision = await trip.join(ledger, redis_key, arguments, cost)
        if decision is not None:
            return decision
    return ledger.alone(key, cost, allowance)


def _trip(store: RedisStore, permit: Permit, loop: asyncio.AbstractEventLoop) -> Trip:
    """Return the round trip that the next caller of this loop joins."""
    trip: Trip | None = store.trips.get(loop)
    if trip is None or trip.permit is not permit or trip.is_full:
        trip = Trip(store, permit, loop)
    return trip


class Trip(Batch):
    """One round trip, and the tasks that wait for it."""

    __slots__ = ("_loop", "_store", "_task")

    def __init__(self, store: RedisStore, permit: Permit, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(permit)
        self._store = store
        self._loop = loop
        store.share(loop, self)
        # Not by the loop's task factory: an eager one would depart at once, with no caller aboard. And whose turn it
        # was must not matter to the others: no deadline, request or span of that caller goes along (L19).
        self._task = asyncio.Task(self._make(), loop=loop, context=Context())
        self._task.add_done_callback(self._settle)

    def join(
        self, ledger: RedisLedger, redis_key: bytes, arguments: tuple[int, ...], cost: int
    ) -> asyncio.Future[Decision | None]:
        """Join; the future resolves to a decision, or to None if Redis does not answer."""
        waiting: asyncio.Future[Decision | None] = self._loop.create_future()
        self.add(ledger, redis_key, arguments, cost, waiting)
        return waiting

    async def _make(self) -> None:
        """Make the trip. `_settle` lets those callers go on that get no answer."""
        with Attempt(self._store.outage, self.permit):
            self.answer(await self._store.connection.aio_pool.ask(self._ask))

    async def _ask(self, connection: AbstractConnection) -> list[Any]:
        self._store.depart(self._loop, self)
        questions = self.questions()
        return await talk_awaiting(self._store.script, questions)(connection) if questions else []

    def _settle(self, _task: asyncio.Task[None]) -> None:
        """Let those go who have no answer: Redis gave none, or the task was cancelled, perhaps before it began."""
        self._store.depart(self._loop, self)
        self.let_go()
