import asyncio
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from resilience.errors import ConfigurationError
from resilience.lifecycle import Lifecycle, LifecycleOptions
from resilience.lifecycle._machine import DRAINING, READY, STARTING, STOPPED, LifecycleMachine, LifecycleState
from resilience.testing import ManualClock, RecordingListener

STATES = (STARTING, READY, DRAINING, STOPPED)
ALLOWED = {
    (STARTING, READY),
    (STOPPED, READY),
    (STARTING, DRAINING),
    (READY, DRAINING),
    (STARTING, STOPPED),
    (READY, STOPPED),
    (DRAINING, STOPPED),
}


@pytest.mark.parametrize("before", STATES)
@pytest.mark.parametrize("after", [READY, DRAINING, STOPPED])
def test_transitions(before: LifecycleState, after: LifecycleState) -> None:
    """A process moves forward only, and a drain is never taken back."""
    machine = LifecycleMachine(10.0)
    machine.state = before
    change = machine.become(after, 12.5)
    assert (change is not None) == ((before, after) in ALLOWED)
    if change is not None:
        assert (change.before, change.after, change.lasted) == (before, after, 2.5)
        assert (machine.state, machine.since) == (after, 12.5)
    else:
        assert (machine.state, machine.since) == (before, 10.0)


def test_says_where_it_is() -> None:
    """Each step returns True once, if it changes the state, and the predicates agree with the state."""
    lifecycle = Lifecycle(clock=ManualClock())
    assert (lifecycle.state, lifecycle.is_ready, lifecycle.is_draining) == ("starting", False, False)
    assert (lifecycle.started(), lifecycle.started()) == (True, False)
    assert (lifecycle.state, lifecycle.is_ready, lifecycle.is_draining) == ("ready", True, False)
    assert (lifecycle.drain(), lifecycle.drain()) == (True, False)
    assert (lifecycle.started(), lifecycle.is_ready, lifecycle.is_draining) == (False, False, True)
    assert (lifecycle.stopped(), lifecycle.stopped()) == (True, False)
    assert (lifecycle.state, lifecycle.is_draining) == ("stopped", True)
    assert lifecycle.started()
    assert "ready" in repr(lifecycle)


def test_tells_listeners() -> None:
    """Every transition emits one event, in order, with the time in the state before."""
    clock, heard = ManualClock(), RecordingListener()
    lifecycle = Lifecycle(clock=clock)
    lifecycle.events.subscribe(heard)
    lifecycle.started()
    clock.advance(5)
    lifecycle.enter()
    lifecycle.drain()
    lifecycle.drain()
    lifecycle.stopped()
    assert heard.kinds == ["lifecycle.started", "lifecycle.draining", "lifecycle.stopped"]
    assert heard.events[1].facts == {"before": "ready", "lasted": 5.0, "in_flight": 1}


def test_a_listener_may_ask_and_act() -> None:
    """No lock is held while listeners run: a listener can change the state (L6)."""
    lifecycle = Lifecycle()
    lifecycle.events.subscribe(lambda event: lifecycle.stopped() if event.kind == "lifecycle.draining" else None)
    lifecycle.drain()
    assert lifecycle.state == "stopped"


def test_counts_exactly_across_threads() -> None:
    """Entering and leaving are atomic: after 8 threads entered and left 2,000 times, no request is in flight."""
    lifecycle, together = Lifecycle(), threading.Barrier(8)

    def come_and_go() -> None:
        together.wait()
        for _ in range(2_000):
            lifecycle.enter()
            lifecycle.enter()
            lifecycle.leave()
            lifecycle.leave()

    with ThreadPoolExecutor(8) as pool:
        for done in [pool.submit(come_and_go) for _ in range(8)]:
            done.result()
    assert lifecycle.in_flight == 0


def test_never_counts_below_zero() -> None:
    """A leave without an enter is ignored, so one mistake cannot make a busy process look idle."""
    lifecycle = Lifecycle()
    lifecycle.leave()
    lifecycle.enter()
    assert lifecycle.in_flight == 1


def test_wait_idle_returns_with_the_last_request() -> None:
    """A blocking wait ends when the last request leaves, in any thread."""
    lifecycle = Lifecycle()
    assert lifecycle.wait_idle(0)
    lifecycle.enter()
    lifecycle.enter()
    waited = threading.Event()

    def wait() -> None:
        assert lifecycle.wait_idle("10s")
        waited.set()

    thread = threading.Thread(target=wait)
    thread.start()
    lifecycle.leave()
    assert not waited.is_set()
    lifecycle.leave()
    thread.join(5)
    assert waited.is_set()


