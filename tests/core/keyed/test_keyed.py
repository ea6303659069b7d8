import asyncio
import gc
import inspect
import os
import threading
import weakref
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from typing import Any, cast

import pybreaker
import pytest

from resilience import (
    Bulkhead,
    BulkheadFullError,
    Cache,
    CircuitBreaker,
    CircuitOpenError,
    ConfigurationError,
    DeadlineExceededError,
    Fallback,
    Hedge,
    Keyed,
    Pipeline,
    RateLimit,
    RateLimitedError,
    Retry,
    SingleFlight,
    ThreadPoolBulkhead,
    Timeout,
    idempotent,
)
from resilience.ratelimit import MemoryStore
from resilience.testing import ManualClock, RecordingListener


class DownError(Exception):
    pass


def by_host(host: str, *_args: Any, **_kwargs: Any) -> str:
    return host


def breakers(**options: Any) -> Keyed:
    return Keyed(lambda _host: CircuitBreaker(1), by_host, **options)


def get(host: str) -> str:
    if host.startswith("bad"):
        raise DownError(host)
    return host


def test_each_key_has_its_own_circuit() -> None:
    """One host that is down is refused; the others are called as before."""
    guarded = Pipeline("http", breakers())(get)
    with pytest.raises(DownError):
        guarded("bad.example")
    with pytest.raises(CircuitOpenError) as caught:
        guarded("bad.example")
    assert caught.value.policy == "http.breaker"
    assert guarded("good.example") == "good.example"


async def test_each_key_has_its_own_circuit_when_awaited() -> None:
    """A coroutine function stays one and is guarded by the circuit of its arguments."""

    async def fetch(host: str) -> str:
        return get(host)

    guarded = Pipeline("http", breakers())(fetch)
    assert inspect.iscoroutinefunction(guarded)
    with pytest.raises(DownError):
        await guarded("bad.example")
    with pytest.raises(CircuitOpenError):
        await guarded("bad.example")
    assert await guarded("good.example") == "good.example"


def test_pipeline_call_takes_the_key_from_the_function_and_its_arguments() -> None:
    """Through `pipeline.call(fn, ...)` the key function sees the arguments of the call, as it does for a decorator."""
    pipeline = Pipeline("http", breakers())
    with pytest.raises(DownError):
        pipeline.call(get, "bad.example")
    with pytest.raises(CircuitOpenError):
        pipeline.call(get, "bad.example")
    assert pipeline.call(get, "good.example") == "good.example"


def test_policies_per_key_see_the_arguments_of_a_call_alone() -> None:
    """A policy per key that looks at arguments is shown those of the call, however the call is made."""
    seen: list[tuple[Any, ...]] = []

    def stand_in(_error: Exception, *args: Any) -> str:
        seen.append(args)
        return "instead"

    def fail(host: str) -> str:
        raise DownError(host)

    caches = Pipeline("c", Keyed(lambda _host: Cache(60, key=lambda host: host), by_host))
    assert (caches.call(get, "a"), caches(get)("a")) == ("a", "a")
    falling = Pipeline("f", Keyed(lambda _host: Fallback(function=stand_in, pass_call=True), by_host))
    assert (falling.call(fail, "a"), falling(fail)("a"), seen) == ("instead", "instead", [("a",), ("a",)])


async def test_generators_are_guarded_per_key() -> None:
    """Generator functions of both kinds keep their kind and hold the permit of their own key."""
    keyed = Keyed(lambda _host: Bulkhead(1), by_host)
    pipeline = Pipeline("http", keyed)

    @pipeline
    def lines(host: str) -> Generator[str, str, str]:
        sent = yield host
        yield sent
        return "done"

    @pipeline
    async def events(host: str) -> AsyncGenerator[str, str]:
        sent = yield host
        yield sent

    assert inspect.isgeneratorfunction(lines)
    assert inspect.isasyncgenfunction(events)
    running = lines("a")
    assert next(running) == "a"
    with pytest.raises(BulkheadFullError):
        next(lines("a"))
    assert next(lines("b")) == "b"
    assert running.send("x") == "x"
    with pytest.raises(StopIteration, match="done"):
        next(running)
    stream = events("a")
    assert [await anext(stream), await stream.asend("y")] == ["a", "y"]
    with pytest.raises(BulkheadFullError):
        await anext(events("a"))
    await stream.aclose()
    assert [await anext(events("a"))] == ["a"]


