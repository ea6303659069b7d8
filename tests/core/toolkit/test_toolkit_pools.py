"""The pools of a toolkit: settings, health, start and end."""

from __future__ import annotations

import asyncio
import functools
import json
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest

from resilience import (
    AsyncPool,
    CircuitBreaker,
    CircuitOpenError,
    ConfigurationError,
    Pool,
    PoolTimeoutError,
    Resilience,
)
from resilience.errors import PoolClosedError, StartupError
from resilience.events import Event
from resilience.pool import Connector

WITHIN = 10.0


class Connection:
    """Something to lend."""

    def __init__(self) -> None:
        self.is_closed = False

    def close(self) -> None:
        self.is_closed = True


async def aconnect() -> Connection:
    return Connection()


class Server:
    """An other end that can be away."""

    def __init__(self) -> None:
        self.is_up = True
        self.attempts = 0

    def connect(self) -> Connection:
        self.attempts += 1
        if not self.is_up:
            raise ConnectionRefusedError
        return Connection()


def until(condition: Callable[[], object]) -> None:
    """Wait for background threads, for at most 10 seconds."""
    end = time.monotonic() + WITHIN
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.002)


# Names and settings


def test_one_name_is_one_pool() -> None:
    """A name is one pool, however it is written, and a lookup needs no arguments."""
    toolkit = Resilience()
    pool = toolkit.pool("ledger-db", connect=Connection, maximum_pool_size=3)
    assert isinstance(pool, Pool)
    assert toolkit.pool("LEDGER.DB") is pool
    assert toolkit.pool("ledger-db", connect=Connection, maximum_pool_size=3) is pool
    assert toolkit.async_pool("events", connect=aconnect) is toolkit.async_pool("events")
    assert isinstance(toolkit.async_pool("events"), AsyncPool)


def test_a_pool_cannot_change() -> None:
    """Other arguments for a known name, and the other colour, are refused by name."""
    toolkit = Resilience()
    toolkit.pool("ledger", connect=Connection)
    with pytest.raises(ConfigurationError, match="pool 'ledger' is already in use with other values"):
        toolkit.pool("ledger", connect=Connection, maximum_pool_size=3)
    with pytest.raises(
        ConfigurationError, match="pool 'ledger' is already one of Pool: name the AsyncPool differently"
    ):
        toolkit.async_pool("ledger", connect=aconnect)


def test_the_first_call_needs_connect() -> None:
    """A name that has no pool yet needs the function that connects; a failed attempt leaves nothing behind."""
    toolkit = Resilience()
    with pytest.raises(ConfigurationError, match=r"connect=None.*first asked for"):
        toolkit.pool("ledger")
    with pytest.raises(ConfigurationError, match="a plain function; AsyncPool takes coroutine functions"):
        toolkit.pool("ledger", connect=aconnect)
    with pytest.raises(ConfigurationError, match="a coroutine function; Pool takes plain functions"):
        toolkit.async_pool("ledger", connect=Connection)  # type: ignore[arg-type]  # the mistake under test
    assert toolkit.pool("ledger", connect=Connection).name == "ledger"
    with pytest.raises(ConfigurationError, match="pool name"):
        toolkit.pool("led ger", connect=Connection)


