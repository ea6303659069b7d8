"""`ResiliencePool` below engines of SQLAlchemy, on SQLite."""

from __future__ import annotations

import copy
import gc
import inspect
import os
import pickle
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, create_engine, event, exc, pool, text
from sqlalchemy.orm import Session

from resilience import ConfigurationError, Deadline, PoolExhaustedError, PoolSaturatedError, PoolTimeoutError
from resilience.pool import PoolOptions
from resilience_sql import AsyncAdaptedResiliencePool, ResiliencePool

MakeEngine = Callable[..., Engine]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[MakeEngine]:
    made: list[Engine] = []

    def make_engine(**arguments: Any) -> Engine:
        engine = create_engine(f"sqlite:///{tmp_path / 'shop.db'}", poolclass=ResiliencePool, **arguments)
        made.append(engine)
        return engine

    yield make_engine
    for engine in made:
        engine.dispose()


def below(engine: Engine) -> ResiliencePool:
    assert isinstance(engine.pool, ResiliencePool)
    return engine.pool


def one(engine: Engine) -> int:
    with engine.connect() as connection:
        return int(connection.execute(text("select 1")).scalar_one())


def test_one_argument_is_enough(make: MakeEngine) -> None:
    """An engine, its transactions and its sessions work as before, and use a connection again."""
    engine = make()
    with engine.begin() as connection:
        connection.execute(text("create table orders (cents integer)"))
        connection.execute(text("insert into orders values (5)"))
    with Session(engine) as session:
        assert session.execute(text("select cents from orders")).scalar() == 5
    assert below(engine).snapshot()["created"] == 1
    assert engine.pool.status() == "ResiliencePool: 1 of 15 connections, 1 idle, 0 in use, 0 borrowers wait"


def test_what_a_borrower_has_not_committed_is_rolled_back(make: MakeEngine) -> None:
    """`reset_on_return` is SQLAlchemy's, and works: also for a connection that was only dropped."""
    engine = make(pool_size=1, max_overflow=0)
    with engine.begin() as connection:
        connection.execute(text("create table orders (cents integer)"))
    connection = engine.connect()
    connection.execute(text("insert into orders values (5)"))
    del connection
    gc.collect()
    with engine.connect() as connection:
        assert connection.execute(text("select count(*) from orders")).scalar() == 0
    assert below(engine).snapshot()["lost"] == 0


def test_an_exhausted_pool_raises_an_error_of_both_libraries(make: MakeEngine) -> None:
    """Code that catches SQLAlchemy's `TimeoutError` goes on to work; ours has the counts, and no foreign link."""
    engine = make(pool_size=1, max_overflow=1, pool_timeout=0.05, pool_logging_name="ledger")
    with engine.connect(), engine.connect(), pytest.raises(exc.TimeoutError) as caught:
        engine.connect()
    error: Any = caught.value
    assert isinstance(error, PoolExhaustedError)
    assert (error.code, error.http_status, error.pool, error.in_use) == ("POOL_EXHAUSTED", 503, "ledger", 2)
    assert str(error).startswith("pool 'ledger': no connection within")
    assert "sqlalche.me" not in str(error)
    for other in (copy.copy(error), pickle.loads(pickle.dumps(error))):
        assert {exc.TimeoutError, PoolTimeoutError} <= {*type(other).__mro__}
        assert (str(other), other.in_use) == (str(error), 2)


def test_a_borrower_waits_no_longer_than_its_deadline(make: MakeEngine) -> None:
    """The time left of the deadline in force is the limit, if it is less than `pool_timeout`."""
    engine = make(pool_size=1, max_overflow=0)
    with engine.connect(), Deadline.after(0.05), pytest.raises(exc.TimeoutError, match="time left of the deadline"):
        engine.connect()


def test_one_borrower_more_than_may_wait_is_refused(make: MakeEngine) -> None:
    """`max_waiting` bounds the queue. The refusal is a `TimeoutError` of SQLAlchemy, too."""
    engine = make(pool_size=1, max_overflow=0, max_waiting=1)
    with ThreadPoolExecutor(1) as threads:
        with engine.connect():
            waiting = threads.submit(one, engine)
            while below(engine).snapshot()["waiting"] == 0:
                time.sleep(0.001)
            with pytest.raises(PoolSaturatedError) as caught:
                engine.connect()
            error: object = caught.value
            assert isinstance(error, exc.TimeoutError)
        assert waiting.result(20) == 1


