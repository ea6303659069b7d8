"""Runs the demo: starts the servers, sends the traffic, breaks and repairs the provider, judges the promises."""

from __future__ import annotations

import asyncio
import contextlib
import os

import httpx2

from resilience.clock import Clock, monotonic
from resilience_demo import _needs
from resilience_demo._children_aio import START, BrokenStageError, Child, Children
from resilience_demo._script import Phase, Script, environment
from resilience_demo._stage import Stage, View
from resilience_demo._tasks_aio import first_of, until_signalled
from resilience_demo._traffic_aio import ORDER, Traffic
from resilience_demo._verdict import Criterion, judge

__all__ = ("play",)

_TICK = 0.25
_LAST_REPORT = 0.3
"""Seconds for the last report of the shop to arrive."""
_CLIENT_TIMEOUT = 10.0
_WARM_UP = ("/orders", "/plain/orders") * 5
"""Orders before the demo counts, so that imports and first connections do not change the latencies."""


def play(script: Script, view: View) -> int:
    """Run `script`, show it in `view` and return the exit status."""
    return asyncio.run(until_signalled(_shown(script, view), view.interrupted))


async def _shown(script: Script, view: View) -> int:
    try:
        criteria = await _perform(Stage(script), view)
    except (BrokenStageError, httpx2.HTTPError) as error:
        view.failed(str(error))
        return 1
    finally:
        view.close()
    return 0 if all(criterion.is_met for criterion in criteria) else 1


async def _perform(stage: Stage, view: View) -> list[Criterion]:
    async with Children() as children:
        provider = await children.serve("provider", _needs.example("flaky_upstream.py"))
        shop = await _open_shop(stage, children, provider)
        stage.servers = [child.description for child in children.running]
        await first_of(_ready(shop), children.watch())
        view.opened(stage)
        await _acts(stage, view, children, provider, shop)
    criteria = judge(stage)
    view.ended(stage, criteria)
    return criteria


async def _open_shop(stage: Stage, children: Children, provider: Child) -> Child:
    binary = _needs.valkey_binary()
    valkey = None if binary is None else await children.valkey(binary)
    stage.state = "in the shop's memory (no Valkey here)" if valkey is None else "in Valkey"
    url = None if valkey is None else f"redis://127.0.0.1:{valkey.port}/0"
    settings = environment(os.environ, stage.script, url)
    settings["SHOP_PROVIDER_URL"] = f"http://127.0.0.1:{provider.port}"
    return await children.serve("shop", _needs.example("fastapi_shop.py"), "payments", environ=settings)


async def _ready(shop: Child) -> None:
    """Wait until the shop reports that it has started, and send it the orders of the warm-up."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(START), _client(shop) as http:
            while not await _has_started(http):  # noqa: ASYNC110 - polls another process
                await asyncio.sleep(0.05)
            for path in _WARM_UP:
                await http.post(path, json=ORDER)
            return
    raise BrokenStageError(shop.failure())


async def _has_started(http: httpx2.AsyncClient) -> bool:
    with contextlib.suppress(httpx2.HTTPError):
        return (await http.get("/startupz")).is_success
    return False


async def _acts(stage: Stage, view: View, children: Children, provider: Child, shop: Child) -> None:
    """Run the phases, the traffic and the view together until the last phase ends or a server fails."""
    start = monotonic()

    def clock() -> float:
        return monotonic() - start

    async with _client(provider) as admin, _client(shop) as http:
        await first_of(
            _direct(stage, view, admin, clock),
            Traffic(stage, http, clock).flow(),
            _listen(stage, view, shop, start),
            _show(stage, view, clock),
            children.watch(),
        )


async def _direct(stage: Stage, view: View, admin: httpx2.AsyncClient, clock: Clock) -> None:
    for phase in stage.script.phases:
        await _begin(stage, phase, admin, clock)
        view.phase(stage)
        await asyncio.sleep(phase.seconds)
    await asyncio.sleep(_LAST_REPORT)


async def _begin(stage: Stage, phase: Phase, admin: httpx2.AsyncClient, clock: Clock) -> None:
    stage.marks[phase.name] = clock()
    stage.phase = phase
    (await admin.put(f"/admin/mode/{phase.mode}")).raise_for_status()


async def _listen(stage: Stage, view: View, shop: Child, start: float) -> None:
    async for line in shop.lines():
        for transition in stage.pipeline.read_line(line, start):
            view.news(transition)
    await asyncio.Event().wait()  # the shop has ended: `watch` raises the reason


async def _show(stage: Stage, view: View, clock: Clock) -> None:
    while True:
        stage.elapsed = clock()
        view.tick(stage)
        await asyncio.sleep(_TICK)


def _client(server: Child) -> httpx2.AsyncClient:
    limits = httpx2.Limits(max_connections=None, max_keepalive_connections=100)
    url = f"http://127.0.0.1:{server.port}"
    return httpx2.AsyncClient(base_url=url, timeout=_CLIENT_TIMEOUT, limits=limits, trust_env=False)
