"""The incidents while customers order: a kill of one instance, one of the journal, and a drain of another instance."""

from __future__ import annotations

import asyncio
import contextlib
import signal

from resilience_demo._children_aio import Child
from resilience_demo.chain._launcher_aio import Launcher
from resilience_demo.chain._readiness_aio import readiness
from resilience_demo.chain._stage import ChainStage, ChainView, Drain, JournalOutage, Outage

__all__ = ("drain", "kill", "kill_journal")

_UNREADY = 503
_POLL_INTERVAL = 0.02
_MAX_WAIT = 15.0
"""Seconds within which an instance must book again, or end. Otherwise the promise is broken."""


async def kill(stage: ChainStage, view: ChainView, launcher: Launcher, stock: Child) -> None:
    """Kill an instance of the stock, start a successor, and wait until the successor has booked a new order."""
    before = launcher.repeated
    stock.may_end = True
    outage = stage.outage = Outage(stock.name, stage.clock())
    view.news(outage.killed, f"kill -9 {stock.name}")
    await stock.kill()
    await asyncio.sleep(stage.script.away)
    successor = await launcher.stock(stock.name)
    outage.started = stage.clock()
    view.news(outage.started, f"started again: {successor.description}")
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_MAX_WAIT):
            while not _has_booked(stage, outage):  # noqa: ASYNC110 - polls the answers of the customers
                await asyncio.sleep(_POLL_INTERVAL)
            outage.booked = stage.clock()
            view.news(outage.booked, f"{stock.name} books again")
    outage.repeated = launcher.repeated - before


def _has_booked(stage: ChainStage, outage: Outage) -> bool:
    return any(order.booked_by == outage.name and order.began >= outage.started for order in stage.record.orders)


async def kill_journal(stage: ChainStage, view: ChainView, launcher: Launcher, journal: Child) -> None:
    """Kill the journal, start its successor, and wait until an order has succeeded again."""
    before = launcher.repeated
    journal.may_end = True
    outage = stage.journal_outage = JournalOutage(stage.clock())
    view.news(outage.killed, "kill -9 journal: no service can note a parcel")
    await journal.kill()
    await asyncio.sleep(stage.script.away)
    successor = await launcher.journal()
    outage.started = stage.clock()
    view.news(outage.started, f"started again: {successor.description}")
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_MAX_WAIT):
            while not any(order.is_sold and order.ended >= outage.started for order in stage.record.orders):  # noqa: ASYNC110 - polls the answers of the customers
                await asyncio.sleep(_POLL_INTERVAL)
            outage.noted = stage.clock()
            view.news(outage.noted, "orders are noted again")
    outage.repeated = launcher.repeated - before


async def drain(stage: ChainStage, view: ChainView, launcher: Launcher, warehouse: Child) -> None:
    """Send SIGTERM to an instance of the warehouse, and record its readiness until it ends."""
    before = launcher.repeated
    warehouse.may_end = True
    draining = stage.drain = Drain(warehouse.name, stage.clock())
    warehouse.process.send_signal(signal.SIGTERM)
    view.news(draining.signalled, f"SIGTERM to {warehouse.name}")
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_MAX_WAIT):
            while warehouse.process.returncode is None:
                await _check_readiness(stage, view, draining, warehouse.port)
                await asyncio.sleep(_POLL_INTERVAL)
            draining.ended, draining.status = stage.clock(), warehouse.process.returncode
            view.news(draining.ended, f"{warehouse.name} has ended, with status {draining.status}")
    draining.repeated = launcher.repeated - before


async def _check_readiness(stage: ChainStage, view: ChainView, draining: Drain, port: int) -> None:
    if await readiness(port) != _UNREADY:
        return
    draining.accepted += 1
    if draining.accepted == 1:
        draining.unready = stage.clock()
        view.news(draining.unready, f"{draining.name} answers 503 to /readyz, and goes on serving")
