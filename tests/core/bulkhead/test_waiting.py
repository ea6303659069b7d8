"""How long callers wait, and which of them need not begin to."""

import asyncio
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from resilience import Bulkhead, BulkheadFullError, CircuitBreaker, Deadline, Pipeline
from resilience.testing import ManualClock, RecordingListener


def until(condition: Callable[[], bool]) -> bool:
    """Wait a little for another thread."""
    end = time.monotonic() + 5
    while not condition() and time.monotonic() < end:
        time.sleep(0.001)
    return condition()


def in_line(bulkhead: Bulkhead, pool: ThreadPoolExecutor, act: Callable[[], Any]) -> Any:
    """Have a thread call `act`, which waits in line, and return once it does."""
    before = bulkhead.waiting
    future = pool.submit(act)
    assert until(lambda: bulkhead.waiting == before + 1)
    return future


@pytest.mark.parametrize("colour", ["blocking", "awaiting"])
def test_the_deadline_in_force_ends_the_wait(colour: str) -> None:
    """A caller waits no longer than its deadline, gets the bulkhead's refusal then, and nothing is scored."""
    bulkhead, breaker = Bulkhead(1, max_wait=30), CircuitBreaker(1)
    pipeline = Pipeline("p", breaker, bulkhead)
    permit = bulkhead.admit_blocking()
    begin = time.monotonic()
    with Deadline.after("20ms"), pytest.raises(BulkheadFullError, match=r"none became free within 0\.0"):
        pipeline.call(int) if colour == "blocking" else asyncio.run(pipeline.acall(asyncio.sleep, 0))
    assert time.monotonic() - begin < 5
    assert breaker.current_state == "closed"
    bulkhead.on_success(permit, None)
    assert bulkhead.is_idle


@pytest.mark.parametrize("colour", ["blocking", "awaiting"])
def test_a_deadline_that_has_passed_is_refused_at_once(colour: str) -> None:
    """With no time left and no place free the caller does not join the line; a free place is still its own."""
    clock, listener = ManualClock(), RecordingListener()
    bulkhead = Bulkhead(1, max_wait=30, clock=clock)
    pipeline = Pipeline("p", bulkhead, listeners=[listener])

    def call() -> object:
        return pipeline.call(int) if colour == "blocking" else asyncio.run(pipeline.acall(asyncio.sleep, 0, 0))

    with Deadline.after(0, clock=clock):
        assert call() == 0
        permit = bulkhead.admit_blocking()
        with pytest.raises(BulkheadFullError, match="the deadline has passed") as caught:
            call()
    assert caught.value.retry_after is None
    assert [event.facts for event in listener.events] == [{"reason": "hopeless", "max_concurrent_calls": 1}]
    bulkhead.on_success(permit, None)


def test_a_hopeless_wait_is_refused_at_once_with_the_time_it_would_take() -> None:
    """Holds of 1 s, one place, three callers ahead: half a second of patience is refused at once, `retry_after` 3 s."""
    clock = ManualClock()
    bulkhead = Bulkhead(1, max_wait=30, clock=clock)
    pipeline = Pipeline("p", bulkhead)
    pipeline.call(clock.advance, 1.0)
    permit = bulkhead.admit_blocking()
    with ThreadPoolExecutor(3) as pool:
        waiting = [in_line(bulkhead, pool, lambda: pipeline.call(int)) for _ in range(3)]
        with Deadline.after(0.5, clock=clock), pytest.raises(BulkheadFullError, match="none can be free") as caught:
            pipeline.call(int)
        assert caught.value.retry_after == 3.0
        bulkhead.on_success(permit, None)
        assert [each.result(5) for each in waiting] == [0, 0, 0]
    assert bulkhead.snapshot() == {"limit": 1, "concurrent": 0, "waiting": 0, "rejected": 1}


def test_a_full_line_tells_how_long_it_takes() -> None:
    """A caller refused because the line is full learns the least time the line needs."""
    clock = ManualClock()
    bulkhead = Bulkhead(1, max_wait=30, max_waiting=2, clock=clock)
    pipeline = Pipeline("p", bulkhead)
    pipeline.call(clock.advance, 0.25)
    permit = bulkhead.admit_blocking()
    with ThreadPoolExecutor(2) as pool:
        waiting = [in_line(bulkhead, pool, lambda: pipeline.call(int)) for _ in range(2)]
        with pytest.raises(BulkheadFullError, match="2 callers wait") as caught:
            pipeline.call(int)
        assert caught.value.retry_after == 0.5
        bulkhead.on_success(permit, None)
        assert [each.result(5) for each in waiting] == [0, 0]


