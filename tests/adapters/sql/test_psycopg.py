"""Pools of psycopg connections to a real PostgreSQL, for threads."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from postgres_process import PostgresProcess, PostgresServer
from psycopg.pq import TransactionStatus
from psycopg.rows import dict_row

from resilience import ConfigurationError, Pool, PoolTimeoutError
from resilience_sql import psycopg_connector

pytestmark = pytest.mark.servers

PoolOfConnections = Pool[psycopg.Connection[Any]]


@pytest.fixture
def pool(postgres: PostgresServer) -> Iterator[PoolOfConnections]:
    with Pool(psycopg_connector(postgres.conninfo), maximum_pool_size=1, alive_bypass=0) as made:
        yield made


def pid_of(pool: PoolOfConnections) -> int:
    with pool.connection() as connection:
        return connection.info.backend_pid


def execute_elsewhere(postgres: PostgresServer, statement: Any, *values: object) -> Any:
    with psycopg.connect(postgres.conninfo, autocommit=True) as connection:
        cursor = connection.execute(statement, values or None)
        return cursor.fetchall() if cursor.description else None


@pytest.mark.everywhere
def test_a_connection_is_lent_again_without_its_transaction(pool: PoolOfConnections) -> None:
    """What a borrower has not committed is rolled back, and the next borrower gets the same connection, idle."""
    with pool.connection() as connection:
        connection.execute("create table left_open (n int)")
        first = connection.info.backend_pid
    with pool.connection() as connection:
        assert connection.info.transaction_status is TransactionStatus.IDLE
        assert connection.info.backend_pid == first
        assert connection.execute("select to_regclass('left_open')").fetchone() == (None,)


@pytest.mark.everywhere
def test_a_failed_transaction_costs_no_connection(pool: PoolOfConnections) -> None:
    """An error of the block in a failed transaction (INERROR) is rolled back, and the connection stays."""
    first = pid_of(pool)
    with pytest.raises(psycopg.errors.DivisionByZero), pool.connection() as connection:
        connection.execute("select 1/0")
    assert pid_of(pool) == first


def test_the_settings_of_a_borrower_are_set_back(pool: PoolOfConnections) -> None:
    """The next borrower meets the settings of a new connection."""
    with pool.connection() as connection:
        connection.autocommit = True
        connection.read_only = True
        connection.isolation_level = psycopg.IsolationLevel.SERIALIZABLE
        connection.row_factory = dict_row
    with pool.connection() as connection:
        assert not connection.autocommit
        assert connection.read_only is None
        assert connection.isolation_level is None
        assert connection.execute("select 1").fetchone() == (1,)


def test_discard_all_leaves_nothing_and_keeps_prepared_statements_right(postgres: PostgresServer) -> None:
    """Temporary tables and session variables go; a statement that psycopg had prepared works again."""
    connector = psycopg_connector(postgres.conninfo, discard_all=True, prepare_threshold=0)
    with Pool(connector, maximum_pool_size=1) as pool:
        for _ in range(3):
            with pool.connection() as connection:
                assert connection.execute("select to_regclass('pg_temp.mine')").fetchone() == (None,)
                connection.execute("create temporary table mine (n int)")
                connection.execute("set application_name = 'changed'")
                connection.commit()
                assert connection.execute("select %s::int", (5,)).fetchone() == (5,)
        assert pool.snapshot()["created"] == 1


def test_a_connection_that_the_server_ended_is_replaced(pool: PoolOfConnections, postgres: PostgresServer) -> None:
    """A borrower gets a connection that works, whatever has happened to the idle one."""
    first = pid_of(pool)
    execute_elsewhere(postgres, "select pg_terminate_backend(%s)", first)
    with pool.connection() as connection:
        assert connection.execute("select 1").fetchone() == (1,)
        assert connection.info.backend_pid != first


def test_a_connection_lost_in_use_is_closed(pool: PoolOfConnections) -> None:
    """The transaction status UNKNOWN ends a connection; the borrower gets the error of psycopg."""
    first = pid_of(pool)
    with pytest.raises(psycopg.OperationalError), pool.connection() as connection:
        connection.execute("select pg_terminate_backend(%s)", (first,))
    with pool.connection() as connection:
        assert connection.execute("select 1").fetchone() == (1,)
    assert pool.snapshot()["closed"] == {"error in use": 1}


def test_an_open_copy_is_not_lent_on(pool: PoolOfConnections) -> None:
    """A connection in the midst of a reply (ACTIVE) is closed, even if the block ended normally."""
    with pool.connection() as connection:
        first = connection.info.backend_pid
        connection.pgconn.send_query(b"select generate_series(1, 10)")
    with pool.connection() as connection:
        assert connection.info.backend_pid != first
        assert connection.execute("select 2").fetchone() == (2,)
    assert pool.snapshot()["closed"] == {"reset failed": 1}


def test_close_ends_a_query_that_runs_too_long(postgres: PostgresServer) -> None:
    """`abort` shuts the socket down: the thread in the query gets an error, and `close` does not wait for the query."""
    pool = Pool(psycopg_connector(postgres.conninfo), maximum_pool_size=1)
    running, errors = threading.Event(), []

    def sleep_long() -> None:
        try:
            with pool.connection() as connection:
                running.set()
                connection.execute("select pg_sleep(60)")
        except psycopg.OperationalError as error:
            errors.append(error)

    thread = threading.Thread(target=sleep_long)
    thread.start()
    assert running.wait(20)
    before = time.monotonic()
    pool.close(timeout=0.1)
    thread.join(20)
    assert len(errors) == 1
    assert time.monotonic() - before < 20


def test_configure_may_prepare_a_connection_but_not_begin(postgres: PostgresServer) -> None:
    """A `configure` that commits is used; an open transaction is an error that says so."""

    def begin(connection: psycopg.Connection[Any]) -> None:
        connection.execute("set time zone 'Asia/Tokyo'")

    def commit(connection: psycopg.Connection[Any]) -> None:
        begin(connection)
        connection.commit()

    with Pool(psycopg_connector(postgres.conninfo, configure=commit)) as pool, pool.connection() as connection:
        assert connection.execute("show time zone").fetchone() == ("Asia/Tokyo",)
    with Pool(psycopg_connector(postgres.conninfo, configure=begin), connection_timeout=0.1) as pool:
        with pytest.raises(PoolTimeoutError) as caught:
            pool.acquire()
        assert "left a transaction open" in str(caught.value.__cause__)


def test_libpq_gets_a_limit_of_time() -> None:
    """Without a limit in the arguments, in the text or in the environment, connecting has one all the same."""
    from resilience_sql._psycopg_state import arguments_of  # noqa: PLC0415 - the wire does not show it

    assert arguments_of("host=db", {}) == {"connect_timeout": 5}
    assert arguments_of("host=db connect_timeout=9", {}) == {}
    assert arguments_of("host=db", {"connect_timeout": 2}) == {"connect_timeout": 2}


def test_a_wrong_address_is_refused_without_its_secrets() -> None:
    """The error names the argument and the rule, and shows no part of the text."""
    with pytest.raises(ConfigurationError) as caught:
        psycopg_connector("host=db password=hunter2 oops")
    assert "conninfo" in str(caught.value)
    assert "hunter2" not in str(caught.value)
    assert "oops" not in str(caught.value)


@pytest.mark.realtime
def test_a_server_that_hangs_costs_one_limit_of_time(own_postgres: PostgresProcess) -> None:
    """A check of a connection whose server process stands still ends after `validation_timeout`."""
    connector = psycopg_connector(own_postgres.conninfo)
    with Pool(connector, maximum_pool_size=1, alive_bypass=0, validation_timeout=0.2) as pool:
        hung = pid_of(pool)
        os.kill(hung, signal.SIGSTOP)
        try:
            before = time.monotonic()
            assert pid_of(pool) != hung
            assert time.monotonic() - before < 3
        finally:
            os.kill(hung, signal.SIGCONT)


def test_no_wrong_row_while_the_server_dies_and_comes_back(own_postgres: PostgresProcess) -> None:
    """Under load, an immediate shutdown gives errors and no wrong answer; the pool recovers within two seconds."""
    connector = psycopg_connector(own_postgres.conninfo, autocommit=True)
    stop, wrong, failed, answers = threading.Event(), [], [0], [0]
    with Pool(connector, maximum_pool_size=4, connection_timeout=2) as pool:

        def ask(number: int) -> None:
            while not stop.is_set():
                number += 8
                try:
                    with pool.connection() as connection:
                        row = connection.execute("select %s::int", (number,)).fetchone()
                except (psycopg.Error, PoolTimeoutError):
                    failed[0] += 1
                    continue
                answers[0] += 1
                if row != (number,):
                    wrong.append((number, row))

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
        assert wrong == []
        assert failed[0] > 0
        assert took < 10, "on an idle machine it is below 0.5 s"
        assert pool.snapshot()["in_use"] == 0


def _wait_until(condition: Any) -> None:
    until = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.01)
