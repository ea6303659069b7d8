"""Looks, bookings and waits of a token bucket: one set of laws for memory and Redis, and for both colours."""

from __future__ import annotations

import asyncio
import inspect
import math
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextvars import copy_context
from typing import Any, TypeVar

import pytest
from redis_process import RedisProcess, free_port

from resilience.clock import SYSTEM_SLEEPER
from resilience.errors import ConfigurationError, RateLimitedError
from resilience.pipeline import Pipeline
from resilience.ratelimit import Quota, Rate, RateLimit, RedisStore, Store, TokenBucket
from resilience.redis import RedisConnection
from resilience.timeout import Deadline

T = TypeVar("T")
Interrupts = Callable[[Callable[[], object]], None]


class Caller:
    """Calls the method of one colour."""

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix
        self.runner = asyncio.Runner()

    def __call__(self, owner: object, method: str, *args: Any, **options: Any) -> Any:
        name = f"{self.prefix}{method}"
        result = getattr(owner, name)(*args, **options)
        return self.runner.run(result, context=copy_context()) if inspect.iscoroutine(result) else result

    def wait(self, reservation: Any) -> None:
        """Wait for a turn."""
        self.runner.run(_awaited(reservation), context=copy_context()) if self.prefix else reservation.wait()


async def _awaited(result: Awaitable[T]) -> T:
    return await result


@pytest.fixture(params=["", "a"], ids=["blocking", "awaiting"])
def call(request: pytest.FixtureRequest) -> Iterator[Caller]:
    caller = Caller(request.param)
    yield caller
    caller.runner.close()


def comes_true(fact: Callable[[], object]) -> bool:
    """Wait for something that happens in the background."""
    end = time.monotonic() + 10
    while not fact():
        if time.monotonic() > end:
            return False
        time.sleep(0.002)
    return True


def test_a_look_takes_nothing(store: Store, call: Caller) -> None:
    """`peek` says whether the call would be admitted and how many tokens are left, and leaves them."""
    limiter = TokenBucket("10/hour", store=store)
    limiter.acquire("k", 7)
    for _ in range(2):
        found = call(limiter, "peek", "k", 3)
        assert (found.allowed, found.remaining, found.limit, found.retry_after, found.is_paid) == (
            True,
            3,
            10,
            0,
            False,
        )
    refused = call(limiter, "peek", "k", 4)
    assert (refused.allowed, refused.remaining) == (False, 3)
    assert refused.retry_after == pytest.approx(360, abs=2)
    assert call(limiter, "peek", "k", 11).retry_after is None
    assert call(limiter, "peek", "new").remaining == 10
    assert limiter.acquire("k", 3).allowed


def test_a_look_is_not_counted(store: Store, call: Caller) -> None:
    """The metrics count decisions about calls, and a look is none."""
    limiter = TokenBucket("1/hour", store=store)
    call(limiter, "peek", "k")
    call(limiter, "peek", "k", 2)
    assert limiter.measure().counts == {"allowed": 0, "refused": 0}


def test_bookings_come_one_after_the_other(store: Store, call: Caller) -> None:
    """Each booking gets the next turn; one that would come too late, or never, is refused and books nothing."""
    limiter = TokenBucket("1/minute", store=store)
    turns = [call(limiter, "reserve", "k", max_wait="1h") for _ in range(3)]
    assert [turn.delay for turn in turns] == pytest.approx([0, 60, 120], abs=5)
    late = call(limiter, "reserve", "k", max_wait=120)
    assert (late.allowed, bool(late), late.delay) == (False, False, math.inf)
    assert late.retry_after == pytest.approx(180, abs=5)
    assert call(limiter, "reserve", "k").allowed is False
    assert call(limiter, "reserve", "k", 2, max_wait="1h").retry_after is None
    assert limiter.measure().counts == {"allowed": 3, "refused": 3}


def test_a_refund_moves_no_turn(store: Store, call: Caller) -> None:
    """If a payment without a wait goes back while others wait behind it, no call gets a turn at the time of theirs."""
    limiter = TokenBucket("1/minute", store=store)
    paid = call(limiter, "acquire", "k")
    assert call(limiter, "reserve", "k", max_wait="1h").delay == pytest.approx(60, abs=5)
    call(limiter, "refund", "k", paid)
    assert call(limiter, "reserve", "k", max_wait="1h").delay == pytest.approx(120, abs=5)