def test_callers_are_served_in_the_order_they_came() -> None:
    """Among threads and the tasks of two loops, places go strictly in the order of arrival."""
    bulkhead = Bulkhead(1, max_wait=30)
    order: list[int] = []
    permit = bulkhead.admit_blocking()

    def thread(number: int) -> None:
        mine = bulkhead.admit_blocking()
        order.append(number)
        bulkhead.on_success(mine, None)

    async def task(number: int) -> None:
        mine = await bulkhead.admit_awaiting()
        order.append(number)
        bulkhead.on_success(mine, None)

    loops = [asyncio.new_event_loop() for _ in range(2)]
    runners = [threading.Thread(target=loop.run_forever) for loop in loops]
    for runner in runners:
        runner.start()
    try:
        with ThreadPoolExecutor(12) as pool:
            for number in range(12):
                if number % 3 == 2:
                    pool.submit(thread, number)
                else:
                    asyncio.run_coroutine_threadsafe(task(number), loops[number % 3])
                assert until(lambda place=number + 1: bulkhead.waiting == place)  # type: ignore[misc]  # a default binds it
            bulkhead.on_success(permit, None)
        assert until(lambda: len(order) == 12)
    finally:
        for loop, runner in zip(loops, runners, strict=True):
            loop.call_soon_threadsafe(loop.stop)
            runner.join(5)
            loop.close()
    assert order == list(range(12))
    assert bulkhead.is_idle


@pytest.mark.realtime
def test_every_waiter_gets_its_share() -> None:
    """Under saturation 4 threads and 4 tasks of 2 loops get equal shares: min/max above 0.9 (L20)."""
    bulkhead = Bulkhead(2, max_wait=30)
    pipeline = Pipeline("p", bulkhead)
    end, served = time.monotonic() + 1.2, dict.fromkeys(range(8), 0)

    def thread(number: int) -> None:
        while time.monotonic() < end:
            pipeline.call(time.sleep, 0.002)
            served[number] += 1

    async def task(number: int) -> None:
        while time.monotonic() < end:
            await pipeline.acall(asyncio.sleep, 0.002)
            served[number] += 1

    async def loop(first: int) -> None:
        await asyncio.gather(task(first), task(first + 1))

    with ThreadPoolExecutor(6) as pool:
        futures = [pool.submit(thread, number) for number in range(4)]
        futures += [pool.submit(asyncio.run, loop(first)) for first in (4, 6)]
        for future in futures:
            future.result(10)
    assert min(served.values()) / max(served.values()) > 0.9, served
    assert bulkhead.is_idle


@pytest.mark.parametrize("handed", [False, True])
@pytest.mark.parametrize("steps", range(6))
async def test_cancelled_at_any_await_nothing_is_lost(steps: int, handed: bool) -> None:  # noqa: FBT001 - a parameter
    """A caller cancelled at any await, before or after a place was handed to it, leaves nothing behind (L2)."""
    bulkhead = Bulkhead(1, max_wait=30)
    pipeline = Pipeline("p", bulkhead)
    permit = bulkhead.admit_blocking()

    async def act() -> None:
        for _ in range(3):
            await asyncio.sleep(0)

    task = asyncio.ensure_future(pipeline.acall(act))
    await asyncio.sleep(0)
    if handed:
        bulkhead.on_success(permit, None)
    for _ in range(steps):
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    if not handed:
        assert (bulkhead.concurrent_calls, bulkhead.waiting) == (1, 0)
        bulkhead.on_success(permit, None)
    assert bulkhead.is_idle
    assert await pipeline.acall(asyncio.sleep, 0, 7) == 7


def test_a_place_handed_to_a_loop_that_stops_comes_back() -> None:
    """A place handed to a task whose loop ends before it runs is free again once the task is gone."""
    bulkhead = Bulkhead(1, max_wait=30)
    permit = bulkhead.admit_blocking()
    loop = asyncio.new_event_loop()

    async def wait() -> None:
        await bulkhead.admit_awaiting()

    waiting: Any = loop.create_task(wait())
    loop.run_until_complete(asyncio.sleep(0))
    assert bulkhead.waiting == 1
    bulkhead.on_success(permit, None)  # the loop is notified, and never runs again
    assert bulkhead.concurrent_calls == 1
    waiting._log_destroy_pending = False  # its loop dies on purpose
    loop.close()
    waiting.get_coro().close()  # as the garbage collector does
    assert bulkhead.is_idle


def test_giving_back_never_waits_for_the_lock() -> None:
    """A generator the collector closes while its very thread is at work there does not hang; its place is passed on."""
    bulkhead = Bulkhead(1, max_wait=30)
    queue: Any = bulkhead._admission._queue
    permit = bulkhead.admit_blocking()
    with queue._lock:
        bulkhead.on_abandon(permit)
        assert bulkhead.concurrent_calls == 1
    bulkhead.on_success(bulkhead.admit_blocking(), None)  # found free: the next caller processes the releases
    assert bulkhead.is_idle
