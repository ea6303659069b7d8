import asyncio
import os
import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from resilience import (
    Bulkhead,
    BulkheadFullError,
    CircuitBreaker,
    CircuitOpenError,
    ConfigurationError,
    Pipeline,
    Timeout,
)
from resilience.testing import RecordingListener


def test_refuses_at_the_limit_and_recovers() -> None:
    """At the limit one more call is refused at once; a finished call makes room."""
    listener = RecordingListener()
    bulkhead = Bulkhead(1, name="b")
    pipeline = Pipeline("p", bulkhead, listeners=[listener])

    def nested() -> None:
        with pytest.raises(BulkheadFullError, match="all 1 places are taken and none may wait") as caught:
            pipeline.call(int)
        assert (caught.value.policy, caught.value.http_status) == ("b", 503)
        assert repr(bulkhead) == "<Bulkhead 'b' 1/1>"

    pipeline.call(nested)
    assert (bulkhead.concurrent_calls, bulkhead.waiting) == (0, 0)
    assert listener.kinds == ["bulkhead.rejected"]


@pytest.mark.parametrize("max_wait", [0, 5])
def test_an_error_whose_attributes_raise_gives_its_place_back(max_wait: float) -> None:
    """Whatever asking an error for something does, the place comes back and the caller gets the error (L2)."""

    class ApiError(Exception):
        def __getattr__(self, name: str) -> Any:
            return self.args[0][name]

    def fail() -> None:
        raise ApiError({})

    pipeline = Pipeline("p", bulkhead := Bulkhead(1, max_wait))
    for _ in range(3):
        with pytest.raises(ApiError):
            pipeline.call(fail)
        assert bulkhead.concurrent_calls == 0


@pytest.mark.parametrize("max_wait", [0, 5])
def test_never_more_than_the_limit_among_threads(max_wait: float) -> None:
    """Of many threads at most the limit is inside at any time, and every place comes back."""
    bulkhead = Bulkhead(3, max_wait)
    pipeline = Pipeline("p", bulkhead)
    inside, most, lock = 0, 0, threading.Lock()

    def work() -> None:
        nonlocal inside, most
        with lock:
            inside += 1
            most = max(most, inside)
        time.sleep(0.0005)
        with lock:
            inside -= 1

    def call(_: int) -> int:
        try:
            pipeline.call(work)
        except BulkheadFullError:
            return 0
        return 1

    with ThreadPoolExecutor(20) as pool:
        done = sum(pool.map(call, range(400)))
    assert most <= 3
    assert bulkhead.concurrent_calls == 0
    assert done == 400 if max_wait else done > 0


def test_a_circuit_that_opens_inside_hides_no_late_thread() -> None:
    """The place is kept for a late thread whatever error a breaker in between raises for it (L9)."""
    bulkhead, release = Bulkhead(1), threading.Event()
    breaker = CircuitBreaker(1, throw_new_error_on_trip=True)
    pipeline = Pipeline("p", bulkhead, breaker, Timeout("10ms"))
    with pytest.raises(CircuitOpenError):
        pipeline.call(release.wait, 10)
    assert bulkhead.concurrent_calls == 1
    release.set()
    end = time.monotonic() + 5
    while not bulkhead.is_idle and time.monotonic() < end:
        time.sleep(0.001)
    assert bulkhead.is_idle
    with pytest.raises(CircuitOpenError):
        pipeline.call(int)
    assert bulkhead.is_idle


async def test_waiting_tasks_and_threads_share_one_line() -> None:
    """Callers wait first come first served, threads and tasks in one line."""
    bulkhead = Bulkhead(1, max_wait=5)
    pipeline = Pipeline("p", bulkhead)
    order: list[str] = []
    release = asyncio.Event()

    async def holder() -> None:
        await release.wait()

    async def task(name: str) -> None:
        await pipeline.acall(asyncio.sleep, 0)
        order.append(name)

    def thread() -> None:
        pipeline.call(order.append, "thread")

    async with asyncio.TaskGroup() as group:
        group.create_task(pipeline.acall(holder))
        await asyncio.sleep(0)
        group.create_task(task("first"))
        await asyncio.sleep(0.01)
        waiting = asyncio.get_running_loop().run_in_executor(None, thread)
        while bulkhead.waiting < 2:
            await asyncio.sleep(0.001)
        group.create_task(task("last"))
        while bulkhead.waiting < 3:
            await asyncio.sleep(0.001)
        release.set()
        await waiting
    assert order == ["first", "thread", "last"]
    assert bulkhead.concurrent_calls == 0


