"""What happens to the instances while customers order: one is killed, another one is told to end."""

from __future__ import annotations

import asyncio
import contextlib
import signal

from resilience_demo._children_aio import Child
from resilience_demo.chain._cast_aio import Cast
from resilience_demo.chain._readiness_aio import readiness
from resilience_demo.chain._stage import Drain, Outage, Stage, View

__all__ = ("drain", "kill")

_UNREADY = 503
_GLANCE = 0.02
_PATIENCE = 15.0
"""Seconds an instance gets to come back, or to end: what has not happened then did not happen."""


async def kill(stage: Stage, view: View, cast: Cast, stock: Child) -> None:
    """Kill an instance of the stock, start it again after a while, and wait until it has booked something new."""
    before = cast.repeated
    stock.may_end = True
    outage = stage.outage = Outage(stock.name, stage.clock())
    view.news(outage.killed, f"kill -9 {stock.name}")
    await stock.kill()
    await asyncio.sleep(stage.script.away)
    successor = await cast.stock(stock.name)
    outage.started = stage.clock()
    view.news(outage.started, f"started again: {successor.words}")
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_PATIENCE):
            while not _has_booked(stage, outage):  # noqa: ASYNC110 - customers tell, one answer at a time
                await asyncio.sleep(_GLANCE)
            outage.booked = stage.clock()
            view.news(outage.booked, f"{stock.name} books again")
    outage.repeated = cast.repeated - before


def _has_booked(stage: Stage, outage: Outage) -> bool:
    return any(order.booked_by == outage.name and order.began >= outage.started for order in stage.record.orders)


async def drain(stage: Stage, view: View, cast: Cast, warehouse: Child) -> None:
    """Tell an instance of the warehouse to end, and watch how it does."""
    before = cast.repeated
    warehouse.may_end = True
    draining = stage.drain = Drain(warehouse.name, stage.clock())
    warehouse.process.send_signal(signal.SIGTERM)
    view.news(draining.told, f"SIGTERM to {warehouse.name}")
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_PATIENCE):
            while warehouse.process.returncode is None:
                await _look(stage, view, draining, warehouse.port)
                await asyncio.sleep(_GLANCE)
            draining.ended, draining.status = stage.clock(), warehouse.process.returncode
            view.news(draining.ended, f"{warehouse.name} has ended, with status {draining.status}")
    draining.repeated = cast.repeated - before


async def _look(stage: Stage, view: View, draining: Drain, port: int) -> None:
    if await readiness(port) != _UNREADY:
        return
    draining.accepted += 1
    if draining.accepted == 1:
        draining.unready = stage.clock()
        view.news(draining.unready, f"{draining.name} answers 503 to /readyz, and goes on serving")
