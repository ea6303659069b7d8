"""The stock of the example shop, on gRPC: it counts the goods on the shelves, and books out sent parcels.

The last of three services that call each other. Start them in three terminals, from the root of the repository::

    python examples/grpc_shop.py
    gunicorn -k gthread --threads 8 --keep-alive 10 -b 127.0.0.1:9002 examples.flask_shop:app
    uvicorn examples.fastapi_shop:app --port 9000

Then have tea sent, and a scone, which is sold out: the error comes from here, through both of the others::

    curl -X PUT localhost:9000/parcels/5e9e64a1-4cf5-4b5b-a1a4-dd5be7ed8b2f \
        -d '{"item": "scone"}' -H 'content-type: application/json' -H 'x-request-id: mine'

`python -m resilience demo --all` starts two of each but the shop, kills one, drains one, and counts.
"""

from __future__ import annotations

import json
import logging
import os
import select
import socket
import sqlite3
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc

from resilience import AppError, Deadline, Resilience, Retry
from resilience.logs import configure_logging
from resilience.server import current_request
from resilience_grpc import add_health, drain, server_interceptors

SHELVES = {"tea": 10_000, "cake": 100, "scone": 0}
WALK_SECONDS = 0.1
"""To the shelf, and back."""

# The defaults of this service. A variable of the environment comes before each of them.
SETTINGS = {
    "RESILIENCE_SERVICE__NAME": "stock",
    "RESILIENCE_SERVER__DEADLINE": "2s",
    "RESILIENCE_LIFECYCLE__DRAIN_DELAY": "1s",
    "RESILIENCE_LIFECYCLE__DRAIN_TIMEOUT": "10s",
    "RESILIENCE_POOL__JOURNAL__MAXIMUM_POOL_SIZE": "8",
    "RESILIENCE_POOL__JOURNAL__ALIVE_BYPASS": "0s",  # a check costs less than an entry that has to be repeated
}

log = logging.getLogger("stock")
toolkit = Resilience.from_env({**SETTINGS, **os.environ})
SOLD_OUT = toolkit.catalog.define("STOCK_C001", "This is sold out.", http_status=409)
ANOTHER = toolkit.catalog.define("STOCK_V001", "This number stands for another parcel.", http_status=422)


class Ledger:
    """The goods on the shelves, and every parcel booked out: a file that all instances share, or the memory of one."""

    def __init__(self, path: str) -> None:
        self._lock = threading.Lock()  # a connection has one transaction at a time
        self._database = sqlite3.connect(path, isolation_level="IMMEDIATE", check_same_thread=False)
        with self._database as database:
            database.execute("PRAGMA journal_mode = WAL")
            database.execute("CREATE TABLE IF NOT EXISTS shelves (item TEXT PRIMARY KEY, remaining INTEGER)")
            database.execute(
                "CREATE TABLE IF NOT EXISTS parcels"
                " (number TEXT PRIMARY KEY, item TEXT, quantity INTEGER, booked_by TEXT, asked INTEGER DEFAULT 1)"
            )
            database.executemany("INSERT OR IGNORE INTO shelves VALUES (?, ?)", SHELVES.items())

    def book(self, number: str, item: str, quantity: int, clerk: str) -> str:
        """Book a parcel out and return who did; asked again for the same number, no shelf changes.

        Raises `AppError` where less is left (STOCK_C001), and where the number stands for other contents (STOCK_V001),
        as draft-ietf-httpapi-idempotency-key-header has it; nothing is booked then.
        """
        book = "INSERT OR IGNORE INTO parcels (number, item, quantity, booked_by) VALUES (?, ?, ?, ?)"
        again = "UPDATE parcels SET asked = asked + 1 WHERE number = ? AND item = ? AND quantity = ?"
        with self._lock, self._database as database:
            if database.execute(book, (number, item, quantity, clerk)).rowcount:
                self._take(item, quantity)
            elif not database.execute(again, (number, item, quantity)).rowcount:
                raise ANOTHER(details={"number": number})
            (booked_by,) = database.execute("SELECT booked_by FROM parcels WHERE number = ?", (number,)).fetchone()
        return str(booked_by)

    def _take(self, item: str, quantity: int) -> None:
        take = "UPDATE shelves SET remaining = remaining - ? WHERE item = ? AND remaining >= ?"
        if not self._database.execute(take, (quantity, item, quantity)).rowcount:
            raise SOLD_OUT(details={"item": item, "wanted": quantity})

    def close(self) -> None:
        """Let go of the file."""
        self._database.close()


