"""A small shop on FastAPI that keeps selling while its payment provider breaks down.

Start the provider and the shop in two terminals, from the root of the repository::

    uvicorn examples.flaky_upstream:app --port 9001
    uvicorn examples.fastapi_shop:app --port 9000

Then order, break the provider, and order again::

    curl localhost:9000/orders -d '{"item": "tea"}' -H 'content-type: application/json'
    curl -X PUT localhost:9001/admin/mode/hanging
    curl localhost:9000/readyz?verbose

`python -m resilience demo` does the same with traffic, and shows what happens.

It is the first of three services as well: `PUT /parcels/{number}` asks the warehouse (`flask_shop.py`), which asks the
stock (`grpc_shop.py`); there is written how to start all three.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sqlite3
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from typing import Any

import httpx2
from fastapi import Depends, FastAPI
from pydantic import BaseModel

from resilience import Resilience, ResilienceError, Retry
from resilience.events import Event
from resilience.logs import configure_logging
from resilience.pool import Connector
from resilience_fastapi import error_responses, install, rate_limit
from resilience_http.httpx2 import AsyncResilienceTransport

CONNECTIONS = 10
"""Connections to the database. The bulkhead of the payments is smaller, so that payments cannot take them all."""

PRICES = {"tea": 450, "cake": 620, "scone": 380}

# The defaults of this shop. A variable of the environment comes before each of them:
# RESILIENCE_PIPELINE__PAYMENTS__RETRY__ATTEMPTS=4 uvicorn examples.fastapi_shop:app
SETTINGS = {
    "RESILIENCE_SERVICE__NAME": "shop",
    "RESILIENCE_SERVER__DEADLINE": "1s",
    "RESILIENCE_SERVER__EXCLUDE_PATHS": "/livez,/healthz,/readyz,/startupz,/plain",
    "RESILIENCE_PIPELINE__PAYMENTS__RETRY__ATTEMPTS": "2",
    "RESILIENCE_PIPELINE__PAYMENTS__RETRY__WAIT_INITIAL": "30ms",
    "RESILIENCE_PIPELINE__PAYMENTS__RETRY__WAIT_JITTER": "30ms",
    "RESILIENCE_PIPELINE__PAYMENTS__BREAKER__FAILURE_RATE_THRESHOLD": "0.5",
    "RESILIENCE_PIPELINE__PAYMENTS__BREAKER__SLIDING_WINDOW": "20",
    "RESILIENCE_PIPELINE__PAYMENTS__BREAKER__MINIMUM_CALLS": "10",
    "RESILIENCE_PIPELINE__PAYMENTS__BREAKER__RESET_TIMEOUT": "2s",
    "RESILIENCE_PIPELINE__PAYMENTS__BREAKER__SUCCESS_THRESHOLD": "2",
    "RESILIENCE_PIPELINE__PAYMENTS__RATE_LIMIT__RATE": "100/second",  # the provider's contract, for all our processes
    "RESILIENCE_PIPELINE__PAYMENTS__BULKHEAD__MAX_CONCURRENT_CALLS": "6",
    "RESILIENCE_PIPELINE__PAYMENTS__TIMEOUT__SECONDS": "300ms",
    "RESILIENCE_PIPELINE__WAREHOUSE__RETRY__ATTEMPTS": "3",
    "RESILIENCE_PIPELINE__WAREHOUSE__RETRY__WAIT_INITIAL": "50ms",
    "RESILIENCE_PIPELINE__WAREHOUSE__RETRY__WAIT_JITTER": "50ms",
    "RESILIENCE_PIPELINE__WAREHOUSE__BREAKER__FAILURE_RATE_THRESHOLD": "0.5",
    "RESILIENCE_POOL__JOURNAL__MAXIMUM_POOL_SIZE": "8",
    "RESILIENCE_POOL__JOURNAL__ALIVE_BYPASS": "0s",  # a check costs less than an entry that has to be repeated
}

log = logging.getLogger("shop")
toolkit = Resilience.from_env({**SETTINGS, **os.environ})
if "RESILIENCE_LOG__FORMAT" in os.environ:  # json: one form for all three services, with the ids of the request
    configure_logging(toolkit.config)
payments = toolkit.pipeline("payments")

toolkit.catalog.define("ORDERS_V001", "We do not sell that.", http_status=422)
toolkit.catalog.define("ORDERS_P001", "The payment did not go through.", http_status=502, retryable=True)
toolkit.catalog.define("ORDERS_W001", "The warehouse does not answer.", http_status=502, retryable=True)


class Database:
    """The shop's articles and orders in SQLite, behind a pool of connections."""

    def __init__(self) -> None:
        self._free: asyncio.Queue[sqlite3.Connection] = asyncio.Queue()
        uri = f"file:{uuid.uuid4()}?mode=memory&cache=shared"
        for _ in range(CONNECTIONS):
            self._free.put_nowait(sqlite3.connect(uri, uri=True, isolation_level=None))

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[sqlite3.Connection]:
        """Lend a connection, or wait until another request returns one."""
        connection = await self._free.get()
        try:
            yield connection
        finally:
            self._free.put_nowait(connection)

    async def create(self) -> None:
        """Create the tables, and write the articles."""
        async with self.connection() as connection:
            connection.execute("CREATE TABLE articles (item TEXT, cents INTEGER)")
            connection.execute("CREATE TABLE orders (key TEXT, item TEXT)")
            connection.executemany("INSERT INTO articles VALUES (?, ?)", PRICES.items())

    def close(self) -> None:
        """Close all connections. No request is in flight any more."""
        while not self._free.empty():
            self._free.get_nowait().close()


