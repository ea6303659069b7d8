"""A storage that does not answer costs the calls of its breaker one bound, fails no call, and is found again."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any

import pybreaker
import pytest
import redis
from redis_process import RedisProcess

from resilience import CircuitBreaker, CircuitOpenError
from resilience.events import Event

pytestmark = [pytest.mark.redis, pytest.mark.realtime]
BOUND = 0.2
PATIENCE = 1.5  # for one bound on a machine that is busy; redis-py's own retries take five times as long and more
RECOVERY = 60.0  # an attempt of redis-py's that began during the outage has to end first


class DownError(Exception):
    """The dependency's."""


def fail() -> None:
    raise DownError


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + RECOVERY
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


class Scene:
    """A breaker on pybreaker's Redis storage, with a client of redis-py's defaults."""

    def __init__(self, server: RedisProcess) -> None:
        self.client = redis.Redis(port=server.port)
        self.storage = pybreaker.CircuitRedisStorage("closed", self.client, namespace="scene")
        self.breaker = CircuitBreaker(3, 60, state_storage=self.storage, storage_timeout=BOUND)
        self.events: list[Event] = []
        self.breaker.add_listener(self.events.append)

    def seconds(self, act: Callable[[], Any] = int) -> float:
        since = time.monotonic()
        with contextlib.suppress(DownError, CircuitOpenError):
            self.breaker.call(act)
        return time.monotonic() - since

    async def aseconds(self) -> float:
        async def act() -> None: ...

        since = time.monotonic()
        await self.breaker.call_async(act)
        return time.monotonic() - since

    @property
    def kinds(self) -> list[str]:
        return [event.kind for event in self.events]


@pytest.fixture
def scene(own_redis_server: RedisProcess) -> Iterator[Scene]:
    made = Scene(own_redis_server)
    yield made
    own_redis_server.ready()
    made.client.close()


@pytest.mark.parametrize("colour", ["sync", "async"])
@pytest.mark.parametrize("outage", ["killed", "hung"])
def test_redis_gone(scene: Scene, own_redis_server: RedisProcess, outage: str, colour: str) -> None:
    """With a client of redis-py's defaults one call waits for one bound, and the next ones for nothing."""

    def seconds() -> float:
        return scene.seconds() if colour == "sync" else asyncio.run(scene.aseconds())

    seconds()
    if outage == "killed" and int(redis.__version__.split(".")[0]) < 6:
        pytest.skip("before version 6 redis-py does not try a refused connection again, so nothing is slow")
    if outage == "killed":
        own_redis_server.kill()
    else:
        own_redis_server.pause()
    assert seconds() < PATIENCE
    assert sorted(seconds() for _ in range(20))[15] < BOUND / 2
    assert scene.kinds == ["breaker.storage_outage"]
    assert scene.breaker.current_state == "closed"
    own_redis_server.ready()
    wait_until(lambda: scene.kinds[-1] == "breaker.storage_recovered")
    other = CircuitBreaker(3, 60, state_storage=scene.storage, storage_timeout=10)
    other.open()
    with pytest.raises(CircuitOpenError):
        scene.breaker.call(int)


def test_the_breaker_works_without_its_storage(scene: Scene, own_redis_server: RedisProcess) -> None:
    """While Redis is gone the failures of this process are counted here, and open the circuit."""
    own_redis_server.pause()
    assert scene.seconds(fail) < PATIENCE
    assert (scene.breaker.fail_counter, scene.breaker.success_counter) == (1, 0)
    for _ in range(2):
        assert scene.seconds(fail) < PATIENCE
    assert scene.breaker.current_state == "open"
    with pytest.raises(CircuitOpenError):
        scene.breaker.call(int)
    scene.breaker.close()
    scene.breaker.call(int)
    for _ in range(2):
        scene.seconds(fail)
    scene.breaker.call(int)
    assert scene.breaker.fail_counter == 0


def test_trials_without_the_storage(scene: Scene, own_redis_server: RedisProcess) -> None:
    """A half-open circuit whose storage goes closes by its trials."""
    scene.breaker.half_open()
    own_redis_server.pause()
    assert scene.seconds() < PATIENCE
    assert scene.breaker.current_state == "closed"


