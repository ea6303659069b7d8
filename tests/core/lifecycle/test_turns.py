"""The work at each transition: dependencies, start, drain and stop hooks."""

from __future__ import annotations

import asyncio
import functools
import logging
import os
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from resilience.errors import ConfigurationError, StartupError
from resilience.events import Event
from resilience.lifecycle import Lifecycle, LifecycleOptions
from resilience.testing import RecordingListener

QUICK = LifecycleOptions(hook_timeout=0.2, startup_timeout=0.3, startup_interval=0.01)


def ran(lifecycle: Lifecycle, *, in_loop: bool) -> None:
    """Start and stop once, blocking or awaiting."""

    async def live() -> None:
        await lifecycle.astart()
        await lifecycle.astop()

    if in_loop:
        asyncio.run(live())
    else:
        lifecycle.start()
        lifecycle.stop()


both = pytest.mark.parametrize("in_loop", [False, True], ids=["blocking", "suspended"])


@both
def test_hooks_run_in_order_and_back(in_loop: bool) -> None:  # noqa: FBT001 - a column of a table
    """Start hooks run in the order added and stop hooks in reverse, both plain and async."""
    lifecycle, log = Lifecycle(), list[str]()

    @lifecycle.on_start
    def one() -> None:
        log.append("start one")

    @lifecycle.on_start(name="second")
    async def two() -> None:
        await asyncio.sleep(0)
        log.append("start two")

    lifecycle.on_stop(functools.partial(log.append, "stop one"))

    async def three() -> None:
        log.append("stop two")

    lifecycle.on_stop(lambda: three())  # noqa: PLW0108 - a plain function that returns an awaitable
    lifecycle.on_drain(lambda: log.append(f"drain {lifecycle.state}"))
    ran(lifecycle, in_loop=in_loop)
    assert log == ["start one", "start two", "drain draining", "stop two", "stop one"]
    assert lifecycle.state == "stopped"


@both
def test_a_failing_or_hanging_hook_stops_no_other(in_loop: bool, caplog: pytest.LogCaptureFixture) -> None:  # noqa: FBT001 - a column of a table
    """A hook that raises, exits or hangs is reported by name, and the others run."""
    lifecycle, log, heard = Lifecycle(QUICK), list[str](), RecordingListener()
    lifecycle.events.subscribe(heard)
    caplog.set_level(logging.CRITICAL, "resilience")
    release = threading.Event()

    def broken() -> None:
        raise ValueError("no")

    def leaving() -> None:
        raise SystemExit(3)

    async def hanging() -> None:
        await asyncio.sleep(60)

    for stage in (lifecycle.on_start, lifecycle.on_drain, lifecycle.on_stop):
        for hook in (broken, leaving, hanging, lambda: release.wait(5)):
            stage(hook, timeout=0.05, name=None if hook in {broken, leaving, hanging} else "stuck")
        stage(lambda: log.append("ran"))
    began = time.monotonic()
    ran(lifecycle, in_loop=in_loop)
    release.set()
    assert log == ["ran"] * 3
    assert time.monotonic() - began < 3
    failures = [event.facts for event in heard.events if event.kind == "lifecycle.hook_failed"]
    per_stage = ["broken", "leaving", "hanging", "stuck"]
    assert [one["hook"] for one in failures if one["stage"] in {"start", "drain"}] == per_stage * 2
    assert [one["hook"] for one in failures if one["stage"] == "stop"] == per_stage[::-1]
    assert {one["reason"] for one in failures} == {"ValueError: no", "SystemExit: 3", "still running after 0.05 s"}


async def test_an_async_hook_that_refuses_to_end_is_left_behind() -> None:
    """A hook that swallows its cancellation takes its timeout and a moment, and no more."""
    lifecycle = Lifecycle(QUICK)
    released = asyncio.Event()

    async def stubborn() -> None:
        while not released.is_set():
            try:
                await released.wait()
            except asyncio.CancelledError:
                continue

    lifecycle.on_stop(stubborn, timeout=0.02)
    await asyncio.wait_for(lifecycle.astop(), 1)
    released.set()
    assert lifecycle.state == "stopped"