def test_a_call_that_does_not_wait_goes_behind_nobody(store: Store, call: Caller) -> None:
    """While calls wait for their turns, one that does not wait is refused, and disturbs no turn."""
    limiter = TokenBucket("1/minute", store=store)
    assert [call(limiter, "reserve", "k", max_wait="1h").allowed for _ in range(3)] == [True] * 3
    refusal = call(limiter, "acquire", "k")
    assert not refusal.allowed
    assert refusal.retry_after == pytest.approx(180, abs=5)
    assert call(limiter, "peek", "k").retry_after == pytest.approx(180, abs=5)
    assert call(limiter, "reserve", "k", max_wait="1h").delay == pytest.approx(180, abs=5)


def test_a_cancelled_booking_gives_its_tokens_back_once(store: Store, call: Caller) -> None:
    """After `cancel` the bucket is as before, for a turn that waits and for one that has come."""
    limiter = TokenBucket("2/hour", store=store)
    first = call(limiter, "reserve", "k", 2)
    second = call(limiter, "reserve", "k", max_wait="1h")
    for _ in range(2):
        call(second, "cancel")
    assert call(limiter, "reserve", "k", max_wait="1h").delay == pytest.approx(1800, abs=5)
    limiter.reset("k")
    first = call(limiter, "reserve", "k", 2)
    for _ in range(2):
        call(first, "cancel")
    assert call(limiter, "peek", "k").remaining == 2


def test_cancelled_bookings_in_any_order(store: Store, call: Caller) -> None:
    """The first in line can be cancelled first: all tokens are back when the last one is."""
    limiter = TokenBucket("60/hour", 2, store)
    limiter.acquire("k", 2)
    turns = [call(limiter, "reserve", "k", cost, max_wait="1h") for cost in (1, 2, 1, 1)]
    for turn in turns[:3]:
        call(turn, "cancel")
    assert call(limiter, "peek", "k").retry_after == pytest.approx(360, abs=5), "the last one keeps its turn"
    call(turns[3], "cancel")
    assert call(limiter, "peek", "k").retry_after == pytest.approx(60, abs=5)


def test_a_block_gives_a_turn_back_that_has_not_come(store: Store, call: Caller) -> None:
    """A block that ends before the turn has not used it; one that ends after it has."""
    limiter = TokenBucket("60/hour", 1, store)
    with call(limiter, "reserve", "k"):
        pass
    assert call(limiter, "peek", "k").remaining == 0
    with pytest.raises(ZeroDivisionError), call(limiter, "reserve", "k", max_wait="1h"):
        raise ZeroDivisionError
    assert comes_true(lambda: limiter.peek("k").retry_after < 62)  # type: ignore[operator]  # a refusal that fits later


async def test_an_async_block(store: Store) -> None:
    """`async with` gives a turn back that has not come."""
    limiter = TokenBucket("60/hour", 1, store)
    await limiter.areserve("k")
    async with await limiter.areserve("k", max_wait="1h") as turn:
        assert turn.delay > 0
    assert await asyncio.to_thread(comes_true, lambda: (limiter.peek("k").retry_after or 99) < 62)


def test_a_wait_ends_at_the_turn(store: Store, call: Caller) -> None:
    """`acquire(wait=...)` and `wait()` return when the turn has come, in the order of arrival."""
    limiter = TokenBucket("50/second", 1, store)
    start = time.monotonic()
    assert call(limiter, "acquire", "k", wait="5s").wait == 0
    assert call(limiter, "acquire", "k", 1, 5).allowed
    call.wait(call(limiter, "reserve", "k", max_wait=5))
    assert time.monotonic() - start >= 0.039


def test_a_hopeless_wait_is_refused_at_once(store: Store, call: Caller) -> None:
    """A turn that comes too late, after `wait` or after the deadline in force, is not waited for and not paid."""
    limiter = TokenBucket("1/hour", store=store)
    limiter.acquire("k")
    start = time.monotonic()
    assert not call(limiter, "acquire", "k", wait=1800)
    with Deadline.after("20s"):
        assert not call(limiter, "acquire", "k", wait="2h")
        assert not call(limiter, "reserve", "k", max_wait="2h")
    assert time.monotonic() - start < 10
    assert call(limiter, "peek", "k").retry_after == pytest.approx(3600, abs=15)


