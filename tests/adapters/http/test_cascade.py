"""Three services on real servers, one calling the next: ids, trace, deadline and errors cross all of them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import httpx2
import pytest
from fastapi import FastAPI

from resilience import AppError, Resilience
from resilience.server import RequestContext, current_request
from resilience_fastapi import install
from resilience_http.httpx2 import AsyncResilienceTransport

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"


@dataclass
class Service:
    """Works for a while, then asks the next one; notes what each request came with."""

    works: float
    next_url: str = ""
    seen: list[RequestContext] = field(default_factory=list)
    remaining: list[float] = field(default_factory=list)
    fails: bool = False

    def app(self) -> FastAPI:
        app, toolkit = FastAPI(), Resilience()
        install(app, toolkit)
        transport = AsyncResilienceTransport(resilience=toolkit, raises_envelopes=True)
        client = httpx2.AsyncClient(transport=transport, base_url=self.next_url)

        @app.get("/")
        async def serve() -> dict[str, Any]:
            context = current_request()
            assert context is not None
            self.seen.append(context)
            self.remaining.append(context.deadline.remaining() if context.deadline else float("inf"))
            await asyncio.sleep(self.works)
            if self.fails:
                raise AppError("ORDERS_V001", "No such order.", http_status=404, details={"order": 7})
            return {"next": (await client.get("/")).json()} if self.next_url else {}

        return app


@pytest.fixture
def chain(serve: Callable[[Any], str]) -> tuple[str, list[Service]]:
    """Start three services, of which the first works for 200 ms and the second for 300 ms."""
    last = Service(0)
    middle = Service(0.3, serve(last.app()))
    first = Service(0.2, serve(middle.app()))
    return serve(first.app()), [first, middle, last]


def ask(url: str, timeout: str) -> httpx2.Response:
    sent = {
        "X-Request-Timeout": timeout,
        "X-Request-Id": "abc",
        "traceparent": f"00-{TRACE}-00f067aa0ba902b7-01",
        "baggage": "tenant=blue",
    }
    return httpx2.get(url, headers=sent, timeout=10)


@pytest.mark.realtime
def test_what_travels(chain: tuple[str, list[Service]]) -> None:
    """Of 1 s the second service has at most 800 ms and the third at most 500 ms; ids, trace and baggage reach both."""
    url, services = chain
    assert ask(url, "1s").json() == {"next": {"next": {}}}
    for service, most, least in zip(services, (1.0, 0.8, 0.5), (0.5, 0.3, 0.05), strict=True):
        assert least < service.remaining[0] <= most
        context = service.seen[0]
        assert (context.request_id, context.trace_id, context.baggage) == ("abc", TRACE, "tenant=blue")


@pytest.mark.realtime
def test_the_slowest_is_not_waited_for(chain: tuple[str, list[Service]]) -> None:
    """When the last service is late everybody gives up in time, and the client gets one envelope."""
    url, services = chain
    services[2].works = 5
    started = time.monotonic()
    answer = ask(url, "1s")
    assert time.monotonic() - started < 4
    assert answer.status_code == 504
    assert (answer.json()["code"], answer.json()["request_id"]) == ("DEADLINE_EXCEEDED", "abc")


def test_nobody_is_asked_in_vain(chain: tuple[str, list[Service]]) -> None:
    """A service whose own work took all the time asks nobody."""
    url, services = chain
    answer = ask(url, "205ms")
    assert answer.status_code == 504
    assert [len(service.seen) for service in services] == [1, 0, 0]


def test_errors_cross_services(chain: tuple[str, list[Service]]) -> None:
    """An error of the last service reaches the client as itself: code, message, details, request id and trace."""
    url, services = chain
    services[2].fails = True
    answer = ask(url, "5s")
    assert answer.status_code == 404
    body = answer.json()
    assert (body["code"], body["message"], body["details"]) == ("ORDERS_V001", "No such order.", {"order": 7})
    assert (body["request_id"], body["trace_id"]) == ("abc", TRACE)


@pytest.mark.realtime
def test_requests_do_not_mix(chain: tuple[str, list[Service]]) -> None:
    """Fifty requests at once keep their ids and deadlines apart in every service."""
    url, services = chain

    async def ask_all() -> list[httpx2.Response]:
        async with httpx2.AsyncClient(timeout=20) as client:
            calls = [
                client.get(url, headers={"X-Request-Id": f"id-{n}", "X-Request-Timeout": f"{10 + n}s"})
                for n in range(50)
            ]
            return list(await asyncio.gather(*calls))

    assert {answer.status_code for answer in asyncio.run(ask_all())} == {200}
    for service in services:
        assert sorted(context.request_id for context in service.seen) == sorted(f"id-{n}" for n in range(50))
        for context, remaining in zip(service.seen, service.remaining, strict=True):
            assert 5 < remaining <= 10 + int(context.request_id.removeprefix("id-"))
    last = services[2]
    for context, remaining in zip(last.seen, last.remaining, strict=True):
        assert remaining > 4 + int(context.request_id.removeprefix("id-"))
