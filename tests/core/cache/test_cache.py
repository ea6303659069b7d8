import asyncio
import os
import random
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from resilience import (
    Bulkhead,
    BulkheadFullError,
    Cache,
    CircuitBreaker,
    ConfigurationError,
    Fallback,
    Pipeline,
    Retry,
    SingleFlight,
)
from resilience._engine._steps import Steps
from resilience.cache._results import MAX_PENDING_HITS
from resilience.testing import ManualClock, RecordingListener


class Upstream:
    """Counts its calls and answers with how many there were, or fails."""

    def __init__(self) -> None:
        self.calls = 0
        self.error: BaseException | None = None

    def get(self, *_args: object, **_kwargs: object) -> int:
        self.calls += 1
        if self.error is not None:
            raise self.error
        return self.calls

    async def aget(self, *_args: object, **_kwargs: object) -> int:
        await asyncio.sleep(0)
        return self.get()


def make(**options: Any) -> tuple[Cache, ManualClock]:
    clock = ManualClock()
    return Cache(**{"ttl": 60, "jitter": 0, "clock": clock, **options}), clock


async def in_both_colours(policies: Callable[[], tuple[Any, ...]]) -> list[tuple[Upstream, Callable[..., Any]]]:
    """Return a guarded blocking call and a guarded awaiting one, both to be awaited, each with its upstream."""
    found: list[tuple[Upstream, Callable[..., Any]]] = []
    for is_async in (False, True):
        upstream = Upstream()
        guarded = Pipeline("p", *policies())(upstream.aget if is_async else upstream.get)

        async def call(
            *args: object,
            guarded: Callable[..., Any] = guarded,
            is_async: bool = is_async,
            **kwargs: object,
        ) -> Any:
            return await guarded(*args, **kwargs) if is_async else guarded(*args, **kwargs)

        found.append((upstream, call))
    return found


async def test_a_fresh_result_answers_the_same_call() -> None:
    """Within its ttl a result answers every call with the same arguments, in both colours; after it a call is made."""
    clock = ManualClock()
    for _, call in await in_both_colours(lambda: (Cache("60s", jitter=0, clock=clock),)):
        assert [await call(1), await call(1), await call(2), await call(1, size=3, color=4)] == [1, 1, 2, 3]
        assert await call(1, color=4, size=3) == 3
        clock.advance(59.9)
        assert await call(1) == 1
        clock.advance(0.1)
        assert [await call(1), await call(1)] == [4, 4]


def test_none_is_a_result() -> None:
    """The result None is kept like any other."""
    calls: list[int] = []
    guarded = Pipeline("p", make()[0])(calls.append)
    assert [guarded(1), guarded(1), calls] == [None, None, [1]]


async def test_what_is_awaited_is_kept_not_the_coroutine() -> None:
    """The result of an async function is kept, also where a plain function returned the awaitable."""
    upstream = Upstream()
    cache, _ = make()

    def plain(*args: object) -> Any:
        return upstream.aget(*args)

    guarded: Callable[..., Any] = Pipeline("p", cache)(plain)
    assert [await guarded(1), await guarded(1), upstream.calls] == [1, 1, 1]
    pipeline = Pipeline("q", cache)
    assert [await pipeline.call(plain, 2), await pipeline.call(plain, 2), upstream.calls] == [2, 2, 2]


async def test_functions_do_not_meet() -> None:
    """Two functions that share a cache and have the same arguments each get their own results, however called."""
    cache, _ = make(key=lambda item: item)
    pipeline = Pipeline("p", cache)

    def price(item: str) -> str:
        return f"price {item}"

    def stock(item: str) -> str:
        return f"stock {item}"

    async def aprice(item: str) -> str:
        return f"aprice {item}"

    for _ in range(2):
        assert (pipeline(price)("a"), pipeline(stock)("a")) == ("price a", "stock a")
        assert (pipeline.call(price, "a"), pipeline.call(stock, "a")) == ("price a", "stock a")
        assert (await pipeline.acall(aprice, "a"), await pipeline.call(aprice, "a")) == ("aprice a", "aprice a")
    assert cache.snapshot()["hits"] == 4  # those through `call`: each wrapping has results of its own


