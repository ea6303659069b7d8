from __future__ import annotations

import contextlib
import gc
import threading
import time
import weakref
from collections.abc import Callable

import pytest
from interrupts import ShutdownRequested, Subject, every_signal
from no_threads import out_of_threads

from resilience.events import Emitter, Event
from resilience.redis import OutageGuard
from resilience.redis._machine import FIRST_PAUSE, MAX_PAUSE, MIN_PAUSE, Availability, Down, Up
from resilience.redis._pool_machine import NotAskedError
from resilience.testing import ManualClock

PATIENCE = 10.0


def down_since(now: float, jitter: float = 1.0) -> tuple[Availability, Down]:
    """Return the availability of a server that a caller has just found down."""
    availability, up = Availability(), Up()
    availability.epoch = up
    down = availability.failed(up, now, jitter)
    assert down is not None
    return availability, down


def test_one_failure_starts_an_outage() -> None:
    """After a failure the server is down, and the first trial is due after a pause."""
    availability, down = down_since(100.0)
    assert availability.epoch is down
    assert availability.trial_after(100.04) == pytest.approx(FIRST_PAUSE - 0.04)
    assert availability.trial_after(101.0) == 0


def test_many_failures_are_one_outage() -> None:
    """Of fifty callers that fail together one starts the outage; none of them puts the trial off."""
    availability, up = Availability(), Up()
    availability.epoch = up
    found = [availability.failed(up, now, 1.0) for now in range(50)]
    assert [each is not None for each in found] == [True] + [False] * 49
    assert availability.trial_after(0) == pytest.approx(FIRST_PAUSE)


def test_pauses_grow_up_to_the_longest() -> None:
    """Each failed trial doubles the longest pause up to a bound; an answer ends the outage."""
    availability, down = down_since(0.0)
    now, pauses = 0.0, []
    for _ in range(8):
        pauses.append(round(availability.trial_after(now), 6))
        now += availability.trial_after(now)
        availability.trial_failed(down, now, 1.0)
    assert pauses == [0.1, 0.2, 0.4, 0.8, 1.6, MAX_PAUSE, MAX_PAUSE, MAX_PAUSE]
    assert availability.trial_succeeded(down)
    assert isinstance(availability.epoch, Up)
    assert availability.trial_after(now) == 0


@pytest.mark.parametrize("jitter", [0.0, 0.25, 0.5, 1.0])
@pytest.mark.parametrize("failures", [0, 1, 4, 9])
def test_full_jitter(jitter: float, failures: int) -> None:
    """Each pause lies between the shortest and the longest one, so that a fleet does not ask in one moment."""
    availability, down = down_since(0.0, jitter)
    for _ in range(failures):
        availability.trial_failed(down, 0.0, jitter)
    longest = min(MAX_PAUSE, FIRST_PAUSE * 2**failures)
    assert availability.trial_after(0.0) == pytest.approx(MIN_PAUSE + (longest - MIN_PAUSE) * jitter)


def test_stragglers_change_nothing() -> None:
    """A report of an earlier epoch, of a caller or a trial, starts and ends no outage and delays no trial."""
    availability, first = down_since(0.0)
    early = Up()
    assert availability.failed(early, 0.0, 1.0) is None
    assert availability.trial_succeeded(first)
    assert not availability.trial_succeeded(first)
    up = availability.epoch
    assert isinstance(up, Up)
    second = availability.failed(up, 10.0, 1.0)
    assert second is not first
    availability.trial_failed(first, 20.0, 1.0)
    assert not availability.trial_succeeded(first)
    assert availability.trial_after(10.0) == pytest.approx(FIRST_PAUSE)


