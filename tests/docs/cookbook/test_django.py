"""docs/cookbook/django.md: the project under uvicorn and gunicorn, with the layers of FastAPI and Flask around it."""

from __future__ import annotations

import json
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from cookbook import Dependency, Recipe
from server_process import ServerProcess

pytest.importorskip("django", reason="django is in the group `cookbook`")
pytestmark = [pytest.mark.servers, pytest.mark.once]

PAGE = Recipe("django")
SERVERS = ("uvicorn", "gunicorn")
MORE_VIEWS = """

from django.http import HttpResponse, StreamingHttpResponse
from resilience.server import current_request
import asyncio, time

def who(request):
    return HttpResponse(current_request().request_id)

def bug(request):
    raise ValueError("a secret")

def slow(request):
    time.sleep(0.6)
    return HttpResponse("late")

async def aslow(request):
    try:
        await asyncio.sleep(0.6)
    except asyncio.CancelledError:
        print("the view is cancelled", flush=True)
        raise
    return HttpResponse("late")

urlpatterns += [path("who", who), path("bug", bug), path("slow", slow), path("aslow", aslow)]
"""
START = """
toolkit.lifecycle.on_start(lambda: print("the start hook ran", flush=True))
toolkit.lifecycle.start()
"""


def answer_with(server: ServerProcess, code: str) -> str:
    """Order until the answer has the code, and return its body."""
    for _ in range(60):
        status, body = server.ask("/orders/tea")
        assert status == 503
        if json.loads(body)["code"] == code:
            return body
    raise AssertionError(f"no answer {code}: {server.output}")


@pytest.mark.parametrize("kind", SERVERS)
def test_an_outage_and_a_drain_are_as_the_page_shows_them(kind: str, tmp_path: Path) -> None:
    """Around Django both layers answer probes, give ids, keep deadlines and drain; Django keeps its own errors."""
    PAGE.files["shop.py"] = Recipe("django").files["shop.py"] + MORE_VIEWS
    PAGE.files["wsgi.py"] = Recipe("django").files["wsgi.py"] + START
    changed = {
        "RESILIENCE_LIFECYCLE__DRAIN_DELAY": "200ms",
        "RESILIENCE_SERVER__DEADLINE": "300ms",
        "RESILIENCE_SERVER__MAX_CONCURRENT_REQUESTS": "3",
        "RESILIENCE_SERVER__RATE_LIMIT": "1/minute",
        "RESILIENCE_SERVER__RATE_LIMIT_BURST": "45",
    }
    with (
        Dependency.served() as (prices, url),
        PAGE.started(kind, tmp_path, PRICES_URL=url, **changed) as server,
    ):
        server.answers("/readyz", 200)
        assert server.ask("/orders/tea") == (200, '{"price": {"ok": true}}')
        assert len(server.ask("/who")[1]) == 32
        status, body = server.ask("/bug")
        assert (status, "Server Error (500)" in body, "a secret" in body) == (500, True, False)
        assert "Not Found" in server.ask("/nowhere")[1]
        with ThreadPoolExecutor(4) as clients:
            answers = list(clients.map(lambda _: server.ask("/slow"), range(4)))
        assert sorted(status for status, _ in answers) == (
            [503, 504, 504, 504] if kind == "uvicorn" else [200] * 3 + [503]
        )
        assert [json.loads(body)["code"] for status, body in answers if status == 503] == ["BULKHEAD_FULL"]

        if kind == "uvicorn":
            server.answers("/aslow", 504)  # when the threads of the views above have ended
            server.says("the view is cancelled")

        prices.status = 503
        PAGE.shows("503, while the circuit is closed", answer_with(server, "SHOP_P001"))
        PAGE.shows("503, while the circuit is open", answer_with(server, "CIRCUIT_OPEN"))
        PAGE.shows("the log", server.output)
        assert server.output.count("Service Unavailable: /orders") == 0  # the log of `django.request`
        assert "never retrieved" not in server.output
        statuses = {server.ask("/who")[0] for _ in range(45)}
        assert statuses == ({200, 429} if kind == "uvicorn" else {200})

        thread, last = server.asking("/slow")
        time.sleep(0.2)
        server.tell(signal.SIGTERM)
        server.answers("/readyz", 503)
        thread.join()
        if kind == "gunicorn":
            assert last == [(200, "late")]
            assert "the start hook ran" in server.output
        assert server.ended() in {0, -signal.SIGTERM}
