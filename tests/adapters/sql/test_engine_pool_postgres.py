"""`ResiliencePool` below engines of SQLAlchemy, on a real PostgreSQL."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from postgres_process import PostgresProcess, PostgresServer
from sqlalchemy import Engine, create_engine, exc, text

from resilience_sql import ResiliencePool

pytestmark = pytest.mark.servers


@pytest.fixture
def engine(postgres: PostgresServer) -> Iterator[Engine]:
    made = create_engine(
        postgres.url, poolclass=ResiliencePool, pool_size=2, max_overflow=0, pool_pre_ping=True, alive_bypass=0
    )
    yield made
    made.dispose()


def pid_of(engine: Engine) -> int:
    with engine.connect() as connection:
        return int(connection.execute(text("select pg_backend_pid()")).scalar_one())


def snapshot(engine: Engine) -> dict[str, Any]:
    assert isinstance(engine.pool, ResiliencePool)
    return engine.pool.snapshot()


def kill(postgres: PostgresServer, pid: int) -> None:
    other = create_engine(postgres.url, isolation_level="AUTOCOMMIT")
    with other.connect() as connection:
        connection.execute(text("select pg_terminate_backend(:pid)"), {"pid": pid})
    other.dispose()


@pytest.mark.everywhere
def test_pre_ping_replaces_a_connection_that_the_server_ended(engine: Engine, postgres: PostgresServer) -> None:
    """The borrower gets a connection that works, and a ping leaves no transaction open."""
    first = pid_of(engine)
    assert pid_of(engine) == first
    kill(postgres, first)
    assert pid_of(engine) != first
    assert snapshot(engine)["closed"] == {"check failed": 1}


def test_a_connection_lost_in_use_is_closed(engine: Engine, postgres: PostgresServer) -> None:
    """The borrower gets SQLAlchemy's error, and its session may go on with another connection."""
    with engine.connect() as connection:
        first = int(connection.execute(text("select pg_backend_pid()")).scalar_one())
        kill(postgres, first)
        with pytest.raises(exc.OperationalError) as caught:
            connection.execute(text("select 1"))
        assert caught.value.connection_invalidated
        connection.rollback()
        assert connection.execute(text("select pg_backend_pid()")).scalar() != first
    assert snapshot(engine)["in_use"] == 0
    assert snapshot(engine)["total"] <= 2


def test_a_background_ping_leaves_no_transaction_open(postgres: PostgresServer) -> None:
    """`keepalive_time` checks idle connections, which stay "idle", not "idle in transaction"."""
    engine = create_engine(
        postgres.url, poolclass=ResiliencePool, pool_pre_ping=True, keepalive_time=0.02, pool_recycle=600
    )
    pid = pid_of(engine)
    watcher = create_engine(postgres.url, isolation_level="AUTOCOMMIT")
    question = text("select state, query from pg_stat_activity where pid = :pid")
    with watcher.connect() as connection:
        _wait_until(lambda: connection.execute(question, {"pid": pid}).one().query != "ROLLBACK")
        states = {connection.execute(question, {"pid": pid}).one().state for _ in range(50)}
    watcher.dispose()
    engine.dispose()
    assert "idle in transaction" not in states


def test_no_wrong_row_while_the_server_dies_and_comes_back(own_postgres: PostgresProcess) -> None:
    """Under load, an immediate shutdown gives SQLAlchemy's errors and no wrong answer, and the pool recovers."""
    engine = create_engine(own_postgres.url, poolclass=ResiliencePool, pool_size=4, max_overflow=0, pool_timeout=2)
    stop, wrong, failed, answers, strange = threading.Event(), [], [0], [0], []

    def ask(number: int) -> None:
        while not stop.is_set():
            number += 8
            try:
                with engine.connect() as connection:
                    answer = connection.execute(text("select cast(:n as int)"), {"n": number}).scalar()
            except (exc.OperationalError, exc.TimeoutError):
                failed[0] += 1
                continue
            except Exception as error:  # noqa: BLE001 - it is looked at below
                strange.append(error)
                continue
            answers[0] += 1
            if answer != number:
                wrong.append((number, answer))

    threads = [threading.Thread(target=ask, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    try:
        _wait_until(lambda: answers[0] > 50)
        own_postgres.stop_at_once()
        _wait_until(lambda: failed[0] > 0)
    finally:
        own_postgres.start()
    before, back = answers[0], time.monotonic()
    _wait_until(lambda: answers[0] > before + 50)
    took = time.monotonic() - back
    stop.set()
    for thread in threads:
        thread.join(20)
    assert (wrong, strange) == ([], [])
    assert took < 10, "on an idle machine it is below 1 s"
    assert snapshot(engine)["in_use"] == 0
    engine.dispose()


def _wait_until(condition: Callable[[], bool]) -> None:
    until = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.005)