class Server:
    """A server that the trials of a guard ask, and the guard."""

    def __init__(self, *, is_watched: bool = False, **facts: object) -> None:
        self.error: Exception | None = ConnectionError("redis://:secret@host is away")
        self.asked = 0
        self.is_open = True
        self.evicted = 0
        self.clock = ManualClock()
        self.events: list[Event] = []
        emitter = Emitter()
        emitter.subscribe(self.events.append)
        self.guard = OutageGuard("ratelimit", emitter, self.trial, clock=self.clock, evict=self.evict, facts=facts)
        self.guard._random = lambda: 1.0
        if not is_watched:  # the test makes the trials, at its own pace
            self.guard._start_watch = lambda down: None  # type: ignore[method-assign]  # one thread less

    def trial(self) -> bool:
        self.asked += 1
        if self.error is not None:
            raise self.error
        return self.is_open

    def evict(self) -> None:
        self.evicted += 1

    def call(self) -> None:
        with self.guard.attempt() as attempt:
            if attempt.may_try and self.error is not None:
                raise self.error

    @property
    def down(self) -> Down:
        assert isinstance(self.guard._availability.epoch, Down)
        return self.guard._availability.epoch

    @property
    def kinds(self) -> list[str]:
        return [event.kind for event in self.events]


def wait_until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_the_guard_reports_each_change_once() -> None:
    """One event says that Redis stopped answering, one that it answers again; the guard absorbs its errors."""
    server = Server(outage="local")
    for _ in range(3):
        server.call()
    assert server.guard.is_down
    assert server.guard.try_again(server.down) == pytest.approx(FIRST_PAUSE)
    server.clock.advance(1)
    down = server.down
    assert server.guard.try_again(down) == pytest.approx(2 * FIRST_PAUSE)
    server.error = None
    server.clock.advance(1)
    assert server.guard.try_again(down) is None
    assert server.guard.try_again(down) is None
    assert (server.asked, server.guard.is_down) == (2, False)
    assert server.kinds == ["ratelimit.outage", "ratelimit.recovered"]
    assert server.events[0].facts.pop("retry_after") == pytest.approx(FIRST_PAUSE)
    assert server.events[0].facts == {"error": "ConnectionError", "outage": "local"}


def test_no_caller_asks_during_an_outage() -> None:
    """However much time passes, callers get no permit: only the watch asks."""
    server = Server()
    server.call()
    for _ in range(100):
        server.clock.advance(10)
        assert server.guard.admit() is None
    assert server.kinds == ["ratelimit.outage"]


def test_clients_wait_a_little_while_redis_is_asked() -> None:
    """The wait that clients learn is never 0 during an outage, also if a trial takes long."""
    server = Server()
    assert server.guard.trial_after == 0
    server.call()
    assert server.guard.trial_after == pytest.approx(FIRST_PAUSE)
    server.clock.advance(60)
    assert server.guard.trial_after == MIN_PAUSE


def test_the_watch_ends_the_outage_by_itself() -> None:
    """Without any further call, the watch finds Redis back within its longest pause, and its thread is free."""
    server = Server(is_watched=True)
    server.clock.advance(1)
    server.call()
    down, server.error = server.down, None
    server.clock.advance(1)
    wait_until(lambda: server.kinds == ["ratelimit.outage", "ratelimit.recovered"])
    wait_until(lambda: down.watch is None)


def test_each_failed_trial_leaves_the_connections() -> None:
    """A trial without an answer evicts, so that the next one resolves the name anew; one that was not made does not."""
    server = Server()
    server.call()
    down, evicted = server.down, server.evicted
    server.clock.advance(1)
    server.guard.try_again(down)
    assert server.evicted == evicted + 1
    server.error = NotAskedError("no connection")
    server.clock.advance(5)
    server.guard.try_again(down)
    assert server.evicted == evicted + 1


def test_an_error_of_ours_ends_no_watch(caplog: pytest.LogCaptureFixture) -> None:
    """A trial that fails by a mistake is logged, and the next one is made."""
    server = Server()
    server.call()
    down, server.error = server.down, KeyError("mistake")
    server.clock.advance(1)
    assert server.guard.try_again(down) == pytest.approx(2 * FIRST_PAUSE)
    assert "trial" in caplog.text


