"""docs/cookbook/flask.md, under gunicorn with the page's own files."""

from __future__ import annotations

import contextlib
import http.client
import itertools
import json
import signal
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

import pytest
from cookbook import Dependency, Recipe
from redis_process import free_port
from server_process import ServerProcess

pytestmark = [pytest.mark.servers, pytest.mark.once]

PAGE = Recipe("flask")
WORKERS = {"gthread": "--workers 1", "sync": "--workers 1 --worker-class sync --threads 1"}


def probe(port: int, path: str) -> int:
    """Return the status of a probe on the port of its own, which answers at once."""
    side = http.client.HTTPConnection("127.0.0.1", port, timeout=0.3)
    with contextlib.closing(side):
        side.request("GET", path)
        return side.getresponse().status


def code_of(server: ServerProcess) -> str:
    """Return the code of an answer, slower than the limit of the route allows."""
    time.sleep(0.05)
    status, body = server.ask("/orders/tea")
    code = json.loads(body).get("code", "")
    assert status == (503 if code else 200), body
    return f"{code} {body}"


def answer_with(server: ServerProcess, code: str) -> str:
    """Order until the answer has the code, and return its body."""
    for _ in range(60):
        found, _, body = code_of(server).partition(" ")
        if found == code:
            return body
    raise AssertionError(f"no answer {code}: {server.output}")


@pytest.mark.parametrize("worker", WORKERS)
def test_an_outage_and_a_drain_are_as_the_page_shows_them(worker: str, tmp_path: Path) -> None:
    """The answers and the log are those of the page, and a worker of either kind drains without losing a request."""
    health = free_port()
    changed = {
        "HEALTH_PORT": str(health),
        "GUNICORN_CMD_ARGS": WORKERS[worker],
        "RESILIENCE_LIFECYCLE__DRAIN_DELAY": "300ms",
    }
    with (
        Dependency.served() as (prices, url),
        PAGE.started("gunicorn", tmp_path, PRICES_URL=url, **changed) as server,
    ):
        server.answers("/readyz", 200)
        assert server.ask("/orders/tea") == (200, '{"article":"tea","price":{"ok":true}}\n')

        prices.delay = 0.4
        prices.seen.clear()
        thread, answers = server.asking("/orders/tea")
        while not prices.seen:
            time.sleep(0.01)
        assert probe(health, "/livez") == 200  # at once, although the only thread of a sync worker is busy
        thread.join()
        assert answers == [(200, '{"article":"tea","price":{"ok":true}}\n')]

        prices.delay, prices.status = 0, 503
        PAGE.shows("503, while the circuit is closed", answer_with(server, "ORDERS_P001"))
        PAGE.shows("503, while the circuit is open", answer_with(server, "CIRCUIT_OPEN"))
        PAGE.shows("the log", server.output)

        thread, answers = server.asking("/orders/tea")
        server.tell(signal.SIGTERM)
        while probe(health, "/readyz") != 503:
            time.sleep(0.01)
        thread.join()
        assert len(answers) == 1
        assert isinstance(answers[0], tuple), answers
        assert server.ended() == 0


def test_a_hanging_dependency_leaves_threads_for_other_routes(tmp_path: Path) -> None:
    """While twelve of sixteen orders wait for the price service, the other four are refused: the bulkhead is full."""
    changed = {
        "HEALTH_PORT": str(free_port()),
        "GUNICORN_CMD_ARGS": "--workers 1",
        "RESILIENCE_SERVER__DEADLINE": "30s",
        "RESILIENCE_PIPELINE__PRICES__TIMEOUT__SECONDS": "30s",
    }
    with (
        Dependency.served() as (prices, url),
        PAGE.started("gunicorn", tmp_path, PRICES_URL=url, **changed) as server,
        ThreadPoolExecutor(16) as clients,
    ):
        server.answers("/readyz", 200)
        prices.is_holding = True
        asked = [clients.submit(server.ask, "/orders/tea") for _ in range(16)]
        refused = [each.result() for each in itertools.islice(as_completed(asked, 10), 4)]
        prices.is_holding = False
        assert [json.loads(body)["code"] for _, body in refused] == ["BULKHEAD_FULL"] * 4
        assert sorted(each.result()[0] for each in asked) == [200] * 12 + [503] * 4