def test_every_knob_has_a_variable() -> None:
    """Each option of a pool is set by a variable, none included; arguments come before the environment."""
    toolkit = Resilience.from_env(
        {
            "RESILIENCE_POOL__LEDGER__MAXIMUM_POOL_SIZE": "20",
            "RESILIENCE_POOL__LEDGER__MINIMUM_IDLE": "2",
            "RESILIENCE_POOL__LEDGER__CONNECTION_TIMEOUT": "3s",
            "RESILIENCE_POOL__LEDGER__CONNECT_TIMEOUT": "2s",
            "RESILIENCE_POOL__LEDGER__VALIDATION_TIMEOUT": "250ms",
            "RESILIENCE_POOL__LEDGER__IDLE_TIMEOUT": "none",
            "RESILIENCE_POOL__LEDGER__MAX_LIFETIME": "none",
            "RESILIENCE_POOL__LEDGER__MAX_LIFETIME_JITTER": "0.2",
            "RESILIENCE_POOL__LEDGER__KEEPALIVE_TIME": "30s",
            "RESILIENCE_POOL__LEDGER__LEAK_DETECTION_THRESHOLD": "1m",
            "RESILIENCE_POOL__LEDGER__MAX_WAITING": "7",
            "RESILIENCE_POOL__LEDGER__ALIVE_BYPASS": "1s",
            "RESILIENCE_POOL__LEDGER__MAX_CREATING": "2",
            "RESILIENCE_POOL__LEDGER__INITIALIZATION_FAIL_TIMEOUT": "0",
        }
    )
    options = toolkit.pool("ledger", connect=Connection, check=bool, maximum_pool_size=5, keepalive_time=None).options
    assert {field: getattr(options, field) for field in options.fields()} == {
        "maximum_pool_size": 5,
        "minimum_idle": 2,
        "connection_timeout": 3.0,
        "connect_timeout": 2.0,
        "validation_timeout": 0.25,
        "idle_timeout": None,
        "max_lifetime": None,
        "max_lifetime_jitter": 0.2,
        "keepalive_time": None,
        "leak_detection_threshold": 60.0,
        "max_waiting": 7,
        "alive_bypass": 1.0,
        "max_creating": 2,
        "initialization_fail_timeout": 0.0,
    }


def test_wrong_settings_name_their_variables() -> None:
    """A value that is wrong by itself or beside another one is reported under its variable, and so are misfits."""
    with pytest.raises(ConfigurationError) as caught:
        Resilience.from_env(
            {
                "RESILIENCE_POOL__LEDGER__MAXIMUM_POOL_SIZE": "0",
                "RESILIENCE_POOL__EVENTS__MINIMUM_IDLE": "11",
                "RESILIENCE_POOL__EVENTS__HEALTH__FAILURE": "ignore",
                "RESILIENCE_POOL__EVENTS__BREAKER__FAIL_MAX": "no",
            }
        )
    text = str(caught.value)
    for variable in (
        "RESILIENCE_POOL__LEDGER__MAXIMUM_POOL_SIZE",
        "RESILIENCE_POOL__EVENTS__MINIMUM_IDLE",
        "RESILIENCE_POOL__EVENTS__HEALTH__FAILURE",
        "RESILIENCE_POOL__EVENTS__BREAKER__FAIL_MAX",
    ):
        assert variable in text
    toolkit = Resilience.from_env({"RESILIENCE_POOL__LEDGER__MINIMUM_IDLE": "4"})
    with pytest.raises(ConfigurationError, match="RESILIENCE_POOL__LEDGER__MINIMUM_IDLE=4: expected at most maximum_p"):
        toolkit.pool("ledger", connect=Connection, maximum_pool_size=3)


def test_a_misspelt_knob_is_answered_with_the_right_one() -> None:
    """A variable of a pool that does not exist gets a suggestion."""
    with pytest.raises(ConfigurationError, match="did you mean RESILIENCE_POOL__LEDGER__MAXIMUM_POOL_SIZE"):
        Resilience.from_env({"RESILIENCE_POOL__LEDGER__MAX_POOL_SIZE": "3"}, strict=True)


def test_a_breaker_around_connecting_is_configured() -> None:
    """With breaker settings, an empty pool whose server is away refuses at once when the circuit is open."""
    server = Server()
    server.is_up = False
    settings = {"RESILIENCE_POOL__LEDGER__BREAKER__FAIL_MAX": "1", "RESILIENCE_POOL__LEDGER__CONNECTION_TIMEOUT": "5s"}
    toolkit = Resilience.from_env(settings)
    pool = toolkit.pool("ledger", connect=server.connect)
    with pytest.raises(CircuitOpenError):
        pool.acquire()
    assert server.attempts == 1
    other = Resilience.from_env({**settings, "RESILIENCE_POOL__LEDGER__BREAKER__ENABLED": "false"})
    with pytest.raises(PoolTimeoutError):
        other.pool("ledger", connect=server.connect).acquire(timeout=0.01)
    given = CircuitBreaker(fail_max=1, name="given")
    given.open()
    with pytest.raises(CircuitOpenError, match="given"):
        Resilience.from_env(settings).pool("ledger", connect=server.connect, breaker=given).acquire()
    toolkit.close()
    other.close()


