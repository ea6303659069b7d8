"""Blocking calls in threads of their own."""

import asyncio
import contextvars
import dataclasses
import gc
import os
import signal
import threading
import time
import traceback
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
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
    Resilience,
    Retry,
    ThreadPoolBulkhead,
    Timeout,
)
from resilience.testing import ManualClock, RecordingListener

COLOURS = pytest.mark.parametrize("colour", ["blocking", "awaiting"])
who: contextvars.ContextVar[str] = contextvars.ContextVar("who", default="nobody")


def until(condition: Callable[[], bool]) -> bool:
    """Wait a little for another thread."""
    end = time.monotonic() + 5
    while not condition() and time.monotonic() < end:
        time.sleep(0.001)
    return condition()


def run(colour: str, pipeline: Pipeline, fn: Callable[..., Any], *args: Any) -> Any:
    """Call the blocking `fn` through `pipeline` in either colour."""
    return pipeline.call(fn, *args) if colour == "blocking" else asyncio.run(pipeline.acall(fn, *args))


@pytest.fixture
def release() -> Iterator[threading.Event]:
    """Let every function that waits for it end with the test."""
    event = threading.Event()
    yield event
    event.set()


@COLOURS
def test_calls_run_in_threads_of_the_pool(colour: str) -> None:
    """A call runs in a thread of the pool with the caller's context variables, and the next one uses the thread too."""
    pipeline = Pipeline("p", ThreadPoolBulkhead(1))
    who.set("caller")

    def work(number: int, *, more: int = 0) -> tuple[int, str]:
        seen = who.get()
        who.set("worker")
        return threading.get_ident(), f"{seen} {number + more}"

    first, second = run(colour, pipeline, work, 3), run(colour, pipeline, work, 4)
    assert (first[1], second[1]) == ("caller 3", "caller 4")
    assert first[0] == second[0] != threading.get_ident()
    assert who.get() == "caller"


@COLOURS
def test_errors_keep_their_traceback_and_leave_no_cycle(colour: str) -> None:
    """An error arrives as it was raised, with the lines that raised it, and is freed with its last user."""

    class Down(Exception):  # noqa: N818 - what the function raises
        pass

    def fail() -> None:
        raise Down

    pipeline = Pipeline("p", ThreadPoolBulkhead(1))
    seen: list[tuple[weakref.ref[Down], str]] = []
    try:
        run(colour, pipeline, fail)
    except Down as error:
        seen.append((weakref.ref(error), "".join(traceback.format_tb(error.__traceback__))))
    [(gone, text)] = seen
    assert "in fail" in text
    if colour == "blocking":
        assert gone() is None
    gc.collect()
    assert gone() is None


class ApiError(Exception):
    """An error that raises for an attribute it does not have."""

    def __getattr__(self, name: str) -> Any:
        return self.args[0][name]


class StrangeError(Exception):
    """An error that raises an interrupt when its attributes are read."""

    @property
    def running(self) -> object:
        raise SystemExit


@dataclasses.dataclass(frozen=True)
class FrozenError(Exception):
    """An error to which nothing can be assigned, its traceback included."""

    reason: str


@COLOURS
@pytest.mark.parametrize("policy", [ThreadPoolBulkhead(1), Timeout(5)])
@pytest.mark.parametrize(
    "error", [ApiError({}), StrangeError(), FrozenError("down")], ids=["asked", "strange", "frozen"]
)
def test_whatever_an_error_does_its_caller_gets_it(colour: str, policy: Any, error: Exception) -> None:
    """A thread outlives errors that raise when they are asked for something, or let nothing be set (L2)."""

    def fail() -> None:
        raise error

    pipeline = Pipeline("p", policy)
    with Deadline.after(5):
        for _ in range(2):
            with pytest.raises(type(error)) as caught:
                run(colour, pipeline, fail)
            assert caught.value is error
        assert run(colour, pipeline, int) == 0