def test_a_closed_connection_ends_the_outage_without_an_event() -> None:
    """After `close` no thread asks any more, and the next call asks as if nothing had been."""
    server = Server()
    server.call()
    down, server.error, server.is_open = server.down, None, False
    server.clock.advance(1)
    assert server.guard.try_again(down) is None
    assert not server.guard.is_down
    assert server.kinds == ["ratelimit.outage"]


def test_a_watch_keeps_nothing_alive() -> None:
    """A guard that nothing else refers to is collected during an outage, and its thread ends."""
    server = Server(is_watched=True)
    server.call()
    down, alive = server.down, weakref.ref(server.guard)
    del server
    gc.collect()
    wait_until(lambda: alive() is None)
    wait_until(lambda: down.watch is None)


def test_out_of_threads() -> None:
    """If no thread can be started for the watch, callers wait for nothing, and a later one starts the watch."""
    server = Server(is_watched=True)
    with out_of_threads():
        server.call()
        for _ in range(3):
            server.clock.advance(5)
            assert server.guard.admit() is None
    assert server.down.watch is None
    server.error = None
    server.clock.advance(5)
    assert server.guard.admit() is None
    wait_until(lambda: not server.guard.is_down)


def test_one_watch_for_many_callers() -> None:
    """Of threads that find the outage together, one starts the watch."""
    server = Server(is_watched=True)
    permit = server.guard.admit()
    assert permit is not None
    before = threading.active_count()
    threads = [threading.Thread(target=server.guard.failed, args=(permit, ConnectionError())) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert threading.active_count() <= before + 1
    assert server.kinds == ["ratelimit.outage"]


def test_a_watch_that_lost_its_claim_ends() -> None:
    """A watch whose claim was given up, after an interrupt, leaves the outage to the next one."""
    server = Server(is_watched=True)
    server.call()
    down = server.down
    first = down.watch
    assert first is not None
    server.guard._give_up(down, first)
    server.error = None
    server.clock.advance(5)
    assert server.guard.admit() is None
    wait_until(lambda: server.kinds == ["ratelimit.outage", "ratelimit.recovered"])


def test_a_forked_child_and_a_new_test_start_afresh() -> None:
    """In a forked child, and after `resilience.testing.reset`, Redis counts as up: the watch is not there."""
    server = Server(is_watched=True)
    for renew in (server.guard.after_fork, server.guard.after_test):
        server.call()
        down = server.down
        renew()
        assert not server.guard.is_down
        assert server.guard.try_again(down) is None
    assert server.kinds == ["ratelimit.outage"] * 2


def test_the_guard_lets_interrupts_through() -> None:
    """An interrupt inside an attempt goes on, and is no outage."""
    server = Server()
    for error, is_down in (
        (KeyboardInterrupt(), False),
        (ValueError(), False),  # a time limit, perhaps: it says nothing about Redis
        (ConnectionError(), True),
        (KeyboardInterrupt(), True),
    ):
        with contextlib.suppress(KeyboardInterrupt, ValueError), server.guard.attempt():
            raise error
        assert server.guard.is_down is is_down


@pytest.mark.realtime
def test_an_interrupt_at_any_point_leaves_no_outage_behind() -> None:
    """If an interrupt strikes the caller that finds Redis down, Redis is asked again all the same."""

    def make() -> Subject:
        guard = OutageGuard("ratelimit", Emitter(), trial=lambda: True)
        permit = guard.admit()
        assert permit is not None

        def check() -> None:
            end = time.monotonic() + PATIENCE
            while guard.admit() is None:
                assert time.monotonic() < end, "Redis is never asked again"
                time.sleep(0.001)

        return (lambda: guard.failed(permit, ConnectionError("down"))), check

    assert list(every_signal(make, ShutdownRequested))
