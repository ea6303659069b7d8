import asyncio
import socket
from collections.abc import AsyncIterator

import httpx2
import pytest
import uvicorn
from example_modules import load

TEA = {"item": "tea", "quantity": 2}


@pytest.fixture
async def provider() -> AsyncIterator[str]:
    """Give the provider, served for real on a loopback port."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP) as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()  # a request that comes before the server has started waits for it
        config = uvicorn.Config(load("flaky_upstream").app, log_level="warning", timeout_graceful_shutdown=1)
        server = uvicorn.Server(config)
        serving = asyncio.create_task(server.serve(sockets=[listening]))
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            server.should_exit = True
            await asyncio.wait_for(serving, 10)


@pytest.fixture
async def shop(provider: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[httpx2.AsyncClient]:
    """Give the shop as it is in the file; a variable says that four calls are enough to judge by."""
    monkeypatch.setenv("SHOP_PROVIDER_URL", provider)
    monkeypatch.setenv("RESILIENCE_PIPELINE__PAYMENTS__BREAKER__MINIMUM_CALLS", "4")
    app = load("fastapi_shop").app
    transport = httpx2.ASGITransport(app)
    async with (
        app.router.lifespan_context(app),
        httpx2.AsyncClient(transport=transport, base_url="http://shop") as client,
    ):
        yield client


async def change_mode(provider: str, mode: str) -> None:
    async with httpx2.AsyncClient() as admin:
        (await admin.put(f"{provider}/admin/mode/{mode}")).raise_for_status()


@pytest.mark.parametrize("path", ["/orders", "/plain/orders"])
async def test_an_order_is_paid(shop: httpx2.AsyncClient, path: str) -> None:
    """Both ways of ordering sell the same thing for the same money."""
    response = await shop.post(path, json=TEA)
    assert (response.status_code, response.json()) == (201, {"paid": 900})


@pytest.mark.realtime
async def test_hanging_orders_take_the_connections_of_the_catalogue(shop: httpx2.AsyncClient, provider: str) -> None:
    """While the provider hangs, the catalogue waits for orders without the pipeline, and not for orders with it."""
    await change_mode(provider, "hanging")
    for side, is_served in (("", True), ("/plain", False)):
        orders = [asyncio.create_task(shop.post(f"{side}/orders", json=TEA)) for _ in range(14)]
        await asyncio.sleep(0.9)  # more than the two attempts of 300 ms, less than the 2 s of the provider
        page = asyncio.create_task(shop.get(f"{side}/catalogue"))
        await asyncio.wait([page], timeout=0.5)
        assert page.done() == is_served, side
        assert {answer.is_success for answer in await asyncio.gather(*orders)} == {False}
        assert (await page).json() == {"tea": 450, "cake": 620, "scone": 380}


async def test_what_is_not_sold_has_a_code(shop: httpx2.AsyncClient) -> None:
    """An order for something else gets the shop's own code and what it could order instead."""
    response = await shop.post("/orders", json={"item": "coffee"})
    assert response.status_code == 422
    assert response.json()["code"] == "ORDERS_V001"
    assert "tea" in response.json()["details"]["sold"]


async def test_the_price_list_is_limited(shop: httpx2.AsyncClient) -> None:
    """Ten requests for the price list are answered, the next is told when to come back."""
    answers = [await shop.get("/prices") for _ in range(14)]
    assert [answer.status_code for answer in answers[:10]] == [200] * 10
    assert answers[-1].status_code == 429
    assert answers[-1].json()["code"] == "RATE_LIMITED"
    assert "retry-after" in answers[-1].headers


async def test_a_blip_is_hidden_by_a_second_attempt(shop: httpx2.AsyncClient) -> None:
    """One call in 25 fails on a good day: customers of the guarded way never see it, the others do."""
    guarded = [(await shop.post("/orders", json=TEA)).status_code for _ in range(30)]
    plain = [(await shop.post("/plain/orders", json=TEA)).status_code for _ in range(30)]
    assert set(guarded) == {201}
    assert set(plain) == {201, 502}


async def test_a_broken_provider_opens_the_circuit(shop: httpx2.AsyncClient, provider: str) -> None:
    """Once enough calls have failed the shop answers at once, says when to come back, and stays in service."""
    await change_mode(provider, "broken")
    codes = [(await shop.post("/orders", json=TEA)).json()["code"] for _ in range(6)]
    refused = await shop.post("/orders", json=TEA)
    assert codes[0] == "ORDERS_P001"
    assert (refused.status_code, refused.json()["code"]) == (503, "CIRCUIT_OPEN")
    assert int(refused.headers["retry-after"]) >= 1
    ready = await shop.get("/readyz?verbose")
    assert ready.status_code == 200
    assert "payments" in ready.text


@pytest.mark.realtime
async def test_a_hanging_provider_is_not_waited_for(shop: httpx2.AsyncClient, provider: str) -> None:
    """A call that hangs is cut short after 300 ms, twice; without the toolkit the customer waits it out."""
    await change_mode(provider, "hanging")
    guarded, plain = await asyncio.gather(shop.post("/orders", json=TEA), shop.post("/plain/orders", json=TEA))
    assert (guarded.status_code, guarded.json()["code"]) == (504, "DEADLINE_EXCEEDED")
    assert plain.status_code == 502


async def test_only_this_machine_may_break_the_provider() -> None:
    """The switch of the provider is for loopback alone."""
    transport = httpx2.ASGITransport(load("flaky_upstream").app, client=("192.0.2.1", 1))
    async with httpx2.AsyncClient(transport=transport, base_url="http://provider") as stranger:
        assert (await stranger.put("/admin/mode/broken")).status_code == 403
