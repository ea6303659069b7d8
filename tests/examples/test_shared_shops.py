"""Two shops on one Redis, each a process as its own file says: a limit and a breaker shared by variables."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest
from redis_process import RedisProcess
from shop_chain import Service, free_port

pytestmark = pytest.mark.servers

LIMIT = 20
NOWHERE = "http://127.0.0.1:9"  # the provider does not matter here


@contextlib.contextmanager
def shops(folder: Path, **settings: str) -> Iterator[list[httpx2.Client]]:
    """Start two shops with the same settings; give a client of each."""
    with contextlib.ExitStack() as stack:
        services = []
        for name in ("one", "two"):
            port = free_port()
            command = ["-m", "uvicorn", "examples.fastapi_shop:app", "--port", str(port)]
            service = Service(name, folder, port, command, {"SHOP_PROVIDER_URL": NOWHERE, **settings})
            stack.callback(service.close)
            services.append(service)
        for service in services:
            service.listens()
        yield [
            stack.enter_context(httpx2.Client(base_url=f"http://127.0.0.1:{each.port}", timeout=20, trust_env=False))
            for each in services
        ]


def ask_in_turn(clients: list[httpx2.Client], times: int) -> Counter[int]:
    return Counter(clients[number % 2].get("/catalogue").status_code for number in range(times))


def buckets(server: RedisProcess) -> int:
    """Return how many buckets Redis keeps: its keys apart from those of the fleet."""
    with contextlib.closing(server.client()) as client:
        return sum(b":fleet:" not in key for key in client.scan_iter())


def test_two_shops_admit_one_limit_and_survive_the_loss_of_redis(
    own_redis_server: RedisProcess, tmp_path: Path
) -> None:
    """Two processes admit one limit in sum; without Redis every client still has an answer by the outage mode."""
    settings = {
        "RESILIENCE_REDIS__URL": own_redis_server.url,
        "RESILIENCE_REDIS__TIMEOUT": "5s",  # a busy machine must not turn a slow reply into an outage
        "RESILIENCE_SERVER__RATE_LIMIT": f"{LIMIT}/hour",
    }
    with shops(tmp_path, **settings) as clients:
        shared = ask_in_turn(clients, 2 * LIMIT)
        assert shared == {200: LIMIT, 429: LIMIT}

        own_redis_server.kill()
        alone = ask_in_turn(clients, 4 * LIMIT)
        assert set(alone) <= {200, 429}
        assert alone[200] <= 2 * LIMIT

        own_redis_server.restart()
        end = time.monotonic() + 20
        while not buckets(own_redis_server):
            assert set(ask_in_turn(clients, 2)) <= {200, 429}
            assert time.monotonic() < end
            time.sleep(0.02)


def order(client: httpx2.Client) -> str:
    code: str = client.post("/orders", json={"item": "tea"}).json()["code"]
    return code


def ordered_until(client: httpx2.Client, *codes: str) -> None:
    end = time.monotonic() + 20
    while (last := order(client)) not in codes:
        assert time.monotonic() < end, last
        time.sleep(0.01)


def test_one_command_opens_the_circuit_of_two_shops(redis_server: RedisProcess, tmp_path: Path) -> None:
    """With two variables in common, `breakers force-open` refuses the orders of both shops, and `reset` ends it."""
    shared = {"RESILIENCE_REDIS__URL": redis_server.url, "RESILIENCE_PIPELINE__PAYMENTS__BREAKER__SHARED": "true"}
    with shops(tmp_path, **shared) as clients:
        assert [order(client) for client in clients] == ["ORDERS_P001"] * 2  # no provider; both have joined
        command(shared, "force-open", "payments", "--for", "1m", "--reason", "drill")
        for client in clients:
            ordered_until(client, "CIRCUIT_OPEN")
        command(shared, "reset", "payments", "--reason", "done")
        for client in clients:
            ordered_until(client, "ORDERS_P001")


def command(settings: dict[str, str], *arguments: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "resilience", "breakers", *arguments],
        env={**os.environ, **settings},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
