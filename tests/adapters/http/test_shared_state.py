"""Clients own no state: circuits, limits and bulkheads are those of the toolkit, the name and the host."""

from __future__ import annotations

import asyncio
import gc
import json
import threading
from collections.abc import Callable
from typing import Any

import httpx
import pytest
import requests
from http_callers import SyncCaller
from http_upstreams import Upstream

from resilience import BulkheadFullError, CircuitOpenError, RateLimitedError, Resilience
from resilience.retry import no_waits
from resilience_http import AsyncResilienceTransport, ResilienceAdapter, ResilienceTransport

Make = Callable[..., SyncCaller]
SHOP = {"pipeline__shop__breaker__fail_max": "3", "pipeline__shop__retry__enabled": "false"}


@pytest.fixture
def shop(toolkit: Callable[..., Resilience]) -> Resilience:
    return toolkit(**SHOP)


def outcomes(make: Callable[[], SyncCaller], url: str, calls: int = 20) -> list[str]:
    """Make a client for each request, and return what each of them met."""
    met: list[str] = []
    for _ in range(calls):
        client = make()
        try:
            met.append(str(client.get(url).status))
        except Exception as error:  # noqa: BLE001 - the test compares the class
            met.append(type(error).__name__)
    return met


def test_a_client_for_each_request_opens_its_circuit(caller: Make, upstream: Upstream, shop: Resilience) -> None:
    """Law: with `FAIL_MAX=3` a dead upstream sees three requests, and the snapshot of the name shows it."""
    for _ in range(20):
        upstream.answers(503)
    with no_waits():
        met = outcomes(lambda: caller(shop, pipeline="shop"), upstream.url)
    assert met[:3] == ["503"] * 3
    assert set(met[3:]) != {"503"}
    assert len(upstream.seen) == 3
    host = upstream.url.removeprefix("http://")
    (breaker,) = shop.pipeline("shop").snapshot()["clients"]
    assert breaker["each"][host]["state"] == "open"
    with pytest.raises(CircuitOpenError):
        shop.pipeline("shop", host=host).call(len, "abc")


def get_blocking(url: str) -> int:
    with httpx.Client(transport=ResilienceTransport()) as client:
        return client.get(url).status_code


def get_awaiting(url: str) -> int:
    async def get() -> int:
        async with httpx.AsyncClient(transport=AsyncResilienceTransport()) as client:
            return (await client.get(url)).status_code

    return asyncio.run(get())


def get_by_requests(url: str) -> int:
    with requests.Session() as session:
        session.mount("http://", ResilienceAdapter())
        return session.get(url).status_code


