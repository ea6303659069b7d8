"""Callers in tasks."""

import asyncio
import contextvars
import functools
import gc
import threading
import weakref
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from resilience import Cache, Deadline, DeadlineExceededError, Fallback, Pipeline, SingleFlight, Timeout
from resilience.testing import ManualClock


class Upstream:
    """A call that waits until it is let go, and remembers how it ended."""

    def __init__(self) -> None:
        self.calls = 0
        self.cleaned_up = 0
        self.go = asyncio.Event()
        self.outcomes: list[BaseException] = []

    async def get(self, *_args: object) -> list[int]:
        self.calls += 1
        number = self.calls
        try:
            await self.go.wait()
        except asyncio.CancelledError:
            await asyncio.sleep(0)
            self.cleaned_up += 1
            raise
        if self.outcomes:
            raise self.outcomes.pop(0)
        return [number]


Guarded = Callable[..., Coroutine[Any, Any, Any]]


def start(guarded: Guarded, count: int) -> list[asyncio.Task[Any]]:
    return [asyncio.ensure_future(guarded(1)) for _ in range(count)]


def _apply(function: Guarded, number: int) -> Any:
    return function(number)


async def settle(steps: int = 5) -> None:
    for _ in range(steps):
        await asyncio.sleep(0)


async def outcomes(callers: list[asyncio.Task[Any]]) -> list[Any]:
    return await asyncio.gather(*callers, return_exceptions=True)


async def test_one_call_for_all() -> None:
    """Callers that come while the same call is in flight get its result: fifty callers, one call."""
    upstream, single = Upstream(), SingleFlight()
    guarded = Pipeline("p", single)(upstream.get)
    callers = start(guarded, 50)
    await settle()
    upstream.go.set()
    results = await outcomes(callers)
    assert all(result is results[0] for result in results)
    assert single.snapshot() == {"calls": 1, "shared": 49}
    assert await guarded(1) == [2]


async def test_misses_of_a_cache_make_one_call() -> None:
    """Inside a cache, callers that miss make one call, also if they come just as it ends."""
    upstream = Upstream()
    guarded = Pipeline("p", Cache(), SingleFlight())(upstream.get)
    callers = start(guarded, 50)
    await settle()
    upstream.go.set()
    for _ in range(10):
        callers += start(guarded, 5)
        await asyncio.sleep(0)
    assert await outcomes(callers) == [[1]] * 100
    assert upstream.calls == 1


async def test_calls_through_the_pipeline_are_shared() -> None:
    """`acall`, `call` and plain functions that return an awaitable share the awaited result."""
    upstream = Upstream()
    upstream.go.set()
    pipeline = Pipeline("p", SingleFlight(key=lambda number: number))
    assert await asyncio.gather(*(pipeline.acall(upstream.get, 1) for _ in range(5))) == [[1]] * 5
    assert await asyncio.gather(*(pipeline.call(upstream.get, 1) for _ in range(5))) == [[2]] * 5
    plain: Any = pipeline(functools.partial(_apply, upstream.get))
    await plain(1)
    assert await asyncio.gather(*(plain(1) for _ in range(5))) == [[4]] * 5


async def test_everybody_gets_the_error() -> None:
    """The error of the call is everybody's: the first caller's own, and a copy for each of the others."""
    upstream = Upstream()
    upstream.outcomes = [error := OSError("down")]
    callers = start(Pipeline("p", SingleFlight())(upstream.get), 5)
    await settle()
    upstream.go.set()
    errors = await outcomes(callers)
    assert errors[0] is error
    assert {(type(each), str(each)) for each in errors} == {(OSError, "down")}
    assert len({id(each) for each in errors}) == 5


async def test_stand_ins_reach_everybody() -> None:
    """A fallback inside answers all callers, and a cache outside keeps nothing of it."""
    upstream = Upstream()
    upstream.outcomes = [OSError("down")]
    guarded = Pipeline("p", Cache(), SingleFlight(), Fallback("spare"))(upstream.get)
    callers = start(guarded, 3)
    await settle()
    upstream.go.set()
    assert await outcomes(callers) == ["spare"] * 3
    assert await guarded(1) == [2]


