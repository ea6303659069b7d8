"""The deadlines of callers who share a call."""

import asyncio
import contextlib
import functools
import itertools
import threading
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from resilience import Bulkhead, Deadline, DeadlineExceededError, Pipeline, SingleFlight, ThreadPoolBulkhead, Timeout
from resilience.timeout import LatestDeadline

# The limits are short: on a machine that stands still, another one may end the call.
pytestmark = pytest.mark.realtime

SOON, WORK, LATE = 0.1, 0.4, 20.0


async def later(guarded: Callable[[], Awaitable[Any]], seconds: float | None, *, after: float = 0.0) -> Any:
    """Call `guarded` with `seconds` from now on, `after` a while; return the result or error."""
    await asyncio.sleep(after)
    try:
        if seconds is None:
            return await guarded()
        with Deadline.after(seconds):
            return await guarded()
    except Exception as error:  # noqa: BLE001 - returned
        return error


async def together(guarded: Callable[[], Awaitable[Any]], *others: float | None) -> list[Any]:
    """Return the outcomes of an impatient first caller and of others who come while its call is in flight."""
    first = later(guarded, SOON)
    return await asyncio.gather(first, *(later(guarded, seconds, after=SOON / 4) for seconds in others))


class Upstream:
    """Takes `WORK` seconds; notes the deadline in force at its end."""

    def __init__(self) -> None:
        self.calls = 0
        self.left: float | None = None

    async def get(self) -> int:
        self.calls += 1
        await asyncio.sleep(WORK)
        return self.end()

    def get_blocking(self) -> int:
        self.calls += 1
        time.sleep(WORK)
        return self.end()

    def end(self) -> int:
        deadline = Deadline.current()
        self.left = None if deadline is None else deadline.remaining()
        return self.calls


@pytest.mark.parametrize(
    "inside", [[], [Timeout(None)], [Timeout("15s")], [Timeout(None), Timeout("15s", name="own")]], ids=repr
)
async def test_a_task_call_runs_until_the_latest_deadline(inside: list[Any]) -> None:
    """The first caller gets its own error in time; the call goes on for the callers that have more time."""
    upstream = Upstream()
    guarded = Pipeline("p", SingleFlight(), *inside)(upstream.get)
    began = time.monotonic()
    first = asyncio.ensure_future(later(guarded, SOON))
    others = [asyncio.ensure_future(later(guarded, LATE, after=SOON / 4)) for _ in range(3)]
    error = await first
    assert isinstance(error, DeadlineExceededError)
    assert time.monotonic() - began < WORK
    assert await asyncio.gather(*others) == [1, 1, 1]
    assert upstream.calls == 1
    assert upstream.left is not None
    assert SOON < upstream.left <= LATE


async def test_the_call_of_a_caller_without_deadline_is_not_cut_off() -> None:
    """A caller without a deadline lifts the one of the shared call; another with less time ends in its own time."""
    upstream = Upstream()
    guarded = Pipeline("p", SingleFlight(), Timeout(None))(upstream.get)
    ended = await together(guarded, None, SOON)
    assert [type(ended[0]), ended[1], type(ended[2])] == [DeadlineExceededError, 1, DeadlineExceededError]
    assert upstream.calls == 1
    assert upstream.left == float("inf")


async def test_a_call_alone_keeps_its_callers_deadline() -> None:
    """Without other callers nothing changes: the policy inside ends the call in time."""
    upstream = Upstream()
    [error] = await together(Pipeline("p", SingleFlight(), Timeout(None, name="inner"))(upstream.get))
    assert isinstance(error, DeadlineExceededError)
    assert error.policy == "inner"


async def test_the_call_ends_with_the_latest_deadline() -> None:
    """A call that outlives every deadline is cut off at the latest one, and each caller is answered at its own."""
    ended: list[str] = []

    async def hang() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            ended.append("cancelled")

    began = time.monotonic()
    errors = await together(Pipeline("p", SingleFlight(), Timeout(None))(hang), SOON * 2, SOON * 3)
    assert [type(error) for error in errors] == [DeadlineExceededError] * 3
    assert ended == ["cancelled"]
    assert time.monotonic() - began < 10