class Order(BaseModel):
    """An order of a customer."""

    item: str
    quantity: int = 1


async def ask_provider(http: httpx2.AsyncClient, cents: int, key: str) -> dict[str, Any]:
    """Charge a customer. The key makes a second attempt safe: the provider takes the money once."""
    response = await http.post("/charges", json={"cents": cents}, headers={"Idempotency-Key": key})
    response.raise_for_status()
    receipt: dict[str, Any] = response.json()
    return receipt


@payments
async def charge(http: httpx2.AsyncClient, cents: int, key: str) -> dict[str, Any]:
    """Charge a customer: retried, refused while the circuit is open, limited, in bounded number and time."""
    return await ask_provider(http, cents, key)


def log_event(event: Event) -> None:
    """Log repeated requests, and the events of the breaker."""
    log.warning("%s %s", event.kind, event.policy)


def warehouse() -> httpx2.AsyncClient:
    """Return a client that repeats what may be repeated, and raises the errors of the other side as they were there."""
    guarded = AsyncResilienceTransport(resilience=toolkit, pipeline="warehouse", raises_envelopes=True)
    guarded.pipeline.subscribe(log_event)
    return httpx2.AsyncClient(transport=guarded, base_url=os.environ.get("SHOP_WAREHOUSE_URL", "http://127.0.0.1:9002"))


JOURNAL = os.environ.get("SHOP_JOURNAL", "")
"""The address of the journal (`journal.py`); empty: no parcel is noted."""

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def connect_to_journal() -> Streams:
    """Return a connection of the pool."""
    host, _, port = JOURNAL.rpartition(":")
    return await asyncio.open_connection(host, int(port))


async def is_alive(streams: Streams) -> bool:
    """Return whether the journal has closed this idle connection, without a question to the journal."""
    return not streams[0].at_eof()


def close_streams(streams: Streams) -> None:
    """Close a connection of the pool."""
    streams[1].close()


journal = toolkit.async_pool("journal", Connector(connect=connect_to_journal, close=close_streams, check=is_alive))
noting = toolkit.pipeline("journal", Retry(on=OSError, attempts=4, wait_initial="20ms", wait_jitter="20ms"))