@both
def test_a_required_start_hook_ends_the_start(in_loop: bool) -> None:  # noqa: FBT001 - a column of a table
    """A start hook that is required and fails ends the start with an error that names it and its cause."""
    lifecycle, later = Lifecycle(QUICK), list[int]()

    @lifecycle.on_start(required=True)
    def migrate() -> None:
        raise ValueError("no table")

    lifecycle.on_start(lambda: later.append(1))
    with pytest.raises(StartupError, match="'migrate' failed: ValueError: no table") as caught:
        ran(lifecycle, in_loop=in_loop)
    assert (caught.value.step, type(caught.value.__cause__), later) == ("migrate", ValueError, [])
    assert lifecycle.state == "starting"


@both
def test_the_start_waits_for_its_dependencies(in_loop: bool) -> None:  # noqa: FBT001 - a column of a table
    """A dependency is asked until it is there, before any start hook runs, and each failed attempt is an event."""
    lifecycle = Lifecycle(LifecycleOptions(startup_interval=0.01))
    log, heard = list[str](), RecordingListener()
    lifecycle.events.subscribe(heard)

    @lifecycle.depends_on
    def ledger() -> bool:
        log.append("asked")
        if len(log) == 1:
            raise ConnectionError("refused")
        return len(log) == 3

    lifecycle.on_start(lambda: log.append("start"))
    ran(lifecycle, in_loop=in_loop)
    assert log == ["asked"] * 3 + ["start"]
    found = [event.facts for event in heard.events if event.kind == "lifecycle.waiting"]
    assert [(one["dependency"], one["reason"]) for one in found] == [
        ("ledger", "ConnectionError: refused"),
        ("ledger", "it returned False"),
    ]


@both
@pytest.mark.parametrize("colour", ["plain", "async"])
@pytest.mark.parametrize("behaviour", ["refuses", "hangs"])
def test_a_missing_dependency_is_named(in_loop: bool, colour: str, behaviour: str) -> None:  # noqa: FBT001 - a column of a table
    """A start whose dependency never comes, or never answers, ends in time with an error that names it."""
    lifecycle, release = Lifecycle(QUICK), threading.Event()

    def plain() -> None:
        if behaviour == "hangs":
            release.wait(5)
        raise ConnectionError("refused")

    async def suspended() -> None:
        if behaviour == "hangs":
            await asyncio.sleep(5)
        raise ConnectionError("refused")

    lifecycle.depends_on(plain if colour == "plain" else suspended, name="ledger", timeout="50ms", interval="20ms")
    began = time.monotonic()
    with pytest.raises(StartupError, match="'ledger' is not there after") as caught:
        ran(lifecycle, in_loop=in_loop)
    release.set()
    assert time.monotonic() - began < 4
    assert caught.value.step == "ledger"
    assert ("refused" if behaviour == "refuses" else "still running") in str(caught.value)


@both
def test_a_drain_ends_the_waiting(in_loop: bool) -> None:  # noqa: FBT001 - a column of a table
    """A drain ends the wait for a dependency at once, with an error that names the dependency."""
    lifecycle = Lifecycle()
    lifecycle.depends_on(lambda: False, name="ledger", timeout=30, interval=30)
    timer = threading.Timer(0.05, lifecycle.drain)
    timer.start()
    began = time.monotonic()
    with pytest.raises(StartupError, match="a drain began while waiting for 'ledger'"):
        ran(lifecycle, in_loop=in_loop)
    assert time.monotonic() - began < 15
    timer.join(5)


async def test_waiting_for_something_now() -> None:
    """`wait_for` and `await_for` wait at once, in any state, by the same rules."""
    lifecycle = Lifecycle(QUICK)
    lifecycle.wait_for(lambda: True)
    await lifecycle.await_for(lambda: asyncio.sleep(0))
    with pytest.raises(StartupError, match="'ledger'"):
        lifecycle.wait_for(lambda: False, name="ledger", timeout=0.02)
    with pytest.raises(StartupError, match="'ledger'"):
        await lifecycle.await_for(lambda: False, name="ledger", timeout=0.02)


@pytest.mark.parametrize("due", [Lifecycle.on_start, Lifecycle.depends_on], ids=["hook", "need"])
def test_a_start_that_is_due_is_not_skipped(due: Any) -> None:
    """`started_if_no_hooks` changes nothing if there is a start hook or a dependency."""
    lifecycle, log = Lifecycle(), list[str]()
    due(lifecycle, lambda: log.append("run"))
    assert not lifecycle.server.started_if_no_hooks()
    assert (lifecycle.state, log) == ("starting", [])
    lifecycle.start()
    assert (lifecycle.state, log) == ("ready", ["run"])