async def test_a_cancelled_waiter_leaves_the_others_alone() -> None:
    """Whoever is cancelled while waiting is cancelled alone."""
    upstream = Upstream()
    callers = start(Pipeline("p", SingleFlight())(upstream.get), 4)
    await settle()
    callers[1].cancel()
    callers[3].cancel()
    await settle()
    upstream.go.set()
    ended = await outcomes(callers)
    assert [ended[0], ended[2], upstream.calls] == [[1], [1], 1]
    assert [type(ended[1]), type(ended[3])] == [asyncio.CancelledError] * 2


async def test_a_cancelled_first_caller_leaves_the_others_alone() -> None:
    """The first caller may be cancelled like any other: the call goes on for the others."""
    upstream = Upstream()
    callers = start(Pipeline("p", SingleFlight())(upstream.get), 3)
    await settle()
    callers[0].cancel()
    await settle()
    upstream.go.set()
    ended = await outcomes(callers)
    assert [type(ended[0]), ended[1:], upstream.calls] == [asyncio.CancelledError, [[1], [1]], 1]


async def test_a_call_nobody_waits_for_is_cancelled() -> None:
    """The last caller to leave takes the call along, and hears of it when the call has cleaned up."""
    upstream = Upstream()
    guarded = Pipeline("p", SingleFlight())(upstream.get)
    callers = start(guarded, 3)
    await settle()
    for caller in callers:
        assert upstream.cleaned_up == 0
        caller.cancel()
        await settle()
    assert upstream.cleaned_up == 1
    assert {type(ended) for ended in await outcomes(callers)} == {asyncio.CancelledError}
    upstream.go.set()
    assert await guarded(1) == [2]


async def test_whoever_comes_while_a_call_is_being_cancelled_makes_another() -> None:
    """No caller joins a call that is being cancelled."""
    upstream = Upstream()
    guarded = Pipeline("p", SingleFlight())(upstream.get)
    caller = start(guarded, 1)[0]
    await settle()
    caller.cancel()
    await asyncio.sleep(0)
    late = start(guarded, 1)
    upstream.go.set()
    assert await outcomes(late) == [[2]]
    assert isinstance((await outcomes([caller]))[0], asyncio.CancelledError)


async def test_a_caller_cancelled_twice_still_sees_the_call_end() -> None:
    """Cancelled again while the call cleans up, the last caller passes that on and waits for the end."""
    entered, cancelled = asyncio.Event(), 0

    async def stubborn(_: int) -> None:
        nonlocal cancelled
        while cancelled < 2:
            try:
                entered.set()
                await asyncio.sleep(10)
            except asyncio.CancelledError:
                cancelled += 1
        raise asyncio.CancelledError

    caller = asyncio.ensure_future(Pipeline("p", SingleFlight())(stubborn)(1))
    await entered.wait()
    caller.cancel()
    await settle()
    assert (caller.done(), cancelled) == (False, 1)
    caller.cancel()
    assert isinstance((await outcomes([caller]))[0], asyncio.CancelledError)
    assert cancelled == 2


async def test_cancellation_at_every_step() -> None:
    """Whichever caller is cancelled at whichever step, the others get the result and nothing is left in flight (L2)."""
    for victims in ({0}, {1}, {0, 1}, {1, 2}, {0, 1, 2}):
        for steps in range(9):
            upstream, single = Upstream(), SingleFlight()
            guarded = Pipeline("p", single)(upstream.get)
            callers = start(guarded, 3)
            for step in range(steps):
                if step == 3:
                    upstream.go.set()
                await asyncio.sleep(0)
            for victim in victims:
                callers[victim].cancel()
            await asyncio.sleep(0)
            upstream.go.set()
            for number, ended in enumerate(await outcomes(callers)):
                assert isinstance(ended, list) or (number in victims and isinstance(ended, asyncio.CancelledError))
            assert await guarded(1) == [upstream.calls]
            assert len(asyncio.all_tasks()) == 1


async def test_a_call_that_cancels_itself_is_made_again_by_the_others() -> None:
    """A cancelled call shares no result: its first caller gets the cancellation, another caller makes the call."""
    upstream = Upstream()
    upstream.outcomes = [asyncio.CancelledError()]
    callers = start(Pipeline("p", SingleFlight())(upstream.get), 3)
    await settle()
    upstream.go.set()
    ended = await outcomes(callers)
    assert [type(ended[0]), ended[1:]] == [asyncio.CancelledError, [[2], [2]]]