def test_methods_are_cached_per_object() -> None:
    """`self` is an argument: two objects do not share results."""
    pipeline = Pipeline("p", make()[0])

    class Client:
        def __init__(self) -> None:
            self.calls = 0

        @pipeline
        def get(self, item: str) -> str:
            self.calls += 1
            return f"{item} {id(self)}"

    one, two = Client(), Client()
    assert one.get("a") == one.get("a") != two.get("a")
    assert (one.calls, two.calls) == (1, 1)


def test_a_key_function_says_which_calls_are_the_same() -> None:
    """With `key` calls are the same when it returns the same for their arguments."""
    upstream = Upstream()
    guarded = Pipeline("p", make(key=lambda order, **_: order["id"])[0])(upstream.get)
    assert [guarded({"id": 1}), guarded({"id": 1, "x": 2}), guarded({"id": 2}), guarded({"id": 1}, y=1)] == [1, 1, 2, 1]


def test_unhashable_arguments_are_explained() -> None:
    """Arguments that cannot be hashed raise an error that names the type, the policy and `key=`; no call is made."""
    cache, _ = make(name="c")
    upstream = Upstream()
    pipeline = Pipeline("p", cache)
    for args, kwargs in (([{}], {}), ([1, ("x", [])], {}), ([], {"a": set()})):
        for call in (pipeline(upstream.get), lambda *a, **k: pipeline.call(upstream.get, *a, **k)):
            with pytest.raises(TypeError, match=r"c: a (dict|list|set) cannot be hashed.*give key="):
                call(*args, **kwargs)
        with pytest.raises(TypeError, match="give key="):
            cache.invalidate(*args, **kwargs)
    with pytest.raises(TypeError, match=r"c: a list cannot be hashed"):
        Pipeline("q", make(key=lambda _x: [], name="c")[0])(upstream.get)(1)
    assert upstream.calls == 0


def test_errors_of_keys_are_their_own() -> None:
    """A TypeError raised by a key's own code reaches the caller as it is."""

    class Odd:
        def __hash__(self) -> int:
            return 1

        def __eq__(self, other: object) -> bool:
            raise TypeError("odd")

    guarded = Pipeline("p", make()[0])(Upstream().get)
    guarded(Odd())
    with pytest.raises(TypeError, match=r"^odd$"):
        guarded(Odd())
    with pytest.raises(KeyError):
        Pipeline("q", make(key=lambda order: order["id"])[0])(Upstream().get)({})


async def test_errors_are_not_kept() -> None:
    """A call that raised is made again the next time."""
    for upstream, call in await in_both_colours(lambda: make()[:1]):
        upstream.error = ValueError("down")
        for _ in range(2):
            with pytest.raises(ValueError, match="down"):
                await call(1)
        upstream.error = None
        assert await call(1) == 3


async def test_stand_ins_are_not_kept() -> None:
    """A fallback inside answers this call and no further one: the dependency is asked again."""
    for upstream, call in await in_both_colours(lambda: (make()[0], Fallback("spare"))):
        upstream.error = ValueError("down")
        assert [await call(1), await call(1), upstream.calls] == ["spare", "spare", 2]
        upstream.error = None
        assert [await call(1), await call(1)] == [3, 3]
    for _, call in await in_both_colours(lambda: (make()[0], Fallback("spare", on_result=lambda r: r == 1))):
        assert [await call(1), await call(1), await call(1)] == ["spare", 2, 2]


async def test_only_results_that_last_are_kept() -> None:
    """A result that `cache_if` refuses is not kept, and neither is an iterator, which serves one caller only."""
    for _, call in await in_both_colours(lambda: make(cache_if=lambda result: result > 2)[:1]):
        assert [await call(1) for _ in range(4)] == [1, 2, 3, 3]

    def items() -> Iterator[int]:
        return iter([1, 2])

    guarded = Pipeline("p", make()[0])(items)
    assert [list(guarded()), list(guarded())] == [[1, 2], [1, 2]]


