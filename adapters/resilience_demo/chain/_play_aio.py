"""The play: start the servers, let the customers in, kill one instance, drain another, count, judge."""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
from pathlib import Path

import httpx

from resilience.clock import monotonic
from resilience_demo._children_aio import START, BrokenStageError, Child, Children
from resilience_demo._tasks_aio import all_of, first_of, until_signalled
from resilience_demo.chain._audit import audit
from resilience_demo.chain._cast_aio import STOCKS, WAREHOUSES, Cast
from resilience_demo.chain._crossing_aio import cross
from resilience_demo.chain._customers_aio import ORDERED, Customers
from resilience_demo.chain._incidents_aio import drain, kill
from resilience_demo.chain._record import Record
from resilience_demo.chain._script import Script
from resilience_demo.chain._service_aio import Service
from resilience_demo.chain._stage import Stage, View
from resilience_demo.chain._verdict import judge

__all__ = ("play",)

_FIRST = 8
"""Orders answered before anything is counted: imports and first connections are no part of the story."""
_PATIENCE = 20.0
"""Seconds a customer waits: more than any server is given."""
_TICK = 1.0
_GLANCE = 0.05


def play(script: Script, view: View) -> int:
    """Perform `script` before `view` and return the exit status."""
    return asyncio.run(until_signalled(_shown(Stage(script), view), view.interrupted))


async def _shown(stage: Stage, view: View) -> int:
    try:
        await _perform(stage, view)
    except (BrokenStageError, httpx.HTTPError) as error:
        view.failed(str(error))
        return 1
    criteria = judge(stage)
    view.ended(criteria)
    return 0 if all(criterion.is_met for criterion in criteria) else 1


async def _perform(stage: Stage, view: View) -> None:
    with tempfile.TemporaryDirectory(prefix="resilience-demo-") as folder:
        async with Children() as children:
            with contextlib.closing(Cast(children, Path(folder))) as cast:
                await first_of(_all_of_it(stage, view, children, cast), children.watch())


async def _all_of_it(stage: Stage, view: View, children: Children, cast: Cast) -> None:
    instances = {name: cast.ports[name] for name in WAREHOUSES}
    async with Service(instances, lambda name, is_ready: _tell(stage, view, name, is_ready=is_ready)) as service:
        servers = await _open(cast, service)
        stage.servers = [child.words for child in children.running]
        stage.servers.append(f"service on 127.0.0.1:{service.port}, in front of {' and '.join(WAREHOUSES)}")
        async with _client(servers["shop"]) as http:
            await _first_customers(stage, service, http)
            view.opened(stage)
            stage.crossing = await cross(http, servers.values())
            view.crossed(stage.crossing)
            stage.before = audit(cast.ledger, ORDERED)
            await _busy(stage, view, cast, servers, http)
            stage.after = audit(cast.ledger, ORDERED)


async def _open(cast: Cast, service: Service) -> dict[str, Child]:
    """Start all servers: the first one makes the ledger, the others come at once."""
    first, *others = STOCKS
    started = [await cast.stock(first)]
    shop = cast.shop(f"http://127.0.0.1:{service.port}")
    started += await all_of(shop, *map(cast.stock, others), *map(cast.warehouse, WAREHOUSES))
    return {child.name: child for child in started}


async def _first_customers(stage: Stage, service: Service, http: httpx.AsyncClient) -> None:
    """Wait until the service knows all instances, and some orders in a row have gone well."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(START):
            while not service.is_complete:  # noqa: ASYNC110 - other processes tell, and only when asked
                await asyncio.sleep(_GLANCE)
            while not await _all_sold(Customers(Record(), http, stage.clock)):  # noqa: ASYNC110 - as above
                await asyncio.sleep(_GLANCE)
            return
    raise BrokenStageError("the servers run, and nobody is served")


async def _all_sold(customers: Customers) -> bool:
    return all(order.is_sold for order in await all_of(*[customers.order() for _ in range(_FIRST)]))


async def _busy(stage: Stage, view: View, cast: Cast, servers: dict[str, Child], http: httpx.AsyncClient) -> None:
    """Let customers in, and go on until every one of them has an answer."""
    stage.began = monotonic()
    customers = Customers(stage.record, http, stage.clock)
    view.customers(stage.script.rate)
    await first_of(
        _incidents(stage, view, cast, servers, customers), customers.flow(stage.script.rate), _show(stage, view)
    )
    view.tick(stage.clock(), stage.record)


async def _incidents(stage: Stage, view: View, cast: Cast, servers: dict[str, Child], customers: Customers) -> None:
    await asyncio.sleep(stage.script.steady)
    await kill(stage, view, cast, servers[STOCKS[0]])
    await asyncio.sleep(stage.script.rest)
    await drain(stage, view, cast, servers[WAREHOUSES[0]])
    await asyncio.sleep(stage.script.rest)
    await customers.leave()


async def _show(stage: Stage, view: View) -> None:
    while True:
        await asyncio.sleep(_TICK)
        view.tick(stage.clock(), stage.record)


def _tell(stage: Stage, view: View, name: str, *, is_ready: bool) -> None:
    if stage.began is not None:
        words = f"{name} gets connections again" if is_ready else f"{name} gets no more connections"
        view.news(stage.clock(), f"service: {words}")


def _client(shop: Child) -> httpx.AsyncClient:
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=100)
    url = f"http://127.0.0.1:{shop.port}"
    return httpx.AsyncClient(base_url=url, timeout=_PATIENCE, limits=limits, trust_env=False)
