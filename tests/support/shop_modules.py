"""The stock of the examples, served in this process, and the warehouse loaded to call it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest
from example_modules import load

__all__ = ("stock", "warehouse")


@contextlib.contextmanager
def stock() -> Iterator[tuple[Any, int]]:
    """Serve the stock as it is in the file, but that nobody has to walk; give the module and its port."""
    module = load("grpc_shop")
    module.WALK_SECONDS = 0
    server = module.build()
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    module.toolkit.lifecycle.start()  # its health is SERVING from now on, and clients send it something
    try:
        yield module, port
    finally:
        server.stop(0).wait(10)
        module.toolkit.lifecycle.stop()
        module.ledger.close()


@contextlib.contextmanager
def warehouse(patch: pytest.MonkeyPatch, *ports: int) -> Iterator[Any]:
    """Give the warehouse as it is in the file, told where the stock is; signals are left to the tests."""
    patch.setenv("RESILIENCE_LIFECYCLE__SIGNALS", "false")
    patch.setenv("WAREHOUSE_STOCK", "ipv4:" + ",".join(f"127.0.0.1:{port}" for port in ports))
    module = load("flask_shop")
    with module.stock:
        yield module