def test_a_start_without_steps_is_over_at_once() -> None:
    """Without hooks `started_if_no_hooks` makes a new process ready, and leaves a stopped one stopped."""
    lifecycle = Lifecycle()
    assert (lifecycle.server.started_if_no_hooks(), lifecycle.server.started_if_no_hooks()) == (True, False)
    assert lifecycle.is_ready
    lifecycle.stop()
    assert not lifecycle.server.started_if_no_hooks()
    assert lifecycle.state == "stopped"


def test_drain_hooks_do_not_block_the_drain() -> None:
    """`drain()` returns at once while its hooks run, once; `stop` waits for them."""
    lifecycle, release, log = Lifecycle(), threading.Event(), list[str]()

    @lifecycle.on_drain
    def deregister() -> None:
        release.wait(5)
        log.append("deregistered")

    lifecycle.on_stop(lambda: log.append("stopped"))
    lifecycle.started()
    assert (lifecycle.drain(), lifecycle.drain()) == (True, False)
    assert not lifecycle._life.drain_hooks_done()
    stopping = threading.Thread(target=lifecycle.stop)
    stopping.start()
    release.set()
    stopping.join(5)
    assert log == ["deregistered", "stopped"]


def test_a_stop_while_listeners_handle_the_drain() -> None:
    """Drain hooks run before the stop hooks even if a stop comes while a listener handles the drain event."""
    lifecycle, log, hears, go_on = Lifecycle(), list[str](), threading.Event(), threading.Event()
    lifecycle.on_drain(lambda: log.append("drain"))
    lifecycle.on_stop(lambda: log.append("stop"))

    def hear(event: Event) -> None:
        if event.kind == "lifecycle.draining":
            hears.set()
            go_on.wait(10)

    lifecycle.events.subscribe(hear)
    lifecycle.started()
    draining = threading.Thread(target=lifecycle.drain)
    draining.start()
    assert hears.wait(5)
    lifecycle.stop()
    go_on.set()
    draining.join(5)
    assert log == ["drain", "stop"]


def test_a_listener_may_stop_at_the_drain() -> None:
    """A listener that calls `stop` at the drain waits for the drain hooks, and they do not wait for the listener."""
    lifecycle, log = Lifecycle(), list[str]()
    lifecycle.on_drain(lambda: log.append("drain"))
    lifecycle.on_stop(lambda: log.append("stop"))
    lifecycle.events.subscribe(lambda event: lifecycle.stop() if event.kind == "lifecycle.draining" else None)
    lifecycle.drain()
    assert log == ["drain", "stop"]


async def test_hooks_run_where_their_clients_live() -> None:
    """An async drain hook runs in the loop the process serves in, even when a signal's thread starts the drain."""
    lifecycle, loops = Lifecycle(), list[Any]()

    async def deregister() -> None:
        loops.append(asyncio.get_running_loop())

    lifecycle.on_drain(deregister)
    await lifecycle.astart()
    await asyncio.to_thread(lifecycle.drain)
    assert await lifecycle.server.await_drain_hooks()
    assert loops == [asyncio.get_running_loop()]
    await lifecycle.astop()


