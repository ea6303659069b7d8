"""docs/cookbook/sqlalchemy-redis.md: a real database file, and a real Redis that hangs."""

from __future__ import annotations

import sqlite3
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from cookbook import Recipe
from redis_process import RedisProcess

from resilience import BulkheadFullError, CircuitOpenError, DeadlineExceededError, Event, Pipeline, Timeout

sqlalchemy = pytest.importorskip("sqlalchemy", minversion="2", reason="sqlalchemy is an extra")
pytestmark = [pytest.mark.once, pytest.mark.redis]

PAGE = Recipe("sqlalchemy-redis")
SCHEMA = """
CREATE TABLE articles (sku TEXT PRIMARY KEY, title TEXT);
CREATE TABLE orders (key TEXT PRIMARY KEY, sku TEXT NOT NULL);
INSERT INTO articles VALUES ('tea', 'Green tea');
"""


class Shop:
    """The page's modules, in this process, with a database file of their own."""

    def __init__(self, directory: Path) -> None:
        self.file = directory / "shop.db"
        with sqlite3.connect(self.file) as connection:
            connection.executescript(SCHEMA)
        connection.close()
        self.articles = PAGE.load("articles.py", directory)
        sys.modules["articles"] = type(sys)("articles")
        vars(sys.modules["articles"]).update(self.articles)
        self.title: Callable[[str], str | None] = PAGE.load("titles.py", directory)["title"]
        self.place: Callable[[str, str | None], None] = self.articles["place"]
        self.events: list[Event] = []
        self.articles["database"].subscribe(self.events.append)

    @property
    def orders(self) -> list[str]:
        """The keys of the stored orders."""
        with sqlite3.connect(self.file) as connection:
            found = [key for (key,) in connection.execute("SELECT key FROM orders")]
        connection.close()
        return found

    def fail(self, error: Exception, times: int, *, disconnects: bool = False, at: str = "do_execute") -> list[int]:
        """Let the driver raise an error, a number of times; the list has one item for each."""
        raised: list[int] = []

        def execute(*_: Any) -> None:
            if len(raised) < times:
                raised.append(1)
                raise error

        def judge(context: Any) -> None:
            context.is_disconnect = disconnects

        sqlalchemy.event.listen(self.articles["engine"], at, execute)
        sqlalchemy.event.listen(self.articles["engine"], "handle_error", judge)
        return raised

    def close(self) -> None:
        self.articles["engine"].dispose()
        self.articles["store"].close()
        del sys.modules["articles"]


@pytest.fixture
def shop(own_redis_server: RedisProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Shop]:
    """Give the page's application, with SQLite in place of PostgreSQL."""
    database = f"sqlite:///{tmp_path / 'shop.db'}?timeout=0"
    for name, value in {**PAGE.environment, "DATABASE_URL": database, "CACHE_URL": own_redis_server.url}.items():
        monkeypatch.setenv(name, value)
    shop = Shop(tmp_path)
    yield shop
    shop.close()


def serialization_failure() -> Exception:
    """Return an error as psycopg raises it: with the state."""
    error = sqlite3.OperationalError("could not serialize access")
    error.sqlstate = "40001"  # type: ignore[attr-defined]  # psycopg has it, sqlite3 does not
    return error


def test_a_cache_that_hangs_costs_three_reads(
    shop: Shop, own_redis_server: RedisProcess, caplog: pytest.LogCaptureFixture
) -> None:
    """Titles come from the cache; if Redis hangs, from the database, and after three failures at once."""
    assert (shop.title("tea"), shop.title("nothing")) == ("Green tea", None)
    with sqlite3.connect(shop.file) as connection:
        connection.execute("DELETE FROM articles")
    connection.close()
    assert shop.title("tea") == "Green tea"
    own_redis_server.pause()
    try:
        began = time.monotonic()
        assert [shop.title("tea") for _ in range(20)] == [None] * 20
        assert time.monotonic() - began < 1.5
    finally:
        own_redis_server.resume()
    PAGE.shows("the log while Redis hangs", lines(caplog))


def lines(caplog: pytest.LogCaptureFixture) -> str:
    return "\n".join(f"{each.levelname} {each.name} {each.getMessage()}" for each in caplog.records)


