"""Starts the services: two instances of the stock, two of the warehouse, the shop, and the journal."""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path

from resilience_demo import _needs
from resilience_demo._children_aio import Child, Children
from resilience_demo.chain._script import environment

__all__ = ("JOURNAL", "STOCKS", "WAREHOUSES", "Launcher")

JOURNAL = "journal"

STOCKS = ("stock-1", "stock-2")
WAREHOUSES = ("warehouse-1", "warehouse-2")

# Newer versions of gunicorn open a control socket at a fixed path, which two instances cannot share.
_GUNICORN = "control_socket_disable = True\n"

# Longer than the client keeps an idle connection (httpx2: 5 s). Otherwise the client can send a request on a
# connection that gunicorn closes at that moment.
_KEEP_ALIVE = ("--keep-alive", "10")


class Launcher:
    """Starts servers by name. `folder` holds the ledger and the settings of gunicorn."""

    def __init__(self, children: Children, folder: Path) -> None:
        self._children = children
        self._folder = folder
        self._settings = folder / "gunicorn.conf.py"
        self._settings.write_text(_GUNICORN)
        self._held = {name: _held_port() for name in (*STOCKS, *WAREHOUSES, JOURNAL)}
        self.ports: dict[str, int] = {name: held.getsockname()[1] for name, held in self._held.items()}
        self.ledger = folder / "ledger.db"
        self.journal_file = folder / "journal.txt"
        self._journal_address = f"127.0.0.1:{self.ports[JOURNAL]}"

    async def journal(self) -> Child:
        """Start the journal, or its successor. Both write into one file."""
        own = {"JOURNAL_ADDRESS": self._journal_address, "JOURNAL_FILE": str(self.journal_file)}
        command = (sys.executable, str(_needs.example("journal.py")))
        return await self._children.run(JOURNAL, self.ports[JOURNAL], *command, environ=environment(os.environ, **own))

    async def stock(self, name: str) -> Child:
        """Start an instance of the stock, or its successor. All instances share one ledger."""
        own = {"STOCK_ADDRESS": f"127.0.0.1:{self.ports[name]}", "STOCK_LEDGER": str(self.ledger), "HOSTNAME": name}
        command = (sys.executable, str(_needs.example("grpc_shop.py")))
        return await self._children.run(name, self.ports[name], *command, environ=self._environment(**own))

    async def warehouse(self, name: str) -> Child:
        """Start an instance of the warehouse with the addresses of all stocks."""
        stocks = "ipv4:" + ",".join(f"127.0.0.1:{self.ports[stock]}" for stock in STOCKS)
        folder = _needs.example("flask_shop.py").parent
        settings = ("--config", str(self._settings), "--chdir", str(folder), "--log-level", "warning")
        listening = ("--bind", f"127.0.0.1:{self.ports[name]}", "--reuse-port")
        gunicorn = (sys.executable, "-m", "gunicorn", "--worker-class", "gthread", "--threads", "32", *_KEEP_ALIVE)
        command = (*gunicorn, *settings, *listening, "flask_shop:app")
        environ = self._environment(WAREHOUSE_STOCK=stocks, HOSTNAME=name)
        return await self._children.run(name, self.ports[name], *command, environ=environ)

    async def shop(self, warehouse: str) -> Child:
        """Start the shop with the one address of the warehouse service."""
        environ = self._environment(SHOP_WAREHOUSE_URL=warehouse)
        return await self._children.serve("shop", _needs.example("fastapi_shop.py"), environ=environ)

    def _environment(self, **own: str) -> dict[str, str]:
        return environment(os.environ, SHOP_JOURNAL=self._journal_address, **own)

    def close(self) -> None:
        """Release the ports."""
        for held in self._held.values():
            held.close()

    @property
    def repeated(self) -> int:
        """The number of retries that the services have logged."""
        return sum(child.log_text.count("retry.scheduled") for child in self._children.running)


def _held_port() -> socket.socket:
    """Bind a free port with SO_REUSEPORT, without listening on it. Only servers of this user can share the port.

    Otherwise an outgoing connection of another process could take the port before a killed server starts again.
    """
    held = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    held.bind(("127.0.0.1", 0))
    return held
