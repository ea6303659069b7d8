"""Asking Redis and awaiting the answer: all who ask in one turn of an event loop share one round trip.

A busy server has several requests in hand in each turn, and a round trip costs its process more than the rest of
a limiter does. Nobody waits for company: what was asked in one turn is sent in the next.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterable
from contextvars import Context
from typing import TYPE_CHECKING, Any

from resilience.redis import Attempt
from resilience.redis._script_aio import run_all_awaiting

if TYPE_CHECKING:
    from resilience.ratelimit._decision import Decision
    from resilience.ratelimit._redis import RedisLedger, RedisStore
    from resilience.redis._machine import Permit
    from resilience.redis._script_aio import Question

__all__ = ("take",)


async def take(ledger: RedisLedger, key: str, cost: int, allowance: float) -> Decision:
    """Pay `cost` tokens on Redis, or decide alone while it is away. Never raises because of Redis."""
    redis_key, arguments = ledger.question(key, cost, allowance)
    permit = ledger.store.outage.admit()
    if permit is not None:
        trip = _trip(ledger.store, permit)  # held here: a loop keeps no task alive by itself
        decision = await trip.join(ledger, redis_key, arguments, cost)
        if decision is not None:
            return decision
    return ledger.alone(key, cost, allowance)


def _trip(store: RedisStore, permit: Permit) -> Trip:
    """Return the round trip this turn of the loop is about to make."""
    loop = asyncio.get_running_loop()
    trip: Trip | None = store.trips.get(loop)
    if trip is None or trip.permit is not permit:
        trip = Trip(store, permit, loop)
    return trip


class Line:
    """Those who want the same of the same bucket: the first ones get it."""

    __slots__ = ("_arguments", "_cost", "_key", "_ledger", "_waiting")

    def __init__(self, ledger: RedisLedger, redis_key: bytes, arguments: tuple[int, ...], cost: int) -> None:
        self._ledger, self._key, self._arguments, self._cost = ledger, redis_key, arguments, cost
        self._waiting: list[asyncio.Future[Decision | None]] = []

    def join(self, waiting: asyncio.Future[Decision | None]) -> None:
        """Stand at the end."""
        self._waiting.append(waiting)

    def question(self) -> Question | None:
        """Return what to ask for those who have not been cancelled meanwhile, or None where all have."""
        self._waiting = [each for each in self._waiting if not each.done()]
        return (self._key, (*self._arguments, len(self._waiting))) if self._waiting else None

    def decisions(self, reply: Any) -> list[Decision]:
        """Return what was decided, in the order of the line."""
        return self._ledger.answers(reply, self._cost, len(self._waiting))

    def settle(self, decisions: Iterable[Decision | None]) -> None:
        """Let everybody go."""
        for waiting, decision in zip(self._waiting, decisions, strict=False):
            if not waiting.done():
                waiting.set_result(decision)


class Trip:
    """One round trip, and who waits for it."""

    __slots__ = ("_lines", "_loop", "_store", "_task", "permit")

    def __init__(self, store: RedisStore, permit: Permit, loop: asyncio.AbstractEventLoop) -> None:
        self.permit = permit
        self._store = store
        self._loop = loop
        self._lines: dict[tuple[bytes, tuple[int, ...]], Line] = {}
        store.share(loop, self)
        # Not by the loop's task factory: an eager one would depart at once, with nobody aboard. And whose turn it was
        # must not matter to the others: no deadline, request or span of his goes along (L19).
        self._task = asyncio.Task(self._ask(), loop=loop, context=Context())
        self._task.add_done_callback(self._settle)

    def join(
        self, ledger: RedisLedger, redis_key: bytes, arguments: tuple[int, ...], cost: int
    ) -> asyncio.Future[Decision | None]:
        """Stand in line; what is returned resolves to a decision, or to None where Redis does not answer."""
        line = self._lines.get((redis_key, arguments))
        if line is None:
            line = self._lines[redis_key, arguments] = Line(ledger, redis_key, arguments, cost)
        waiting: asyncio.Future[Decision | None] = self._loop.create_future()
        line.join(waiting)
        return waiting

    async def _ask(self) -> None:
        """Make the trip. Whom it brings nothing, `_settle` lets go."""
        store = self._store
        store.depart(self._loop, self)
        asked = {line: question for line in self._lines.values() if (question := line.question()) is not None}
        with Attempt(store.outage, self.permit):
            # Redis answers a command at a time: connecting, waiting for a connection and the replies share one bound.
            async with asyncio.timeout(store.connection.options.timeout):
                replies = await run_all_awaiting(store.script, store.connection.aio, list(asked.values()))
            for line, reply in zip(asked, replies, strict=True):
                line.settle(line.decisions(reply))

    def _settle(self, _task: asyncio.Task[None]) -> None:
        """Let those go who have no answer: Redis gave none, or the task was cancelled, perhaps before it began."""
        self._store.depart(self._loop, self)
        for line in self._lines.values():
            line.settle(itertools.repeat(None))