async def test_what_cannot_be_extended_is_called_again_once() -> None:
    """A call that was cut off by a number computed from the first deadline is made again by callers with time."""
    began_with: list[float] = []

    async def get() -> str:
        deadline = Deadline.current()
        assert deadline is not None
        began_with.append(deadline.remaining())
        async with asyncio.timeout(deadline.remaining()):  # a socket's timeout, say: it cannot be changed any more
            await asyncio.sleep(WORK)
        return "done"

    guarded = Pipeline("p", SingleFlight())(get)
    ended = await together(guarded, LATE, LATE, LATE)
    assert isinstance(ended[0], DeadlineExceededError | TimeoutError)
    assert ended[1:] == ["done"] * 3
    assert len(began_with) == 2
    assert began_with[1] > SOON


async def test_impatient_callers_fail_nobody_however_they_come() -> None:
    """Of ten patient callers none fails while impatient ones come all the time, also just after a call was cut off."""

    async def get() -> str:
        deadline = Deadline.current()
        seconds = None if deadline is None else deadline.remaining()
        async with asyncio.timeout(seconds):
            await asyncio.sleep(0.06)
        return "done"

    guarded, is_over = Pipeline("p", SingleFlight())(get), False

    async def attack() -> None:
        while not is_over:
            await later(guarded, 0.02)
            await asyncio.sleep(0)

    async def patient() -> list[Any]:
        return [await later(guarded, LATE) for _ in range(5)]

    attackers = [asyncio.ensure_future(attack()) for _ in range(5)]
    outcomes = await asyncio.gather(*(patient() for _ in range(10)))
    is_over = True
    await asyncio.gather(*attackers)
    assert outcomes == [["done"] * 5] * 10


async def test_an_error_of_the_dependency_is_not_asked_for_twice() -> None:
    """A failure long before the first deadline is everybody's, as ever."""
    calls: list[None] = []

    async def fail() -> None:
        calls.append(None)
        await asyncio.sleep(0.05)
        raise ConnectionError

    guarded = Pipeline("p", SingleFlight(), Timeout("10s"))(fail)
    ended = await asyncio.gather(later(guarded, 30), later(guarded, 60), later(guarded, None))
    assert [type(error) for error in ended] == [ConnectionError] * 3
    assert len(calls) == 1


async def test_a_timeout_of_the_service_is_not_asked_for_twice() -> None:
    """What the service's own `Timeout` ended long before the first deadline is not made again."""
    calls: list[None] = []

    async def hang() -> None:
        calls.append(None)
        await asyncio.sleep(60)

    guarded = Pipeline("p", SingleFlight(), Timeout("50ms"))(hang)
    ended = await asyncio.gather(later(guarded, 30), later(guarded, 60), later(guarded, None))
    assert [type(error) for error in ended] == [DeadlineExceededError] * 3
    assert len(calls) == 1


async def test_a_nested_flight_moves_with_the_outer_one() -> None:
    """A single flight inside of another, and a pool of threads, wait for the latest deadline of the outer callers."""
    upstream = Upstream()
    inner = Pipeline("inner", SingleFlight(), ThreadPoolBulkhead(2)).wrap_async(upstream.get_blocking)
    guarded = Pipeline("p", SingleFlight(), Timeout(None))(inner)
    ended = await together(guarded, LATE, LATE)
    assert isinstance(ended[0], DeadlineExceededError)
    assert ended[1:] == [1, 1]
    assert upstream.calls == 1


async def test_a_first_caller_cancelled_as_the_call_ends_leaves_no_old_result() -> None:
    """A caller cancelled in the very step in which its call ends does not leave the result to later callers."""
    number = 0

    async def count() -> int:
        nonlocal number
        number += 1
        await gate.wait()
        return number

    gate = asyncio.Event()
    guarded = Pipeline("p", SingleFlight())(count)
    caller = asyncio.ensure_future(guarded())
    for _ in range(5):
        await asyncio.sleep(0)
    gate.set()
    for _ in range(10):
        await asyncio.sleep(0)
        if not caller.done():
            caller.cancel()
    await asyncio.gather(caller, return_exceptions=True)
    results = [await guarded(), await guarded()]
    assert results[0] != results[1]


def ask(guarded: Callable[[], Any], seconds: float | None) -> Any:
    try:
        if seconds is None:
            return guarded()
        with Deadline.after(seconds):
            return guarded()
    except Exception as error:  # noqa: BLE001 - returned
        return error