# Events, snapshots


def test_a_toolkit_logs_the_events_of_its_pools_as_it_is_set(caplog: pytest.LogCaptureFixture) -> None:
    """The mode of the event log of a toolkit holds for its pools."""
    for mode in ("transitions", "none"):
        pool = Resilience.from_env({"RESILIENCE_LOG__EVENTS": mode}).pool("ledger", connect=Connection)
        pool.suspend()
    assert [record.getMessage() for record in caplog.records] == ["pool 'ledger' is suspended: borrowers wait"]


def test_a_snapshot_shows_pools() -> None:
    """The snapshot of a toolkit has each pool that was asked for, as JSON can hold it."""
    toolkit = Resilience()
    assert toolkit.snapshot()["pools"] == []
    with toolkit.pool("ledger", connect=Connection, maximum_pool_size=2).connection():
        shown = toolkit.snapshot()
    assert json.loads(json.dumps(shown)) == shown
    (pool,) = shown["pools"]
    assert (pool["name"], pool["state"], pool["in_use"], pool["maximum_pool_size"]) == ("ledger", "open", 1, 2)


# Health


def borrow_once(pool: Pool[Connection]) -> None:
    pool.acquire().release()


def has_waiting(pool: Pool[Connection]) -> bool:
    return bool(pool.snapshot()["waiting"])


def report_of(toolkit: Resilience, name: str = "pool.ledger") -> tuple[str, str]:
    (entry,) = [entry for entry in toolkit.health.report("ready").entries if entry.name == name]
    return entry.status, entry.reason


SETTINGS = {"RESILIENCE_HEALTH__CACHE": "0", "RESILIENCE_POOL__LEDGER__HEALTH__FAILURE": "fail"}


def test_an_instance_that_cannot_connect_is_not_ready_and_comes_back() -> None:
    """With `fail`, readiness fails while the pool cannot connect, and passes again although no borrower came."""
    server = Server()
    server.is_up = False
    toolkit = Resilience.from_env(SETTINGS)
    toolkit.lifecycle.started()
    pool = toolkit.pool("ledger", connect=server.connect)
    assert report_of(toolkit) == ("ok", "")
    with pytest.raises(PoolTimeoutError):
        pool.acquire(timeout=0.02)
    assert not toolkit.health.report("ready").ok
    assert report_of(toolkit) == ("failed", "it has no connection, and cannot connect: ConnectionRefusedError")
    server.is_up = True
    until(lambda: toolkit.health.report("ready").ok)
    toolkit.close()


def test_a_pool_that_cannot_connect_is_a_warning_by_default() -> None:
    """By default the instance stays in service, as with the other built-in checks."""
    toolkit = Resilience.from_env({"RESILIENCE_HEALTH__CACHE": "0"})
    toolkit.lifecycle.started()
    pool = toolkit.pool("ledger", connect=Server().connect)
    pool.close()
    assert toolkit.health.report("ready").ok
    assert report_of(toolkit) == ("warn", "it is closed")


def test_an_exhausted_pool_fails_its_check_after_the_limit() -> None:
    """Borrowers that wait fail the check only if they have waited without a break for longer than the limit."""
    for limit, status in (("0", "failed"), ("1m", "ok")):
        toolkit = Resilience.from_env({**SETTINGS, "RESILIENCE_POOL__LEDGER__HEALTH__EXHAUSTED_FOR": limit})
        toolkit.lifecycle.started()
        pool = toolkit.pool("ledger", connect=Connection, maximum_pool_size=1)
        lease = pool.acquire()
        waiter = threading.Thread(target=borrow_once, args=(pool,))
        waiter.start()
        until(functools.partial(has_waiting, pool))
        found, reason = report_of(toolkit)
        lease.release()
        waiter.join()
        assert found == status
        if status == "failed":
            assert "longer than 0 s: 1 of 1 connections are in use, 1 borrowers wait" in reason
        assert report_of(toolkit) == ("ok", "")