JOURNAL = os.environ.get("SHOP_JOURNAL", "")
"""The address of the journal (`journal.py`); empty: no parcel is noted."""


def connect_to_journal() -> socket.socket:
    """Return a connection of the pool."""
    host, _, port = JOURNAL.rpartition(":")
    return socket.create_connection((host, int(port)), timeout=2)


def is_alive(connection: socket.socket) -> bool:
    """Return whether the journal has closed this idle connection, without a question to the journal."""
    return not select.select([connection], [], [], 0)[0]


journal = toolkit.pool("journal", connect=connect_to_journal, check=is_alive)
noting = toolkit.pipeline("journal", Retry(on=OSError, attempts=4, wait_initial="20ms", wait_jitter="20ms"))


@noting
def note(number: str) -> None:
    """Note a parcel in the journal. While the journal is away, the pool lets the caller wait for a new connection."""
    if not JOURNAL:
        return
    with journal.connection() as connection:
        connection.sendall(f"{number} stock\n".encode())
        if connection.recv(16) != b"ok\n":
            raise ConnectionError("the journal has closed the connection")


ledger = Ledger(os.environ.get("STOCK_LEDGER", ":memory:"))
NAME = os.environ.get("HOSTNAME", "stock")


def book(parcel: dict[str, Any], _context: grpc.ServicerContext) -> dict[str, str]:
    """Fetch the goods of a parcel. It may be called twice for the same one: the number is its idempotency key."""
    time.sleep(WALK_SECONDS)
    try:
        booked_by = ledger.book(parcel["number"], parcel["item"], parcel["quantity"], NAME)
    except AppError as error:
        log.warning("%s for parcel %s, %s", error.code, parcel["number"], on_whose_behalf())
        raise
    note(parcel["number"])
    time.sleep(WALK_SECONDS)
    return {"booked_by": booked_by}


def on_whose_behalf() -> str:
    """Return the log text of each service of the chain: the same request and trace, with less and less time."""
    asked, deadline = current_request(), Deadline.current()
    ids = "nobody" if asked is None else f"request {asked.request_id}, trace {asked.trace_id or '-'}"
    return ids if deadline is None else f"{ids}, {deadline.remaining() * 1000:.0f} ms left"


def mistakes(parcel: dict[str, Any]) -> list[tuple[str, str]]:
    """Return the violations of a request: its caller gets INVALID_ARGUMENT, with every field."""
    rules = {"number": str, "item": str, "quantity": int}
    found = [(name, f"is no {kind.__name__}") for name, kind in rules.items() if not isinstance(parcel.get(name), kind)]
    if not found and parcel["quantity"] < 1:
        found = [("quantity", "is below 1")]
    return found


def encode(message: dict[str, Any]) -> bytes:
    """Return a message as it is sent: JSON here, where most have protobuf's `SerializeToString`."""
    return json.dumps(message).encode()


def build() -> grpc.Server:
    """Return a server of the one method there is, and of its health."""
    server = grpc.server(ThreadPoolExecutor(32), interceptors=server_interceptors(toolkit, validate=mistakes))
    methods = {"Book": grpc.unary_unary_rpc_method_handler(book, json.loads, encode)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("shop.Stock", methods),))
    add_health(server, toolkit, services=["shop.Stock"])
    return server


def serve(address: str) -> None:
    """Serve until SIGTERM; then finish the requests in flight, and end."""
    server = build()
    server.add_insecure_port(address)
    with toolkit.lifecycle:
        server.start()
        toolkit.lifecycle.wait_draining()
        drain(server, toolkit)
    ledger.close()


if __name__ == "__main__":
    logging.basicConfig(format="%(levelname)s %(name)s: %(message)s")
    if "RESILIENCE_LOG__FORMAT" in os.environ:  # json: one form for all three services, with the ids of the request
        configure_logging(toolkit.config)
    serve(os.environ.get("STOCK_ADDRESS", "127.0.0.1:9003"))