def test_no_last_request_is_missed() -> None:
    """A caller that begins to wait while the last request leaves is woken, or returns at once."""
    lifecycle, rounds = Lifecycle(), 500
    together = threading.Barrier(2)

    def leave() -> None:
        for _ in range(rounds):
            together.wait(10)
            lifecycle.leave()

    with ThreadPoolExecutor(1) as pool:
        leaving = pool.submit(leave)
        for _ in range(rounds):
            lifecycle.enter()
            together.wait(10)
            assert lifecycle.wait_idle("10s")
        leaving.result()
    assert not lifecycle._in_flight._waiters


def test_who_came_in_meanwhile_is_waited_for() -> None:
    """If a request enters between the end of the last one and the wake-up, the wait goes on."""
    lifecycle, woken = Lifecycle(), list[bool]()
    lifecycle.enter()
    assert lifecycle._in_flight.watch(lambda: woken.append(True))
    lifecycle._in_flight._wake()
    assert not woken
    lifecycle.leave()
    assert woken == [True]


def test_watchers_of_the_drain() -> None:
    """A watcher of the drain is called once, by any thread, unless the drain has begun or the watch has ended."""
    lifecycle, heard = Lifecycle(), list[str]()
    forgotten = lambda: heard.append("forgotten")  # noqa: E731 - watched for, and taken back
    assert lifecycle.server.watch_drain(lambda: heard.append(lifecycle.state))
    unwatch = lifecycle.server.watch_drain(forgotten)
    assert unwatch is not None
    unwatch()
    unwatch()
    lifecycle.started()
    assert heard == []
    lifecycle.drain()
    lifecycle.drain()
    assert heard == ["draining"]
    assert not lifecycle.server.watch_drain(lambda: heard.append("late"))
    lifecycle.stopped()
    assert heard == ["draining"]


def test_wait_idle_gives_up() -> None:
    """A wait ends at its timeout, by default that of the options, and leaves no waiter behind."""
    lifecycle = Lifecycle(LifecycleOptions(drain_timeout=0.01))
    lifecycle.enter()
    assert not lifecycle.wait_idle(0)
    assert not lifecycle.wait_idle()
    assert not lifecycle._in_flight._waiters


@pytest.mark.parametrize("bad", [-1, float("nan"), float("inf"), "soon", True])
def test_refuses_a_bad_timeout(bad: float | str) -> None:
    """A timeout that is not a duration is refused by name."""
    with pytest.raises(ConfigurationError, match="timeout"):
        Lifecycle().wait_idle(bad)


async def test_await_idle() -> None:
    """An awaiting wait ends when the last request leaves, also in another thread, or at the timeout."""
    lifecycle = Lifecycle()
    assert await lifecycle.await_idle(0)
    lifecycle.enter()
    assert not await lifecycle.await_idle(0.01)
    waiting = asyncio.create_task(lifecycle.await_idle(10))
    await asyncio.sleep(0)
    await asyncio.to_thread(lifecycle.leave)
    assert await asyncio.wait_for(waiting, 5)


async def test_cancelled_wait_leaves_nothing_behind() -> None:
    """A cancelled wait raises the cancellation and leaves no waiter behind."""
    lifecycle = Lifecycle()
    lifecycle.enter()
    waiting = asyncio.create_task(lifecycle.await_idle(10))
    await asyncio.sleep(0)
    assert lifecycle._in_flight._waiters
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert not lifecycle._in_flight._waiters


async def test_a_callers_own_timeout_is_not_ours() -> None:
    """A shorter timeout around the wait stays the caller's error (L10)."""
    lifecycle = Lifecycle()
    lifecycle.enter()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await lifecycle.await_idle(10)


def test_a_closed_loop_does_not_hurt_the_last_request() -> None:
    """The last request leaves without an error if the loop that waited for it is closed."""
    lifecycle = Lifecycle()
    lifecycle.enter()
    loop = asyncio.new_event_loop()
    waiting = loop.create_task(lifecycle.await_idle(10))
    loop.run_until_complete(asyncio.sleep(0))
    wake = next(iter(lifecycle._in_flight._waiters))
    waiting.cancel()
    loop.run_until_complete(asyncio.gather(waiting, return_exceptions=True))
    loop.close()
    wake()
    lifecycle.leave()
    assert lifecycle.in_flight == 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_counts_afresh() -> None:
    """A child forked while another thread holds the lock neither hangs nor waits for the parent's requests."""
    lifecycle = Lifecycle()
    lifecycle.enter()
    held, release = threading.Event(), threading.Event()

    def hold() -> None:
        with lifecycle._life._lock, lifecycle._in_flight._lock:
            held.set()
            release.wait(10)

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait(5)
    child = os.fork()
    if child == 0:
        lifecycle.enter()
        lifecycle.leave()
        os._exit(0 if lifecycle.wait_idle(0) and lifecycle.drain() else 1)
    release.set()
    thread.join(5)
    status = _ended(child)
    assert status == 0
    assert lifecycle.in_flight == 1


def _ended(child: int) -> int:
    end = time.monotonic() + 10
    while time.monotonic() < end:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    os.kill(child, 9)
    os.waitpid(child, 0)
    return -1
