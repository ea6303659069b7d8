"""Who plays: two instances of the stock, two of the warehouse, and the shop, each started as its own file says."""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path

from resilience_demo import _needs
from resilience_demo._children_aio import Child, Children
from resilience_demo.chain._script import environment

__all__ = ("STOCKS", "WAREHOUSES", "Cast")

STOCKS = ("stock-1", "stock-2")
WAREHOUSES = ("warehouse-1", "warehouse-2")

# Newer versions open a socket to be controlled by, always at the same place, which two of them cannot have.
_GUNICORN = "control_socket_disable = True\n"

# Longer than the client keeps one that is idle (httpx: 5 s), which else may send on one that is just being closed.
_KEEP_ALIVE = ("--keep-alive", "10")


class Cast:
    """All servers, by name; `folder` holds what they keep on disk."""

    def __init__(self, children: Children, folder: Path) -> None:
        self._children = children
        self._folder = folder
        self._settings = folder / "gunicorn.conf.py"
        self._settings.write_text(_GUNICORN)
        self._held = {name: _held_port() for name in (*STOCKS, *WAREHOUSES)}
        self.ports: dict[str, int] = {name: held.getsockname()[1] for name, held in self._held.items()}
        self.ledger = folder / "ledger.db"

    async def stock(self, name: str) -> Child:
        """Start an instance of the stock, or its successor; all of them keep one ledger."""
        own = {"STOCK_ADDRESS": f"127.0.0.1:{self.ports[name]}", "STOCK_LEDGER": str(self.ledger), "HOSTNAME": name}
        command = (sys.executable, str(_needs.example("grpc_shop.py")))
        return await self._children.run(name, self.ports[name], *command, environ=environment(os.environ, **own))

    async def warehouse(self, name: str) -> Child:
        """Start an instance of the warehouse, which knows all addresses of the stock."""
        stocks = "ipv4:" + ",".join(f"127.0.0.1:{self.ports[stock]}" for stock in STOCKS)
        folder = _needs.example("flask_shop.py").parent
        settings = ("--config", str(self._settings), "--chdir", str(folder), "--log-level", "warning")
        listening = ("--bind", f"127.0.0.1:{self.ports[name]}", "--reuse-port")
        gunicorn = (sys.executable, "-m", "gunicorn", "--worker-class", "gthread", "--threads", "32", *_KEEP_ALIVE)
        command = (*gunicorn, *settings, *listening, "flask_shop:app")
        environ = environment(os.environ, WAREHOUSE_STOCK=stocks, HOSTNAME=name)
        return await self._children.run(name, self.ports[name], *command, environ=environ)

    async def shop(self, warehouse: str) -> Child:
        """Start the shop, which knows one address of the warehouse."""
        environ = environment(os.environ, SHOP_WAREHOUSE_URL=warehouse)
        return await self._children.serve("shop", _needs.example("fastapi_shop.py"), environ=environ)

    def close(self) -> None:
        """Let go of the ports."""
        for held in self._held.values():
            held.close()

    @property
    def repeated(self) -> int:
        """How many attempts were made again, as the services have logged."""
        return sum(child.said.count("retry.scheduled") for child in self._children.running)


def _held_port() -> socket.socket:
    """Take a free port without listening on it: it stays free for servers of ours, which share it, and for nobody else.

    Without, somebody's outgoing connection might have it by the time a killed server is started again.
    """
    held = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    held.bind(("127.0.0.1", 0))
    return held
