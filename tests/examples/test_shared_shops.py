"""Two shops on one Redis, each a process as its own file says, shared by `RESILIENCE_REDIS__URL` alone."""

from __future__ import annotations

import contextlib
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


def asked_until(clients: list[httpx2.Client], status: int) -> None:
    """Ask both until one of them answers with `status`."""
    end = time.monotonic() + 20
    while all(client.get("/catalogue").status_code != status for client in clients):
        assert time.monotonic() < end
        time.sleep(0.05)


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

        own_redis_server.restart()  # it comes back empty: the limit is whole again
        asked_until(clients, 200)
