"""The customers: orders at a fixed rate, independent of the answers. A customer never repeats an order."""

from __future__ import annotations

import asyncio
import uuid

import httpx2

from resilience.clock import Clock, monotonic
from resilience_demo._traffic_aio import beats, code_of
from resilience_demo.chain._record import ChainRecord, Order

__all__ = ("ORDERED", "Customers")

ORDERED = "tea"


class Customers:
    """Sends orders to the shop at `http` and records every answer."""

    def __init__(self, record: ChainRecord, http: httpx2.AsyncClient, clock: Clock) -> None:
        self._record = record
        self._http = http
        self._clock = clock
        self._is_sending = True

    async def flow(self, rate: float) -> None:
        """Send `rate` orders a second until the task is cancelled."""
        async with asyncio.TaskGroup() as group:
            for due in beats(monotonic(), 1 / rate):
                await asyncio.sleep(max(0.0, due - monotonic()))
                if self._is_sending:
                    group.create_task(self.order())

    async def leave(self) -> None:
        """Stop sending and wait until every order has its answer. The timeout of the client bounds the wait."""
        self._is_sending = False
        while self._record.waiting:  # noqa: ASYNC110 - polls a count that only falls
            await asyncio.sleep(0.01)

    async def order(self) -> Order:
        """Send one order, without a retry."""
        began = self._clock()
        self._record.sent += 1
        answer: tuple[int, str, str, str] = (0, "cancelled", "", "")
        try:
            answer = await self._answer()
        finally:
            order = Order(began, self._clock(), *answer)
            self._record.orders.append(order)
        return order

    async def _answer(self) -> tuple[int, str, str, str]:
        try:
            response = await self._http.put(f"/parcels/{uuid.uuid4()}", json={"item": ORDERED})
        except httpx2.HTTPError as error:
            return 0, type(error).__name__, "", ""
        if not response.is_success:
            return response.status_code, code_of(response), "", ""
        parcel = response.json()
        return response.status_code, "", parcel["packed_by"], parcel["booked_by"]