async def test_an_answer_that_has_to_be_awaited_is_no_yes() -> None:
    """A plain `cache_if` that hands back a coroutine is an error, and nothing is kept."""

    async def never(_: Any) -> bool:
        await asyncio.sleep(0)
        return False

    for _, call in await in_both_colours(lambda: make(cache_if=lambda result: never(result))[:1]):  # noqa: PLW0108 - plain
        with pytest.raises(ConfigurationError, match="has to answer at once, but it returned an awaitable"):
            await call(1)


async def test_stale_on_error() -> None:
    """Past its ttl a result still answers a call that failed, for `stale_on_error` and no longer."""
    clock = ManualClock()
    options: dict[str, Any] = {"ttl": 60, "jitter": 0, "stale_on_error": "5m", "clock": clock}
    for upstream, call in await in_both_colours(lambda: (Cache(**options),)):
        assert await call(1) == 1
        upstream.error = OSError("down")
        clock.advance(60)
        assert [await call(1), await call(1), upstream.calls] == [1, 1, 3]
        with pytest.raises(OSError, match="down"):
            await call(2)
        clock.advance(300)
        with pytest.raises(OSError, match="down"):
            await call(1)


def test_stale_answers_are_told() -> None:
    """A stale answer is counted, and emits an event with the error and the time since it expired."""
    listener = RecordingListener()
    cache, clock = make(stale_on_error=60, name="c")
    upstream = Upstream()
    guarded = Pipeline("p", cache, listeners=[listener])(upstream.get)
    guarded(1)
    upstream.error = error = OSError("down")
    clock.advance(70)
    assert guarded(1) == 1
    assert [(event.kind, event.policy, event.facts) for event in listener.events] == [
        ("cache.stale_served", "c", {"error": error, "expired_for": 10})
    ]
    assert cache.snapshot() == {"size": 1, "hits": 0, "misses": 2, "stale": 1, "evicted": 0}


async def test_which_errors_are_answered_from_stale() -> None:
    """Only errors of `on` are; by default every Exception, our own refusals included; cancellation never is."""
    cache, clock = make(stale_on_error=60, on=(KeyError, lambda error: "down" in str(error)))
    upstream = Upstream()
    guarded = Pipeline("p", cache)(upstream.get)
    guarded(1)
    clock.advance(60)
    upstream.error = ValueError("down")
    assert guarded(1) == 1
    for error in (ValueError("bad"), KeyboardInterrupt()):
        upstream.error = error
        with pytest.raises(type(error)):
            guarded(1)

    cache, clock = make(stale_on_error=60)
    pipeline = Pipeline("p", cache, Bulkhead(1))
    awaiting = pipeline(upstream.aget)
    upstream.error = None
    value = await awaiting(1)
    clock.advance(60)
    task = asyncio.ensure_future(awaiting(1))
    await asyncio.sleep(0)
    assert await awaiting(1) == value  # the bulkhead is full: the refusal is answered
    with pytest.raises(BulkheadFullError):
        await awaiting(2)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_stale_answer_is_no_success_of_the_dependency() -> None:
    """Policies outside see the failure: a breaker counts it, a retry goes on, and a cache outside keeps nothing."""
    clock = ManualClock()
    inner: dict[str, Any] = {"ttl": 60, "jitter": 0, "stale_on_error": 600, "clock": clock, "name": "inner"}
    breakers: list[CircuitBreaker] = []

    def guarded_by_breaker() -> tuple[Any, ...]:
        breakers.append(CircuitBreaker(fail_max=2, clock=clock))
        return breakers[-1], Cache(**inner)

    for upstream, call in await in_both_colours(guarded_by_breaker):
        await call(1)
        upstream.error = OSError("down")
        clock.advance(60)
        assert [await call(1), await call(1)] == [1, 1]
        assert breakers.pop(0).current_state == "open"
    for upstream, call in await in_both_colours(
        lambda: (Cache(jitter=0, clock=clock, name="outer"), Retry(2, wait_initial=0, wait_jitter=0), Cache(**inner))
    ):
        await call(1)
        upstream.error = OSError("down")
        clock.advance(60)
        assert [await call(1), await call(1), upstream.calls] == [1, 1, 5]