async def test_the_event_loop_goes_on(release: threading.Event) -> None:
    """While a call runs in the pool the loop does other things, whether `wrap_async` or `acall` brought it there."""
    pipeline = Pipeline("p", ThreadPoolBulkhead(2))

    def block(value: int) -> int:
        release.wait(5)
        return value

    tasks = [asyncio.ensure_future(pipeline.wrap_async(block)(1)), asyncio.ensure_future(pipeline.acall(block, 2))]
    await asyncio.sleep(0.02)
    assert not any(task.done() for task in tasks)
    release.set()
    assert await asyncio.gather(*tasks) == [1, 2]


async def test_policies_inside_run_in_the_thread_and_those_outside_await() -> None:
    """In an awaiting pipeline all inside of the pool blocks in its thread: a retry there, a timeout, a deadline."""
    attempts: list[tuple[int, bool]] = []
    pipeline = Pipeline(
        "p",
        CircuitBreaker(5),
        Timeout(30),
        ThreadPoolBulkhead(1),
        Retry(attempts=3, on=OSError, wait_initial=0.001),
        sleeper=ManualClock(),
    )

    def work() -> str:
        attempts.append((threading.get_ident(), Deadline.current() is not None))
        if len(attempts) < 3:
            raise OSError
        return "done"

    assert await pipeline.acall(work) == "done"
    assert len(set(attempts)) == 1
    assert attempts[0][0] != threading.get_ident()
    assert attempts[0][1]


def test_no_more_calls_than_threads() -> None:
    """Of many callers, threads and tasks, at most `max_threads` calls run at a time, and each gets its turn."""
    pool, inside, most, lock = ThreadPoolBulkhead(3, max_wait=30), 0, 0, threading.Lock()
    pipeline = Pipeline("p", pool)

    def work() -> int:
        nonlocal inside, most
        with lock:
            inside += 1
            most = max(most, inside)
        time.sleep(0.001)
        with lock:
            inside -= 1
        return threading.get_ident()

    async def tasks() -> list[int]:
        done: list[int] = await asyncio.gather(*(pipeline.acall(work) for _ in range(40)))
        return done

    with ThreadPoolExecutor(10) as callers:
        others = [callers.submit(pipeline.call, work) for _ in range(40)]
        done = asyncio.run(tasks()) + [other.result(10) for other in others]
    assert len(done) == 80
    assert most <= 3
    assert len(set(done)) <= 3
    assert pool.is_idle


@COLOURS
def test_no_thread_free_in_time(colour: str, release: threading.Event) -> None:
    """A caller that finds no thread in time, or the line full, is refused; the events say which."""
    listener = RecordingListener()
    pool = ThreadPoolBulkhead(1, max_wait="20ms", max_waiting=1, name="pool")
    pipeline = Pipeline("p", pool, listeners=[listener])
    with ThreadPoolExecutor(2) as callers:
        callers.submit(pipeline.call, release.wait, 5)
        assert until(lambda: pool.concurrent_calls == 1)
        with pytest.raises(
            BulkheadFullError, match=r"'pool': all 1 places are taken and none became free within 0\.02"
        ):
            run(colour, pipeline, int)
        release.set()
    [event] = listener.events
    assert (event.kind, event.facts) == ("thread_pool.rejected", {"reason": "waited", "max_threads": 1})


def test_without_a_wait_a_busy_pool_refuses_at_once(release: threading.Event) -> None:
    """With `max_wait=0` there is no line."""
    pool = ThreadPoolBulkhead(1, max_wait=0)
    pipeline = Pipeline("p", pool)
    with ThreadPoolExecutor(1) as callers:
        callers.submit(pipeline.call, release.wait, 5)
        assert until(lambda: pool.concurrent_calls == 1)
        for colour in ("blocking", "awaiting"):
            with pytest.raises(BulkheadFullError, match="none may wait"):
                run(colour, pipeline, int)
        release.set()
    assert until(lambda: pool.is_idle)


