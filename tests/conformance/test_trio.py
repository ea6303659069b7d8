"""Coroutines under trio: each policy serves them, or refuses with one clear error and keeps nothing."""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any, TypeVar

import pytest
import tenacity
import trio
import trio.testing

from resilience import (
    Bulkhead,
    BulkheadFullError,
    Cache,
    CircuitBreaker,
    CircuitOpenError,
    ConfigurationError,
    Deadline,
    Fallback,
    Health,
    Hedge,
    Keyed,
    Lifecycle,
    Pipeline,
    RateLimit,
    RateLimitedError,
    Resilience,
    Retry,
    SingleFlight,
    ThreadPoolBulkhead,
    Timeout,
    idempotent,
)
from resilience.clock import SYSTEM_SLEEPER
from resilience.ratelimit import RedisStore
from resilience.redis import RedisConnection, RedisOptions
from resilience.running import running_loop

T = TypeVar("T")
ADVICE = "run the coroutine on asyncio, or make the call in blocking code, in a thread"


def refusal(user: str) -> str:
    """Return the exact text of the error of `user` under trio."""
    return f"{user} needs asyncio, and this coroutine runs under trio; {ADVICE}"


@idempotent
async def double(number: int) -> int:
    """Return twice `number` after a turn of trio."""
    await trio.lowlevel.checkpoint()
    return 2 * number


SERVED: dict[str, Callable[[], Any]] = {
    "breaker": CircuitBreaker,
    "bucket": lambda: RateLimit("100/second"),
    "bucket that may wait": lambda: RateLimit("100/second", max_wait=1),
    "bulkhead": lambda: Bulkhead(1),
    "bulkhead that may wait": lambda: Bulkhead(1, max_wait=1),
    "retry": lambda: Retry(attempts=2),
    "cache": Cache,
    "fallback": lambda: Fallback(0),
    "keyed": lambda: Keyed(lambda _key: Bulkhead(1), key=str),
    "timeout without a limit": lambda: Timeout(None),
}
REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "timeout": (lambda: Timeout(1, name="search"), "Timeout 'search'"),
    "timeout of a key": (
        lambda: Keyed(lambda _key: Timeout(1), key=lambda _number: "a", name="search"),
        "Timeout 'search'",
    ),
    "single flight": (lambda: SingleFlight(name="search"), "SingleFlight 'search'"),
    "hedge": (lambda: Hedge(0.1, name="search"), "Hedge 'search'"),
    "hedge that still learns": (lambda: Hedge(name="search"), "Hedge 'search'"),
    "thread pool": (lambda: ThreadPoolBulkhead(1, name="search"), "ThreadPoolBulkhead 'search'"),
    "thread pool that may not wait": (
        lambda: ThreadPoolBulkhead(1, max_wait=0, name="search"),
        "ThreadPoolBulkhead 'search'",
    ),
    "bucket on Redis": (
        lambda: RateLimit("100/second", store=RedisStore(_unreachable()), name="search"),
        "RateLimit 'search' on a RedisStore",
    ),
}
served = pytest.mark.parametrize("make", SERVED.values(), ids=SERVED)
refused = pytest.mark.parametrize(("make", "user"), REFUSED.values(), ids=REFUSED)


def _unreachable() -> RedisConnection:
    return RedisConnection(RedisOptions.of(url="redis://127.0.0.1:1/0"))


def on_trio(function: Callable[..., Awaitable[T]], *args: Any) -> T:
    """Return what `function` returns under trio."""
    result: T = trio.run(function, *args)
    return result


async def error_of(function: Callable[..., Awaitable[Any]], *args: Any) -> str:
    """Return the text of the `ConfigurationError` that the call raises."""
    with pytest.raises(ConfigurationError) as caught:
        await function(*args)
    return str(caught.value)


@served
def test_policy_without_a_wait_serves_trio(make: Callable[[], Any]) -> None:
    """A call that has to wait for nothing is served under trio as under asyncio, in each form."""

    async def calls() -> list[int]:
        pipeline = Pipeline("p", make())
        guarded = pipeline(double)
        return [await guarded(1), await guarded(1), await pipeline.acall(double, 1)]

    assert on_trio(calls) == [2, 2, 2]