def test_a_turn_after_the_deadline_is_given_up(store: Store, call: Caller) -> None:
    """A booking made before a deadline came into force is not waited for past it."""
    limiter = TokenBucket("1/hour", store=store)
    limiter.acquire("k")
    turn = call(limiter, "reserve", "k", max_wait="2h")
    with Deadline.after(1), pytest.raises(RateLimitedError, match="its turn comes after the deadline"):
        call.wait(turn)
    assert comes_true(lambda: limiter.peek("k").retry_after < 3601)  # type: ignore[operator]  # a refusal
    with pytest.raises(RateLimitedError, match="no turn is booked"):
        call.wait(turn)


def test_an_interrupted_wait_gives_the_tokens_back(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """A wait that an interrupt ends has used nothing, for each way to wait."""

    class Interrupting:
        def sleep(self, _seconds: float) -> None:
            raise KeyboardInterrupt

        def asleep(self, _seconds: float) -> Awaitable[None]:
            raise AssertionError

    monkeypatch.setattr(SYSTEM_SLEEPER, "stand_in", Interrupting())
    limiter = TokenBucket("60/hour", 1, store, name="shared")
    policy = Pipeline("p", RateLimit("60/hour", 1, max_wait="1h", store=store, key="k", name="shared"))
    limiter.acquire("k")
    waits: list[Callable[[], object]] = [
        lambda: limiter.acquire("k", wait="1h"),
        lambda: limiter.reserve("k", max_wait="1h").wait(),
        lambda: policy.call(int),
    ]
    for wait in waits:
        with pytest.raises(KeyboardInterrupt):
            wait()
        assert comes_true(lambda: limiter.peek("k").retry_after < 62), wait  # type: ignore[operator]  # a refusal


async def test_cancellation_at_every_await(store: Store) -> None:
    """A task cancelled at any turn of the loop, for each way to wait, has its tokens back soon."""
    limiter = TokenBucket("60/hour", 1, store, name="shared")
    policy = Pipeline("p", RateLimit("60/hour", 1, max_wait="2h", store=store, key="k", name="shared"))
    await limiter.aacquire("k")

    async def booked() -> None:
        await (await limiter.areserve("k", max_wait="2h"))

    waits: list[Callable[[], Any]] = [
        lambda: limiter.aacquire("k", wait="2h"),
        booked,
        lambda: policy.acall(asyncio.sleep, 0),
    ]
    for wait in waits:
        for turns in (*range(12), 200):
            task = asyncio.create_task(wait())
            for _ in range(turns):
                await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
    assert await asyncio.to_thread(comes_true, lambda: (limiter.peek("k").retry_after or 99) < 62)


async def test_a_crowd_is_cancelled(store: Store) -> None:
    """A hundred waiting tasks are cancelled at once, first come first: no token is lost, and no task waits for it."""
    limiter = TokenBucket("60/hour", 1, store)
    await limiter.aacquire("k")
    tasks = [asyncio.create_task(limiter.aacquire("k", wait="100h")) for _ in range(100)]
    end = time.monotonic() + 10
    while (await limiter.apeek("k")).retry_after < 6000 and time.monotonic() < end:  # type: ignore[operator]  # a refusal
        await asyncio.sleep(0.005)
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    assert all(task.cancelled() for task in tasks)
    assert await asyncio.to_thread(comes_true, lambda: (limiter.peek("k").retry_after or 99) < 65)


def test_a_limiter_in_shadow_lets_no_call_wait(store: Store, call: Caller) -> None:
    """In shadow each answer is yes, at once."""
    limiter = TokenBucket("1/hour", store=store, shadow=True)
    limiter.acquire("k")
    assert call(limiter, "peek", "k").allowed
    assert call(limiter, "acquire", "k", wait="2h").allowed
    turn = call(limiter, "reserve", "k", max_wait="9h")
    assert (turn.allowed, turn.delay) == (True, 0)
    call.wait(turn)
    call(turn, "cancel")


@pytest.mark.parametrize(
    ("method", "arguments", "error"),
    [
        ("acquire", {"wait": -1}, "wait=-1: expected"),
        ("acquire", {"wait": "soon"}, "wait='soon': expected"),
        ("acquire", {"wait": True}, "wait=True: expected"),
        ("reserve", {"max_wait": -1}, "max_wait=-1: expected"),
        ("reserve", {"max_wait": math.nan}, "max_wait=nan: expected"),
        ("reserve", {"cost": 0}, "cost=0: expected"),
        ("peek", {"cost": -3}, "cost=-3: expected"),
        ("peek", {"cost": True}, "cost=True: expected"),
        ("peek", {"key": 7}, "key=7: expected text"),
        ("acquire", {"key": b"k", "wait": 1}, "key=b'k': expected text"),
        ("reserve", {"key": None, "max_wait": 1}, "key=None: expected text"),
    ],
)
def test_bad_arguments(store: Store, call: Caller, method: str, arguments: dict[str, Any], error: str) -> None:
    """A bad argument is named, with its value and its rule, and nothing is taken."""
    limiter = TokenBucket("5/hour", store=store)
    with pytest.raises(ConfigurationError, match=f"^{error}"):
        call(limiter, method, **{"key": "k"} | arguments)
    assert limiter.peek("k").remaining == 5


@pytest.mark.parametrize("key", ["", "a b\n\r\x00", "}{", "k" * 100_000, "ü\udc80", "*?:;"])
def test_any_text_is_a_key(store: Store, call: Caller, key: str) -> None:
    """Any text is a key, the empty one too, and each key has a bucket of its own."""
    limiter = TokenBucket("2/hour", store=store)
    call(limiter, "reserve", key)
    assert call(limiter, "peek", key).remaining == 1
    assert call(limiter, "peek", f"{key}2").remaining == 2
    call(call(limiter, "reserve", key, 2, max_wait="9h"), "cancel")
    assert call(limiter, "acquire", key, wait=0).remaining == 0


@pytest.mark.redis
def test_threads_wait_in_turn(redis_server: RedisProcess) -> None:
    """Threads that wait on Redis are served at the rate, and all within their bound."""
    connection = RedisConnection.from_url(redis_server.url, timeout=5, outage="deny")
    limiter = TokenBucket("200/second", 1, RedisStore(connection))
    start, ends = time.monotonic(), list[float]()

    def wait() -> None:
        assert limiter.acquire("k", wait=20)
        ends.append(time.monotonic() - start)

    threads = [threading.Thread(target=wait) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    connection.close()
    assert len(ends) == 20
    assert max(ends) >= 19 / 200 - 0.001


@pytest.mark.parametrize(("outage", "left"), [("local", (True, 4)), ("allow", (True, 5)), ("deny", (False, None))])
def test_without_redis(outage: str, left: tuple[bool, int | None], call: Caller) -> None:
    """During an outage, the outage mode answers a look, a booking, a wait and a refund."""
    url = f"redis://127.0.0.1:{free_port()}"
    connection = RedisConnection.from_url(url, timeout=0.1, outage=outage)
    limiter = TokenBucket("5/hour", store=RedisStore(connection))
    assert call(limiter, "acquire", "k", wait=1).allowed is (outage != "deny")
    found = call(limiter, "peek", "k")
    assert (found.allowed, found.remaining if found.allowed else None) == left
    turn = call(limiter, "reserve", "k", 2, max_wait=1)
    assert turn.allowed is (outage != "deny")
    call(turn, "cancel")
    found = call(limiter, "peek", "k")
    assert (found.allowed, found.remaining if found.allowed else None) == left
    connection.close()


@pytest.mark.redis
def test_a_payment_goes_back_when_a_connection_is_free(redis_server: RedisProcess) -> None:
    """The thread that gives payments back waits longer for a connection than a caller would."""
    connection = RedisConnection.from_url(
        redis_server.url, timeout=0.2, connect_timeout=10, max_connections=1, outage="deny"
    )
    store = RedisStore(connection)
    buckets = store.open(Quota("default", Rate(1, 3600), 1), time.monotonic)
    buckets.take("k")
    turn = buckets.take("k", 1, 7200.0)
    assert turn.wait > 0
    is_held, is_free = threading.Event(), threading.Event()

    def hold(_link: object) -> bool:
        is_held.set()
        return is_free.wait(10)

    holder = threading.Thread(target=connection.pool.run, args=(hold,))
    holder.start()
    assert is_held.wait(10)
    buckets.give_back("k", turn)
    time.sleep(0.5)  # more than a caller waits
    is_free.set()
    holder.join()
    assert comes_true(lambda: buckets.peek("k").reset_after < 3700)
    connection.close()