@noting
async def note(number: uuid.UUID) -> None:
    """Note a parcel in the journal. While the journal is away, the pool lets the caller wait for a new connection."""
    if not JOURNAL:
        return
    async with journal.connection() as (reader, writer):
        writer.write(f"{number} shop\n".encode())
        if await reader.readline() != b"ok\n":
            raise ConnectionError("the journal has closed the connection")


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Hold a connection pool to the warehouse, and one to provider and database for each way of ordering."""
    provider = os.environ.get("SHOP_PROVIDER_URL", "http://127.0.0.1:9001")
    async with (
        httpx2.AsyncClient(base_url=provider) as app.state.http,
        httpx2.AsyncClient(base_url=provider) as app.state.plain,
        warehouse() as app.state.warehouse,
    ):
        with closing(Database()) as app.state.database, closing(Database()) as app.state.plain_database:
            await app.state.database.create()
            await app.state.plain_database.create()
            yield
    await toolkit.aclose()


app = FastAPI(title="Shop", lifespan=lifespan, responses=error_responses(400, 409, 422, 429, 502, 503, 504))
install(app, toolkit)


@app.post("/orders", status_code=201)
async def order(order: Order) -> dict[str, Any]:
    """Sell something. While the provider is down the answer is a quick 503 with Retry-After."""
    key = str(uuid.uuid4())
    async with app.state.database.connection() as connection:
        try:
            receipt = await charge(app.state.http, price_of(order), key)
        except httpx2.HTTPError as error:
            raise toolkit.catalog.error("ORDERS_P001") from error
        connection.execute("INSERT INTO orders VALUES (?, ?)", (key, order.item))
    return receipt


@app.post("/plain/orders", status_code=201)
async def plain_order(order: Order) -> dict[str, Any]:
    """Sell something without the pipeline. While the provider hangs, the order keeps its database connection."""
    key = str(uuid.uuid4())
    async with app.state.plain_database.connection() as connection:
        try:
            receipt = await ask_provider(app.state.plain, price_of(order), key)
        except httpx2.HTTPError as error:
            raise toolkit.catalog.error("ORDERS_P001") from error
        connection.execute("INSERT INTO orders VALUES (?, ?)", (key, order.item))
    return receipt


@app.get("/catalogue")
async def catalogue() -> dict[str, int]:
    """Return all articles. This endpoint never calls the provider, but it needs a connection to the database."""
    return await articles(app.state.database)


@app.get("/plain/catalogue")
async def plain_catalogue() -> dict[str, int]:
    """Return all articles, from the pool whose connections the orders without the pipeline hold."""
    return await articles(app.state.plain_database)


@app.put("/parcels/{number}")
async def send(number: uuid.UUID, order: Order) -> dict[str, Any]:
    """Have something sent, to be paid at the door. A number of the customer's own makes it safe to ask again."""
    due = price_of(order)
    try:
        response = await app.state.warehouse.put(f"/parcels/{number}", json=order.model_dump())
        response.raise_for_status()
    except ResilienceError:
        raise  # a refusal, or the warehouse's own error: each has its code
    except httpx2.HTTPError as error:
        raise toolkit.catalog.error("ORDERS_W001") from error
    await note(number)
    return {**response.json(), "due": due}


@app.get("/prices", dependencies=[Depends(rate_limit("10/second"))])
async def prices() -> dict[str, int]:
    """Return all prices in cents, ten times a second per client address."""
    return PRICES


@toolkit.health.check("payments", failure="warn")
async def provider_answers() -> None:
    """Show in `/readyz` that the provider is down, and stay in service: the breaker deals with it."""
    response = await app.state.http.get("/health", timeout=1)
    response.raise_for_status()


async def articles(database: Database) -> dict[str, int]:
    """Read all articles and their prices in cents."""
    async with database.connection() as connection:
        return dict(connection.execute("SELECT item, cents FROM articles"))


def price_of(order: Order) -> int:
    """Return the price of an order, in cents."""
    if order.item not in PRICES:
        raise toolkit.catalog.error("ORDERS_V001", details={"item": order.item, "sold": sorted(PRICES)})
    return PRICES[order.item] * order.quantity
