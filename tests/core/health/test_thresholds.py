"""Verdicts that turn only after several outcomes, and background checks."""

from __future__ import annotations

import asyncio
import logging
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pybreaker
import pytest
from hypothesis import given
from hypothesis import strategies as st

from resilience import Bulkhead, CircuitBreaker, Resilience
from resilience.errors import ConfigurationError
from resilience.health import (
    CheckFailedError,
    Health,
    HealthOptions,
    breaker_check,
    loop_lag_check,
    pool_check,
    threads_check,
)
from resilience.health._machine import CheckMachine, CheckOutcome
from resilience.lifecycle import Lifecycle, LifecycleOptions
from resilience.testing import ManualClock

SHOWN = HealthOptions(timeout=10.0, cache=0, details=True)


def eventually(holds: Callable[[], bool]) -> None:
    end = time.monotonic() + 5
    while not holds():
        assert time.monotonic() < end, "it did not come true within 5 s"
        time.sleep(0.002)


def verdict(machine: CheckMachine, reason: str, now: float) -> bool:
    machine.finish(machine.begin(now), reason, now)
    assert machine.last is not None
    return machine.last.ok


@given(st.lists(st.booleans(), max_size=40), st.integers(1, 4), st.integers(1, 4))
def test_the_verdict_turns_after_so_many_in_a_row(found: list[bool], failures: int, passes: int) -> None:
    """The first outcome decides; then only `failure_threshold` failures, or `success_threshold` passes, in a row do."""
    machine = CheckMachine(timeout=1.0, cache=0.0, failure_threshold=failures, success_threshold=passes)
    expected: bool | None = None
    streak = 0
    for at, ok in enumerate(found):
        streak = streak + 1 if ok is not expected else 0
        if expected is None or streak >= (passes if ok else failures):
            expected, streak = ok, 0
        assert verdict(machine, "" if ok else "x", float(at)) is expected


def test_a_hanging_check_counts_once_per_timeout() -> None:
    """A check that hangs turns the verdict after `failure_threshold` timeouts, for any number of probes."""
    machine = CheckMachine(timeout=1.0, cache=0.0, failure_threshold=3)
    assert verdict(machine, "", 0.0)
    run = machine.begin(10.0)
    for now, ok in [(11.0, True), (11.5, True), (11.9, True), (12.0, True), (13.0, False), (14.0, False)]:
        outcome, _ = machine.ask(now)
        assert isinstance(outcome, CheckOutcome)
        assert outcome.ok is ok
    machine.finish(run, "", 15.0)
    assert not verdict(machine, "x", 16.0)


def test_an_answer_at_the_last_moment_is_a_pass() -> None:
    """A check that answers at the instant of its timeout has passed."""
    machine = CheckMachine(timeout=1.0, cache=0.0)
    run = machine.begin(0.0)
    outcome, _ = machine.ask(1.0)
    machine.finish(run, "", 1.0)
    assert isinstance(outcome, CheckOutcome)
    assert (outcome.ok, run.outcome and run.outcome.ok) == (False, True)


def test_how_near_it_is_to_turning_is_shown(caplog: pytest.LogCaptureFixture) -> None:
    """A failure below the threshold is logged with its reason, and the report has the number so far."""
    health = Health(HealthOptions(timeout=10.0, cache=0))
    answers = iter([True, False, False, True, True])
    health.add("db", lambda: next(answers), failure_threshold=2, success_threshold=2)
    with caplog.at_level(logging.WARNING, "resilience"):
        lines = [health.report("ready").text(verbose=True).splitlines()[1] for _ in range(5)]
    assert lines == [
        "[+]db ok",
        "[+]db ok (1 of 2 failures)",
        "[-]db failed: reason withheld",
        "[-]db failed: reason withheld (1 of 2 passes)",
        "[+]db ok",
    ]
    assert [record.getMessage() for record in caplog.records] == [
        "health check 'db' failed, 1 of 2 failures: it returned False",
        "health check 'db' failed: it returned False",
        "health check 'db' not yet, 1 of 2 passes: it has to pass 2 times",
        "health check 'db' passes again",
    ]