def test_jitter_shortens_the_ttl() -> None:
    """A result expires up to `jitter` of its ttl sooner, never later."""
    for chance, seconds in ((0.0, 60), (0.5, 57), (1.0, 54)):
        cache, clock = make(jitter=0.1, randomness=lambda chance=chance: chance)
        guarded = Pipeline("p", cache)(Upstream().get)
        guarded(1)
        clock.advance(seconds - 0.01)
        assert guarded(1) == 1
        clock.advance(0.01)
        assert guarded(1) == 2


def test_the_bound_holds_and_the_least_recently_used_goes() -> None:
    """At most `max_size` results are kept, over all functions; what was used last stays."""
    cache, _ = make(max_size=3)
    one, two = Upstream(), Upstream()
    pipeline = Pipeline("p", cache)
    first, second = pipeline(one.get), pipeline(two.get)
    for argument in (1, 2, 3):
        first(argument)
    first(1)
    second(1)
    assert (cache.snapshot()["size"], cache.snapshot()["evicted"]) == (3, 1)
    assert (first(1), first(2), one.calls) == (1, 4, 4)


def test_hits_are_told_in_order_and_soon() -> None:
    """However many hits come between two misses, the least recently used result is evicted, and hits do not pile up."""
    cache, _ = make(max_size=3)
    guarded = Pipeline("p", cache)(Upstream().get)
    for argument in (1, 2, 3):
        guarded(argument)
    for argument in (3, 2, 1, *(2, 3) * 500, 1):
        guarded(argument)
        assert len(cache._results.pending_hits) < MAX_PENDING_HITS
    guarded(4)
    assert cache._results.pending_hits == deque()
    assert [guarded(3), guarded(1), guarded(4)] == [3, 1, 4]
    assert guarded(2) == 5


def held(cache: Cache) -> list[int]:
    """Return how many entries the indexes hold, and how many the store holds: two numbers that must be equal."""
    return [sum(len(index.entries) for index in cache._results._indexes), cache.snapshot()["size"]]


def test_expired_results_go_without_a_timer() -> None:
    """Expired results are removed when the next result is kept, or when a snapshot is taken: nothing piles up."""
    cache, clock = make(stale_on_error=60)
    guarded = Pipeline("p", cache)(Upstream().get)
    for argument in range(10):
        guarded(argument)
    clock.advance(60)
    assert held(cache) == [10, 10]
    clock.advance(60)
    guarded(1)
    assert held(cache) == [1, 1]
    clock.advance(120)
    assert cache.snapshot()["size"] == 0
    assert held(cache) == [0, 0]


def test_a_jump_of_the_clock_loses_nothing_but_results() -> None:
    """A clock that leaps ahead expires results; one that goes back keeps them a while longer; both go on working."""
    cache, clock = make()
    guarded = Pipeline("p", cache)(Upstream().get)
    guarded(1)
    clock.now = 1e9
    assert [guarded(1), guarded(1)] == [2, 2]
    clock.now = 0.0
    assert [guarded(1), guarded(2), guarded(2)] == [2, 3, 3]


def test_invalidate() -> None:
    """After an invalidation the call is made again, for every function; other arguments keep their results."""
    cache, _ = make()
    one, two = Upstream(), Upstream()
    pipeline = Pipeline("p", cache)
    first, second = pipeline(one.get), pipeline(two.get)
    for call in (first, second, lambda *args: pipeline.call(one.get, *args)):
        call(1)
        call(2)
    cache.invalidate(1)
    cache.invalidate("never seen")
    assert held(cache) == [3, 3]
    assert (first(2), second(2), second(1)) == (2, 2, 3)
    assert (first(1), pipeline.call(one.get, 1), pipeline.call(one.get, 2)) == (5, 6, 4)
    cache.clear()
    assert held(cache) == [0, 0]
    assert first(2) == 7


FORGETS: tuple[Callable[[Cache], None], ...] = (lambda cache: cache.invalidate(1), lambda cache: cache.clear())