@both
def test_stop_runs_once(in_loop: bool) -> None:  # noqa: FBT001 - a column of a table
    """Of several concurrent stops one runs the hooks, and all return after that; a second life runs them again."""
    lifecycle, log = Lifecycle(), list[int]()

    @lifecycle.on_stop
    def slow() -> None:
        time.sleep(0.02)
        log.append(1)

    async def stop_thrice() -> None:
        await asyncio.gather(*(lifecycle.astop() for _ in range(3)))

    for life in (1, 2):
        lifecycle.start()
        if in_loop:
            asyncio.run(stop_thrice())
        else:
            threads = [threading.Thread(target=lifecycle.stop) for _ in range(3)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(5)
        assert len(log) == life
        assert lifecycle.state == "stopped"


async def test_a_cancelled_stop_is_a_stop() -> None:
    """A cancelled `astop` leaves a stopped process, and no other caller of `astop` waits for ever."""
    lifecycle = Lifecycle()
    lifecycle.on_stop(lambda: asyncio.sleep(60), timeout=60, name="slow")
    stopping = asyncio.create_task(lifecycle.astop())
    await asyncio.sleep(0.05)
    stopping.cancel()
    with pytest.raises(asyncio.CancelledError):
        await stopping
    assert lifecycle.state == "stopped"
    await asyncio.wait_for(lifecycle.astop(), 1)


class Thing:
    def __init__(self, log: list[str]) -> None:
        self.log = log

    def close(self) -> None:
        self.log.append("close")

    async def aclose(self) -> None:
        self.log.append("aclose")


@both
def test_the_first_object_is_closed_last(in_loop: bool) -> None:  # noqa: FBT001 - a column of a table
    """The first object given to `close_on_stop` is closed last, by `aclose` in async code."""
    lifecycle, log = Lifecycle(), list[str]()
    thing = Thing(log)
    assert lifecycle.close_on_stop(thing) is thing
    lifecycle.on_stop(lambda: log.append("hook"))
    ran(lifecycle, in_loop=in_loop)
    assert log == ["hook", "aclose" if in_loop else "close"]


def fail_inside(lifecycle: Lifecycle) -> None:
    lifecycle.enter()
    raise KeyError


def test_a_block_is_a_life() -> None:
    """`with lifecycle:` starts, waits for requests in flight, and stops; after an error it does not wait."""
    lifecycle, log = Lifecycle(LifecycleOptions(signals=False)), list[str]()
    lifecycle.on_stop(lambda: log.append(f"{lifecycle.in_flight} in flight"))
    with lifecycle as same:
        assert same is lifecycle
        assert lifecycle.is_ready
        lifecycle.enter()
        threading.Timer(0.05, lifecycle.leave).start()
    with pytest.raises(KeyError), lifecycle:
        fail_inside(lifecycle)
    assert log == ["0 in flight", "1 in flight"]
    assert lifecycle.state == "stopped"


async def test_an_async_block_is_a_life() -> None:
    """`async with lifecycle:` starts and stops without blocking the loop, and stops if the start failed."""
    lifecycle, log = Lifecycle(LifecycleOptions(signals=False)), list[str]()
    lifecycle.on_stop(lambda: log.append("stop"))
    async with lifecycle:
        assert lifecycle.is_ready
        lifecycle.enter()
        asyncio.get_running_loop().call_later(0.05, lifecycle.leave)
    assert lifecycle.in_flight == 0
    lifecycle.depends_on(lambda: False, timeout=0.01, name="ledger")
    with pytest.raises(StartupError):
        async with lifecycle:
            raise AssertionError("not reached")
    assert log == ["stop", "stop"]


async def test_waiting_for_the_drain() -> None:
    """A wait for the drain ends with the drain, or returns False at its timeout."""
    lifecycle = Lifecycle()
    assert not lifecycle.wait_draining(0)
    assert not await lifecycle.await_draining("10ms")
    threading.Timer(0.02, lifecycle.drain).start()
    assert await lifecycle.await_draining()
    assert lifecycle.wait_draining()


async def test_drained() -> None:
    """`wait_drained` drains, waits for the delay and for requests in flight, and returns whether all ended in time."""
    lifecycle = Lifecycle(LifecycleOptions(drain_delay=0.05, drain_timeout=0.02))
    lifecycle.started()
    lifecycle.enter()
    began = time.monotonic()
    assert not await lifecycle.await_drained()
    assert (lifecycle.state, time.monotonic() - began >= 0.05) == ("draining", True)
    lifecycle.leave()
    assert lifecycle.wait_drained("1s")


def test_the_drain_file(tmp_path: Path) -> None:
    """While the drain file exists the process is not ready, and its state does not change."""
    path = tmp_path / "drain"
    lifecycle = Lifecycle(LifecycleOptions(drain_file=str(path)))
    lifecycle.started()
    assert lifecycle.is_ready
    path.touch()
    assert (lifecycle.is_ready, lifecycle.server.drain_file_exists, lifecycle.state) == (False, True, "ready")
    path.unlink()
    assert lifecycle.is_ready


@pytest.mark.parametrize(
    ("add", "named"),
    [
        (lambda life: life.on_start(3), "fn=3"),
        (lambda life: life.on_stop(print, timeout=0), "timeout=0"),
        (lambda life: life.on_drain(print, name=""), "name=''"),
        (lambda life: life.depends_on(print, interval="never"), "interval='never'"),
        (lambda life: life.wait_for(None), "check=None"),
        (lambda _: LifecycleOptions(drain_delay=-1), "drain_delay=-1"),
        (lambda _: LifecycleOptions(drain_file=""), "drain_file=''"),
    ],
)
def test_refuses_what_is_wrong(add: Any, named: str) -> None:
    """An invalid hook or option is refused by name, at the call that gives it."""
    with pytest.raises(ConfigurationError, match=named):
        add(Lifecycle())


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_stops_for_itself() -> None:
    """A child forked while the parent stops runs its own stop hooks, and does not wait for the parent."""
    lifecycle, log, go_on, begun = Lifecycle(), list[str](), threading.Event(), threading.Event()

    def hook() -> None:
        log.append("ran")
        begun.set()
        go_on.wait(5)

    lifecycle.on_stop(hook)
    stopping = threading.Thread(target=lifecycle.stop)
    stopping.start()
    begun.wait(5)
    child = os.fork()
    if child == 0:
        go_on.set()
        lifecycle.stop()
        os._exit(0 if log == ["ran", "ran"] else 1)
    _, status = os.waitpid(child, 0)
    go_on.set()
    stopping.join(5)
    assert os.waitstatus_to_exitcode(status) == 0


async def test_a_cancelled_stop_still_closes_what_is_left() -> None:
    """A cancelled stop ends the hook under way, runs all others, and then raises the cancellation."""
    lifecycle, log = Lifecycle(), list[str]()
    lifecycle.on_stop(lambda: log.append("first"))
    lifecycle.on_stop(lambda: log.append("second"))

    @lifecycle.on_stop
    async def third() -> None:
        try:
            await asyncio.sleep(5)
        finally:
            log.append("third gives up")

    await lifecycle.astart()
    stopping = asyncio.create_task(lifecycle.astop())
    await asyncio.sleep(0.05)
    stopping.cancel()
    with pytest.raises(asyncio.CancelledError):
        await stopping
    assert log == ["third gives up", "second", "first"]
    assert lifecycle.state == "stopped"


async def test_a_cancelled_start_goes_no_further() -> None:
    """A start that is cancelled runs no further hooks."""
    lifecycle, log = Lifecycle(), list[str]()
    lifecycle.on_start(lambda: asyncio.sleep(5))
    lifecycle.on_start(lambda: log.append("second"))
    starting = asyncio.create_task(lifecycle.astart())
    await asyncio.sleep(0.05)
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    assert (log, lifecycle.state) == ([], "starting")


def test_hooks_that_come_too_late_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    """If the stage of a new hook has begun, the hook will not run, and the log has a warning."""
    lifecycle, quiet = Lifecycle(), lambda: None
    lifecycle.on_stop(lambda: lifecycle.close_on_stop(Pool(), name="late pool"))
    lifecycle.start()
    lifecycle.on_drain(quiet, name="in time")
    lifecycle.on_start(quiet, name="late start")
    lifecycle.drain()
    lifecycle.on_drain(quiet, name="late drain")
    lifecycle.on_stop(quiet, name="in time")
    lifecycle.stop()
    lifecycle.on_start(quiet, name="next life")
    found = [record.getMessage() for record in caplog.records if "too late" in record.getMessage()]
    assert [text.split("'")[1] for text in found] == ["late start", "late drain", "late pool"]


class Pool:
    """Something to close."""

    def close(self) -> None: ...


@both
def test_a_wait_that_is_broken_off_says_how_long_it_was(in_loop: bool) -> None:  # noqa: FBT001 - a column of a table
    """If a drain ends the wait for a dependency that hangs, the error has the time waited, not the timeout."""
    lifecycle = Lifecycle(LifecycleOptions(startup_timeout=60))
    lifecycle.depends_on(lambda: time.sleep(2), name="ledger")
    threading.Timer(0.1, lifecycle.drain).start()
    with pytest.raises(StartupError, match=r"a drain began while waiting for 'ledger' \(still running after 0\."):
        ran(lifecycle, in_loop=in_loop)