async def test_wait_ends() -> None:
    """A caller that waited `max_wait` in vain is refused and leaves the line, in both colours."""
    bulkhead = Bulkhead(1, max_wait="20ms")
    pipeline = Pipeline("p", bulkhead)
    release = threading.Event()
    loop = asyncio.get_running_loop()
    holder = loop.run_in_executor(None, lambda: pipeline.call(release.wait, 5))
    while not bulkhead.concurrent_calls:
        await asyncio.sleep(0.001)
    with pytest.raises(BulkheadFullError, match=r"none became free within 0\.02 s"):
        await pipeline.acall(asyncio.sleep, 0)
    with pytest.raises(BulkheadFullError, match=r"none became free within 0\.02 s"):
        await loop.run_in_executor(None, pipeline.call, int)
    assert bulkhead.waiting == 0
    release.set()
    await holder
    assert bulkhead.concurrent_calls == 0


async def test_line_is_bounded() -> None:
    """Beyond `max_waiting` callers in line one more is refused at once."""
    pipeline = Pipeline("p", bulkhead := Bulkhead(1, max_wait=5, max_waiting=1))
    release = asyncio.Event()
    tasks = [asyncio.ensure_future(pipeline.acall(release.wait)) for _ in range(2)]
    await asyncio.sleep(0)
    with pytest.raises(BulkheadFullError, match="and 1 callers wait"):
        await pipeline.acall(release.wait)
    with pytest.raises(BulkheadFullError, match="and 1 callers wait"):
        pipeline.call(int)
    release.set()
    await asyncio.gather(*tasks)
    assert bulkhead.concurrent_calls == 0


async def test_random_cancellation_loses_no_place() -> None:
    """Cancelling callers anywhere, the moment of hand-over included, loses no place (L2)."""
    bulkhead = Bulkhead(2, max_wait=5)
    pipeline = Pipeline("p", bulkhead)
    dice = random.Random(7)

    async def call() -> None:
        await pipeline.acall(asyncio.sleep, 0)

    for _ in range(150):
        tasks = [asyncio.ensure_future(call()) for _ in range(6)]
        for _ in range(dice.randrange(6)):
            await asyncio.sleep(0)
        for task in dice.sample(tasks, 3):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert (bulkhead.concurrent_calls, bulkhead.waiting) == (0, 0)


def test_waiter_of_a_dead_loop_is_skipped() -> None:
    """A place handed to a task whose loop is closed goes on to the next in line."""
    bulkhead = Bulkhead(1, max_wait=5)
    permit = bulkhead.admit_blocking()
    loop = asyncio.new_event_loop()

    async def wait() -> None:
        await bulkhead.admit_awaiting()

    waiting: Any = loop.create_task(wait())
    loop.run_until_complete(asyncio.sleep(0.01))
    assert bulkhead.waiting == 1
    waiting._log_destroy_pending = False  # its loop dies on purpose
    loop.close()
    bulkhead.on_abandon(permit)
    assert (bulkhead.concurrent_calls, bulkhead.waiting) == (0, 0)
    waiting.get_coro().close()  # the coroutine this test left hanging


def test_interrupt_while_waiting_leaves_the_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """KeyboardInterrupt while waiting takes the caller out of the line."""
    from resilience.bulkhead import _queue  # noqa: PLC0415 - the inside of one shell

    def interrupted(_self: Any, _seconds: float) -> bool:
        raise KeyboardInterrupt

    bulkhead = Bulkhead(1, max_wait=5)
    bulkhead.admit_blocking()
    monkeypatch.setattr(_queue.ThreadWaiter, "wait", interrupted)
    with pytest.raises(KeyboardInterrupt):
        bulkhead.admit_blocking()
    assert bulkhead.waiting == 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("max_wait", [0, 1])
def test_child_starts_with_every_place_free(max_wait: float) -> None:
    """Places held by the parent are free in a forked child, and returning one there lends no extra (fork)."""
    bulkhead = Bulkhead(1, max_wait)
    pipeline = Pipeline("p", bulkhead)
    permit: Any = bulkhead.admit_blocking() if max_wait else bulkhead.admit()

    def fork() -> int:
        pid = os.fork()
        if pid == 0:
            ok = pipeline.call(int) == 0
            bulkhead.on_success(permit, None)
            os._exit(0 if ok and bulkhead.concurrent_calls == 0 else 1)
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    assert fork() == 0
    assert bulkhead.concurrent_calls == 1


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"max_concurrent_calls": 0}, "max_concurrent_calls=0"),
        ({"max_concurrent_calls": "ten"}, "max_concurrent_calls='ten'"),
        ({"max_wait": -1}, "max_wait=-1"),
        ({"max_wait": "a while"}, "max_wait='a while'"),
        ({"max_waiting": 0}, "max_waiting=0"),
    ],
)
def test_bad_options_are_named(options: dict[str, Any], named: str) -> None:
    """A bad option is refused at construction."""
    with pytest.raises(ConfigurationError, match=named):
        Bulkhead(**options)
