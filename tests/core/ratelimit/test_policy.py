from __future__ import annotations

import asyncio
import gc
import threading
import time
from collections.abc import Awaitable, Coroutine
from typing import Any

import pytest

from resilience.clock import Clock
from resilience.errors import ConfigurationError, RateLimitedError
from resilience.events import Emitter, Event
from resilience.pipeline import Pipeline
from resilience.policy import Wait
from resilience.ratelimit import Buckets, Decision, MemoryStore, Quota, RateLimit, RateLimitOptions, TokenBucket


class ManualTime:
    """A clock, and the sleeper that moves it."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.slept: list[float] = []

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float, /) -> None:
        self.slept.append(seconds)
        self.now += seconds

    def asleep(self, seconds: float, /) -> Awaitable[None]:
        self.sleep(seconds)
        return asyncio.sleep(0)


class SharedStore:
    """A third party's store: another service decides, here a bucket in memory behind a round trip."""

    waits = True

    def __init__(self) -> None:
        self.events = Emitter()
        self.given_back: list[str] = []
        self._memory = MemoryStore()

    def open(self, quota: Quota, clock: Clock) -> Buckets:
        return SharedBuckets(self, self._memory.open(quota, clock))


class SharedBuckets:
    def __init__(self, store: SharedStore, buckets: Buckets) -> None:
        self._store = store
        self._buckets = buckets

    def take(self, key: str = "", cost: int = 1, allowance: float = 0.0) -> Decision:
        return self._buckets.take(key, cost, allowance)

    async def atake(self, key: str = "", cost: int = 1, allowance: float = 0.0) -> Decision:
        await asyncio.sleep(0)
        return self._buckets.take(key, cost, allowance)

    def give_back(self, key: str, decision: Decision) -> None:
        self._store.given_back.append(key)

    def reset(self, key: str = "") -> None:
        self._buckets.reset(key)


def test_refuses_in_both_colours() -> None:
    """Beyond the burst a call is refused before it is made, with the policy's name and the time to come back."""
    time = ManualTime()
    pipeline = Pipeline("orders", RateLimit("10/second", burst=2, clock=time))
    calls = []

    @pipeline
    def plain() -> None:
        calls.append(1)

    @pipeline
    async def awaiting() -> None:
        calls.append(1)

    plain()
    asyncio.run(awaiting())
    for attempt in (plain, lambda: asyncio.run(awaiting())):
        with pytest.raises(RateLimitedError, match=r"'orders\.ratelimit': 10/second exceeded; retry in") as caught:
            attempt()
        assert caught.value.policy == "orders.ratelimit"
        assert caught.value.retry_after == pytest.approx(0.1)
    time.now += 0.1
    plain()
    assert len(calls) == 3


def test_waits_for_its_turn() -> None:
    """With `max_wait` calls wait in line, and one whose turn would come too late is refused at once."""
    time = ManualTime()
    limit = RateLimit("10/second", burst=1, max_wait="0.25s", clock=time)
    pipeline = Pipeline("orders", limit, sleeper=time)
    limit.admit()
    turns = [limit.admit(), limit.admit()]
    assert [turn.after for turn in turns if isinstance(turn, Wait)] == pytest.approx([0.1, 0.2])
    with pytest.raises(RateLimitedError) as caught:
        pipeline.call(len, "")
    assert caught.value.retry_after == pytest.approx(0.3)
    time.now += 0.2
    pipeline.call(len, "")
    assert time.slept == pytest.approx([0.1])
    asyncio.run(pipeline.acall(len, ""))
    assert time.slept == pytest.approx([0.1, 0.1])


def test_abandoned_wait_gives_back() -> None:
    """A call that is interrupted while it waits has used no token, unless other calls already wait behind it."""
    time = ManualTime()
    limit = RateLimit("10/second", burst=1, max_wait=1, clock=time)
    limit.admit()
    first, second = limit.admit(), limit.admit()
    assert isinstance(first, Wait)
    assert isinstance(second, Wait)
    limit.on_abandon(second.permit)
    again = limit.admit()
    assert isinstance(again, Wait)
    assert again.after == second.after
    limit.on_abandon(first.permit)
    last = limit.admit()
    assert isinstance(last, Wait)
    assert last.after == pytest.approx(0.3)


def test_abandoned_call_has_used_its_token() -> None:
    """A call that had started keeps its token when it is cancelled, with and without a wait before it."""
    time = ManualTime()
    limit = RateLimit("10/second", burst=1, max_wait=1, clock=time)
    limit.on_abandon(limit.admit())
    turn = limit.admit()
    assert isinstance(turn, Wait)
    time.now += turn.after
    limit.on_abandon(turn.permit)
    following = limit.admit()
    assert isinstance(following, Wait)
    assert following.after == pytest.approx(0.1)


async def test_cancelled_while_waiting() -> None:
    """A task cancelled in line gives its place back."""
    limit = RateLimit("1/minute", max_wait=60)
    pipeline = Pipeline("orders", limit)
    await pipeline.acall(len, "")
    task = asyncio.create_task(pipeline.acall(len, ""))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    turn = limit.admit()
    assert isinstance(turn, Wait)
    assert turn.after == pytest.approx(60, abs=1)


