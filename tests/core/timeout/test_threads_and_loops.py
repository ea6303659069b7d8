"""What a timeout knows of its threads, and of the event loops it serves."""

import asyncio
import contextlib
import gc
import math
import os
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from resilience import (
    Deadline,
    DeadlineExceededError,
    Hedge,
    Pipeline,
    SingleFlight,
    ThreadPoolBulkhead,
    Timeout,
    idempotent,
)
from resilience.testing import ManualClock, RecordingListener


def until(condition: Callable[[], bool]) -> bool:
    """Wait a little for another thread."""
    end = time.monotonic() + 5
    while not condition() and time.monotonic() < end:
        time.sleep(0.001)
    return condition()


def test_late_threads_are_told_from_busy_ones() -> None:
    """The gauges count threads at work, and those of them that are past their time; the snapshot has both (L9)."""
    release, timeout = threading.Event(), Timeout("20ms", max_threads=3)
    pipeline = Pipeline("p", timeout)
    for late in (1, 2):
        with pytest.raises(DeadlineExceededError):
            pipeline.call(release.wait, 5)
        assert (timeout.busy_threads, timeout.late_threads) == (late, late)
    seen = pipeline.call(lambda: (timeout.busy_threads, timeout.late_threads))
    assert seen == (3, 2)
    assert timeout.snapshot() == {"busy_threads": 2, "late_threads": 2, "elapsed": 2}
    release.set()
    assert until(lambda: timeout.busy_threads == timeout.late_threads == 0)
    assert pipeline.snapshot()["policies"] == [
        {"kind": "timeout", "name": "p.timeout", "busy_threads": 0, "late_threads": 0, "elapsed": 2}
    ]


@pytest.mark.parametrize("at", [math.inf, 1e300, 1e12])
@pytest.mark.parametrize("policy", [Timeout(None), Timeout(5), ThreadPoolBulkhead(1), SingleFlight(), Hedge(0)])
async def test_a_deadline_that_never_comes_ends_nothing(policy: Any, at: float) -> None:
    """However late a deadline is, infinitely so where a server has lifted it, calls are made as without one."""
    pipeline = Pipeline("p", policy)
    with Deadline(at):
        assert pipeline.call(idempotent(lambda: "blocking")) == "blocking"
        assert await pipeline.acall(idempotent(lambda: "awaiting")) == "awaiting"


def test_a_lifted_deadline_moves_no_call_to_a_thread() -> None:
    """With `seconds=None` only a deadline counts, and one that never comes is none."""
    with Deadline(math.inf):
        assert Pipeline("p", Timeout(None)).call(threading.get_ident) == threading.get_ident()
    with Deadline.after(60):
        assert Pipeline("p", Timeout(None)).call(threading.get_ident) != threading.get_ident()


def test_elapsed_calls_are_counted_in_threads_and_tasks() -> None:
    """Every call that took too long is counted once, in threads and in tasks."""
    timeout = Timeout("10ms")
    pipeline = Pipeline("p", timeout)

    async def tasks() -> None:
        await asyncio.gather(*(pipeline.acall(asyncio.sleep, 5) for _ in range(20)), return_exceptions=True)

    def call(_: int) -> None:
        with pytest.raises(DeadlineExceededError):
            pipeline.call(time.sleep, 0.05)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(call, range(16)))
    asyncio.run(tasks())
    assert timeout.snapshot()["elapsed"] == 36


async def _none() -> None:
    return None