def test_stands_anywhere_in_a_pipeline() -> None:
    """A keyed policy works inside and outside of others, and what owns the call can be keyed as well."""
    keyed = Keyed(lambda host: Fallback(f"no {host}"), by_host)
    guarded = Pipeline("http", keyed, breakers(), Timeout("5s"))(get)
    assert [guarded("bad"), guarded("bad"), guarded("good")] == ["no bad", "no bad", "good"]


def test_limits_per_key_are_apart() -> None:
    """The key is handed to `make`, so that limits per key have buckets of their own."""
    keyed = Keyed(lambda tenant: RateLimit("1/hour", key=tenant), by_host)
    guarded = Pipeline("api", keyed)(get)
    assert [guarded("a"), guarded("b")] == ["a", "b"]
    with pytest.raises(RateLimitedError):
        guarded("a")


def test_limits_per_key_of_two_pipelines_are_apart() -> None:
    """Limits per key in one store are kept under their pipeline's name: two pipelines do not drain each other."""
    store = MemoryStore()
    first, second = (
        Pipeline(name, Keyed(lambda tenant: RateLimit("1/hour", key=tenant, store=store), by_host))(get)
        for name in ("one", "two")
    )
    assert [first("a"), second("a")] == ["a", "a"]
    with pytest.raises(RateLimitedError):
        first("a")


def test_number_of_keys_is_bounded() -> None:
    """The least recently used key is forgotten beyond the bound, and starts afresh when it comes back."""
    guarded = Pipeline("http", keyed := breakers(max_keys=2))(get)
    for host in ("c", "a"):
        guarded(host)
    first = keyed.get("c")
    for host in ("b", "a"):
        guarded(host)
    assert list(keyed.snapshot()["each"]) == ["b", "a"]
    guarded("c")
    assert keyed.get("c") is not first


def test_idle_keys_are_forgotten_with_their_figures() -> None:
    """A key without calls for the idle time is gone from the figures, and its policy from memory."""
    clock = ManualClock()
    guarded = Pipeline("http", keyed := breakers(idle="1m", clock=clock))(get)
    guarded("a")
    policy = keyed.get("a")
    assert policy is not None
    gone = weakref.ref(policy)
    del policy
    clock.advance(60)
    guarded("b")
    gc.collect()
    assert (keyed.get("a"), gone(), len(keyed)) == (None, None, 1)


POLICIES: dict[str, Callable[[str], Any]] = {
    "breaker": lambda _key: CircuitBreaker(1),
    "breaker, calls": lambda _key: CircuitBreaker(failure_rate_threshold=0.5),
    "breaker, time": lambda _key: CircuitBreaker(failure_rate_threshold=0.5, sliding_window="60s"),
    "breaker, slow calls": lambda _key: CircuitBreaker(slow_call_rate_threshold=0.5),
    "breaker, results": lambda _key: CircuitBreaker(record_result=lambda _result: False),
    "breaker, listeners": lambda _key: CircuitBreaker(listeners=[pybreaker.CircuitBreakerListener(), print]),
    "bulkhead": lambda _key: Bulkhead(1, max_wait=1),
    "cache": lambda _key: Cache(60, key=lambda host: host),
    "fallback": lambda _key: Fallback("instead"),
    "hedge": lambda _key: Hedge(5),
    "limit": lambda _key: RateLimit("1000000/second"),  # full again at once
    "retry": lambda _key: Retry(),
    "single flight": lambda _key: SingleFlight(key=lambda host: host),
    "thread pool": lambda _key: ThreadPoolBulkhead(1),
    "timeout": lambda _key: Timeout("5s"),
}


@pytest.mark.parametrize("make", POLICIES.values(), ids=POLICIES)
def test_memory_of_a_forgotten_key_is_free_at_once(make: Callable[[str], Any]) -> None:
    """A forgotten policy leaves no reference cycle: with many new keys the garbage collector would run all the time."""
    keyed = Keyed(make, by_host, max_keys=1)

    @Pipeline("http", keyed)
    @idempotent
    def guarded(host: str) -> str:
        return host

    gc.collect()
    gc.disable()
    try:
        guarded("a")
        guarded("a")
        gone = weakref.ref(cast("CircuitBreaker", keyed.get("a")))
        guarded("b")
        assert (len(keyed), gone()) == (1, None)
    finally:
        gc.enable()