async def test_what_serves_one_caller_is_not_shared() -> None:
    """Where the result is an iterator every caller gets one of its own, side by side."""
    upstream = Upstream()

    async def items(number: int) -> Iterator[int]:
        return iter(await upstream.get(number))

    callers = start(Pipeline("p", SingleFlight())(items), 3)
    await settle()
    upstream.go.set()
    assert sorted(next(items) for items in await outcomes(callers)) == [1, 2, 3]


async def test_a_deadline_bounds_the_wait() -> None:
    """Whoever waits does so only for as long as its own deadline allows; leaving last, it ends the call."""
    upstream = Upstream()
    guarded = Pipeline("p", SingleFlight(name="s"))(upstream.get)

    async def hurried(seconds: float) -> Any:
        with Deadline.after(seconds):
            return await guarded(1)

    first = start(guarded, 1)[0]
    await settle()
    for seconds in (0.005, 0):
        with pytest.raises(DeadlineExceededError, match="did not end in time") as caught:
            await hurried(seconds)
        assert (caught.value.policy, caught.value.is_before_call) == ("s", seconds == 0)
    hurrying = asyncio.ensure_future(hurried(0.005))
    await settle()
    first.cancel()
    assert [type(ended) for ended in await outcomes([first, hurrying])] == [
        asyncio.CancelledError,
        DeadlineExceededError,
    ]
    assert upstream.cleaned_up == 1


async def test_max_wait_bounds_the_wait_as_well() -> None:
    """With `max_wait` no caller waits longer for another's call, with or without a deadline; the call goes on."""
    upstream = Upstream()
    callers = start(Pipeline("p", SingleFlight("5ms"))(upstream.get), 2)
    await settle()
    with Deadline.after(60):
        callers += start(Pipeline("q", SingleFlight("5ms"))(upstream.get), 2)
    ended = await outcomes([callers[1], callers[3]])
    assert [(type(error), error.seconds) for error in ended] == [(DeadlineExceededError, 0.005)] * 2
    upstream.go.set()
    assert await outcomes([callers[0], callers[2]]) == [[1], [2]]


async def test_a_timeout_outside_ends_one_callers_wait_only() -> None:
    """A timeout outside bounds each caller by itself; a timeout inside bounds the call."""
    upstream = Upstream()
    call = Pipeline("p", SingleFlight())(upstream.get)
    first = start(call, 1)
    with pytest.raises(DeadlineExceededError):
        await Pipeline("hurried", Timeout("5ms"))(call)(1)
    upstream.go.set()
    assert await outcomes(first) == [[1]]
    inside = Upstream()
    callers = start(Pipeline("p", SingleFlight(), Timeout("5ms"))(inside.get), 3)
    assert {type(ended) for ended in await outcomes(callers)} == {DeadlineExceededError}
    assert inside.calls == 1


async def test_a_call_that_calls_itself_does_not_wait_for_itself() -> None:
    """A function that calls itself with the same arguments goes on, in tasks it starts as well."""
    depth: list[int] = []
    pipeline = Pipeline("p", SingleFlight())

    @pipeline
    async def again(number: int) -> int:
        depth.append(number)
        return number if len(depth) > 2 else await asyncio.ensure_future(again(number)) + 1

    assert await again(1) == 3


@pytest.mark.parametrize("size", [2, 3])
async def test_calls_that_want_each_other_do_not_wait_in_a_ring(size: int) -> None:
    """Where each call wants the next one's result, around to the first, one of them makes a call of its own."""
    made: list[int] = []

    @Pipeline("p", SingleFlight(key=lambda number, _: number))
    async def ask(number: int, left: int) -> int:
        made.append(number)
        await settle()  # until all of them are in flight
        return 1 + await ask((number + 1) % size, left - 1) if left else 0

    async with asyncio.timeout(5):
        assert await asyncio.gather(*(ask(number, 1) for number in range(size)))
    assert len(made) == size + 1


async def test_forgotten_calls_are_not_joined() -> None:
    """After `forget` no caller joins a call that was in flight."""
    upstream, single = Upstream(), SingleFlight()
    guarded = Pipeline("p", single)(upstream.get)
    before = start(guarded, 2)
    await settle()
    single.forget()
    after = start(guarded, 2)
    await settle()
    upstream.go.set()
    assert [await outcomes(before), await outcomes(after)] == [[[1], [1]], [[2], [2]]]


