"""The warehouse of the example shop, on Flask: it packs parcels, and the stock books out their content.

The middle one of three services that call each other. Start them in three terminals, from the root of the repository::

    python examples/grpc_shop.py
    gunicorn -k gthread --threads 8 --keep-alive 10 -b 127.0.0.1:9002 examples.flask_shop:app
    uvicorn examples.fastapi_shop:app --port 9000

Then have some tea sent, and end this one while a parcel is packed::

    curl -X PUT localhost:9000/parcels/5e9e64a1-4cf5-4b5b-a1a4-dd5be7ed8b2f \
        -d '{"item": "tea"}' -H 'content-type: application/json'

`python -m resilience demo --all` starts two of each but the shop, kills one, drains one, and counts.
"""

from __future__ import annotations

import json
import logging
import os
import select
import socket
from typing import Any
from uuid import UUID

import grpc
from flask import Flask, request

from resilience import AppError, Deadline, Resilience, Retry
from resilience.events import Event
from resilience.logs import configure_logging
from resilience.server import current_request
from resilience_flask import FlaskResilience
from resilience_grpc import LazyChannel, channel_options, client_interceptors

# The defaults of this service. A variable of the environment comes before each of them.
SETTINGS = {
    "RESILIENCE_SERVICE__NAME": "warehouse",
    "RESILIENCE_SERVER__DEADLINE": "2s",
    "RESILIENCE_LIFECYCLE__DRAIN_DELAY": "1s",
    "RESILIENCE_PIPELINE__SHOP_STOCK__RETRY__ATTEMPTS": "3",
    "RESILIENCE_PIPELINE__SHOP_STOCK__RETRY__WAIT_INITIAL": "50ms",
    "RESILIENCE_PIPELINE__SHOP_STOCK__RETRY__WAIT_JITTER": "50ms",
    "RESILIENCE_PIPELINE__SHOP_STOCK__BREAKER__FAILURE_RATE_THRESHOLD": "0.5",
    "RESILIENCE_PIPELINE__SHOP_STOCK__BREAKER__RESET_TIMEOUT": "5s",
    "RESILIENCE_POOL__JOURNAL__MAXIMUM_POOL_SIZE": "8",
    "RESILIENCE_POOL__JOURNAL__ALIVE_BYPASS": "0s",  # a check costs less than an entry that has to be repeated
}

logging.basicConfig(format="%(levelname)s %(name)s: %(message)s")
log = logging.getLogger("warehouse")
toolkit = Resilience.from_env({**SETTINGS, **os.environ})
if "RESILIENCE_LOG__FORMAT" in os.environ:  # json: one form for all three services, with the ids of the request
    configure_logging(toolkit.config)

app = Flask(__name__)
FlaskResilience(app, toolkit)


@toolkit.pipeline("shop.Stock").subscribe
def log_event(event: Event) -> None:
    """Log repeated calls, and the events of the breaker."""
    log.warning("%s %s", event.kind, event.policy)


def connect() -> grpc.Channel:
    """Return a channel that goes round all instances of the stock, and guards every call."""
    target = os.environ.get("WAREHOUSE_STOCK", "127.0.0.1:9003")
    channel = grpc.insecure_channel(target, options=channel_options(toolkit, reconnect_wait_max="1s"))
    return grpc.intercept_channel(channel, *client_interceptors(toolkit, idempotent=["shop.Stock/Book"]))


def encode(message: dict[str, Any]) -> bytes:
    """Return a message as it is sent: JSON here, where most have protobuf's `SerializeToString`."""
    return json.dumps(message).encode()


stock = LazyChannel(connect)  # connects in the worker, at its first call: nothing is shared across a fork
toolkit.lifecycle.close_on_stop(stock)
book = stock.unary_unary("/shop.Stock/Book", encode, json.loads)
NAME = os.environ.get("HOSTNAME", "warehouse")


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
        connection.sendall(f"{number} warehouse\n".encode())
        if connection.recv(16) != b"ok\n":
            raise ConnectionError("the journal has closed the connection")


@app.put("/parcels/<uuid:number>")
def pack(number: UUID) -> dict[str, Any]:
    """Pack a parcel. A repeated request with the same number gets the same parcel: nothing is booked out twice."""
    try:
        booked = book({**request.get_json(), "number": str(number)})
    except AppError as error:
        log.warning("%s for parcel %s, %s", error.code, number, on_whose_behalf())
        raise
    note(str(number))
    return {"number": str(number), "packed_by": NAME, **booked}


def on_whose_behalf() -> str:
    """Return the log text of each service of the chain: the same request and trace, with less and less time."""
    asked, deadline = current_request(), Deadline.current()
    ids = "nobody" if asked is None else f"request {asked.request_id}, trace {asked.trace_id or '-'}"
    return ids if deadline is None else f"{ids}, {deadline.remaining() * 1000:.0f} ms left"