def test_a_leak_is_reported_with_the_stack_of_the_application(
    make: MakeEngine, caplog: pytest.LogCaptureFixture
) -> None:
    """The event and the log line end with the line of the application, not with those of SQLAlchemy between."""
    engine = make(leak_detection_threshold=0.01)
    found: list[Any] = []
    below(engine).events.subscribe(found.append)
    with Session(engine) as session:
        session.execute(text("select 1"))
        until = time.monotonic() + 20
        while not any(each.kind == "pool.leak_suspected" for each in found) and time.monotonic() < until:
            time.sleep(0.005)
    report = next(each for each in found if each.kind == "pool.leak_suspected")
    frames = [line for line in report.facts["stack"].splitlines() if line.startswith("  File")]
    assert Path(__file__).name in frames[-1]
    line = next(record.getMessage() for record in caplog.records if "may be lost" in record.getMessage())
    assert "borrowed at" in line
    assert Path(__file__).name in line


def test_invalidated_connections_are_closed_and_not_lent(make: MakeEngine) -> None:
    """Hard and soft invalidation, and `detach`: the next borrower gets a new connection, and no place is lost."""
    engine = make(pool_size=1, max_overflow=0)

    def invalidate(connection: Any) -> None:
        connection.invalidate()

    def invalidate_softly(connection: Any) -> None:
        connection.connection.invalidate(soft=True)

    def detach(connection: Any) -> None:
        connection.detach()

    for count, end in enumerate((invalidate, invalidate_softly, detach), 1):
        with engine.connect() as connection:
            before = connection.connection.driver_connection
            end(connection)
        with engine.connect() as connection:
            assert connection.connection.driver_connection is not before
        snapshot = below(engine).snapshot()
        assert (snapshot["total"], snapshot["closed"]) == (1, {"discarded": count})


def test_a_disconnect_in_use_replaces_the_idle_connections_too(make: MakeEngine) -> None:
    """SQLAlchemy invalidates the pool as a whole then; each idle connection is closed when its turn comes."""
    engine = make(pool_size=3)
    held = [engine.connect() for _ in range(3)]
    drivers = {connection.connection.driver_connection for connection in held}
    for connection in held[1:]:
        connection.close()
    time.sleep(0.02)  # the times of SQLAlchemy are compared by the wall clock

    @event.listens_for(engine, "handle_error")
    def call_it_a_disconnect(context: Any) -> None:
        context.is_disconnect = True

    with pytest.raises(exc.OperationalError):
        held[0].execute(text("select * from nothing_there"))
    held[0].close()
    with engine.connect() as connection:
        assert connection.connection.driver_connection not in drivers
    assert below(engine).snapshot()["closed"] == {"discarded": 3}


def events_of(engine: Engine) -> list[str]:
    """Use and invalidate a connection, dispose the engine and use it again; return the events of its pools."""
    seen: list[str] = []
    for name in ("first_connect", "connect", "checkout", "reset", "checkin", "invalidate", "soft_invalidate", "close"):
        event.listen(engine, name, lambda *_, name=name: seen.append(name))
    one(engine)
    one(engine)
    with engine.connect() as connection:
        connection.invalidate()
    one(engine)
    engine.dispose()
    one(engine)
    engine.dispose()
    return seen


def test_events_of_sqlalchemy_are_those_of_queue_pool(make: MakeEngine, tmp_path: Path) -> None:
    """connect, checkout, reset, checkin, invalidate and close are called as often and in the order of `QueuePool`."""
    theirs = events_of(create_engine(f"sqlite:///{tmp_path / 'theirs.db'}", poolclass=pool.QueuePool, pool_size=1))
    ours = events_of(make(pool_size=1, max_overflow=0))
    assert ours == theirs
    assert ours[:6] == ["first_connect", "connect", "checkout", "reset", "checkin", "checkout"]


def test_a_checkout_listener_may_refuse_a_connection(make: MakeEngine) -> None:
    """`DisconnectionError` of a listener replaces the connection, as SQLAlchemy documents it."""
    engine = make(pool_size=1, max_overflow=0)
    one(engine)
    refusals = [exc.DisconnectionError("stale")]

    @event.listens_for(engine, "checkout")
    def refuse_once(*_: Any) -> None:
        if refusals:
            raise refusals.pop()

    assert one(engine) == 1
    assert below(engine).snapshot()["in_use"] == 0


def test_pre_ping_replaces_a_dead_connection(make: MakeEngine) -> None:
    """With `pool_pre_ping`, a connection that was not used within `alive_bypass` is tried first."""
    engine = make(pool_pre_ping=True, alive_bypass=0, pool_size=1, max_overflow=0)
    with engine.connect() as connection:
        driver: Any = connection.connection.driver_connection
    driver.close()
    assert one(engine) == 1
    assert below(engine).snapshot()["closed"] == {"check failed": 1}
    engine = make(pool_size=1, max_overflow=0)
    with engine.connect() as connection:
        driver = connection.connection.driver_connection
    driver.close()
    with pytest.raises(exc.ProgrammingError):
        one(engine)