async def test_plain_function_that_returns_an_awaitable_is_guarded_per_key() -> None:
    """A plain function that returns an awaitable is guarded as the coroutine function it is; each call has one key."""
    keys: list[str] = []

    def key(host: str) -> str:
        keys.append(host)
        return host

    async def fetch(host: str) -> str:
        return get(host)

    @Pipeline("http", Keyed(lambda _host: CircuitBreaker(1), key))
    def guarded(host: str) -> Awaitable[str]:
        return fetch(host)

    with pytest.raises(DownError):
        await guarded("bad")
    keys.clear()
    with pytest.raises(CircuitOpenError):
        await guarded("bad")
    assert await guarded("good") == "good"
    assert keys == ["bad", "good"]


def test_key_with_calls_under_way_is_kept() -> None:
    """A bulkhead whose places are taken outlives the bounds: forgetting it would admit too many."""
    clock = ManualClock()
    keyed = Keyed(lambda _host: Bulkhead(1), by_host, max_keys=1, idle=10, clock=clock)
    pipeline = Pipeline("http", keyed)

    @pipeline
    def lines(host: str) -> Generator[str]:
        yield host

    running = lines("a")
    next(running)
    clock.advance(1000)
    for host in "bcd":
        list(lines(host))
    with pytest.raises(BulkheadFullError):
        list(lines("a"))
    running.close()
    assert list(lines("a")) == ["a"]


def test_key_with_a_late_thread_is_kept() -> None:
    """A timeout whose threads have not ended outlives the bounds: forgetting it would begin more than its own (L9)."""
    release, has_ended = threading.Event(), threading.Event()
    keyed = Keyed(lambda _host: Timeout("20ms", max_threads=1), by_host, max_keys=1)

    def fetch(host: str) -> str:
        if host == "a":
            release.wait(5)
        return host

    guarded = Pipeline("http", keyed)(fetch)
    with pytest.raises(DeadlineExceededError) as caught:
        guarded("a")
    late = keyed.get("a")
    for host in "bc":
        keyed.slot(host)
    with pytest.raises(BulkheadFullError):
        guarded("a")
    assert caught.value.running is not None
    caught.value.running.add_done_callback(has_ended.set)
    release.set()
    assert has_ended.wait(5)
    assert keyed.get("a") is late
    keyed.slot("d")
    assert keyed.get("a") is None


def test_key_with_a_lost_attempt_at_work_is_kept() -> None:
    """A hedge whose losers have not ended is not forgotten either: their threads count against its own bound (L9)."""
    release, attempts = threading.Event(), iter([True])
    keyed = Keyed(lambda _host: Hedge(0), by_host, max_keys=1)

    @idempotent
    def fetch(host: str) -> str:
        if next(attempts, False):
            release.wait(5)
        return host

    try:
        assert Pipeline("http", keyed)(fetch)("a") == "a"
        policy = keyed.get("a")
        for host in "bc":
            keyed.slot(host)
        assert policy is not None
        assert keyed.get("a") is policy
    finally:
        release.set()


@pytest.mark.parametrize("mode", ["forced_open", "disabled", "metrics_only"])
def test_key_with_a_mode_set_by_hand_is_kept(mode: str) -> None:
    """What an operator said of one key holds until it is taken back, however many other keys are called."""
    clock = ManualClock()
    keyed = breakers(max_keys=1, idle=10, clock=clock)
    keyed.slot("a")
    policy = cast("CircuitBreaker", keyed.get("a"))
    policy.set_mode(mode, reason="maintenance")
    clock.advance(1000)
    for host in "bcd":
        keyed.slot(host)
    assert keyed.get("a") is policy
    policy.set_mode("automatic")
    keyed.slot("e")
    assert keyed.get("a") is None