@refused
def test_policy_that_needs_asyncio_refuses_trio(make: Callable[[], Any], user: str) -> None:
    """The error names policy and library; nothing was called, and the policy is as good as new on asyncio."""
    called: list[int] = []

    def note(number: int) -> int:
        called.append(number)
        return number

    policy = make()
    call = functools.partial(Pipeline("p", policy).acall, idempotent(note))

    assert [on_trio(error_of, call, 1) for _ in range(3)] == [refusal(user)] * 3
    assert called == []
    assert policy.is_idle if hasattr(policy, "is_idle") else True
    assert asyncio.run(call(2)) == 2


@refused
def test_breaker_and_retry_leave_the_refusal_alone(make: Callable[[], Any], user: str) -> None:
    """An outer breaker does not count the refusal, and no retry repeats it, tenacity's default included."""
    any_error = tenacity.retry_if_exception_type()
    retries = [
        Retry(attempts=3, on=Exception, wait_initial=0),
        Retry(retry=any_error, stop=tenacity.stop_after_attempt(3), wait=tenacity.wait_none()),
    ]
    events: list[str] = []
    for retry in retries:
        breaker = CircuitBreaker(fail_max=1)
        pipeline = Pipeline("p", retry, breaker, make())
        pipeline.subscribe(lambda event: events.append(event.kind))

        assert on_trio(error_of, functools.partial(pipeline.acall, idempotent(len)), "a") == refusal(user)
        assert (breaker.current_state, breaker.fail_counter) == ("closed", 0)
    assert [kind for kind in events if kind.startswith(("retry.", "breaker."))] == []


def test_bucket_is_not_drained_by_the_refusal() -> None:
    """A rate limit that drains on errors keeps its tokens: the refusal says nothing about the other side."""
    limit = RateLimit("1/minute", burst=5, drain_on=Exception)
    guarded = Pipeline("p", limit, Timeout(1, name="search"))(double)

    assert on_trio(error_of, guarded, 1) == refusal("Timeout 'search'")
    assert limit.snapshot()["remaining"] == 4


def test_half_open_circuit_gets_its_trial_back() -> None:
    """A refusal in a trial call neither closes nor opens the circuit, and the trial can be made by another call."""
    breaker = CircuitBreaker(fail_max=1)
    guarded = Pipeline("p", breaker, Timeout(1, name="search"))(double)
    breaker.half_open()

    assert [on_trio(error_of, guarded, 1) for _ in range(2)] == [refusal("Timeout 'search'")] * 2
    assert breaker.current_state == "half-open"


def test_deadline_that_cuts_a_call_short_needs_asyncio() -> None:
    """A `Timeout` without seconds refuses trio under a deadline only."""
    guarded = Pipeline("p", Timeout(None, name="search"))(double)

    async def calls() -> tuple[int, str]:
        with Deadline.after(5):
            error = await error_of(guarded, 1)
        return await guarded(1), error

    assert on_trio(calls) == (2, refusal("Timeout 'search'"))


def test_block_with_a_timeout_is_refused() -> None:
    """An `async with` block with a `Timeout` is not entered, and what stands outside is given back."""
    bulkhead = Bulkhead(1)
    pipeline = Pipeline("p", bulkhead, Timeout(1, name="search"))

    async def block() -> None:
        async with pipeline.guard():
            raise AssertionError("the block was entered")

    assert on_trio(error_of, block) == refusal("Timeout 'search'")
    assert bulkhead.concurrent_calls == 0


def test_retry_that_has_to_wait_is_refused() -> None:
    """A retry waits on asyncio alone; its budget and places are given back, and a retry without a wait is served."""
    attempts: list[int] = []

    async def fail() -> None:
        attempts.append(1)
        raise ConnectionError

    bulkhead = Bulkhead(1)
    waiting = Pipeline("p", bulkhead, Retry(attempts=3, on=ConnectionError, name="search"))

    async def without_wait() -> None:
        with pytest.raises(ConnectionError):
            await Pipeline("p", Retry(attempts=3, on=ConnectionError, wait_initial=0, wait_jitter=0))(fail)()

    assert on_trio(error_of, waiting(fail)) == refusal("Retry 'search'")
    assert (len(attempts), bulkhead.concurrent_calls) == (1, 0)
    on_trio(without_wait)
    assert len(attempts) == 1 + 3