def test_dispose_closes_idle_connections_and_leaves_those_in_use(make: MakeEngine) -> None:
    """When `dispose` returns, the idle connections are closed. One in use works on, and is closed by its return."""
    engine = make()
    closed: list[object] = []
    event.listen(engine, "close", lambda connection, _: closed.append(connection))
    one(engine)
    engine.dispose()
    assert len(closed) == 1
    held = engine.connect()
    old = below(engine)
    engine.dispose()
    assert held.execute(text("select 2")).scalar() == 2
    assert one(engine) == 1
    driver: Any = held.connection.driver_connection
    held.close()
    until = time.monotonic() + 20
    while driver not in closed and time.monotonic() < until:
        time.sleep(0.001)
    assert driver in closed
    assert old.checkedout() == 0


def test_a_borrower_that_waits_does_not_notice_dispose(make: MakeEngine) -> None:
    """`dispose` in another thread lets it go on. Its connection is closed after it: the engine has another pool."""
    engine = make(pool_size=1, max_overflow=0)
    old = below(engine)
    with ThreadPoolExecutor(1) as threads, engine.connect():
        waiting = threads.submit(one, engine)
        while below(engine).snapshot()["waiting"] == 0:
            time.sleep(0.001)
        engine.dispose()
        assert waiting.result(20) == 1
        assert old.snapshot()["total"] == 0


def test_listeners_of_ours_and_arguments_outlive_dispose(make: MakeEngine) -> None:
    """`recreate` hands on each argument, and the listeners of our events."""
    engine = make(pool_size=2, max_overflow=3, pool_timeout=7, pool_recycle=99, max_waiting=4, pool_logging_name="led")
    seen: list[object] = []
    listener = seen.append
    below(engine).events.subscribe(listener)
    before = below(engine)
    engine.dispose()
    after = below(engine)
    assert after is not before
    assert listener in after.events.listeners
    assert (after.size(), after.timeout(), after.snapshot()["maximum_pool_size"]) == (2, 7, 5)
    assert (after._options.max_lifetime, after._options.max_waiting) == (99, 4)
    assert "'led'" in repr(after._below.pool)


def test_a_forked_child_has_connections_of_its_own(make: MakeEngine) -> None:
    """Neither a child that calls `dispose(close=False)` nor one that does not touches the parent's connections."""
    engine = make(pool_size=1, max_overflow=0)
    with engine.connect() as connection:
        parents: Any = connection.connection.driver_connection
    for disposes in (False, True):
        child = os.fork()
        if child == 0:
            try:
                if disposes:
                    engine.dispose(close=False)
                with engine.connect() as connection:
                    fresh = connection.connection.driver_connection is not parents
                    os._exit(0 if fresh and connection.execute(text("select 3")).scalar() == 3 else 1)
            finally:
                os._exit(2)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    with engine.connect() as connection:
        assert connection.connection.driver_connection is parents
    assert one(engine) == 1


def test_many_threads_on_few_connections_get_equal_shares(make: MakeEngine) -> None:
    """32 threads on 4 connections: the thread with the fewest turns has at least 0.9 of those of the one with most."""
    engine = make(pool_size=4, max_overflow=0)
    turns = [0] * 32
    start = threading.Barrier(32)

    def work(number: int) -> None:
        start.wait(20)
        while sum(turns) < 32 * 60:
            with engine.connect():
                time.sleep(0.0005)
                turns[number] += 1

    with ThreadPoolExecutor(32) as threads:
        for each in [threads.submit(work, number) for number in range(32)]:
            each.result(60)
    assert min(turns) / max(turns) > 0.9
    assert below(engine).snapshot()["created"] == 4


def test_a_database_that_cannot_be_reached_fails_at_once(tmp_path: Path) -> None:
    """Borrowers get SQLAlchemy's own `OperationalError`, do not wait for `pool_timeout`, and start no storm."""
    attempts: list[float] = []
    refusing = [True]

    def connect() -> sqlite3.Connection:
        attempts.append(time.monotonic())
        if refusing[0]:
            raise sqlite3.OperationalError("unable to open database file")
        return sqlite3.connect(tmp_path / "shop.db", check_same_thread=False)

    engine = create_engine("sqlite:///unused.db", poolclass=ResiliencePool, creator=connect)
    with ThreadPoolExecutor(8) as threads:
        errors = [each.exception(20) for each in [threads.submit(one, engine) for _ in range(50)]]
    assert {type(error) for error in errors} == {exc.OperationalError}
    assert all("unable to open database file" in str(error) for error in errors)
    assert len({id(error.orig) for error in errors if isinstance(error, exc.OperationalError)}) == 50
    assert len(attempts) < 10
    refusing[0] = False
    until = time.monotonic() + 20
    while True:
        try:
            assert one(engine) == 1
            break
        except exc.OperationalError:
            assert time.monotonic() < until
            time.sleep(0.02)
    engine.dispose()