def test_a_timeout_that_alternates_between_loops_makes_one_timer_each(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two loops that take turns with one timeout have a timer each, not one for every turn."""
    guarded = Pipeline("p", Timeout(60))(_none)
    timers: list[float] = []
    call_later = asyncio.BaseEventLoop.call_later

    def counting(self: Any, delay: float, *args: Any, **more: Any) -> asyncio.TimerHandle:
        timers.append(delay)
        return call_later(self, delay, *args, **more)

    monkeypatch.setattr(asyncio.BaseEventLoop, "call_later", counting)
    loops = [asyncio.new_event_loop() for _ in range(2)]
    for _ in range(20):
        for loop in loops:
            loop.run_until_complete(guarded())
    assert timers == [60, 60]
    for loop in loops:
        loop.close()


def test_closed_loops_are_forgotten() -> None:
    """A timeout used in one short-lived loop after another keeps none of them but the last."""
    timeout = Timeout(60)
    guarded = Pipeline("p", timeout)(_none)
    gone = []
    for _ in range(5):
        loop = asyncio.new_event_loop()
        loop.run_until_complete(guarded())
        loop.close()
        gone.append(weakref.ref(loop))
        del loop
    gc.collect()
    assert [loop() for loop in gone[:-1]] == [None] * 4
    assert len(timeout.time_limit.timers) == 1


@pytest.mark.realtime
def test_loops_in_threads_each_keep_their_time() -> None:
    """Loops of several threads that share a timeout cut their own calls off, on time."""
    guarded = Pipeline("p", Timeout("50ms"))(asyncio.sleep)

    async def one() -> float:
        begin = time.monotonic()
        with pytest.raises(DeadlineExceededError):
            await guarded(5)
        return time.monotonic() - begin

    async def several() -> list[float]:
        return [took for _ in range(3) for took in await asyncio.gather(one(), one())]

    with ThreadPoolExecutor(3) as pool:
        took = [
            each for future in [pool.submit(asyncio.run, several()) for _ in range(3)] for each in future.result(10)
        ]
    assert all(0.045 <= each < 0.2 for each in took), took


async def test_what_lives_on_does_not_keep_the_call() -> None:
    """A task started inside a timed call keeps its deadline, and neither the task of that call nor its result."""
    started: list[asyncio.Task[None]] = []
    stop = asyncio.Event()

    async def lives_on() -> None:
        await stop.wait()
        assert Deadline.current() is not None

    async def act() -> None:
        started.append(asyncio.ensure_future(lives_on()))
        await asyncio.sleep(0)

    task = asyncio.ensure_future(Pipeline("p", Timeout(60)).acall(act))
    gone = weakref.ref(task)
    await task
    del task
    await asyncio.sleep(0)  # the handle that woke this task referred to it
    gc.collect()
    assert gone() is None
    stop.set()
    await started[0]


@pytest.mark.parametrize("steps", range(4))
async def test_cancelled_at_any_await_nothing_is_left_in_force(steps: int) -> None:
    """A timed call cancelled at any await leaves no deadline, no timer of its own and no cancellation behind (L2)."""
    timeout = Timeout(60)

    async def act() -> None:
        for _ in range(3):
            await asyncio.sleep(0)

    async def caller() -> Deadline | None:
        with contextlib.suppress(asyncio.CancelledError):
            await Pipeline("p", timeout).acall(act)
        return Deadline.current()

    task = asyncio.ensure_future(caller())
    for _ in range(steps + 1):
        await asyncio.sleep(0)
    task.cancel()
    assert await task is None
    assert [queue.calls for queue in timeout.time_limit.timers.values()] == [{}]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_forked_child_has_no_late_threads() -> None:
    """Threads that are late in the parent do not exist in a forked child, which has all of its own (fork)."""
    release, timeout = threading.Event(), Timeout("10ms", max_threads=1)
    pipeline = Pipeline("p", timeout)
    with pytest.raises(DeadlineExceededError):
        pipeline.call(release.wait, 5)
    pid = os.fork()
    if pid == 0:
        has_none = (timeout.busy_threads, timeout.late_threads, timeout.time_limit.timers) == (0, 0, {})
        os._exit(0 if has_none and pipeline.call(int) == 0 else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert timeout.late_threads == 1
    release.set()
    assert until(lambda: timeout.late_threads == 0)


def test_a_clock_that_jumps_only_moves_its_own_deadlines() -> None:
    """A timeout reads the clock it was given: if that clock leaps, the time left is 0, never negative."""
    clock, listener = ManualClock(), RecordingListener()
    pipeline = Pipeline("p", Timeout(5, clock=clock), listeners=[listener])

    def leap() -> float:
        clock.advance(1e6)
        deadline = Deadline.current()
        assert deadline is not None
        return deadline.remaining()

    assert pipeline.call(leap) == 0.0
    assert listener.events == []


def test_finalizer_at_the_end_of_the_process_waits_for_no_thread() -> None:
    """A blocking call made while the interpreter ends is refused: the threads that could make it run no more (L9)."""
    code = """
from resilience import Pipeline, ThreadPoolBulkhead, Timeout
calls = [Pipeline("a", ThreadPoolBulkhead(2)), Pipeline("b", Timeout(60))]
class Client:
    def __del__(self, calls=calls, print=print):
        for each in calls:
            try:
                each.call(int)
            except Exception as error:
                print(type(error).__name__)
for each in calls:
    each.call(int)
client = Client()
client.me = client
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=30)
    assert done.stdout.split() in (["BulkheadFullError"] * 2, [])  # the last collection may come too late for it