async def test_what_was_under_way_is_not_kept_after_an_invalidation() -> None:
    """A call that began before an invalidation may have read what has changed since: its result is not kept."""
    for forget in FORGETS:
        for policies in ((), (SingleFlight(),)):
            cache, _ = make(stale_on_error=60)
            database, release = {"value": "old"}, asyncio.Event()

            async def read(_: int, database: dict[str, str] = database, release: asyncio.Event = release) -> str:
                value = database["value"]
                await release.wait()
                return value

            guarded = Pipeline("p", cache, *policies)(read)
            before = asyncio.ensure_future(guarded(1))
            await asyncio.sleep(0.001)
            database["value"] = "new"
            forget(cache)
            after = asyncio.ensure_future(guarded(1))
            await asyncio.sleep(0.001)
            release.set()
            assert (await before, await after, await guarded(1)) == ("old", "new", "new")
            assert held(cache) == [1, 1]


def test_a_stale_answer_is_not_given_after_an_invalidation() -> None:
    """A result that was invalidated while the call was in flight does not stand in for its error."""
    for forget in FORGETS:
        cache, clock = make(stale_on_error=60)
        upstream = Upstream()

        def call(_: int, cache: Cache = cache, upstream: Upstream = upstream, forget: Any = forget) -> int:
            if upstream.error is not None:
                forget(cache)
            return upstream.get()

        guarded = Pipeline("p", cache)(call)
        guarded(1)
        clock.advance(60)
        upstream.error = OSError("down")
        with pytest.raises(OSError, match="down"):
            guarded(1)


def test_no_lock_is_held_while_user_code_runs() -> None:
    """Neither the call, nor the key's own code, nor a predicate, nor a listener runs under the lock (L1)."""
    ran: list[str] = []

    def check(what: str) -> None:
        assert not cache._results._lock._is_owned(), what  # type: ignore[attr-defined]  # what threading.Condition asks too
        ran.append(what)

    class Key:
        def __hash__(self) -> int:
            check("hash")
            return 1

        def __eq__(self, other: object) -> bool:
            check("eq")
            return isinstance(other, Key)

    def call(_: Key) -> int:
        check("call")
        if clock():
            raise OSError
        return 1

    def time() -> float:
        check("clock")
        return clock()

    def key(of: Key) -> Key:
        check("key")
        return of

    def checked(_: int) -> bool:
        check("cache_if")
        return True

    clock = ManualClock()
    cache = Cache(60, stale_on_error=60, max_size=1, key=key, cache_if=checked, clock=time)
    guarded = Pipeline("p", cache, listeners=[lambda _e: check("listener")])(call)
    for _ in range(2):
        guarded(Key())
        cache.invalidate(Key())
        guarded(Key())
        guarded(Key())
    clock.advance(60)
    guarded(Key())
    assert set(ran) == {"hash", "eq", "call", "clock", "key", "cache_if", "listener"}


def test_threads_agree() -> None:
    """Threads that call, invalidate and clear at random get right answers, and nothing is lost or leaks."""
    cache, clock = make(max_size=8, stale_on_error=30)
    pipeline = Pipeline("p", cache)

    @pipeline
    def square(number: int) -> int:
        return number * number

    def work(seed: int) -> None:
        dice = random.Random(seed)
        for _ in range(400):
            number = dice.randrange(16)
            assert square(number) == number * number
            if not dice.randrange(10):
                cache.invalidate(number)
                clock.advance(3)
            if not dice.randrange(100):
                cache.clear()

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))
    found, kept = held(cache)
    assert found <= 8
    clock.advance(1000)
    cache.snapshot()
    assert held(cache) == [0, 0]
    assert kept <= 8


def test_tasks_of_several_loops_share_what_was_awaited() -> None:
    """A result awaited in one event loop answers in another."""
    upstream = Upstream()
    guarded = Pipeline("p", make()[0])(upstream.aget)
    assert [asyncio.run(guarded(1)), asyncio.run(guarded(1))] == [1, 1]