def test_a_locked_database_is_asked_again(shop: Shop) -> None:
    """The lock of another transaction fails the first run; the second one stores the order."""
    other = sqlite3.connect(shop.file, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    shop.articles["database"].subscribe(lambda event: other.rollback() if event.kind == "retry.scheduled" else None)
    shop.place("o-1", "tea")
    other.close()
    assert shop.orders == ["o-1"]
    assert [event.kind for event in shop.events] == ["retry.scheduled"]
    shop.place("o-1", "tea")
    assert shop.orders == ["o-1"]


def test_a_serialization_failure_is_repeated_and_not_counted(shop: Shop) -> None:
    """Ten transactions that each fail once by a conflict are stored, and the circuit stays closed."""
    for number in range(6):
        raised = shop.fail(serialization_failure(), 1)
        shop.place(f"o-{number}", "tea")
        assert raised == [1]
    assert len(shop.orders) == 6
    assert shop.articles["outage"].current_state == "closed"


def test_an_error_of_the_order_is_neither_repeated_nor_counted(shop: Shop) -> None:
    """An order without an article fails once each time, and the circuit stays closed."""
    for _ in range(6):
        with pytest.raises(sqlalchemy.exc.IntegrityError):
            shop.place("o-1", None)
    assert shop.events == []
    assert shop.articles["outage"].current_state == "closed"


def test_a_timeout_of_the_database_is_counted_and_not_repeated(shop: Shop) -> None:
    """A statement that the database has cut off, and a wait for a connection, count, and the call is over."""
    cut_off = sqlite3.OperationalError("canceling statement due to statement timeout")
    cut_off.sqlstate = "57014"  # type: ignore[attr-defined]  # as psycopg has it
    raised = shop.fail(cut_off, 1)
    with pytest.raises(sqlalchemy.exc.OperationalError):
        shop.place("o-1", "tea")

    def wait() -> None:
        raise sqlalchemy.exc.TimeoutError("QueuePool limit of size 10 overflow 0 reached")

    with pytest.raises(sqlalchemy.exc.TimeoutError):
        shop.articles["database"].call(wait)
    assert (raised, shop.events, shop.articles["outage"].fail_counter) == ([1], [], 2)


def test_a_connection_that_is_not_made_is_asked_for_again(shop: Shop) -> None:
    """A database that takes no connection gets three attempts, and each of them counts."""
    shop.articles["engine"].dispose()
    raised = shop.fail(sqlite3.OperationalError("connection refused"), 100, at="do_connect")
    with pytest.raises(sqlalchemy.exc.OperationalError):
        shop.place("o-1", "tea")
    assert (len(raised), shop.articles["outage"].fail_counter) == (3, 3)


def test_a_second_statement_of_a_broken_session_fails(shop: Shop) -> None:
    """A retry around one statement is no help: the session refuses the next one."""
    shop.fail(sqlite3.OperationalError("server closed the connection"), 1, disconnects=True)
    statement = sqlalchemy.text("SELECT 1")
    with shop.articles["Session"]() as session:
        with pytest.raises(sqlalchemy.exc.OperationalError):
            session.execute(statement)
        with pytest.raises(sqlalchemy.exc.PendingRollbackError):
            session.execute(statement)


def test_a_blocking_transaction_outlives_its_timeout(shop: Shop) -> None:
    """A `Timeout` around blocking code gives the caller an error, and the thread commits all the same."""
    begun, stored = threading.Event(), threading.Event()

    def store() -> None:
        begun.wait(5)
        shop.place("o-1", "tea")
        stored.set()

    with pytest.raises(DeadlineExceededError):
        Pipeline("timed", Timeout("20ms")).call(store)
    begun.set()
    assert stored.wait(5)
    assert shop.orders == ["o-1"]


def test_a_commit_that_breaks_is_repeated_by_its_key(shop: Shop) -> None:
    """The connection breaks in the COMMIT of a transaction that was stored: the second run stores it no second time."""
    committed: list[int] = []

    def commit(connection: Any) -> None:
        if not committed:
            committed.append(1)
            connection.commit()
            raise sqlite3.OperationalError("server closed the connection")

    def judge(context: Any) -> None:
        context.is_disconnect = True

    shop.articles["engine"].dialect.do_commit = commit
    sqlalchemy.event.listen(shop.articles["engine"], "handle_error", judge)
    shop.place("o-1", "tea")
    assert shop.orders == ["o-1"]
    assert [event.kind for event in shop.events] == ["retry.scheduled"]


def test_a_database_that_is_away_is_as_the_page_shows_it(shop: Shop) -> None:
    """An order makes three attempts and raises SQLAlchemy's error; then the circuit opens and refuses."""
    shop.fail(sqlite3.OperationalError("server closed the connection"), 100, disconnects=True)
    errors: list[Exception] = []
    while not errors or not isinstance(errors[-1], CircuitOpenError):
        with pytest.raises((sqlalchemy.exc.OperationalError, CircuitOpenError)) as caught:
            shop.place("o-1", "tea")
        errors.append(caught.value)
        assert len(errors) < 5
    first = f"{type(errors[0]).__name__}\n{errors[0].__notes__[0]}"
    PAGE.shows("the errors of an order", f"{first}\n{type(errors[-1]).__name__}\n{errors[-1]}")


def test_a_full_bulkhead_refuses_before_the_pool_does(shop: Shop) -> None:
    """While ten calls hold all connections, one more is refused by the bulkhead, sooner than the pool would."""
    database, release = shop.articles["database"], threading.Event()

    def hold() -> None:
        with shop.articles["Session"].begin() as session:
            session.execute(sqlalchemy.text("SELECT 1"))
            release.wait(10)

    with ThreadPoolExecutor(10) as threads:
        held = [threads.submit(database.call, hold) for _ in range(10)]
        while shop.articles["engine"].pool.checkedout() < 10:
            time.sleep(0.01)
        with pytest.raises(BulkheadFullError):  # not SQLAlchemy's TimeoutError
            shop.place("o-1", "tea")
        release.set()
        for each in held:
            each.result()
    shop.place("o-1", "tea")
    assert shop.orders == ["o-1"]