async def test_the_call_has_the_first_callers_context() -> None:
    """The call sees the context variables of its first caller, and variables that it sets stay inside."""
    user: contextvars.ContextVar[str] = contextvars.ContextVar("user", default="nobody")

    async def get(_: int) -> str:
        await asyncio.sleep(0)
        name = user.get()
        user.set("changed")
        return name

    guarded = Pipeline("p", SingleFlight())(get)

    async def call(name: str) -> tuple[str, str]:
        user.set(name)
        return await guarded(1), user.get()

    both = await asyncio.gather(*(call(name) for name in ("ada", "bob")))
    assert both == [("ada", "ada"), ("ada", "bob")]


def test_loops_do_not_mix() -> None:
    """Tasks of different event loops each wait for a call of their own loop, whether in several threads or one."""
    calls: list[int] = []
    together = threading.Barrier(3, timeout=10)

    async def get(_: int) -> int:
        calls.append(1)
        await asyncio.get_running_loop().run_in_executor(None, together.wait)
        return 1

    guarded = Pipeline("p", SingleFlight())(get)

    async def main() -> list[int]:
        return await asyncio.gather(*(guarded(1) for _ in range(5)))

    with ThreadPoolExecutor(3) as pool:
        assert [each.result(20) for each in [pool.submit(asyncio.run, main()) for _ in range(3)]] == [[1] * 5] * 3
    assert len(calls) == 3


def test_a_loop_that_died_with_a_call_under_way_harms_nobody() -> None:
    """What a closed loop left unfinished is not waited for by the next loop of the thread."""
    release: list[asyncio.Event] = []

    async def get(_: int) -> int:
        if not release:
            release.append(asyncio.Event())
            await release[0].wait()
        return 1

    guarded = Pipeline("p", SingleFlight())(get)
    loop = asyncio.new_event_loop()
    tasks: list[Any] = [loop.create_task(guarded(1)) for _ in range(2)]
    loop.run_until_complete(asyncio.sleep(0.001))
    tasks = [*tasks, *(asyncio.all_tasks(loop) - set(tasks))]
    loop.close()
    assert asyncio.run(guarded(1)) == 1
    for task in tasks:
        task._log_destroy_pending = False  # its loop dies on purpose
        task.get_coro().close()


async def test_errors_are_freed() -> None:
    """Once its callers have let go of an error it is freed: no cycle leads back to it."""
    freed: list[weakref.ref[Exception]] = []

    class FailureError(Exception):
        def __init__(self) -> None:
            freed.append(weakref.ref(self))

    async def fail(_: int) -> None:
        await asyncio.sleep(0)
        raise FailureError

    guarded = Pipeline("p", SingleFlight())(fail)

    async def call() -> None:
        try:
            await guarded(1)
        except FailureError:
            return
        raise AssertionError

    gc.disable()
    try:
        await asyncio.gather(*(call() for _ in range(4)))
        await settle()
        assert [reference() for reference in freed] == [None] * 5
    finally:
        gc.enable()


async def test_an_error_nobody_is_left_to_hear_is_not_complained_about() -> None:
    """A call that fails just as its last caller leaves ends quietly."""
    complaints: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, context: complaints.append(context))
    for steps in range(7):
        go = asyncio.Event()

        async def fail(_: int, go: asyncio.Event = go) -> None:
            await go.wait()
            raise OSError("down")

        caller = start(Pipeline("p", SingleFlight())(fail), 1)[0]
        await settle()
        go.set()
        await settle(steps)
        caller.cancel()
        await outcomes([caller])
    gc.collect()
    assert complaints == []


async def test_unhashable_arguments_are_explained() -> None:
    """Arguments that cannot be hashed raise an error that names `key=`."""
    with pytest.raises(TypeError, match=r"s: a dict cannot be hashed.*give key="):
        await Pipeline("p", SingleFlight(name="s"))(Upstream().get)({})


async def test_expiry_under_load_makes_one_call_each_time() -> None:
    """Under a cache each expiry costs one call, however many callers see it."""
    clock = ManualClock()
    upstream = Upstream()
    upstream.go.set()
    guarded = Pipeline("p", Cache(10, jitter=0, clock=clock), SingleFlight())(upstream.get)
    for expected in range(1, 4):
        assert await outcomes(start(guarded, 20)) == [[expected]] * 20
        clock.advance(10)
    assert upstream.calls == 3