def test_wait_of_a_retry_can_be_given_to_trio() -> None:
    """A retry and a bucket of a pipeline with a sleeper of trio's own wait under trio."""

    class TrioSleeper:
        def sleep(self, seconds: float, /) -> None:
            time.sleep(seconds)

        async def asleep(self, seconds: float, /) -> None:
            await trio.sleep(seconds)

    answers = iter([ConnectionError(), None])

    async def flaky() -> str:
        if (error := next(answers)) is not None:
            raise error
        return "answered"

    retry = Retry(attempts=2, on=ConnectionError, wait_initial=0.001)
    limit = RateLimit("1000/second", burst=1, max_wait=5)
    assert on_trio(Pipeline("p", retry, limit, sleeper=TrioSleeper())(flaky)) == "answered"
    assert limit.rejected == 0


def test_turn_in_a_bucket_is_given_back() -> None:
    """A call that would wait for its turn is refused under trio, and its token goes back to the bucket."""
    limit = RateLimit("1/minute", burst=1, max_wait=600, name="search")
    guarded = Pipeline("p", limit)(double)

    async def calls() -> tuple[int, list[str]]:
        return await guarded(1), [await error_of(guarded, 1) for _ in range(20)]

    assert on_trio(calls) == (2, [refusal("RateLimit 'search'")] * 20)
    assert limit.snapshot()["remaining"] == 0


def test_full_bulkhead_refuses_the_wait() -> None:
    """A call that would wait for a place is refused; the line stays empty, and the place is given back at the end."""
    bulkhead = Bulkhead(1, max_wait=5, name="search")
    guarded = Pipeline("p", bulkhead)(trio.sleep_forever)

    async def calls() -> tuple[str, int, int]:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(guarded)
            await trio.testing.wait_all_tasks_blocked()
            found = await error_of(guarded), bulkhead.waiting, bulkhead.concurrent_calls
            nursery.cancel_scope.cancel()
        return found

    assert on_trio(calls) == (refusal("Bulkhead 'search'"), 0, 1)
    assert (bulkhead.waiting, bulkhead.concurrent_calls) == (0, 0)


def test_refusals_of_policies_are_the_same_under_trio() -> None:
    """An open circuit, a full bulkhead and an empty bucket refuse under trio with their own errors."""
    breaker, bulkhead = CircuitBreaker(fail_max=1), Bulkhead(1)
    breaker.open()
    kinds: dict[Any, type[Exception]] = {
        breaker: CircuitOpenError,
        bulkhead: BulkheadFullError,
        RateLimit("1/minute", burst=1): RateLimitedError,
    }

    async def twice(policy: Any) -> None:
        guarded = Pipeline("p", policy)(double)
        async with Pipeline("q", bulkhead).guard():
            await guarded(1)
            await guarded(1)

    for policy, kind in kinds.items():
        with pytest.raises(kind):
            on_trio(twice, policy)
    assert bulkhead.concurrent_calls == 0


def test_cancellation_of_trio_gives_everything_back() -> None:
    """A call, a generator and a block that trio cancels count for no failure and keep no place."""
    breaker, bulkhead = CircuitBreaker(fail_max=1), Bulkhead(3)
    pipeline = Pipeline("p", breaker, bulkhead)

    @pipeline
    async def numbers() -> AsyncIterator[int]:
        yield 1
        await trio.sleep_forever()

    async def iterate() -> None:
        async for _ in numbers():
            pass

    async def block() -> None:
        async with pipeline.guard():
            await trio.sleep_forever()

    async def calls() -> int:
        inside = 0
        with trio.move_on_after(60) as scope:
            async with trio.open_nursery() as nursery:
                for call in (pipeline(trio.sleep_forever), iterate, block):
                    nursery.start_soon(call)
                await trio.testing.wait_all_tasks_blocked()
                inside = bulkhead.concurrent_calls
                scope.cancel()
        return inside

    assert on_trio(calls) == 3
    assert (breaker.current_state, breaker.fail_counter, bulkhead.concurrent_calls) == ("closed", 0, 0)