def test_every_pool_has_a_check() -> None:
    """Pools made before and after the health checks have one, with names that no other check has."""
    toolkit = Resilience()
    toolkit.pool("a/b", connect=Connection)
    toolkit.health.add("pool.ledger", lambda: True)
    toolkit.pool("ledger", connect=Connection)
    toolkit.pool("x" * 100, connect=Connection)
    names = toolkit.health.names("ready")[2:]
    assert names == ("pool.a-b", "pool.ledger", "pool.ledger-2", "pool." + "x" * 58)


# Start and end


def test_a_pool_that_must_connect_stops_the_start() -> None:
    """With `initialization_fail_timeout`, a process whose pool cannot connect does not start, and says why."""
    server = Server()
    server.is_up = False
    toolkit = Resilience()
    lifecycle = toolkit.lifecycle
    pool = toolkit.pool("ledger", connect=server.connect, initialization_fail_timeout=0)
    with pytest.raises(StartupError, match="start hook 'pool ledger' failed: PoolTimeoutError: pool 'ledger'"):
        lifecycle.start()
    server.is_up = True
    lifecycle.start()
    assert pool.snapshot()["created"] == 1
    lifecycle.stop()
    assert pool.is_closed


def test_pools_start_with_the_process_and_end_after_its_stop_hooks() -> None:
    """Idle connections are made when the process is ready; the pool lends in stop hooks, and is closed after them."""
    toolkit = Resilience()
    early = toolkit.pool("early", connect=Connection, minimum_idle=1)
    lifecycle = toolkit.lifecycle
    assert early.snapshot()["creating"] + early.snapshot()["total"] == 0
    lifecycle.start()
    late = toolkit.pool("late", connect=Connection, minimum_idle=2)
    until(lambda: early.snapshot()["idle"] == 1 and late.snapshot()["idle"] == 2)
    lent: list[Connection] = []

    def use() -> None:
        with early.connection() as connection:
            lent.append(connection)

    lifecycle.on_stop(use)
    lifecycle.stop()
    assert lent[0].is_closed
    assert early.is_closed
    assert late.is_closed
    with pytest.raises(PoolClosedError):
        early.acquire()


def test_a_process_that_starts_again_has_its_pools_again() -> None:
    """After the end, a new life has the same pools: a test client starts one application many times."""
    toolkit = Resilience()
    pool = toolkit.pool("ledger", connect=Connection, minimum_idle=1)
    must = toolkit.pool("must", connect=Connection, initialization_fail_timeout=1)
    for life in (1, 2, 3):
        with toolkit.lifecycle:
            with pool.connection(), must.connection():
                pass
            assert must.snapshot()["created"] == life
        assert pool.is_closed
        assert must.is_closed


def test_async_pools_live_in_the_loop_that_serves() -> None:
    """An async pool starts in each loop that starts the process, and is closed there."""
    toolkit = Resilience()
    pool = toolkit.async_pool("ledger", connect=aconnect, minimum_idle=1)
    must = toolkit.async_pool("must", connect=aconnect, initialization_fail_timeout=0)

    async def live() -> list[Connection]:
        async with toolkit.lifecycle:
            while not pool.snapshot()["idle"]:
                await asyncio.sleep(0)
            assert must.snapshot()["idle"] == 1
            async with pool.connection() as first, must.connection() as second:
                return [first, second]

    for _ in range(2):
        assert all(connection.is_closed for connection in asyncio.run(live()))
        assert pool.is_closed
        assert must.is_closed


def test_blocking_code_starts_no_async_pool() -> None:
    """A blocking start does not bind an async pool to a loop of its own, which would end at once."""
    toolkit = Resilience()
    lifecycle = toolkit.lifecycle
    pool = toolkit.async_pool("ledger", connect=aconnect, initialization_fail_timeout=0)
    lifecycle.start()
    assert pool.loop is None

    async def use() -> bool:
        async with pool.connection():
            return pool.loop is asyncio.get_running_loop()

    assert asyncio.run(use())
    lifecycle.stop()