async def test_cancelled_calls_leave_nothing() -> None:
    """A call cancelled at whichever step keeps nothing, and the next one works."""
    for steps in range(4):
        cache, _ = make()
        upstream = Upstream()
        guarded = Pipeline("p", cache)(upstream.aget)
        task = asyncio.ensure_future(guarded(1))
        for _ in range(steps):
            await asyncio.sleep(0)
        task.cancel()
        done = (await asyncio.gather(task, return_exceptions=True))[0]
        assert held(cache) == ([1, 1] if done == 1 else [0, 0])
        assert await guarded(1) == upstream.calls


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("is_busy", [False, True])
def test_a_forked_child_goes_on(is_busy: bool) -> None:  # noqa: FBT001 - a parameter of the test
    """A child knows what the parent knew, or starts empty where a thread was at work on it; it never waits (fork)."""
    cache, _ = make()
    upstream = Upstream()
    guarded = Pipeline("p", cache)(upstream.get)
    guarded(1)
    cache._results._is_changing = is_busy
    pid = os.fork()
    if pid == 0:
        right = guarded(1) == guarded(1) == (2 if is_busy else 1) and held(cache) == [1, 1]
        os._exit(0 if right else 1)
    cache._results._is_changing = False
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert guarded(1) == 1


def test_functions_that_are_gone_are_forgotten() -> None:
    """A wrapped function that is dropped takes its entries' index along once they have gone."""
    cache, clock = make()
    Pipeline("p", cache)(Upstream().get)(1)
    assert len(cache._results._indexes) <= 1
    clock.advance(100)
    cache.snapshot()
    assert len(cache._results._indexes) == 0


def test_generators_are_refused() -> None:
    """A generator function has no one result: wrapping it with a cache is refused."""

    def items() -> Iterator[int]:
        yield 1

    with pytest.raises(ConfigurationError, match="it has to own the call"):
        Pipeline("p", Cache())(items)


async def predicate(_: object) -> bool:
    return True


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"ttl": 0}, "ttl=0"),
        ({"ttl": "soon"}, "ttl='soon'"),
        ({"max_size": 0}, "max_size=0"),
        ({"stale_on_error": -1}, "stale_on_error=-1"),
        ({"jitter": 2}, "jitter=2"),
        ({"key": predicate}, "key=.*not a coroutine function"),
        ({"key": 3}, "key=3"),
        ({"cache_if": predicate}, "cache_if=.*not a coroutine function"),
        ({"on": BaseException}, "on="),
        ({"clock": 3}, "clock=3"),
        ({"randomness": 3}, "randomness=3"),
    ],
)
def test_bad_options_are_named(options: dict[str, Any], named: str) -> None:
    """A bad option is refused at construction."""
    with pytest.raises(ConfigurationError, match=named):
        Cache(**options)


def test_describe_and_repr() -> None:
    """A cache describes its options as plain data, and how full it is."""
    cache = Cache("5m", max_size=10, name="c")
    Pipeline("p", cache)(Upstream().get)(1)
    assert cache.describe() == {
        "kind": "cache",
        "name": "c",
        "options": {"ttl": 300.0, "max_size": 10, "stale_on_error": 0.0, "jitter": 0.1, "on": ["Exception"]},
        "sources": {},
    }
    assert repr(cache) == "<Cache 'c' 300 s, 1/10>"


def test_a_policy_that_never_stands_in_costs_its_chain_nothing() -> None:
    """Without `stale_on_error` a cache inside others asks for no delivery of stand-ins."""
    assert not Steps.of(Cache()).may_substitute
    assert Steps.of(Cache(stale_on_error=1)).may_substitute


def test_only_calls_wait_not_other_callers() -> None:
    """A call in flight lets no other caller wait: ten threads are inside the dependency at once (L1)."""
    together = threading.Barrier(10, timeout=5)

    def inside(number: int) -> int:
        together.wait()  # raises where one of them never comes
        return number

    guarded = Pipeline("p", make()[0])(inside)
    with ThreadPoolExecutor(10) as pool:
        assert list(pool.map(guarded, range(10))) == [*range(10)]