def test_cache_and_fallback_answer_under_trio() -> None:
    """A cache answers the second call, and a fallback gives its value or awaits its coroutine function."""
    cache = Cache()

    async def fail() -> int:
        raise ConnectionError

    async def stand_in(_error: object) -> int:
        await trio.lowlevel.checkpoint()
        return 8

    async def calls() -> tuple[list[int], int, int]:
        cached = Pipeline("p", cache)(double)
        by_value = await Pipeline("p", Fallback(7))(fail)()
        by_function = await Pipeline("p", Fallback(function=stand_in))(fail)()
        return [await cached(1), await cached(1)], by_value, by_function

    assert on_trio(calls) == ([2, 2], 7, 8)
    assert (cache.hits, cache.misses) == (1, 1)


def test_blocking_form_serves_trio_in_a_thread() -> None:
    """A blocking call, made by trio in a thread of its own, goes through every policy."""
    retry = Retry(attempts=2, on=KeyError, wait_initial=0.001)
    answers: Iterator[Any] = iter([KeyError(), "answered"])

    @idempotent
    def flaky() -> str:
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return str(answer)

    pipeline = Pipeline("p", SingleFlight(), retry, Hedge(30), Bulkhead(1, max_wait=1), Timeout(60))
    guarded = pipeline(flaky)

    async def in_thread() -> str:
        return await trio.to_thread.run_sync(guarded)

    assert on_trio(in_thread) == "answered"


@pytest.mark.parametrize("kind", [kind for kind in REFUSED if kind != "bucket on Redis"])
def test_guest_of_an_asyncio_loop_is_refused(kind: str) -> None:
    """A coroutine that trio runs inside a loop of asyncio is refused too, though a loop is running."""
    make, user = REFUSED[kind]

    async def calls() -> str:
        return await error_of(functools.partial(Pipeline("p", make()).acall, idempotent(len)), "a")

    async def host() -> str:
        loop, ended = asyncio.get_running_loop(), asyncio.get_running_loop().create_future()
        trio.lowlevel.start_guest_run(
            calls, run_sync_soon_threadsafe=loop.call_soon_threadsafe, done_callback=ended.set_result
        )
        outcome = await ended
        return str(outcome.unwrap())

    assert asyncio.run(host()) == refusal(user)


def test_parts_of_the_toolkit_refuse_trio() -> None:
    """Health, lifecycle, an awaiting client of Redis and a plain wait refuse; a toolkit can be entered and closed."""
    lifecycle, connection = Lifecycle(), _unreachable()
    health = Health()
    health.add("database", lambda: None)

    async def enter(thing: Any) -> None:
        async with thing:
            pass

    async def client() -> object:
        return connection.aio

    async def close() -> None:
        await connection.aclose()
        await enter(Resilience.from_env({}))

    calls: dict[str, list[Callable[[], Awaitable[Any]]]] = {
        "Health": [lambda: health.areport("ready")],
        "Lifecycle": [
            lambda: enter(lifecycle),
            lifecycle.astart,
            lifecycle.astop,
            lifecycle.await_drained,
            lambda: lifecycle.await_draining(1),
        ],
        "an awaiting client of Redis": [client],
        "a wait": [lambda: SYSTEM_SLEEPER.asleep(0.1)],
    }
    for user, refusing in calls.items():
        assert [on_trio(error_of, call) for call in refusing] == [refusal(user)] * len(refusing)
    assert not lifecycle.is_draining
    on_trio(close)


def test_code_outside_of_any_task_is_refused() -> None:
    """Where no async library runs the code, the error says that, and not the name of one."""
    with pytest.raises(ConfigurationError) as caught:
        running_loop("a plugin")
    assert str(caught.value) == f"a plugin needs asyncio, and no task of asyncio runs this code; {ADVICE}"

    coroutine = Pipeline("p", Timeout(1, name="search"))(double)(1)
    with pytest.raises(ConfigurationError, match="Timeout 'search' needs asyncio, and no task of asyncio runs"):
        coroutine.send(None)