@pytest.mark.parametrize(
    ("options", "word"),
    [({"mode": "disabled"}, "automatic"), ({"shadow": True}, "forced_open")],
    ids=["mode", "shadow"],
)
def test_mode_that_is_configured_keeps_no_key(options: dict[str, Any], word: str) -> None:
    """The mode that every key begins with is nothing an operator said; having left it is."""
    keyed = Keyed(lambda _host: CircuitBreaker(**options), by_host, max_keys=1)
    for host in "ab":
        keyed.slot(host)
    assert keyed.get("a") is None
    cast("CircuitBreaker", keyed.get("b")).set_mode(word)
    keyed.slot("c")
    assert keyed.get("b") is not None


BY_HAND: list[Callable[[CircuitBreaker], object]] = [
    lambda breaker: breaker.open(),
    lambda breaker: breaker.open_for("60s"),
    lambda breaker: breaker.open_until(60),
    lambda breaker: breaker.set_mode("forced_open", expires="60s"),
]


@pytest.mark.parametrize("open_", BY_HAND, ids=["open", "open_for", "open_until", "set_mode"])
def test_key_opened_by_hand_is_kept_while_it_is_open(open_: Callable[[CircuitBreaker], object]) -> None:
    """A circuit that an operator opened is remembered until it would admit calls again, and no longer."""
    clock = ManualClock()
    keyed = Keyed(lambda _host: CircuitBreaker(clock=clock), by_host, max_keys=1, clock=clock)
    guarded = Pipeline("http", keyed)(get)
    guarded("a")
    open_(cast("CircuitBreaker", keyed.get("a")))
    clock.advance(59)
    guarded("b")
    with pytest.raises(CircuitOpenError):
        guarded("a")
    clock.advance(1)
    guarded("c")
    assert keyed.get("a") is None


def test_key_whose_circuit_is_open_is_kept_up_to_a_bound() -> None:
    """Law: new keys close no open circuit; clients that open many of them get four times the keys at most."""
    guarded = Pipeline("http", keyed := breakers(max_keys=2))(get)
    with pytest.raises(DownError):
        guarded("bad")
    for host in "abcdef":
        guarded(host)
    assert set(keyed.snapshot()["each"]) == {"bad", "f"}
    for number in range(20):
        with pytest.raises(DownError):
            guarded(f"bad{number}")
    assert len(keyed) == 8


def test_key_whose_bucket_is_not_full_is_kept() -> None:
    """Law: new keys do not fill the bucket of another key."""
    keyed = Keyed(lambda _key: RateLimit("1/day"), by_host, max_keys=1)
    guarded = Pipeline("http", keyed)(get)
    for host in "abc":
        guarded(host)
    with pytest.raises(RateLimitedError):
        guarded("a")


def test_long_keys_are_kept_as_their_hash() -> None:
    """However long a key is, what is kept of it is short, and it still finds its own policy."""
    guarded = Pipeline("http", keyed := breakers())(get)
    long = "bad" + "x" * 10_000
    with pytest.raises(DownError):
        guarded(long)
    with pytest.raises(CircuitOpenError):
        guarded(long)
    assert keyed.get(long) is not None
    assert [len(key) < 60 for key in keyed.snapshot()["each"]] == [True]


def test_policy_of_a_key_can_be_reached() -> None:
    """An operator opens one key's circuit by hand."""
    guarded = Pipeline("http", keyed := breakers())(get)
    guarded("a")
    policy = keyed.get("a")
    assert isinstance(policy, CircuitBreaker)
    policy.open()
    with pytest.raises(CircuitOpenError):
        guarded("a")


def test_events_carry_the_key_and_are_built_for_listeners_only() -> None:
    """Events of every key, also of those seen before anybody listened, arrive with their key, each once (L6)."""
    keyed = breakers()
    pipeline = Pipeline("http", keyed)
    guarded = pipeline(get)
    guarded("a")
    policy = keyed.get("a")
    assert isinstance(policy, CircuitBreaker)
    assert not policy.events
    heard, other = RecordingListener(), RecordingListener()
    pipeline.subscribe(heard)
    pipeline.subscribe(other)
    policy.open()
    with pytest.raises(DownError):
        guarded("bad")
    assert [(event.kind, event.policy, event.facts["key"]) for event in heard.events] == [
        ("breaker.opened", "http.breaker", "a"),
        ("breaker.opened", "http.breaker", "bad"),
    ]
    assert len(other.events) == 2


