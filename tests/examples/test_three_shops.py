"""The three example services as processes: HTTP to the shop, HTTP to the warehouse, gRPC to the stock."""

from __future__ import annotations

import json
import re
import signal
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import pytest
from shop_chain import Chain, Service, running

pytestmark = pytest.mark.servers

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
SENT = {"X-Request-ID": "mine", "traceparent": f"00-{TRACE}-00f067aa0ba902b7-01"}
LEFT = re.compile(r"(\d+) ms left")


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chain]:
    """Give all three, with time for a machine that is busy."""
    logs = {"RESILIENCE_LOG__FORMAT": "json", "RESILIENCE_LOG__REQUESTS": "true"}
    with running(tmp_path_factory.mktemp("chain"), RESILIENCE_SERVER__DEADLINE="10s", **logs) as chain:
        yield chain


def ask(chain: Chain, item: str, number: uuid.UUID | None = None, /, **headers: str) -> httpx2.Response:
    path = f"/parcels/{number or uuid.uuid4()}"
    with httpx2.Client(base_url=f"http://127.0.0.1:{chain.shop.port}", timeout=20, trust_env=False) as http:
        return http.put(path, json={"item": item}, headers={**SENT, **headers})


def lines(log: str, number: uuid.UUID) -> list[str]:
    return [line for line in log.splitlines() if f"for parcel {number}" in line]


def test_an_order_goes_through_all_three(chain: Chain) -> None:
    """A parcel is packed by the warehouse, booked out by the stock, and charged for by the shop."""
    number = uuid.uuid4()
    response = ask(chain, "tea", number)
    assert response.status_code == 200, response.text
    told = response.json()
    assert (told["number"], told["packed_by"], told["booked_by"], told["due"]) == (
        str(number),
        "warehouse",
        "stock",
        450,
    )


def served(service: Service, request_id: str) -> list[dict[str, Any]]:
    """Return the lines of a request in the log of a service, which may write one after its client has gone on."""
    end = time.monotonic() + 5
    while True:
        logged = [json.loads(line) for line in service.said.splitlines() if line.startswith('{"timestamp"')]
        found = [line for line in logged if (line["logger"], line["request_id"]) == ("resilience.requests", request_id)]
        if found or time.monotonic() > end:
            return found
        time.sleep(0.01)


def test_an_order_has_the_same_ids_in_three_logs(chain: Chain) -> None:
    """Each service writes one JSON line for its part of the order, with the ids that the client sent."""
    number = uuid.uuid4()
    assert ask(chain, "tea", number, **{"X-Request-ID": "logged"}).status_code == 200
    found = [line for service in (chain.shop, chain.warehouse, chain.stock) for line in served(service, "logged")]
    assert [(line["service_name"], line.get("http_route"), line.get("grpc_method")) for line in found] == [
        ("shop", "/parcels/{number}", None),
        ("warehouse", "/parcels/<uuid:number>", None),
        ("stock", None, "/shop.Stock/Book"),
    ]
    assert {(line["trace_id"], line["trace_sampled"]) for line in found} == {(TRACE, True)}
    assert all(line["duration_ms"] > 0 for line in found)
    assert str(number) not in str(found)


def test_an_error_crosses_three_services_unchanged(chain: Chain) -> None:
    """What the stock raises over gRPC comes back over HTTP: code, message, details, request id, trace id."""
    number = uuid.uuid4()
    response = ask(chain, "scone", number)
    assert response.status_code == 409
    assert response.json() == {
        "code": "STOCK_C001",
        "message": "This is sold out.",
        "details": {"item": "scone", "wanted": 1},
        "request_id": "mine",
        "trace_id": TRACE,
        "retry_after": None,
    }
    assert response.headers["X-Request-ID"] == "mine"
    for service in (chain.stock, chain.warehouse):
        (line,) = lines(service.said, number)
        assert f"STOCK_C001 for parcel {number}, request mine, trace {TRACE}, " in line


def test_a_number_used_for_another_parcel_is_refused(chain: Chain) -> None:
    """A number that comes again for something else is a 422 with an envelope; for the same, it is the same parcel."""
    number = uuid.uuid4()
    first, other, again = (ask(chain, item, number) for item in ("tea", "cake", "tea"))
    assert (other.status_code, other.json()["code"], other.json()["details"]) == (
        422,
        "STOCK_V001",
        {"number": str(number)},
    )
    assert (first.status_code, again.json()) == (200, first.json())


def test_the_deadline_of_the_customer_reaches_the_last_service(chain: Chain) -> None:
    """Of the 5 s a customer gives the shop, the stock has less, though its own limit is 10 s."""
    number = uuid.uuid4()
    ask(chain, "scone", number, **{"X-Request-Timeout": "5s"})
    for service in (chain.stock, chain.warehouse):
        left = [int(left) for line in lines(service.said, number) for left in LEFT.findall(line)]
        assert len(left) == 1
        assert 0 < left[0] < 5000


def test_no_more_time_is_taken_than_there_is(chain: Chain) -> None:
    """A customer who gives 150 ms, less than the stock needs, is told so in time."""
    response = ask(chain, "tea", **{"X-Request-Timeout": "150ms"})
    assert (response.status_code, response.json()["code"]) == (504, "DEADLINE_EXCEEDED")
    assert response.json()["request_id"] == "mine"


def test_a_stock_that_is_gone_is_no_mistake_of_the_shop(tmp_path: Path) -> None:
    """Without the stock a customer hears that the service is unavailable, and the warehouse has tried three times."""
    with running(tmp_path, RESILIENCE_SERVER__DEADLINE="10s") as chain:
        assert ask(chain, "tea").status_code == 200
        chain.stock.process.kill()
        chain.stock.process.wait(10)
        response = ask(chain, "tea")
        assert (response.status_code, response.json()["code"]) == (503, "UNAVAILABLE")
        assert response.json()["request_id"] == "mine"
        assert "retry.scheduled shop.Stock" in chain.warehouse.said


@pytest.mark.parametrize("name", ["stock", "warehouse"])
def test_an_order_under_way_is_finished_at_sigterm(tmp_path: Path, name: str) -> None:
    """An order under way when the stock, or the warehouse, is told to end is answered, and the process ends with 0."""
    with running(tmp_path, RESILIENCE_SERVER__DEADLINE="10s") as chain, ThreadPoolExecutor(1) as customer:
        assert ask(chain, "tea").status_code == 200
        service: Any = getattr(chain, name)
        order = customer.submit(ask, chain, "tea")
        under_way(order)
        service.process.send_signal(signal.SIGTERM)
        assert order.result(20).status_code == 200
        assert service.process.wait(20) == 0


def under_way(order: Any) -> None:
    """Give it the time to arrive; the stock needs 200 ms for each."""
    with pytest.raises(TimeoutError):
        order.result(0.1)
