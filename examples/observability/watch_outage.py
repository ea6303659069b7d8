"""Prometheus watches the three example services while their payment provider breaks down, and an alert fires.

It starts the stock (gRPC), the warehouse (Flask), the shop (FastAPI), the provider, and a Prometheus, all on loopback
and on free ports. It needs the program `prometheus` (Debian: `apt install prometheus`). From the root of the
repository::

    python examples/observability/watch_outage.py

The rules are those of `python -m resilience metrics --rules`. Only their waits are shorter here: a minute becomes two
seconds.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx2

from resilience.telemetry.alerts import ALERTS, rules

ROOT = Path(__file__).parents[2]
PATIENCE = 60.0
SCRAPED = ("stock", "warehouse", "shop")
WAITS = {each.after: "2s" for each in ALERTS}
GUNICORN = "control_socket_disable = True\n"


def free_port() -> int:
    """Return a port of loopback that is free now."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def started(name: str, folder: Path, command: list[str], settings: Mapping[str, str]) -> Iterator[None]:
    """Run a program in the root of the repository, with its output in a file, and end it by its own handle."""
    known = {key: value for key, value in os.environ.items() if not key.startswith("RESILIENCE_")}
    with (folder / f"{name}.log").open("wb") as log:
        process = subprocess.Popen(  # noqa: S603 - the programs of this file
            command, cwd=ROOT, env={**known, **settings}, stdout=log, stderr=subprocess.STDOUT
        )
    try:
        yield
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(10)


def until(found: Callable[[], bool], what: str) -> float:
    """Wait until `found()`, and return the seconds that it took."""
    began = time.monotonic()
    while time.monotonic() < began + PATIENCE:
        with contextlib.suppress(httpx2.HTTPError):
            if found():
                return time.monotonic() - began
        time.sleep(0.2)
    raise SystemExit(f"waited {PATIENCE:g} s in vain for: {what}")


def configure(folder: Path, targets: Mapping[str, int]) -> None:
    """Write the configuration of Prometheus, and the rules."""
    own: Any = rules()
    for rule in own["groups"][1]["rules"]:
        rule["for"] = WAITS[rule["for"]]
    (folder / "rules.json").write_text(json.dumps(own))
    jobs = [
        {"job_name": name, "static_configs": [{"targets": [f"127.0.0.1:{port}"]}]} for name, port in targets.items()
    ]
    times = {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"}
    configuration = {"global": times, "rule_files": ["rules.json"], "scrape_configs": jobs}
    (folder / "prometheus.yml").write_text(json.dumps(configuration))


class Shop:
    """The processes, and the traffic of customers."""

    def __init__(self, stack: contextlib.ExitStack, folder: Path) -> None:
        names = (*SCRAPED, "provider", "prometheus")
        self.ports = {name: free_port() for name in names}
        pages = {name: free_port() for name in SCRAPED}
        (folder / "gunicorn.conf.py").write_text(GUNICORN)
        at = {name: f"127.0.0.1:{port}" for name, port in self.ports.items()}
        gunicorn = ["gunicorn", "-c", str(folder / "gunicorn.conf.py"), "-k", "gthread", "--threads", "4"]
        programs: dict[str, tuple[list[str], dict[str, str]]] = {
            "stock": (["examples/grpc_shop.py"], {"STOCK_ADDRESS": at["stock"]}),
            "warehouse": (
                ["-m", *gunicorn, "-b", at["warehouse"], "examples.flask_shop:app"],
                {"WAREHOUSE_STOCK": at["stock"]},
            ),
            "shop": (
                ["-m", "uvicorn", "examples.fastapi_shop:app", "--port", str(self.ports["shop"])],
                {
                    "SHOP_WAREHOUSE_URL": f"http://{at['warehouse']}",
                    "SHOP_PROVIDER_URL": f"http://{at['provider']}",
                },
            ),
            "provider": (
                ["-m", "uvicorn", "examples.flaky_upstream:app", "--port", str(self.ports["provider"])],
                {},
            ),
        }
        for name, (command, settings) in programs.items():
            page = {"RESILIENCE_METRICS__PORT": str(pages[name])} if name in pages else {}
            stack.enter_context(started(name, folder, [sys.executable, *command], {**settings, **page}))
        configure(folder, pages)
        storage = f"--storage.tsdb.path={folder / 'data'}"
        arguments = [f"--config.file={folder / 'prometheus.yml'}", storage, f"--web.listen-address={at['prometheus']}"]
        program = shutil.which("prometheus") or "prometheus"
        stack.enter_context(started("prometheus", folder, [program, *arguments], {}))
        self.client = stack.enter_context(httpx2.Client(timeout=3))
        self._is_over = threading.Event()

    def url(self, name: str, path: str) -> str:
        """Return the address of a path of one of the services."""
        return f"http://127.0.0.1:{self.ports[name]}{path}"

    def order(self) -> None:
        """Order tea, again and again."""
        with httpx2.Client(timeout=3) as customer:
            while not self._is_over.wait(0.02):
                with contextlib.suppress(httpx2.HTTPError):
                    customer.post(self.url("shop", "/orders"), json={"item": "tea"})

    def serve_customers(self) -> Callable[[], None]:
        """Begin the traffic, and return the function that ends it."""
        customers = [threading.Thread(target=self.order) for _ in range(4)]
        for customer in customers:
            customer.start()

        def end() -> None:
            self._is_over.set()
            for customer in customers:
                customer.join()

        return end

    def set_provider(self, mode: str) -> None:
        """Break or heal the provider."""
        self.client.put(self.url("provider", f"/admin/mode/{mode}"))

    def targets_up(self) -> int:
        """Return how many services Prometheus can scrape."""
        found = self.client.get(self.url("prometheus", "/api/v1/query"), params={"query": "sum(up)"}).json()
        return sum(int(each["value"][1]) for each in found["data"]["result"])

    def firing(self) -> list[str]:
        """Return the alerts that fire, with their policies."""
        found = self.client.get(self.url("prometheus", "/api/v1/alerts")).json()["data"]["alerts"]
        labels = [each["labels"] for each in found if each["state"] == "firing"]
        return sorted(f"{each['alertname']} ({each.get('job')} {each.get('policy', '')})" for each in labels)


def main() -> None:
    """Show the outage from its start to its end."""
    if shutil.which("prometheus") is None:
        raise SystemExit("this example needs the program prometheus: apt install prometheus")
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        shop = Shop(stack, folder)
        until(lambda: shop.client.get(shop.url("shop", "/readyz")).is_success, "the shop")
        until(lambda: shop.targets_up() == len(SCRAPED), "three services that Prometheus can scrape")
        print("Prometheus scrapes stock, warehouse and shop")
        stack.callback(shop.serve_customers())
        time.sleep(2)
        print("alerts before the outage:", shop.firing() or "none")
        shop.set_provider("broken")
        took = until(lambda: any("CircuitOpen" in each for each in shop.firing()), "an alert")
        print(f"the provider is broken: after {took:.0f} s the alerts are {', '.join(shop.firing())}")
        shop.set_provider("healthy")
        took = until(lambda: not any("CircuitOpen" in each for each in shop.firing()), "the end of the alert")
        print(f"the provider is well again: after {took:.0f} s the alert on the circuit is over")


if __name__ == "__main__":
    main()