class Shelf(pybreaker.CircuitBreakerStorage):
    """A storage of a user's own: each access is noted, and may do something."""

    def __init__(self) -> None:
        super().__init__("shelf")
        self.noted: list[tuple[str, str]] = []
        self.acts: dict[str, Callable[[], object]] = {}

    def _note(self, what: str) -> None:
        self.noted.append((what, threading.current_thread().name))
        self.acts.get(what, int)()

    @property
    def state(self) -> str:
        self._note("state")
        return "closed"

    @state.setter
    def state(self, state: str) -> None:
        self._note(f"set {state}")

    def increment_counter(self) -> None:
        self._note("increment")

    def reset_counter(self) -> None:
        self._note("reset")

    def increment_success_counter(self) -> None:
        self._note("increment success")

    def reset_success_counter(self) -> None:
        self._note("reset success")

    @property
    def counter(self) -> int:
        self._note("counter")
        return 1

    @property
    def success_counter(self) -> int:
        self._note("success counter")
        return 1

    @property
    def opened_at(self) -> datetime | None:
        return None

    @opened_at.setter
    def opened_at(self, datetime: datetime) -> None:  # the name of the base class
        self._note("set time")


def refuse() -> None:
    raise ConnectionError("no storage")


@pytest.mark.parametrize("access", ["state", "increment", "counter", "reset", "reset success", "set time", "set open"])
def test_errors_of_a_storage_fail_no_call(access: str, caplog: pytest.LogCaptureFixture) -> None:
    """Whatever access raises, the call ends as it would without the storage, and the log has the error once."""
    storage = Shelf()
    breaker = CircuitBreaker(2, 60, state_storage=storage, storage_timeout=10)
    storage.acts[access] = refuse
    breaker.call(int)
    for _ in range(2):
        with pytest.raises(DownError):
            breaker.call(fail)
    breaker.open()
    assert (
        len([record for record in caplog.records if "left its storage alone: ConnectionError" in record.getMessage()])
        == 1
    )
    storage.acts.clear()
    wait_until(lambda: breaker.fail_counter == 1)  # the storage's


@pytest.mark.parametrize("name", ["current_state", "fail_counter", "success_counter"])
def test_a_reader_that_finds_the_storage_down_reports_it(name: str) -> None:
    """Listeners get the outage event at once, also if only a reader of the breaker's state finds the outage."""
    storage, kinds = Shelf(), list[str]()
    breaker = CircuitBreaker(2, 60, state_storage=storage, storage_timeout=10)
    breaker.events.subscribe(lambda event: kinds.append(event.kind))
    storage.acts.update(dict.fromkeys(("state", "counter", "success counter"), refuse))
    getattr(breaker, name)
    assert kinds == ["breaker.storage_outage"]


def test_a_storage_made_wrongly_shows_at_once() -> None:
    """The first access is made with the breaker, and its error is raised there."""
    storage = Shelf()
    storage.acts["state"] = refuse
    with pytest.raises(ConnectionError, match="no storage"):
        CircuitBreaker(2, 60, state_storage=storage, storage_timeout=10)


def test_a_late_write_ends_where_it_is() -> None:
    """Of a change that a storage was slow to take, the rest is not written later, when it no longer holds."""
    storage, go_on = Shelf(), threading.Event()
    breaker = CircuitBreaker(1, 60, state_storage=storage, storage_timeout=BOUND)
    storage.acts["reset success"] = lambda: go_on.wait(10)
    with pytest.raises(DownError):
        breaker.call(fail)
    assert ("open" in breaker.current_state, storage.noted[-1][0]) == (True, "reset success")
    go_on.set()
    wait_until(lambda: storage.noted[-1][0] == "state")  # asked in the background
    assert "set open" not in [what for what, _ in storage.noted]


def test_storages_in_memory_are_asked_directly() -> None:
    """pybreaker's storage in memory has nothing to wait for: no thread is asked."""
    asked: list[str] = []

    class Memory(pybreaker.CircuitMemoryStorage):
        def reset_counter(self) -> None:
            asked.append(threading.current_thread().name)

    CircuitBreaker(2, 60, state_storage=Memory("closed")).call(int)
    assert set(asked) == {threading.current_thread().name}


def test_nothing_keeps_a_forgotten_breaker(caplog: pytest.LogCaptureFixture) -> None:
    """A breaker that is dropped during an outage of its storage is freed, and the thread that asks the storage ends."""
    caplog.set_level(logging.CRITICAL, "resilience")  # pytest keeps records, and a traceback what its frames held
    storage = Shelf()
    breaker = CircuitBreaker(2, 60, state_storage=storage, storage_timeout=10)
    storage.acts["state"] = refuse
    breaker.call(int)
    gone = weakref.ref(breaker)
    del breaker
    wait_until(lambda: gc.collect() >= 0 and gone() is None)
    asked = len(storage.noted)
    time.sleep(0.5)
    assert len(storage.noted) <= asked + 1


def test_many_callers_at_the_onset(scene: Scene, own_redis_server: RedisProcess) -> None:
    """A hundred threads that meet a hung Redis together each lose one bound at most."""
    own_redis_server.pause()
    took: list[float] = []
    threads = [threading.Thread(target=lambda: took.append(scene.seconds())) for _ in range(100)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert max(took) < 2 * PATIENCE
    assert scene.kinds == ["breaker.storage_outage"]