def test_work_starts_in_the_order_it_came(release: threading.Event) -> None:
    """Callers in line, threads and tasks, get the thread first come first served."""
    pool, order = ThreadPoolBulkhead(1, max_wait=30), list[int]()
    pipeline = Pipeline("p", pool)

    async def main() -> None:
        with ThreadPoolExecutor(4) as callers:
            first = callers.submit(pipeline.call, release.wait, 5)
            while not pool.concurrent_calls:
                await asyncio.sleep(0.001)
            rest: list[Any] = []
            for number in range(6):
                if number % 2:
                    rest.append(asyncio.wrap_future(callers.submit(pipeline.call, order.append, number)))
                else:
                    rest.append(asyncio.ensure_future(pipeline.acall(order.append, number)))
                while pool.waiting <= number:
                    await asyncio.sleep(0.001)
            release.set()
            await asyncio.gather(*rest)
            first.result(5)

    asyncio.run(main())
    assert order == list(range(6))


async def test_a_cancelled_caller_in_line_leaves_nothing_behind(release: threading.Event) -> None:
    """Work that has not begun is not begun once its caller is cancelled."""
    pool, begun = ThreadPoolBulkhead(1, max_wait=30), list[int]()
    pipeline = Pipeline("p", pool)
    running = asyncio.ensure_future(pipeline.acall(release.wait, 5))
    await asyncio.sleep(0)
    queued = asyncio.ensure_future(pipeline.acall(begun.append, 1))
    await asyncio.sleep(0)
    assert (pool.concurrent_calls, pool.waiting) == (1, 1)
    queued.cancel()
    await asyncio.gather(queued, return_exceptions=True)
    assert (pool.concurrent_calls, pool.waiting) == (1, 0)
    release.set()
    await running
    assert pool.is_idle
    assert begun == []


@pytest.mark.parametrize("steps", range(5))
async def test_cancelled_at_any_await_the_thread_is_accounted_for(steps: int, release: threading.Event) -> None:
    """A caller cancelled while its call runs goes at once; the thread, and a bulkhead's place, are taken to the end."""
    pool, bulkhead = ThreadPoolBulkhead(1), Bulkhead(1)
    pipeline = Pipeline("p", bulkhead, pool)
    task = asyncio.ensure_future(pipeline.acall(release.wait, 5))
    for _ in range(steps):
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    taken = 0 if steps == 0 else 1
    assert (pool.concurrent_calls, bulkhead.concurrent_calls) == (taken, taken)
    release.set()
    assert until(lambda: pool.is_idle and bulkhead.is_idle)
    assert await pipeline.acall(int) == 0


@pytest.mark.realtime
@COLOURS
def test_the_deadline_in_force_frees_the_caller(colour: str, release: threading.Event) -> None:
    """At its deadline the caller goes on; the thread stays taken until the function ends, and the error says so."""
    listener, pool, bulkhead = RecordingListener(), ThreadPoolBulkhead(1), Bulkhead(1)
    pipeline = Pipeline("p", bulkhead, pool, listeners=[listener])
    with Deadline.after("200ms"), pytest.raises(DeadlineExceededError) as caught:
        run(colour, pipeline, release.wait, 5)
    assert caught.value.running is not None
    assert not caught.value.is_before_call
    assert (pool.concurrent_calls, bulkhead.concurrent_calls) == (1, 1)
    assert listener.kinds == ["thread_pool.elapsed"]
    release.set()
    assert until(lambda: pool.is_idle and bulkhead.is_idle)


@COLOURS
def test_a_deadline_that_has_passed_is_refused_before_the_call(colour: str) -> None:
    """With no time left nothing is run, and the thread is free."""
    pool = ThreadPoolBulkhead(1)
    with Deadline.after(0), pytest.raises(DeadlineExceededError) as caught:
        run(colour, Pipeline("p", pool), pytest.fail)
    assert caught.value.is_before_call
    assert pool.is_idle


