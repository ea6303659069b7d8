import asyncio
import gc
import queue
import threading
import time
import traceback
import weakref
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest

from resilience import (
    Bulkhead,
    BulkheadFullError,
    CircuitBreaker,
    ConfigurationError,
    Deadline,
    DeadlineExceededError,
    Pipeline,
    Timeout,
)
from resilience._support import executor
from resilience.testing import ManualClock, RecordingListener


def until(condition: Callable[[], bool]) -> bool:
    """Wait a little for another thread."""
    end = time.monotonic() + 5
    while not condition() and time.monotonic() < end:
        time.sleep(0.001)
    return condition()


async def test_coroutine_is_cancelled_on_time() -> None:
    """A coroutine that takes too long is cancelled, and the caller gets our error on time."""
    cancelled = False

    async def slow() -> None:
        nonlocal cancelled
        try:
            await asyncio.sleep(10)
        except asyncio.CancelledError:
            cancelled = True
            raise

    start = time.monotonic()
    with pytest.raises(DeadlineExceededError, match=r"'p\.timeout': the call took longer than 0\.02 s") as caught:
        await Pipeline("p", Timeout("20ms")).acall(slow)
    assert time.monotonic() - start < 5
    assert cancelled
    assert (caught.value.policy, caught.value.seconds, caught.value.running) == ("p.timeout", 0.02, None)


def test_blocking_call_returns_on_time_and_keeps_its_place_until_the_thread_ends() -> None:
    """The caller of a blocking function is free on time; the bulkhead outside stays occupied until the end (L9)."""
    release = threading.Event()
    bulkhead, timeout = Bulkhead(1), Timeout("20ms")
    pipeline = Pipeline("p", bulkhead, timeout)
    start = time.monotonic()
    with pytest.raises(DeadlineExceededError):
        pipeline.call(release.wait, 10)
    assert time.monotonic() - start < 5
    assert (bulkhead.concurrent_calls, timeout.busy_threads) == (1, 1)
    with pytest.raises(BulkheadFullError):
        pipeline.call(int)
    release.set()
    assert until(lambda: bulkhead.concurrent_calls == 0 and timeout.busy_threads == 0)
    assert pipeline.call(int) == 0


def test_new_work_is_refused_at_the_bound() -> None:
    """With every thread taken by a late call, new work is refused at once instead of queueing (L9)."""
    release, listener = threading.Event(), RecordingListener()
    timeout = Timeout(0.01, max_threads=2)
    pipeline = Pipeline("p", timeout, listeners=[listener])
    for _ in range(2):
        with pytest.raises(DeadlineExceededError):
            pipeline.call(release.wait, 10)
    start = time.monotonic()
    with pytest.raises(BulkheadFullError, match="2 blocking calls in flight"):
        pipeline.call(int)
    assert time.monotonic() - start < 5
    assert listener.kinds == ["timeout.elapsed", "timeout.elapsed", "timeout.rejected"]
    release.set()
    assert until(lambda: timeout.busy_threads == 0)


def test_threads_are_used_again() -> None:
    """Sequential calls share one thread, even with a bound of one."""
    pipeline = Pipeline("p", Timeout(5, max_threads=1))
    assert len({pipeline.call(threading.get_ident) for _ in range(50)}) == 1


def test_idle_threads_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """An idle thread ends by itself, and a new one is started when a call needs it."""
    monkeypatch.setattr(executor, "_IDLE_SECONDS", 0.01)
    pipeline = Pipeline("p", Timeout(5))
    thread = pipeline.call(threading.current_thread)
    thread.join(5)
    assert not thread.is_alive()
    assert pipeline.call(threading.current_thread) is not thread