def test_a_failed_connect_event_is_the_error_of_the_borrower(make: MakeEngine) -> None:
    """Any error on the way to a connection comes out as it is, and closes the connection."""
    engine = make(pool_size=1, max_overflow=0)

    @event.listens_for(engine, "connect")
    def fail(*_: Any) -> None:
        raise LookupError("no such role")

    with pytest.raises(LookupError, match="no such role"):
        engine.connect()
    assert below(engine).snapshot()["total"] == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"pool_size": 0}, "pool_size=0: expected a whole number from 1 to 100,000 (there is no pool without a limit)"),
        ({"max_overflow": -1}, "max_overflow=-1"),
        ({"pool_size": True}, "pool_size=True"),
        ({"pool_timeout": 0}, "pool_timeout=0"),
        ({"pool_timeout": float("nan")}, "pool_timeout=nan"),
        ({"pool_recycle": 0}, "pool_recycle=0"),
        ({"pool_use_lifo": False}, "pool_use_lifo=False: expected True"),
        ({"keepalive_time": 5}, "keepalive_time=5: expected None, or pool_pre_ping=True beside it"),
        ({"minimum_idle": 20}, "minimum_idle=20: expected at most"),
        ({"leak_detection_threshold": "soon"}, "leak_detection_threshold='soon'"),
    ],
)
def test_an_unfit_argument_is_refused_by_the_name_that_the_user_wrote(
    make: MakeEngine, arguments: dict[str, Any], said: str
) -> None:
    """The error says the argument of `create_engine`, its value and the rule."""
    with pytest.raises(ConfigurationError) as caught:
        make(**arguments)
    assert said in str(caught.value)


def test_all_wrong_arguments_are_in_one_error(make: MakeEngine) -> None:
    """One start shows every mistake."""
    with pytest.raises(ConfigurationError) as caught:
        make(pool_size=0, max_overflow=-1, pool_timeout=-5, max_waiting=0)
    names = [problem.option for problem in caught.value.problems]
    assert names == ["pool_size", "max_overflow", "pool_timeout", "max_waiting"]


def test_durations_may_be_texts_and_never_is_minus_one(make: MakeEngine) -> None:
    """The notation of our options is that of all options of the toolkit; -1 is SQLAlchemy's word for never."""
    engine = make(pool_timeout="250ms", pool_recycle="5m", idle_timeout="1m")
    assert below(engine).timeout() == 0.25
    assert below(engine)._options.max_lifetime == 300
    assert below(make(pool_recycle=-1))._options.max_lifetime is None


def test_the_defaults_are_those_of_our_pools() -> None:
    """Each option that both pools have has one default; `pool_timeout` is that of `QueuePool`."""
    ours = PoolOptions()
    for name, parameter in inspect.signature(ResiliencePool.__init__).parameters.items():
        if hasattr(ours, name):
            assert parameter.default == getattr(ours, name), name
    queue = inspect.signature(pool.QueuePool.__init__).parameters
    for name in ("pool_size", "max_overflow", "timeout"):
        assert inspect.signature(ResiliencePool.__init__).parameters[name].default == queue[name].default


def test_the_pool_of_tasks_does_not_fit_an_engine_of_threads() -> None:
    """The error names the class to use."""
    with pytest.raises(exc.ArgumentError, match="use ResiliencePool for create_engine"):
        create_engine("sqlite:///unused.db", poolclass=AsyncAdaptedResiliencePool)


def test_a_pool_works_without_an_engine() -> None:
    """`ResiliencePool(creator)` is a pool of SQLAlchemy like any other, with `connect()` and `close()`."""
    alone = ResiliencePool(lambda: sqlite3.connect(":memory:", check_same_thread=False), pool_size=1, max_overflow=0)
    proxy = alone.connect()
    assert proxy.cursor().execute("select 4").fetchone() == (4,)
    assert (alone.checkedout(), alone.checkedin(), alone.overflow()) == (1, 0, 0)
    proxy.close()
    assert (alone.checkedout(), alone.checkedin()) == (0, 1)
    alone.dispose()
