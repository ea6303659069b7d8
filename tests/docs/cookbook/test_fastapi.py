"""docs/cookbook/fastapi.md, under uvicorn, with a price service that fails and comes back."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import httpx2
import pytest
from cookbook import Dependency, Recipe

pytestmark = [pytest.mark.servers, pytest.mark.once]

PAGE = Recipe("fastapi")
QUICK = {"RESILIENCE_LIFECYCLE__DRAIN_DELAY": "200ms", "RESILIENCE_PIPELINE__PRICES__BREAKER__RESET_TIMEOUT": "1s"}


def answer_with(client: httpx2.Client, code: str | None) -> httpx2.Response:
    """Order, slower than the limit of the route allows, until the answer has the code; None for an order."""
    for _ in range(60):
        answer = client.get("/orders/tea")
        if answer.json().get("code") == code:
            return answer
        time.sleep(0.05)
    raise AssertionError(f"no answer {code}")


def test_an_outage_and_a_drain_are_as_the_page_shows_them(tmp_path: Path) -> None:
    """The answers and the log of an outage are those of the page, readiness stays, and SIGTERM loses no request."""
    with (
        Dependency.served() as (prices, url),
        PAGE.started("uvicorn", tmp_path, PRICES_URL=url, **QUICK) as server,
        httpx2.Client(base_url=f"http://127.0.0.1:{server.port}") as client,
    ):
        server.answers("/readyz", 200)
        assert client.get("/orders/tea").json() == {"article": "tea", "price": {"ok": True}}

        prices.status = 503
        failed, refused = answer_with(client, "ORDERS_P001"), answer_with(client, "CIRCUIT_OPEN")
        assert (failed.status_code, refused.status_code, refused.headers["Retry-After"]) == (503, 503, "1")
        PAGE.shows("503, while the circuit is closed", failed.text)
        PAGE.shows("503, while the circuit is open", refused.text)
        calls = len(prices.seen)
        assert client.get("/orders/tea").json()["code"] == "CIRCUIT_OPEN"
        assert len(prices.seen) == calls
        assert server.ask("/readyz")[0] == 200

        prices.status = 200
        answer_with(client, None)
        PAGE.shows("the log", server.output)

        prices.delay = 0.4
        prices.seen.clear()
        thread, answers = server.asking("/orders/tea")
        while not prices.seen:
            time.sleep(0.01)
        server.tell(signal.SIGTERM)
        server.answers("/readyz", 503)
        thread.join(10)
        assert answers == [(200, '{"article":"tea","price":{"ok":true}}')]
        assert server.ended() in {0, -signal.SIGTERM}
