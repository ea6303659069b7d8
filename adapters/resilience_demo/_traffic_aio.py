"""The traffic: orders and readers at a fixed rate, and shoppers that wait for each answer.

The number in flight is bounded. An order whose answer has `Retry-After` is sent again once, after that time.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import httpx2

from resilience.clock import monotonic
from resilience_demo._record import CATALOGUES, GUARDED, PATIENCE, PLAIN, PRICES, TrafficAnswer, outcome_of
from resilience_demo._script import Phase
from resilience_demo._stage import Stage

__all__ = ("ORDER", "Traffic", "beats", "blamed", "code_of")

_ORDERS = {GUARDED: "/orders", PLAIN: "/plain/orders"}
_PAGES = {CATALOGUES[GUARDED]: "/catalogue", CATALOGUES[PLAIN]: "/plain/catalogue"}
_PATHS = {**_ORDERS, **_PAGES, PRICES: "/prices"}
ORDER = {"item": "tea", "quantity": 1}
CUSTOMER_PATIENCE = 2.5
"""Seconds after which a customer leaves without an answer: a little more than one call to the hanging provider."""


class Traffic:
    """Sends the load of the script to the shop at `http`, the same to both sides, and records every answer."""

    def __init__(self, stage: Stage, http: httpx2.AsyncClient, clock: Callable[[], float]) -> None:
        self._stage = stage
        self._http = http
        self._clock = clock

    async def flow(self) -> None:
        """Send requests until the task is cancelled."""
        script = self._stage.script
        async with asyncio.TaskGroup() as group:
            for side in _ORDERS:
                group.create_task(self._at_rate(side, script.rate, group))
                for _ in range(script.shoppers):
                    group.create_task(self._shop(side, group))
            for side in _PAGES:
                group.create_task(self._at_rate(side, script.readers, group))
            group.create_task(self._at_rate(PRICES, script.lookers, group))

    async def _at_rate(self, side: str, rate: float, group: asyncio.TaskGroup) -> None:
        """Send `rate` requests a second, independent of the answers."""
        for due in beats(monotonic(), 1 / rate):
            await asyncio.sleep(max(0.0, due - monotonic()))
            if self._stage.record.waiting[side] < self._stage.script.max_waiting:
                group.create_task(self._ask(side, group))
            else:
                self._stage.record.tallies[side, blamed(None, self._stage.phase)].unsent += 1

    async def _shop(self, side: str, group: asyncio.TaskGroup) -> None:
        """Send an order, wait for the answer, pause, and repeat."""
        while True:
            await self._ask(side, group)
            await asyncio.sleep(self._stage.script.pause)

    async def _ask(self, side: str, group: asyncio.TaskGroup) -> None:
        """Send a request and record its answer. The group sends the order again if the answer says when."""
        asked = self._stage.phase
        answer, retry_after = await self._answer(side)
        answer = answer._replace(phase=blamed(asked, self._stage.phase))
        self._stage.record.add(answer)
        if side in _ORDERS and retry_after is not None:
            group.create_task(self._again(answer, retry_after))

    async def _again(self, refused: TrafficAnswer, retry_after: float) -> None:
        """Send a refused order for the second time. It stays in the phase in which it was sent first."""
        await asyncio.sleep(retry_after)
        if self._stage.record.waiting[refused.side] < self._stage.script.max_waiting:
            self._stage.record.sent_again(refused)
            answer, _ = await self._answer(refused.side)
            self._stage.record.add(answer._replace(phase=refused.phase))

    async def _answer(self, side: str) -> tuple[TrafficAnswer, float | None]:
        """Return the answer to one request, still without a phase, and the seconds of its `Retry-After`."""
        record, began = self._stage.record, self._clock()
        record.waiting[side] += 1
        try:
            outcome, code, retry_after = await self._exchange(side)
        finally:
            record.waiting[side] -= 1
        return TrafficAnswer(side, "", began, self._clock() - began, outcome, code), retry_after

    async def _exchange(self, side: str) -> tuple[str, str, float | None]:
        try:
            if side in _ORDERS:
                response = await self._http.post(_PATHS[side], json=ORDER, timeout=CUSTOMER_PATIENCE)
            else:
                response = await self._http.get(_PATHS[side], timeout=PATIENCE)
        except httpx2.HTTPError as error:
            return "error", type(error).__name__, None
        code = "" if response.is_success else code_of(response)
        return outcome_of(response.status_code, code), code, _retry_after(response)


def _retry_after(response: httpx2.Response) -> float | None:
    """Return the seconds of `Retry-After`. None if the answer has no such header, or a date in it."""
    text = response.headers.get("retry-after", "")
    return float(text) if text.isascii() and text.isdigit() else None


def blamed(asked: Phase | None, answered: Phase | None) -> str:
    """Return the name of the phase to which an order belongs.

    An order belongs to the phase in which it was sent. If an outage began while it was in flight, it belongs to the
    phase in which its answer came.
    """
    went_down = answered is not None and answered.is_outage and asked is not None and not asked.is_outage
    phase = answered if went_down or asked is None else asked
    return "" if phase is None else phase.name


def code_of(response: httpx2.Response) -> str:
    """Return the code in an envelope, or an empty string if the body has none."""
    try:
        body: Any = response.json()
    except ValueError:
        return ""
    return str(body.get("code", "")) if isinstance(body, dict) else ""


def beats(start: float, interval: float) -> Iterator[float]:
    """Yield times without end, the first one at `start`, then one per interval."""
    return (start + number * interval for number in itertools.count())