@pytest.mark.parametrize("get", [get_blocking, get_awaiting, get_by_requests])
def test_a_client_without_a_toolkit_shares_the_one_of_the_process(
    get: Callable[[str], int], upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Law: clients without toolkit and name share circuits too; the default toolkit shows them."""
    monkeypatch.setenv("RESILIENCE_PIPELINE__HTTP__BREAKER__FAIL_MAX", "3")
    for _ in range(20):
        upstream.answers(503)
    with no_waits():
        assert get(upstream.url) == 503
        for _ in range(9):
            with pytest.raises(CircuitOpenError):
                get(upstream.url)
    assert len(upstream.seen) == 3
    assert '"open"' in json.dumps(Resilience.default().pipeline("http").snapshot())


def test_libraries_share_a_circuit(upstream: Upstream, shop: Resilience) -> None:
    """Law: what httpx has found out, requests need not try again."""
    for _ in range(3):
        upstream.answers(503)
    with httpx.Client(transport=ResilienceTransport(resilience=shop, pipeline="shop")) as client:
        for _ in range(3):
            client.get(upstream.url)
    session = requests.Session()
    session.mount("http://", ResilienceAdapter(shop, pipeline="shop"))
    with session, pytest.raises(CircuitOpenError):
        session.get(upstream.url)
    assert len(upstream.seen) == 3


def test_two_clients_share_the_limit_of_a_host(
    caller: Make, upstream: Upstream, toolkit: Callable[..., Resilience]
) -> None:
    """Law: a limit of 3 a day is a limit of the host, not of a client."""
    resilience = toolkit(pipeline__shop__rate_limit__rate="3/day")
    one, two = (caller(resilience, pipeline="shop") for _ in range(2))
    assert [client.get(upstream.url).status for client in (one, two, one)] == [200] * 3
    for client in (one, two):
        with pytest.raises(RateLimitedError):
            client.get(upstream.url)


def test_clients_leave_nothing_behind(toolkit: Callable[..., Resilience]) -> None:
    """Law: a client that is made, used and dropped leaves nothing in the state of its host."""
    resilience = toolkit(pipeline__shop__bulkhead__max_concurrent_calls="5")
    inner = httpx.MockTransport(lambda _request: httpx.Response(200))

    def use(times: int) -> None:
        for _ in range(times):
            with httpx.Client(transport=ResilienceTransport(inner, resilience, pipeline="shop")) as client:
                client.get("http://shop.example")
        gc.collect()

    use(20)
    before = len(gc.get_objects())
    use(200)
    assert len(gc.get_objects()) - before < 100


def test_a_bulkhead_is_shared_between_event_loops(toolkit: Callable[..., Resilience]) -> None:
    """Law: clients on two event loops and in threads share a bulkhead; a place that one gives back goes to another."""
    resilience = toolkit(pipeline__shop__bulkhead__max_concurrent_calls="1", pipeline__shop__bulkhead__max_wait="10s")
    most, now, lock = 0, 0, threading.Lock()

    def enter(step: int) -> None:
        nonlocal most, now
        with lock:
            now += step
            most = max(most, now)

    async def answer(_request: httpx.Request) -> httpx.Response:
        enter(1)
        await asyncio.sleep(0.001)
        enter(-1)
        return httpx.Response(200)

    async def ask() -> None:
        transport = AsyncResilienceTransport(httpx.MockTransport(answer), resilience, pipeline="shop")
        async with httpx.AsyncClient(transport=transport) as client:
            await asyncio.gather(*(client.get("http://shop.example") for _ in range(20)))
        served.append("loop")

    def block() -> None:
        def answer_blocking(_request: httpx.Request) -> httpx.Response:
            enter(1)
            enter(-1)
            return httpx.Response(200)

        transport = ResilienceTransport(httpx.MockTransport(answer_blocking), resilience, pipeline="shop")
        with httpx.Client(transport=transport) as client:
            for _ in range(20):
                client.get("http://shop.example")
        served.append("thread")

    served: list[str] = []
    targets: list[Any] = [lambda: asyncio.run(ask()), lambda: asyncio.run(ask()), block]
    threads = [threading.Thread(target=target, daemon=True) for target in targets]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=30)
    assert sorted(served) == ["loop", "loop", "thread"]
    assert most == 1


async def test_a_cancelled_waiter_of_another_client_keeps_no_place(toolkit: Callable[..., Resilience]) -> None:
    """Law: a task that is cancelled while it waits for the bulkhead of its host takes no place from other clients."""
    resilience = toolkit(
        pipeline__shop__bulkhead__max_concurrent_calls="1",
        pipeline__shop__bulkhead__max_wait="10s",
    )
    release = asyncio.Event()

    async def answer(request: httpx.Request) -> httpx.Response:
        if request.url.path == "/slow":
            await release.wait()
        return httpx.Response(200)

    def client() -> httpx.AsyncClient:
        transport = AsyncResilienceTransport(httpx.MockTransport(answer), resilience, pipeline="shop")
        return httpx.AsyncClient(transport=transport)

    async with client() as one, client() as two, client() as three:
        slow = asyncio.create_task(one.get("http://shop.example/slow"))
        await asyncio.sleep(0)
        waiting = asyncio.create_task(two.get("http://shop.example/"))
        for _ in range(20):
            await asyncio.sleep(0)
        waiting.cancel()
        release.set()
        await slow
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert (await three.get("http://shop.example/")).status_code == 200
    (figures,) = [
        policy["each"]["shop.example"]
        for policy in resilience.pipeline("shop").snapshot()["clients"]
        if policy["kind"] == "bulkhead"
    ]
    assert (figures["concurrent"], figures["waiting"]) == (0, 0)


def test_a_full_bulkhead_refuses_every_client(toolkit: Callable[..., Resilience]) -> None:
    """Law: a stream that one client holds open takes the place of all clients of the host, until it is closed."""
    resilience = toolkit(pipeline__shop__bulkhead__max_concurrent_calls="1", pipeline__shop__retry__enabled="false")

    class Body(httpx.SyncByteStream):
        def __iter__(self) -> Any:
            yield b"ok"

    inner = httpx.MockTransport(lambda _request: httpx.Response(200, stream=Body()))
    one, two = (httpx.Client(transport=ResilienceTransport(inner, resilience, pipeline="shop")) for _ in range(2))
    with one, two:
        with one.stream("GET", "http://shop.example"), pytest.raises(BulkheadFullError):
            two.get("http://shop.example")
        assert two.get("http://shop.example").status_code == 200