def test_events_only_for_listeners() -> None:
    """Listeners get an event for each refusal."""
    limit = RateLimit("1/minute", clock=ManualTime())
    seen: list[Event] = []
    pipeline = Pipeline("orders", limit, listeners=[seen.append])
    pipeline.call(len, "")
    with pytest.raises(RateLimitedError):
        pipeline.call(len, "")
    (event,) = seen
    assert (event.kind, event.policy, event.severity) == ("ratelimit.rejected", "orders.ratelimit", "warning")
    assert event.facts == {"retry_after": pytest.approx(60), "rate": "1/minute"}


def test_name_and_key_choose_the_bucket() -> None:
    """On a shared store, policies of one name and key spend from one bucket; the pipeline's name is the default."""
    store, time = MemoryStore(), ManualTime()
    first = Pipeline("orders", RateLimit("1/minute", store=store, clock=time))
    second = Pipeline("billing", RateLimit("1/minute", store=store, clock=time))
    named = RateLimit("1/minute", store=store, name="orders.ratelimit", clock=time)
    keyed = RateLimit("1/minute", store=store, name="orders.ratelimit", key="eu", clock=time)
    Pipeline("other", named)
    first.call(len, "")
    second.call(len, "")
    keyed.admit()
    with pytest.raises(RateLimitedError):
        named.admit()
    assert not TokenBucket("1/minute", store=store, name="billing.ratelimit", clock=time).acquire()


def test_options_and_bad_options() -> None:
    """A policy shows its options; every bad option is refused by name."""
    limit = RateLimit("5/second", burst=7, max_wait="250ms")
    assert limit.options == RateLimitOptions(rate="5/second", burst=7, max_wait=0.25)
    assert repr(limit) == "<RateLimit 'ratelimit' 5/second>"
    bad: list[tuple[str, dict[str, Any]]] = [
        ("rate", {"rate": "5"}),
        ("rate", {"rate": None}),
        ("burst", {"rate": "5/second", "burst": 0}),
        ("max_wait", {"rate": "5/second", "max_wait": -1}),
        ("max_wait", {"rate": "5/second", "max_wait": float("nan")}),
        ("store", {"rate": "5/second", "store": 3}),
        ("key", {"rate": "5/second", "key": 3}),
        ("name", {"rate": "5/second", "name": "a b"}),
    ]
    for name, options in bad:
        with pytest.raises(ConfigurationError, match=f"^{name}="):
            RateLimit(**options)


def test_third_party_store_in_both_colours() -> None:
    """A store that waits for another service is asked in the colour of the call."""
    pipeline = Pipeline("orders", RateLimit("2/minute", store=SharedStore()))
    pipeline.call(len, "")
    asyncio.run(pipeline.acall(len, ""))
    with pytest.raises(RateLimitedError):
        pipeline.call(len, "")
    with pytest.raises(RateLimitedError):
        asyncio.run(pipeline.acall(len, ""))


def test_third_party_store_that_does_not_wait() -> None:
    """A buckets that has `take` and nothing quicker is asked with it."""
    store = SharedStore()
    store.waits = False
    pipeline = Pipeline("orders", RateLimit("2/minute", store=store))
    assert [pipeline.call(len, "") for _ in range(2)] == [0, 0]
    with pytest.raises(RateLimitedError):
        pipeline.call(len, "")


@pytest.mark.realtime
def test_third_party_store_with_waiting() -> None:
    """On a shared store a call waits for its turn in its own colour."""
    pipeline = Pipeline("orders", RateLimit("100/second", burst=1, store=SharedStore(), max_wait=1))
    begin = time.monotonic()
    for _ in range(3):
        pipeline.call(len, "")
        asyncio.run(pipeline.acall(len, ""))
    assert time.monotonic() - begin >= 0.049  # the first of six goes at once, each other one 10 ms after the last


async def test_third_party_store_gets_a_cancelled_payment_back() -> None:
    """A cancelled wait on a shared store gives its payment back."""
    store = SharedStore()
    limit = RateLimit("1/minute", store=store, max_wait=90, key="k")
    coroutine: Coroutine[Any, Any, None] = limit.admit_awaiting()
    await coroutine
    task = asyncio.create_task(limit.admit_awaiting())
    await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert store.given_back == ["k"]


def test_interrupted_wait_on_a_shared_store(monkeypatch: pytest.MonkeyPatch) -> None:
    """An interrupt while a thread waits for its turn gives the payment back, and goes on to the caller."""
    store = SharedStore()
    limit = RateLimit("1/minute", store=store, max_wait=90, key="k")
    limit.admit()

    this_thread, sleep = threading.get_ident(), time.sleep

    def interrupt(seconds: float) -> None:
        if threading.get_ident() == this_thread:  # a thread that an earlier test has left sleeps on
            raise KeyboardInterrupt
        sleep(seconds)

    monkeypatch.setattr("time.sleep", interrupt)
    with pytest.raises(KeyboardInterrupt):
        limit.admit()
    assert store.given_back == ["k"]


def test_store_events_reach_the_pipeline() -> None:
    """Listeners of a pipeline get the events of its shared store; a policy that is gone gets none."""
    store = SharedStore()
    seen: list[Event] = []
    pipeline = Pipeline("orders", RateLimit("1/minute", store=store), listeners=[seen.append])
    store.events.emit("ratelimit.outage", "redis", 1.0, "error", error="TimeoutError")
    assert [(event.kind, event.policy, event.facts) for event in seen] == [
        ("ratelimit.outage", "orders.ratelimit", {"error": "TimeoutError"})
    ]
    del pipeline
    gc.collect()
    store.events.emit("ratelimit.recovered", "redis", 2.0)
    assert len(seen) == 1