def test_worker_given_work_at_the_last_moment_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread that is given work just as it has waited long enough does the work before it ends."""
    monkeypatch.setattr(executor, "_IDLE_SECONDS", 0.01)
    done: queue.SimpleQueue[int] = queue.SimpleQueue()
    is_first = [True]

    class Late(queue.SimpleQueue[Any]):
        def get(self, block: bool = True, timeout: float | None = None) -> Any:  # noqa: FBT001, FBT002 - as its base
            try:
                return super().get(block, timeout)
            except queue.Empty:
                if is_first:  # a caller takes the thread now
                    is_first.clear()
                    executor._hand_over(executor.Work(lambda: done.put(2), contextvars_copy()))
                raise

    monkeypatch.setattr(executor, "_idle", [])  # no thread of another test is free
    worker = executor._Worker(executor.Work(lambda: done.put(1), contextvars_copy()))
    first, worker.inbox = worker.inbox.get(), Late()
    worker.inbox.put(first)
    worker.start()
    assert [done.get(timeout=10), done.get(timeout=10)] == [1, 2]
    worker.join(10)
    assert not worker.is_alive()


def contextvars_copy() -> Any:
    import contextvars  # noqa: PLC0415 - only here

    return contextvars.copy_context()


@pytest.mark.parametrize("colour", ["blocking", "awaiting"])
def test_timeout_error_of_the_function_stays_its_own(colour: str) -> None:
    """A TimeoutError raised by the guarded function is never reported as ours (L10)."""
    own = TimeoutError("upstream")

    def blocking() -> None:
        raise own

    async def awaiting() -> None:
        raise own

    pipeline = Pipeline("p", Timeout(5))
    with pytest.raises(TimeoutError) as caught:
        pipeline.call(blocking) if colour == "blocking" else asyncio.run(pipeline.acall(awaiting))
    assert caught.value is own


async def test_outer_cancellation_stays_a_cancellation() -> None:
    """A task cancelled from outside is cancelled, whether or not the timer went off as well."""
    for delay in (0.0, 0.03):
        task = asyncio.ensure_future(Pipeline("p", Timeout("20ms")).acall(_stubborn))
        await asyncio.sleep(0.01)
        task.cancel()
        await asyncio.sleep(delay)
        with pytest.raises(asyncio.CancelledError):
            await task
        assert task.cancelled()


async def _stubborn() -> None:
    await asyncio.sleep(10)


async def test_function_that_swallows_the_cancellation_returns_late() -> None:
    """A coroutine that catches our cancellation and returns keeps its result, and the task is not left cancelled."""

    async def cleans_up() -> str:
        try:
            await asyncio.sleep(10)
        except asyncio.CancelledError:
            return "cleaned up"
        return "never"

    assert await Pipeline("p", Timeout("10ms")).acall(cleans_up) == "cleaned up"
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0


async def test_nested_timeouts_take_the_sooner_deadline() -> None:
    """Inside a timeout `Deadline.current()` is its deadline; a sooner outer deadline wins over a later inner one."""

    async def remaining() -> float:
        deadline = Deadline.current()
        assert deadline is not None
        return deadline.remaining()

    inner = Pipeline("inner", Timeout(60))
    outer = Pipeline("outer", Timeout(5))
    assert 0 < await outer.acall(inner(remaining)) <= 5
    assert outer.call(lambda: inner.call(_remaining)) <= 5
    assert Deadline.current() is None


def _remaining() -> float:
    deadline = Deadline.current()
    assert deadline is not None
    return deadline.remaining()


async def test_passed_deadline_refuses_before_the_call() -> None:
    """When the deadline has passed already the function is not called at all."""
    with Deadline.after(0), pytest.raises(DeadlineExceededError, match="had passed before the call"):
        Pipeline("p", Timeout(1)).call(pytest.fail)


def test_deadline_of_the_breaker_counts() -> None:
    """Our timeout is evidence against the dependency: the breaker outside counts it."""
    breaker = CircuitBreaker(1)
    with pytest.raises(DeadlineExceededError):
        Pipeline("p", breaker, Timeout("10ms")).call(time.sleep, 0.05)
    assert breaker.current_state == "open"


def test_deadlines_nest_and_restore() -> None:
    """Deadlines nest; the sooner one is in force; leaving restores the outer one; one object may be entered twice."""
    clock = ManualClock()
    outer, inner = Deadline.after("10s", clock=clock), Deadline.after(timedelta(seconds=60), clock=clock)
    with outer:
        with inner as effective, inner:
            assert effective is outer
            assert Deadline.current() is outer
        assert Deadline.current() is outer
    assert Deadline.current() is None
    clock.advance(4)
    assert (outer.remaining(), outer.expired) == (6, False)
    clock.advance(60)
    assert (outer.remaining(), outer.expired) == (0, True)
    assert repr(outer) == "<Deadline in 0.000 s>"


def test_one_deadline_in_many_threads() -> None:
    """One deadline object entered in several threads at once stays each thread's own affair (L19)."""
    deadline, barrier = Deadline.after(60), threading.Barrier(4)

    def enter(_: int) -> bool:
        with deadline:
            barrier.wait(5)
            inside = Deadline.current() is deadline
        barrier.wait(5)
        return inside and Deadline.current() is None

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(enter, range(4)))


