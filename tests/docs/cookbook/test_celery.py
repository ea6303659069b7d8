"""docs/cookbook/celery.md: a real worker, with a real broker, and a bank that fails and comes back."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest
from cookbook import Dependency, Recipe
from redis_process import RedisProcess

pytest.importorskip("celery", reason="celery is in the group `cookbook`")
pytestmark = [pytest.mark.servers, pytest.mark.once, pytest.mark.redis]

PAGE = Recipe("celery")
ORDERS = [f"order-{number}" for number in range(16)]


def test_an_outage_delays_tasks_and_loses_none(
    redis_server: RedisProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the bank is down, circuits keep tasks away from it; when it is back, each order is charged."""
    with Dependency.served() as (bank, url):
        changed = {
            "BROKER_URL": redis_server.url,
            "BANK_URL": url,
            "RESILIENCE_REDIS__URL": redis_server.url,
            "RESILIENCE_PIPELINE__BANK__BREAKER__RESET_TIMEOUT": "500ms",
        }
        for name, value in {**PAGE.environment, **changed}.items():
            monkeypatch.setenv(name, value)
        with PAGE.started("celery", tmp_path, **changed) as worker:
            charge = PAGE.load("tasks.py", tmp_path)["charge"]
            bank.status = 503
            worker.says(" ready.", within=40)
            charge.apply_async(("too late", 900), expires=1)
            for order in ORDERS:
                charge.apply_async((order, 900), expires=60)
            worker.says(" is half-open ", within=40)
            worker.says("Discarding revoked task: tasks.charge", within=40)
            bank.status = 200
            end = time.monotonic() + 40
            while worker.output.count(" succeeded in ") < len(ORDERS):
                assert time.monotonic() < end, worker.output
                time.sleep(0.05)
            worker.tell(signal.SIGTERM)
            worker.says("Warm shutdown")
        charged = {headers["idempotency-key"] for _, headers in bank.seen} - {"too late"}
        assert len(charged) == len(ORDERS)
        PAGE.shows("the log of a late task", worker.output)
        PAGE.shows("the log", worker.output.replace(url.removeprefix("http://"), "bank.example"))
