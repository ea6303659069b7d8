"""The three example services as processes that call each other, each started as its own file says."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from example_modules import EXAMPLES

__all__ = ("Chain", "Service", "running")

PATIENCE = 30.0
GUNICORN = "control_socket_disable = True\n"


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


class Service:
    """One process, ended by its own handle, whose output is kept."""

    def __init__(self, name: str, folder: Path, port: int, command: list[str], settings: Mapping[str, str]) -> None:
        self.port, self._log = port, folder / f"{name}.log"
        known = {key: value for key, value in os.environ.items() if not key.startswith("RESILIENCE_")}
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, *command],
                cwd=EXAMPLES.parent,
                env={**known, **settings},
                stdout=log,
                stderr=subprocess.STDOUT,
                process_group=0,
            )

    @property
    def said(self) -> str:
        return self._log.read_text(errors="replace")

    def listens(self) -> None:
        end = time.monotonic() + PATIENCE
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
                return
            assert self.process.poll() is None, self.said
            assert time.monotonic() < end, self.said
            time.sleep(0.02)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait(10)


class Chain:
    """The stock, the warehouse that calls it, and the shop that calls the warehouse."""

    def __init__(
        self, stack: contextlib.ExitStack, folder: Path, settings: Mapping[str, str], launcher: Sequence[str] = ()
    ) -> None:
        self._stack, self._folder, self._settings, self._launcher = stack, folder, settings, launcher
        (folder / "gunicorn.conf.py").write_text(GUNICORN)
        stock, warehouse, shop = free_port(), free_port(), free_port()
        self.stock = self._start("stock", stock, ["examples/grpc_shop.py"], STOCK_ADDRESS=f"127.0.0.1:{stock}")
        gunicorn = ["-m", "gunicorn", "-c", str(folder / "gunicorn.conf.py"), "-k", "gthread", "--threads", "8"]
        bound = [*gunicorn, "-b", f"127.0.0.1:{warehouse}", "examples.flask_shop:app"]
        if launcher:  # an exporter over gRPC does not survive the fork of gunicorn
            bound = ["-m", "flask", "--app", "examples.flask_shop", "run", "--port", str(warehouse)]
        self.warehouse = self._start("warehouse", warehouse, bound, WAREHOUSE_STOCK=f"127.0.0.1:{stock}")
        uvicorn = ["-m", "uvicorn", "examples.fastapi_shop:app", "--port", str(shop)]
        self.shop = self._start("shop", shop, uvicorn, SHOP_WAREHOUSE_URL=f"http://127.0.0.1:{warehouse}")
        for service in (self.stock, self.warehouse, self.shop):
            service.listens()

    def _start(self, name: str, port: int, command: list[str], **own: str) -> Service:
        if self._launcher:
            command, own = [*self._launcher, sys.executable, *command], {**own, "OTEL_SERVICE_NAME": name}
        service = Service(name, self._folder, port, command, {**self._settings, **own})
        self._stack.callback(service.close)
        return service


@contextlib.contextmanager
def running(folder: Path, launcher: Sequence[str] = (), **settings: str) -> Iterator[Chain]:
    """Start all three with `settings`, by the arguments `launcher` of Python; end them whatever happens."""
    with contextlib.ExitStack() as stack:
        yield Chain(stack, folder, settings, launcher)