def test_done_callback_after_the_end_runs_at_once() -> None:
    """A callback that is added to work that has ended is called at once."""
    called: list[int] = []
    release = threading.Event()
    timeout = Timeout("10ms")
    with pytest.raises(DeadlineExceededError) as caught:
        Pipeline("p", timeout).call(release.wait, 5)
    running = caught.value.running
    assert running is not None
    release.set()
    running.add_done_callback(lambda: called.append(1))
    assert until(lambda: called == [1])
    running.add_done_callback(lambda: called.append(2))
    assert called == [1, 2]
    assert until(lambda: timeout.busy_threads == 0)


async def test_timeout_needs_a_task() -> None:
    """A scope entered outside a task raises an error that names asyncio."""
    failure: list[BaseException] = []

    def enter() -> None:
        try:
            Timeout(1).scope().start()  # type: ignore[attr-defined]  # what `async with` does first
        except ConfigurationError as error:
            failure.append(error)

    asyncio.get_running_loop().call_soon(enter)
    await asyncio.sleep(0.01)
    assert "needs asyncio, and no task of asyncio runs this code" in str(failure[0])


@pytest.mark.parametrize("seconds", [0, -1, float("nan"), float("inf"), "soon", True, 10**12, "1h30"])
def test_bad_seconds_are_refused(seconds: Any) -> None:
    """A bad allowance is refused at construction."""
    with pytest.raises(ConfigurationError, match="seconds="):
        Timeout(seconds)


def test_repr() -> None:
    """The repr of a timeout states its time and margin."""
    assert repr(Timeout("1m30s", name="t")) == "<Timeout 't' 90 s>"


async def test_deadline_entered_inside_and_never_left_does_not_stay() -> None:
    """A deadline that a generator abandoned half-way never left ends with the timeout around it (L19)."""
    abandoned: list[AsyncGenerator[int, None]] = []

    async def items() -> AsyncGenerator[int, None]:
        with Deadline.after(100):
            yield 1

    async def act() -> None:
        abandoned.append(items())
        await anext(abandoned[0])

    await Pipeline("p", Timeout(0.5))(act)()
    assert Deadline.current() is None
    await abandoned[0].aclose()
    assert Deadline.current() is None


def test_errors_of_threads_leave_no_cycle() -> None:
    """An error that crossed threads is freed with its last user, and its traceback starts in the caller's code."""

    class Down(Exception):  # noqa: N818 - what the function raises
        pass

    def fail() -> None:
        raise Down

    guarded = Pipeline("p", Timeout(5))(fail)
    seen: list[tuple[weakref.ref[Down], str]] = []
    gc.disable()
    try:
        try:
            guarded()
        except Down as error:
            seen.append((weakref.ref(error), "".join(traceback.format_tb(error.__traceback__))))
        [(gone, text)] = seen
        assert gone() is None
        assert "executor.py" not in text
    finally:
        gc.enable()
