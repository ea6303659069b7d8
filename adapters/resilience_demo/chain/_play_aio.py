"""Runs the demo of three services: starts them, sends orders, kills and drains servers, judges the promises."""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
from pathlib import Path

import httpx2

from resilience.clock import monotonic
from resilience_demo._children_aio import START, BrokenStageError, Child, Children
from resilience_demo._tasks_aio import all_of, first_of, until_signalled
from resilience_demo.chain._audit import audit, noted
from resilience_demo.chain._crossing_aio import cross
from resilience_demo.chain._customers_aio import ORDERED, Customers
from resilience_demo.chain._incidents_aio import drain, kill, kill_journal
from resilience_demo.chain._launcher_aio import JOURNAL, STOCKS, WAREHOUSES, Launcher
from resilience_demo.chain._record import ChainRecord
from resilience_demo.chain._script import ChainScript
from resilience_demo.chain._service_aio import Service
from resilience_demo.chain._stage import ChainStage, ChainView
from resilience_demo.chain._verdict import judge

__all__ = ("play",)

_WARM_UP = 8
"""Orders before the demo counts, so that imports and first connections do not change the results."""
_CLIENT_TIMEOUT = 20.0
"""Seconds that a customer waits. Longer than the deadline of any server."""
_TICK = 1.0
_POLL_INTERVAL = 0.05


def play(script: ChainScript, view: ChainView) -> int:
    """Run `script`, show it in `view` and return the exit status."""
    return asyncio.run(until_signalled(_shown(ChainStage(script), view), view.interrupted))


async def _shown(stage: ChainStage, view: ChainView) -> int:
    try:
        await _perform(stage, view)
    except (BrokenStageError, httpx2.HTTPError) as error:
        view.failed(str(error))
        return 1
    criteria = judge(stage)
    view.ended(criteria)
    return 0 if all(criterion.is_met for criterion in criteria) else 1


async def _perform(stage: ChainStage, view: ChainView) -> None:
    with tempfile.TemporaryDirectory(prefix="resilience-demo-") as folder:
        async with Children() as children:
            with contextlib.closing(Launcher(children, Path(folder))) as launcher:
                await first_of(_run(stage, view, children, launcher), children.watch())


async def _run(stage: ChainStage, view: ChainView, children: Children, launcher: Launcher) -> None:
    instances = {name: launcher.ports[name] for name in WAREHOUSES}
    async with Service(
        instances, lambda name, is_ready: _report_readiness(stage, view, name, is_ready=is_ready)
    ) as service:
        servers = await _open(launcher, service)
        stage.servers = [child.description for child in children.running]
        stage.servers.append(f"service on 127.0.0.1:{service.port}, in front of {' and '.join(WAREHOUSES)}")
        async with _client(servers["shop"]) as http:
            await _first_customers(stage, service, http)
            view.opened(stage)
            stage.crossing = await cross(http, servers.values())
            view.crossed(stage.crossing)
            stage.before, before = audit(launcher.ledger, ORDERED), noted(launcher.journal_file)
            await _busy(stage, view, launcher, servers, http)
            stage.after, after = audit(launcher.ledger, ORDERED), noted(launcher.journal_file)
            stage.noted = {service: after[service] - before.get(service, 0) for service in after}


async def _open(launcher: Launcher, service: Service) -> dict[str, Child]:
    """Start all servers. The first stock creates the ledger, then the others start together."""
    first, *others = STOCKS
    started = await all_of(launcher.journal(), launcher.stock(first))
    shop = launcher.shop(f"http://127.0.0.1:{service.port}")
    started += await all_of(shop, *map(launcher.stock, others), *map(launcher.warehouse, WAREHOUSES))
    return {child.name: child for child in started}


async def _first_customers(stage: ChainStage, service: Service, http: httpx2.AsyncClient) -> None:
    """Wait until the service has found all instances ready, and `_WARM_UP` orders have succeeded together."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(START):
            while not service.is_complete:  # noqa: ASYNC110 - polls other processes
                await asyncio.sleep(_POLL_INTERVAL)
            while not await _all_sold(Customers(ChainRecord(), http, stage.clock)):  # noqa: ASYNC110 - also polls
                await asyncio.sleep(_POLL_INTERVAL)
            return
    raise BrokenStageError("the servers run, but no order succeeds")


async def _all_sold(customers: Customers) -> bool:
    return all(order.is_sold for order in await all_of(*[customers.order() for _ in range(_WARM_UP)]))


async def _busy(
    stage: ChainStage, view: ChainView, launcher: Launcher, servers: dict[str, Child], http: httpx2.AsyncClient
) -> None:
    """Send orders while the incidents happen. Return when every order has an answer."""
    stage.began = monotonic()
    customers = Customers(stage.record, http, stage.clock)
    view.customers(stage.script.rate)
    await first_of(
        _incidents(stage, view, launcher, servers, customers), customers.flow(stage.script.rate), _show(stage, view)
    )
    view.tick(stage.clock(), stage.record)


async def _incidents(
    stage: ChainStage, view: ChainView, launcher: Launcher, servers: dict[str, Child], customers: Customers
) -> None:
    await asyncio.sleep(stage.script.steady)
    await kill(stage, view, launcher, servers[STOCKS[0]])
    await asyncio.sleep(stage.script.rest)
    await kill_journal(stage, view, launcher, servers[JOURNAL])
    await asyncio.sleep(stage.script.rest)
    await drain(stage, view, launcher, servers[WAREHOUSES[0]])
    await asyncio.sleep(stage.script.rest)
    await customers.leave()


async def _show(stage: ChainStage, view: ChainView) -> None:
    while True:
        await asyncio.sleep(_TICK)
        view.tick(stage.clock(), stage.record)


def _report_readiness(stage: ChainStage, view: ChainView, name: str, *, is_ready: bool) -> None:
    if stage.began is not None:
        words = f"{name} gets connections again" if is_ready else f"{name} gets no more connections"
        view.news(stage.clock(), f"service: {words}")


def _client(shop: Child) -> httpx2.AsyncClient:
    limits = httpx2.Limits(max_connections=None, max_keepalive_connections=100)
    url = f"http://127.0.0.1:{shop.port}"
    return httpx2.AsyncClient(base_url=url, timeout=_CLIENT_TIMEOUT, limits=limits, trust_env=False)