def test_thresholds_have_a_default_for_all() -> None:
    """The thresholds of the options apply to each check without its own."""
    health = Health(HealthOptions(timeout=10.0, cache=0, failure_threshold=2))
    answers = {"a": iter([True, False]), "b": iter([True, False])}
    health.add("a", lambda: next(answers["a"]))
    health.add("b", lambda: next(answers["b"]), failure_threshold=1)
    assert health.report("ready").ok
    assert [entry.status for entry in health.report("ready").entries[1:]] == ["ok", "failed"]


class TestBackground:
    def test_goes_stale(self) -> None:
        """A probe gets the last answer without waiting; three missing rounds make it a failure marked as stale."""
        machine = CheckMachine(timeout=1.0, cache=0.0, every=10.0)
        assert machine.ask(0.0) == (None, None)
        assert verdict(machine, "", 0.0)
        machine.begin(10.0)
        last = machine.last
        assert machine.ask(10.5) == (last, None)
        machine.give_up(machine.run or machine.begin(0.0))
        assert machine.ask(31.0) == (last, None)
        outcome, change = machine.ask(31.1)
        assert isinstance(outcome, CheckOutcome)
        assert (outcome.ok, outcome.is_stale, change is not None) == (False, True, True)
        assert machine.ask(40.0)[1] is None
        assert verdict(machine, "", 41.0)

    def test_is_due(self) -> None:
        """A round begins `every` seconds after the last answer, and never on top of one that still runs."""
        machine = CheckMachine(timeout=1.0, cache=0.0, every=10.0)
        assert machine.due_in(5.0) <= 0
        run = machine.begin(5.0)
        assert machine.due_in(50.0) > 0
        machine.finish(run, "", 6.0)
        assert machine.due_in(7.0) == 9.0
        assert machine.due_in(16.0) <= 0

    @pytest.mark.realtime
    def test_runs_by_itself(self) -> None:
        """From the first probe on a background check runs again and again; the report has the age of its outcome."""
        health, runs = Health(SHOWN), list[str]()
        health.add("slow", lambda: runs.append(threading.current_thread().name), every="20ms")
        time.sleep(0.05)
        assert runs == []  # no probe has come
        assert health.report("ready").ok
        eventually(lambda: len(runs) > 3)
        assert set(runs) == {"resilience-health-slow"}
        assert health.report("ready").json()["checks"][1]["age"] < 5
        health.close()
        eventually(lambda: "resilience-health" not in {thread.name for thread in threading.enumerate()})
        so_far = len(runs)
        time.sleep(0.06)
        assert len(runs) <= so_far + 1

    @pytest.mark.realtime
    def test_a_stuck_one_is_reported(self) -> None:
        """A background check that hangs is reported, not started again, and holds up no probe (L18)."""
        health, go, runs = Health(HealthOptions(timeout=0.05)), threading.Event(), list[int]()

        def check() -> None:
            runs.append(1)
            if len(runs) > 1:
                go.wait(10)

        health.add("stuck", check, every=0.01)
        assert health.report("ready").ok
        eventually(lambda: not health.report("ready").ok)
        began = time.monotonic()
        for _ in range(100):
            assert not health.report("ready").ok
        assert (time.monotonic() - began < 3, len(runs)) == (True, 2)
        go.set()
        eventually(lambda: health.report("ready").ok)
        health.close()

    @pytest.mark.realtime
    def test_no_thread_now_is_no_end(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """If the system starts no thread for the rounds, the probe is answered, and the next one begins them."""
        health, runs = Health(SHOWN), list[int]()
        health.add("c", lambda: runs.append(1), every="10ms")

        def refuse(_thread: threading.Thread) -> None:
            raise RuntimeError("can't start new thread")

        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", refuse)
            assert not health.report("ready").ok
        health.report("ready")
        eventually(lambda: len(runs) > 2)
        assert health.report("ready").ok
        health.close()

    @pytest.mark.realtime
    async def test_runs_in_the_loop_of_the_process(self) -> None:
        """An async background check runs in the loop the process serves in: its client may be bound to that."""
        lifecycle, loops = Lifecycle(LifecycleOptions(signals=False)), set[Any]()
        health = Health(SHOWN, lifecycle=lifecycle)

        async def check() -> None:
            loops.add(asyncio.get_running_loop())

        health.add("c", check, every="10ms")
        async with lifecycle:
            assert (await health.areport("ready")).ok
            await asyncio.sleep(0.08)
        await health.aclose()
        assert loops == {asyncio.get_running_loop()}

    @pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
    @pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
    def test_a_forked_child_runs_its_own(self) -> None:
        """A child forked during the rounds begins its own rounds with its first probe."""
        health, runs = Health(SHOWN), list[int]()
        health.add("c", lambda: runs.append(1), every="10ms")
        assert health.report("ready").ok
        child = os.fork()
        if child == 0:
            runs.clear()
            health.report("ready")
            end = time.monotonic() + 5
            while len(runs) < 3 and time.monotonic() < end:
                time.sleep(0.005)
            os._exit(0 if len(runs) >= 3 else 1)
        _, status = os.waitpid(child, 0)
        health.close()
        assert os.waitstatus_to_exitcode(status) == 0


def test_what_has_come_up_is_not_asked_again() -> None:
    """A startup check that has passed once stays passed for `/startupz`, even if it fails later."""
    clock = ManualClock()
    health, answers = Health(SHOWN, clock=clock), [False, True, False]
    health.add("warm", lambda: answers.pop(0), groups=("startup", "ready"))
    codes = []
    for group in ("startup", "startup", "startup", "ready", "startup"):
        codes.append(health.report(group).status)
        clock.advance(1)
    assert codes == [503, 200, 200, 503, 200]
    assert health.report("startup", exclude=["warm"]).entries[-1].name == "ping"


def test_groups_of_your_own() -> None:
    """A check in a group of its own is in no probe but the one that names the group."""
    health = Health(SHOWN)
    health.add("ledger", lambda: False, groups=["deps"])
    assert health.groups() == ("live", "ready", "startup", "deps")
    assert health.report("ready").ok
    assert not health.report("deps").ok
    assert health.handle("/healthz", "group=deps").status == 503
    assert health.handle("/healthz/ledger", "group=deps").status == 503
    assert health.handle("/readyz", "group=deps").status == 200
    reply = health.handle("/healthz", "group=depz")
    assert (reply.status, reply.body) == (404, b"no such group\n")


def test_the_drain_file_is_readiness_alone(tmp_path: Path) -> None:
    """While the drain file exists readiness is 503, says why, and liveness and startup stay as they are."""
    path = tmp_path / "drain"
    toolkit = Resilience.from_env({"RESILIENCE_LIFECYCLE__DRAIN_FILE": str(path)})
    toolkit.lifecycle.started()
    health = toolkit.health
    assert health.report("ready").ok
    path.touch()
    assert [health.report(group).status for group in ("live", "startup", "ready")] == [200, 200, 503]
    assert "[-]lifecycle failed: the drain file exists\n" in health.report("ready").text()
    path.unlink()
    assert health.report("ready").ok


def text(check: Any, failure: str | None = None) -> str:
    health = Health(SHOWN)
    health.add("c", check, failure=failure)
    report = health.report("ready")
    assert report.ok is (failure is None or "failed" not in report.text(verbose=True))
    return report.text(verbose=True).splitlines()[1]


@pytest.mark.parametrize("made", [CircuitBreaker, pybreaker.CircuitBreaker])
def test_an_open_circuit_warns(made: Any) -> None:
    """An open circuit is a warning and takes nothing out of service, unless asked to."""
    breaker = made(fail_max=1, reset_timeout=60)
    assert text(breaker_check(breaker)) == "[+]c ok"
    breaker.open()
    assert text(breaker_check(breaker)).startswith("[!]c warning: the circuit is open")
    assert text(breaker_check(breaker), "fail").startswith("[-]c failed: the circuit is open")


class Pool:
    def __init__(self, **figures: Any) -> None:
        self.figures = figures

    def snapshot(self) -> dict[str, Any]:
        return self.figures


@pytest.mark.parametrize(
    ("figures", "line"),
    [
        ({}, "[+]c ok"),
        ({"in_use": 3, "limit": 4, "waiting": 0}, "[+]c ok"),
        ({"in_use": 4, "limit": 4, "waiting": 0}, "[+]c ok"),
        ({"in_use": 4, "limit": 4, "waiting": 2}, "[!]c warning: all 4 connections are in use, 2 wait"),
        ({"in_use": 4, "maximum_pool_size": 4, "waiting": 2}, "[!]c warning: all 4 connections are in use, 2 wait"),
        ({"in_use": None, "limit": 4, "waiting": 2}, "[+]c ok"),
        ({"closed": True}, "[!]c warning: it is closed"),
        ({"state": "closed"}, "[!]c warning: it is closed"),
    ],
)
def test_a_full_pool_warns(figures: dict[str, Any], line: str) -> None:
    """A pool that is closed, or full with callers waiting, is a warning; a busy pool passes."""
    assert text(pool_check(Pool(**figures))) == line


def test_a_bulkhead_is_a_pool() -> None:
    """The same check reads the snapshot of a bulkhead."""
    bulkhead = Bulkhead(1)
    assert text(pool_check(bulkhead)) == "[+]c ok"
    bulkhead.admit()
    assert text(pool_check(bulkhead)) == "[+]c ok"


def test_busy_threads_warn() -> None:
    """An executor whose threads are all busy with work waiting is a warning, until it catches up."""
    go = threading.Event()
    with ThreadPoolExecutor(2) as executor:
        check = threads_check(executor)
        work = [executor.submit(go.wait, 10) for _ in range(3)]
        assert text(check) == "[!]c warning: all 2 threads are in use, 1 wait"
        go.set()
        for each in work:
            each.result(5)
        assert text(check) == "[+]c ok"
    assert text(check) == "[!]c warning: it is closed"


async def test_a_limiter_without_tokens_warns() -> None:
    """AnyIO's limiter, which sync endpoints share, is a warning while all its threads are taken and requests wait."""
    anyio = pytest.importorskip("anyio")
    limiter, go = anyio.CapacityLimiter(2), threading.Event()
    health = Health(SHOWN)
    health.add("threads", threads_check(limiter))
    work = [asyncio.create_task(anyio.to_thread.run_sync(go.wait, 10, limiter=limiter)) for _ in range(3)]
    await asyncio.sleep(0.02)
    report = await health.areport("ready")
    go.set()
    await asyncio.gather(*work)
    assert report.text(verbose=True).splitlines()[1] == "[!]threads warning: all 2 threads are in use, 1 wait"
    assert (await health.areport("ready")).text(verbose=True).splitlines()[1] == "[+]threads ok"


async def test_a_late_loop_warns() -> None:
    """A busy event loop is a warning that has its lag; an idle loop passes."""
    health = Health(SHOWN)
    health.add("loop", loop_lag_check("50ms"), groups=("live",))
    assert (await health.areport("live")).text(verbose=True).splitlines()[1] == "[+]loop ok"
    loop = asyncio.get_running_loop()
    loop.call_later(0.005, time.sleep, 0.2)
    line = (await health.areport("live")).text(verbose=True).splitlines()[1]
    assert line.startswith("[!]loop warning: the event loop is 0.")


def test_a_reason_of_its_own() -> None:
    """The text of a `CheckFailedError` is the reason, without the class name."""

    def check() -> None:
        raise CheckFailedError("3 of 5 shards are behind")

    assert text(check, "fail") == "[-]c failed: 3 of 5 shards are behind"


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: breaker_check(3), "breaker=3"),
        (lambda: pool_check(3), "pool=3"),
        (lambda: threads_check(3), "source=3"),
        (lambda: loop_lag_check(0), "limit=0"),
        (lambda: Health().add("c", print, every=0), "every=0"),
        (lambda: Health().add("c", print, failure_threshold=0), "failure_threshold=0"),
        (lambda: Health().add("c", print, success_threshold=101), "success_threshold=101"),
        (lambda: Health().add("c", print, groups=["reddy"]), "did you mean ready"),
        (lambda: Health().add("c", print, groups=["No"]), "groups="),
    ],
)
def test_refuses_what_is_wrong(make: Any, named: str) -> None:
    """An invalid argument of a built-in check is refused by name."""
    with pytest.raises(ConfigurationError, match=named):
        make()