async def test_a_timeout_outside_ends_the_wait_of_a_task(release: threading.Event) -> None:
    """A timeout around the pool cancels the waiting task; a bulkhead outside keeps its place for the thread."""
    bulkhead = Bulkhead(1)
    pipeline = Pipeline("p", bulkhead, Timeout("20ms"), ThreadPoolBulkhead(1))
    with pytest.raises(DeadlineExceededError) as caught:
        await pipeline.acall(release.wait, 5)
    assert caught.value.running is not None
    assert bulkhead.concurrent_calls == 1
    release.set()
    assert until(lambda: bulkhead.is_idle)


@COLOURS
def test_a_timeout_inside_keeps_the_place_of_its_late_thread(colour: str, release: threading.Event) -> None:
    """A call that a timeout inside gave up on still counts as one of the pool's until its thread ends (L9)."""
    pool = ThreadPoolBulkhead(1, max_wait=0)
    pipeline = Pipeline("p", pool, Timeout("10ms"))
    with pytest.raises(DeadlineExceededError):
        run(colour, pipeline, release.wait, 5)
    assert pool.concurrent_calls == 1
    with pytest.raises(BulkheadFullError):
        run(colour, pipeline, int)
    release.set()
    assert until(lambda: pool.is_idle)


@pytest.mark.realtime
def test_an_interrupted_caller_goes_at_once(release: threading.Event) -> None:
    """After Ctrl-C the thread, and the place of a bulkhead outside, stay taken until the function ends."""
    main = threading.main_thread().ident
    pool, bulkhead = ThreadPoolBulkhead(1), Bulkhead(1)
    pipeline = Pipeline("p", bulkhead, pool)
    assert pipeline.call(int) == 0  # the thread is there: what follows interrupts the wait, not its start
    assert main is not None

    def interrupted() -> None:
        time.sleep(0.03)
        signal.pthread_kill(main, signal.SIGINT)
        release.wait(10)

    with pytest.raises(KeyboardInterrupt):
        pipeline.call(interrupted)
    assert (pool.concurrent_calls, bulkhead.concurrent_calls) == (1, 1)
    release.set()
    assert until(lambda: pool.is_idle and bulkhead.is_idle)


async def begun() -> None:
    """Stand for a coroutine function that must not run in a thread."""
    pytest.fail("it ran")


@pytest.mark.parametrize("refused", [
    lambda pipeline: pipeline(begun),
    lambda pipeline: pipeline.wrap_async(begun),
    lambda pipeline: pipeline.call(begun),
    lambda pipeline: pipeline.acall(begun),
])  # fmt: skip
def test_coroutine_functions_are_refused_where_they_are_wrapped(refused: Callable[[Pipeline], Any]) -> None:
    """A coroutine function cannot run in a thread: wrapping it is an error, not the call."""
    with pytest.raises(ConfigurationError, match="a blocking function"):
        refused(Pipeline("p", ThreadPoolBulkhead(1)))


@COLOURS
@pytest.mark.parametrize("inside", [(), (Retry(),), (CircuitBreaker(1),)])
def test_a_coroutine_that_comes_out_of_a_plain_function_is_never_run(colour: str, inside: tuple[Any, ...]) -> None:
    """A plain function that returns a coroutine gets a clear error; the coroutine does not begin, on any loop."""
    pool = ThreadPoolBulkhead(1)
    pipeline = Pipeline("p", pool, *inside)

    async def awaited() -> Any:
        return await pipeline.call(lambda: begun())  # noqa: PLW0108 - a plain function is the point

    with pytest.raises(ConfigurationError, match="the result of a blocking function"):
        asyncio.run(awaited()) if colour == "blocking" else run(colour, pipeline, lambda: begun())  # noqa: PLW0108 - see above
    assert pool.is_idle