def in_threads(guarded: Callable[[], Any], entered: threading.Semaphore, *others: float | None) -> list[Any]:
    """Return the outcomes of an impatient first caller and of others who come while its call is in flight."""
    with ThreadPoolExecutor(len(others) + 1) as pool:
        first = pool.submit(ask, guarded, SOON)
        assert entered.acquire(timeout=10)
        rest = [pool.submit(ask, guarded, seconds) for seconds in others]
        return [first.result(60), *(future.result(60) for future in rest)]


INSIDE = [
    [],
    [Timeout(None)],
    [Timeout("15s")],
    [ThreadPoolBulkhead(2)],
    [Timeout(None), Timeout("15s", name="own"), Bulkhead(3)],
]


@pytest.mark.parametrize("inside", INSIDE, ids=repr)
def test_a_call_in_threads_runs_until_the_latest_deadline(inside: list[Any]) -> None:
    """The thread that makes the call makes it for all, until the latest deadline; no other thread makes a call."""
    upstream, entered = Upstream(), threading.Semaphore(0)

    def get() -> int:
        entered.release()
        return upstream.get_blocking()

    ended = in_threads(Pipeline("p", SingleFlight(), *inside)(get), entered, LATE, LATE, LATE, SOON)
    assert ended[1:4] == [1, 1, 1]
    assert isinstance(ended[4], DeadlineExceededError)
    assert upstream.calls == 1
    assert upstream.left is not None
    assert SOON < upstream.left <= LATE


def test_a_timeout_outside_answers_the_first_thread_in_time() -> None:
    """With a `Timeout` outside of the single flight the first caller is answered in time, in threads as well."""
    upstream, entered, began = Upstream(), threading.Semaphore(0), time.monotonic()

    def get() -> int:
        entered.release()
        return upstream.get_blocking()

    guarded = Pipeline("p", Timeout(None, name="each"), SingleFlight(), Timeout(None))(get)
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(ask, guarded, SOON)
        assert entered.acquire(timeout=10)
        second = pool.submit(ask, guarded, LATE)
        assert isinstance(first.result(10), DeadlineExceededError)
        assert time.monotonic() - began < WORK
        assert second.result(10) == 1


def test_what_cannot_be_extended_is_called_again_once_in_threads() -> None:
    """A thread whose call was cut off by a fixed number leaves it to the callers with time: one makes it again."""
    began_with: list[float] = []
    entered = threading.Semaphore(0)

    def get() -> str:
        deadline = Deadline.current()
        assert deadline is not None
        seconds = deadline.remaining()
        began_with.append(seconds)
        entered.release()
        time.sleep(min(WORK, seconds))
        if seconds < WORK:
            raise TimeoutError
        return "done"

    ended = in_threads(Pipeline("p", SingleFlight())(get), entered, LATE, LATE, LATE)
    assert isinstance(ended[0], TimeoutError)
    assert ended[1:] == ["done"] * 3
    assert len(began_with) == 2


def test_an_equal_deadline_extends_nothing() -> None:
    """A caller with the same deadline is not taken for one with more time, however long the comparison takes."""
    ticks = itertools.count()
    clock = functools.partial(next, ticks)
    latest = LatestDeadline(Deadline(1_000_000.0, clock=clock))
    assert not latest.extend(Deadline(1_000_000.0, clock=clock))
    assert latest.extend(Deadline(2_000_000.0, clock=clock))


def test_a_deadline_made_of_the_calls_own_extends_nothing() -> None:
    """A thread that the call has given its deadline may join the call, with a timeout of its own in between."""
    single, outcomes = SingleFlight(), list[Any]()
    is_over = threading.Event()

    def join(deadline: Deadline | None) -> None:
        try:
            with deadline or contextlib.nullcontext():
                outcomes.append(Pipeline("inner", Timeout(None)).call(guarded))
        except BaseException as error:  # noqa: BLE001 - compared
            outcomes.append(error)
        is_over.set()

    def get() -> str:
        threading.Thread(target=join, args=(Deadline.current(),), daemon=True).start()
        is_over.wait(SOON)
        deadline = Deadline.current()
        assert deadline is not None
        assert deadline.remaining() <= LATE
        return "done"

    guarded = Pipeline("p", single)(get)
    with Deadline.after(LATE):
        assert guarded() == "done"
    assert is_over.wait(10)
    assert outcomes == ["done"]