def test_a_pool_whose_loop_has_ended_goes_to_the_next_loop() -> None:
    """The toolkit gives an async pool to the loop that asks for it, if the loop before has ended."""
    toolkit = Resilience()
    aborted: list[Connection] = []
    toolkit.async_pool("ledger", Connector(connect=aconnect, abort=aborted.append))

    async def use() -> Connection:
        async with toolkit.async_pool("ledger").connection() as connection:
            return cast("Connection", connection)

    first, second = asyncio.run(use()), asyncio.run(use())
    assert first is not second
    assert aborted == [first]
    assert toolkit.snapshot()["pools"][0]["total"] == 1


@pytest.mark.parametrize("kind", ["with", "thread"])
def test_blocking_code_closes_async_pools(kind: str) -> None:
    """`close()` ends an async pool in its loop: it waits for another thread, and only begins in its own."""
    toolkit = Resilience()

    async def use() -> Connection:
        async with toolkit.async_pool("ledger", connect=aconnect).connection() as connection:
            pass
        await asyncio.to_thread(toolkit.close) if kind == "thread" else toolkit.close()
        while not connection.is_closed:
            await asyncio.sleep(0)
        return connection

    assert asyncio.run(use()).is_closed
    assert toolkit.async_pool("ledger").is_closed


async def test_aclose_closes_pools_of_both_colours() -> None:
    """One call closes pools of threads, without blocking the loop, and those of the loop."""
    toolkit = Resilience()
    blocking, awaiting = toolkit.pool("a", connect=Connection), toolkit.async_pool("b", connect=aconnect)
    with blocking.connection() as first:
        pass
    async with awaiting.connection() as second:
        pass
    await toolkit.aclose()
    assert first.is_closed
    assert second.is_closed
    await toolkit.aclose()


def test_a_lease_that_never_comes_back_does_not_hold_up_the_end() -> None:
    """All pools share the time to close: connections still in use are aborted after it."""
    aborted: list[Connection] = []
    toolkit = Resilience.from_env({"RESILIENCE_LIFECYCLE__HOOK_TIMEOUT": "100ms"})
    pools = [
        toolkit.pool(name, Connector(connect=Connection, abort=aborted.append)) for name in ("first", "second", "third")
    ]
    leases = [pool.acquire() for pool in pools]
    began = time.monotonic()
    toolkit.close()
    assert time.monotonic() - began < WITHIN / 2
    assert len(aborted) == len(leases)
    assert all(pool.is_closed for pool in pools)


def test_a_forked_child_makes_connections_of_its_own(tmp_path: Path) -> None:
    """A child has the parent's pools by name, without the parent's connections."""
    toolkit = Resilience()
    made: list[int] = []

    def connect() -> list[int]:
        made.append(os.getpid())
        return [os.getpid()]

    with toolkit.pool("ledger", connect=connect).connection() as connection:
        assert connection == [os.getpid()]
    path = tmp_path / "child"
    child = os.fork()
    if child == 0:  # pragma: no cover - the child
        try:
            with toolkit.pool("ledger").connection() as connection:
                path.write_text(f"{connection == [os.getpid()]} {toolkit.snapshot()['pools'][0]['created']}")
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    assert path.read_text() == "True 1"
    toolkit.close()


def test_pools_are_imported_when_the_first_one_is_made() -> None:
    """A toolkit without pools closes, starts and shows itself without the package."""
    import subprocess  # noqa: PLC0415 - one test starts a process
    import sys  # noqa: PLC0415

    code = (
        "import sys; from resilience import Resilience; toolkit = Resilience()\n"
        "with toolkit.lifecycle: toolkit.health.report('ready'); toolkit.snapshot()\n"
        "print('resilience.pool' in sys.modules, 'asyncio' in sys.modules)\n"
        "toolkit.pool('ledger', connect=object).acquire().release(); toolkit.close(); print('asyncio' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.split() == ["False", "False", "False"]


def test_a_listener_hears_a_pool_that_reopens() -> None:
    """A pool that lends again after its close emits it."""
    seen: list[str] = []
    pool: Pool[Any] = Pool(Connection)

    def listen(event: Event) -> None:
        seen.append(event.kind)

    pool.events.subscribe(listen)
    lease = pool.acquire()
    connection = lease.connection
    pool.close(timeout=0)
    pool.reopen()
    with pool.connection() as second:
        assert second is not connection
    lease.release()
    until(lambda: connection.is_closed)
    assert "pool.reopened" in seen
    pool.close()
