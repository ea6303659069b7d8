"""The traffic: orders at a fixed rate, and shoppers that wait for each answer. The number in flight is bounded."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import httpx2

from resilience.clock import monotonic
from resilience_demo._record import GUARDED, PLAIN, PRICES, TrafficAnswer, outcome_of
from resilience_demo._script import Phase
from resilience_demo._stage import Stage

__all__ = ("ORDER", "Traffic", "beats", "blamed", "code_of")

_PATHS = {GUARDED: "/orders", PLAIN: "/plain/orders", PRICES: "/prices"}
ORDER = {"item": "tea", "quantity": 1}


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
            for side in (GUARDED, PLAIN):
                group.create_task(self._at_rate(side, script.rate, group))
                for _ in range(script.shoppers):
                    group.create_task(self._shop(side))
            group.create_task(self._at_rate(PRICES, script.lookers, group))

    async def _at_rate(self, side: str, rate: float, group: asyncio.TaskGroup) -> None:
        """Send `rate` requests a second, independent of the answers."""
        for due in beats(monotonic(), 1 / rate):
            await asyncio.sleep(max(0.0, due - monotonic()))
            if self._stage.record.waiting[side] < self._stage.script.max_waiting:
                group.create_task(self._ask(side))
            else:
                self._stage.record.tallies[side, blamed(None, self._stage.phase)].unsent += 1

    async def _shop(self, side: str) -> None:
        """Send a request, wait for the answer, pause, and repeat."""
        while True:
            await self._ask(side)
            await asyncio.sleep(self._stage.script.pause)

    async def _ask(self, side: str) -> None:
        record, asked, began = self._stage.record, self._stage.phase, self._clock()
        record.waiting[side] += 1
        try:
            outcome, code = await self._answer(side)
        finally:
            record.waiting[side] -= 1
        phase = blamed(asked, self._stage.phase)
        record.add(TrafficAnswer(side, phase, began, self._clock() - began, outcome, code))

    async def _answer(self, side: str) -> tuple[str, str]:
        method, body = ("GET", None) if side == PRICES else ("POST", ORDER)
        try:
            response = await self._http.request(method, _PATHS[side], json=body)
        except httpx2.HTTPError as error:
            return "error", type(error).__name__
        code = "" if response.is_success else code_of(response)
        return outcome_of(response.status_code, code), code


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