def test_figures_are_per_key() -> None:
    """describe() says what each key's policy was told, snapshot() how each one is."""
    pipeline = Pipeline("http", breakers(max_keys=5))
    guarded = pipeline(get)
    guarded("a")
    with pytest.raises(DownError):
        guarded("bad")
    described, shown = pipeline.describe()["policies"][0], pipeline.snapshot()["policies"][0]
    assert (described["kind"], described["options"]["max_keys"], described["each"]["fail_max"]) == ("breaker", 5, 1)
    assert {key: each["state"] for key, each in shown["each"].items()} == {"a": "closed", "bad": "open"}
    assert (shown["keys"], shown["name"]) == (2, "http.breaker")


def test_figures_of_keys_that_look_alike_are_apart() -> None:
    """Each key has its figures, also where two of them have one text."""
    keyed = breakers()
    for key in (1, "1", "a"):
        keyed.slot(key)
    shown = keyed.snapshot()
    assert (shown["keys"], list(shown["each"])) == (3, ["1 (int)", "1 (str)", "a"])


def test_same_key_at_the_same_time_makes_one_policy() -> None:
    """Threads that meet a new key together share one policy, and hold no lock while it is made (L1)."""
    made: list[int] = []
    barrier = threading.Barrier(8, timeout=5)

    def make(_key: str) -> Bulkhead:
        if made:
            barrier.wait()
        made.append(1)
        return Bulkhead(1)

    keyed = Keyed(make, by_host)
    slots: list[Any] = []
    threads = [threading.Thread(target=lambda: slots.append(keyed.slot("a"))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({id(slot) for slot in slots}) == 1


def test_calls_composed_for_a_wrapper_go_with_it() -> None:
    """What was composed for a function that is gone, or for one call, is not kept by the keys."""
    pipeline = Pipeline("http", keyed := breakers())
    for _ in range(20):
        assert asyncio.run(pipeline.acall(lambda host: asyncio.sleep(0, host), "a")) == "a"
        pipeline(lambda host: host)("a")
    gc.collect()
    assert len(keyed.slot("a").compiled) <= 2  # the pipeline's own, and the last one until another comes


def test_key_function_that_fails_reaches_the_caller() -> None:
    """What the key function raises is the caller's, and so is a key that cannot be hashed."""
    with pytest.raises(ZeroDivisionError):
        Pipeline("p", Keyed(lambda _key: Bulkhead(1), lambda: 1 // 0))(lambda: 0)()
    with pytest.raises(TypeError, match="unhashable"):
        Pipeline("p", Keyed(lambda _key: Bulkhead(1), cast(Any, list)))(lambda: 0)()


async def test_block_has_no_key() -> None:
    """A block has no arguments to take the key from: guarding one is refused in either colour."""
    pipeline = Pipeline("p", breakers())
    with pytest.raises(ConfigurationError, match="no arguments"):
        pipeline.guard().__enter__()
    with pytest.raises(ConfigurationError, match="no arguments"):
        await pipeline.guard().__aenter__()


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"max_keys": 0}, "max_keys"),
        ({"idle": 0}, "idle"),
        ({"make": CircuitBreaker(1)}, "make"),
        ({"make": lambda _key: CircuitBreaker}, "make"),
        ({"make": lambda _key: None}, "make"),
        ({"key": "host"}, "key"),
        ({"clock": 5}, "clock"),
    ],
)
def test_bad_options_are_refused(arguments: dict[str, Any], named: str) -> None:
    """What cannot work is refused when the keyed policy is made, with the option's name."""
    with pytest.raises(ConfigurationError, match=named):
        Keyed(**{"make": lambda _key: CircuitBreaker(1), "key": by_host, **arguments})


def test_policies_of_two_kinds_are_refused() -> None:
    """All keys have policies of one kind of working: what owns the call for one key owns it for all."""

    def make(key: str) -> Any:
        return Timeout(1) if key == "a" else Bulkhead(1)

    with pytest.raises(ConfigurationError, match="one kind"):
        Pipeline("p", Keyed(make, by_host))(get)("a")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_survives_a_fork_while_locked() -> None:
    """A child forked while another thread held the lock can still call, with what was learnt."""
    keyed = breakers()
    guarded = Pipeline("http", keyed)(get)
    guarded("a")
    with keyed._lock:
        child = os.fork()
        if child == 0:
            os._exit(0 if guarded("a") == "a" and len(keyed) == 1 else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