def test_generators_and_blocks_are_refused() -> None:
    """A pool owns the call: it cannot guard a generator or a block."""
    pipeline = Pipeline("p", ThreadPoolBulkhead(1))

    def items() -> Iterator[int]:
        yield 1

    with pytest.raises(ConfigurationError, match="own the call"):
        pipeline(items)
    with pytest.raises(ConfigurationError, match="own the call"):
        pipeline.guard().__enter__()


def test_a_loop_that_is_closed_meanwhile_leaves_the_pool_whole(release: threading.Event) -> None:
    """When a caller's loop is gone before its call has ended, the thread goes on to the next call."""
    pool = ThreadPoolBulkhead(1)
    pipeline = Pipeline("p", pool)
    loop = asyncio.new_event_loop()
    task: Any = loop.create_task(pipeline.acall(release.wait, 5))
    loop.run_until_complete(asyncio.sleep(0.01))
    task._log_destroy_pending = False  # its loop dies on purpose
    loop.close()
    release.set()
    assert pipeline.call(int) == 0
    task.get_coro().close()
    assert pool.is_idle


def test_resized_while_calls_run(release: threading.Event) -> None:
    """The number of threads can be changed: more at once, fewer as calls end."""
    pool = ThreadPoolBulkhead(1, max_wait=0)
    pipeline = Pipeline("p", pool)
    with ThreadPoolExecutor(2) as callers:
        callers.submit(pipeline.call, release.wait, 5)
        assert until(lambda: pool.concurrent_calls == 1)
        pool.resize(2)
        assert pipeline.call(int) == 0
        pool.resize(1)
        with pytest.raises(BulkheadFullError, match="all 1 places"):
            pipeline.call(int)
        release.set()
    assert until(lambda: pool.is_idle)
    assert pool.describe()["options"]["max_threads"] == 1
    assert repr(pool) == "<ThreadPoolBulkhead 'p.thread_pool' 0/1>"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_forked_child_has_threads_of_its_own(release: threading.Event) -> None:
    """A child of a process whose threads are all taken starts with none taken (fork)."""
    pool = ThreadPoolBulkhead(1)
    pipeline = Pipeline("p", pool)
    with ThreadPoolExecutor(1) as callers:
        callers.submit(pipeline.call, release.wait, 5)
        assert until(lambda: pool.concurrent_calls == 1)
        pid = os.fork()
        if pid == 0:
            os._exit(0 if pool.is_idle and pipeline.call(int) == 0 else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        release.set()


def test_configured_by_environment() -> None:
    """A pipeline gets its threads from the environment, between bulkhead and timeout."""
    resilience = Resilience.from_env({
        "RESILIENCE_PIPELINE__LEDGER__THREAD_POOL__MAX_THREADS": "3",
        "RESILIENCE_PIPELINE__LEDGER__THREAD_POOL__MAX_WAIT": "250ms",
        "RESILIENCE_PIPELINE__LEDGER__BULKHEAD__SHADOW": "true",
        "RESILIENCE_PIPELINE__LEDGER__TIMEOUT__SECONDS": "1s",
    })  # fmt: skip
    bulkhead, pool, timeout = resilience.pipeline("ledger").policies
    assert isinstance(bulkhead, Bulkhead)
    assert bulkhead.options.shadow
    assert isinstance(pool, ThreadPoolBulkhead)
    assert (pool.options.max_threads, pool.options.max_wait, pool.options.max_waiting) == (3, 0.25, 100)
    assert isinstance(timeout, Timeout)
    resilience.close()


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"max_threads": 0}, "max_threads=0"),
        ({"max_threads": 10_001}, "max_threads=10001"),
        ({"max_wait": -1}, "max_wait=-1"),
        ({"max_waiting": 0}, "max_waiting=0"),
        ({"clock": 3}, "clock=3"),
    ],
)
def test_bad_options_are_named(options: dict[str, Any], named: str) -> None:
    """A bad option is refused at construction."""
    with pytest.raises(ConfigurationError, match=named):
        ThreadPoolBulkhead(**options)
