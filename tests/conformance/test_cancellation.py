"""Cancelled at every await: whatever a call was doing, it leaves nothing behind.

A call is made again and again, and cancelled at its first await, its second, and so on, until it ends before its turn
to be cancelled comes: once while it is waiting, and once when what it waits for has come already, but the task has not
been told yet. Time is a clock of our own that jumps to whatever is due next, so hours of waiting take no time.
"""

from __future__ import annotations

import asyncio
import contextlib
import selectors
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Generator
from typing import Any, NamedTuple

import pytest
from stepped import Stepped

from resilience import (
    Bulkhead,
    Cache,
    CircuitBreaker,
    Fallback,
    Hedge,
    Keyed,
    Pipeline,
    RateLimit,
    Retry,
    RetryBudget,
    SingleFlight,
    ThreadPoolBulkhead,
    Timeout,
    idempotent,
)
from resilience.breaker._states import Closed as ClosedEpoch
from resilience.breaker._states import HalfOpen, Ramp
from resilience.policy import Pending, PolicyBase, RetryAfter
from resilience.testing import ManualClock


class Selector(selectors.SelectSelector):
    """Waits for nothing: time jumps to what is due next."""

    def __init__(self, clock: ManualClock) -> None:
        super().__init__()
        self._clock = clock

    def select(self, timeout: float | None = None) -> list[Any]:
        if timeout is None:
            raise RuntimeError("everybody waits, and nothing is due")
        self._clock.advance(timeout)
        return []


class Loop(asyncio.SelectorEventLoop):
    """An event loop whose time is a manual clock's."""

    def __init__(self, clock: ManualClock) -> None:
        super().__init__(Selector(clock))
        self._manual = clock

    def time(self) -> float:
        return self._manual.now

    @property
    def timers(self) -> list[str]:
        """What is still to happen; but for the one timer that a timeout keeps for all calls of a loop."""
        scheduled: list[asyncio.TimerHandle] = self._scheduled  # type: ignore[attr-defined]  # asyncio's own
        return [repr(each) for each in scheduled if not each.cancelled() and "TimerQueue._fire" not in repr(each)]


class Sleeper:
    """Sleeps as an event loop does, and threads not at all."""

    def __init__(self, clock: ManualClock) -> None:
        self.sleep = clock.advance

    def asleep(self, seconds: float, /) -> Awaitable[None]:
        return asyncio.sleep(seconds)


class Counting:
    """Stands before a policy and counts the permits that are out."""

    def __init__(self, policy: Any) -> None:
        self._policy = policy
        self.out = 0
        for attribute in ("waits", "may_wait", "retries", "awaits"):
            setattr(self, attribute, getattr(policy, attribute, False))

    @property
    def name(self) -> str:
        return str(self._policy.name)

    def admit(self) -> Any:
        return self._took(self._policy.admit())

    async def admit_awaiting(self) -> Any:
        return self._took(await self._policy.admit_awaiting())

    def admit_blocking(self) -> Any:
        return self._took(self._policy.admit_blocking())

    def on_success(self, permit: Any, result: Any, /) -> Any:
        return self._settled(lambda: self._policy.on_success(permit, result))

    def on_failure(self, permit: Any, error: Exception, /) -> Any:
        return self._settled(lambda: self._policy.on_failure(permit, error))

    def on_abandon(self, permit: Any, /) -> None:
        self._settled(lambda: self._policy.on_abandon(permit))

    def _took(self, permit: Any) -> Any:
        self.out += 1
        return permit

    def _settled(self, settle: Callable[[], Any]) -> Any:
        assert self.out > 0, "a permit was settled twice"
        verdict: Any = None
        try:
            verdict = settle()
        finally:  # what raises has settled its permit itself
            if isinstance(verdict, Pending):
                verdict = Pending(self._decided(verdict.decision))
            elif not isinstance(verdict, RetryAfter):
                self.out -= 1
        return verdict

    async def _decided(self, decision: Awaitable[Any]) -> Any:
        verdict = await decision  # a decision that raises has settled nothing
        if not isinstance(verdict, RetryAfter):
            self.out -= 1
        return verdict


Function = Callable[[], Coroutine[Any, Any, int]]


def functions() -> dict[str, Function]:
    """Return what may be called; each waits at least once."""
    made = 0

    async def returns() -> int:
        await asyncio.sleep(0)
        await asyncio.sleep(0.01)
        return 3

    async def raises() -> int:
        await returns()
        raise OSError

    async def recovers() -> int:
        nonlocal made
        made += 1
        return await (raises() if made < 3 else returns())

    async def is_slow() -> int:
        await asyncio.sleep(5)
        return 3

    async def is_too_slow() -> int:
        await asyncio.sleep(100)
        return 3

    async def tidies() -> int:
        try:
            return await is_slow()
        finally:
            await asyncio.sleep(0)
            await asyncio.sleep(0.01)

    each = (returns, raises, recovers, is_slow, is_too_slow, tidies)
    return {function.__name__: idempotent(function) for function in each}


class Guarded(NamedTuple):
    """A pipeline, and what counts the permits of its policies."""

    pipeline: Pipeline
    policies: tuple[Any, ...]
    counters: tuple[Counting, ...]

    @classmethod
    def by(cls, clock: ManualClock, *policies: Any) -> Guarded:
        """Compose `policies`, each of those that hand out permits behind a counter."""
        members = [Counting(policy) if hasattr(policy, "on_abandon") else policy for policy in policies]
        counters = tuple(member for member in members if isinstance(member, Counting))
        return cls(Pipeline("p", *members, sleeper=Sleeper(clock)), policies, counters)

    def assert_at_rest(self) -> None:
        """Nothing is out, held, counted or waiting any more."""
        assert [counter.out for counter in self.counters] == [0] * len(self.counters)
        for policy in self.policies:
            assert_at_rest(policy)


def assert_at_rest(policy: Any) -> None:
    if isinstance(policy, CircuitBreaker):
        epoch = policy._circuit.machine.epoch
        if isinstance(epoch, HalfOpen):
            assert not epoch.in_flight
            assert epoch.available + epoch.successes + epoch.trial_failures == epoch.rule.permits
        elif isinstance(epoch, ClosedEpoch | Ramp) and epoch.running is not None:
            assert len(epoch.running) == 0
        policy.close()
    if isinstance(policy, Bulkhead):
        assert (policy.concurrent_calls, policy.waiting) == (0, 0)
    if isinstance(policy, Keyed):
        assert_at_rest(policy.slot().policy)
    if isinstance(policy, Hedge):
        assert not policy.lingering
    budget = getattr(policy, "budget", None)
    if isinstance(budget, RetryBudget):
        assert (budget.calls, budget.retries, budget.extras) == (0, 0, 0)


def half_open(clock: ManualClock) -> CircuitBreaker:
    breaker = CircuitBreaker(success_threshold=2, half_open_max_calls=2, clock=clock)
    breaker.half_open()
    return breaker


def timed(clock: ManualClock) -> CircuitBreaker:
    return CircuitBreaker(slow_call_rate_threshold=0.5, slow_call_duration_threshold=1, clock=clock)


async def is_worth_it(error: BaseException) -> bool:
    await asyncio.sleep(0)
    return isinstance(error, OSError)


async def stand_in(_outcome: object) -> int:
    await asyncio.sleep(0.01)
    return 3


Make = Callable[[ManualClock], tuple[Any, ...]]

SETTLING: dict[str, Make] = {
    "breaker": lambda clock: (CircuitBreaker(100, clock=clock),),
    "breaker half-open": lambda clock: (half_open(clock),),
    "breaker timed": lambda clock: (timed(clock),),
    "rate limit": lambda clock: (RateLimit("1000/second", clock=clock),),
    "rate limit that waits": lambda clock: (RateLimit("1/second", 1, max_wait=60, clock=clock),),
    "bulkhead": lambda clock: (Bulkhead(2, clock=clock),),
    "bulkhead that waits": lambda clock: (Bulkhead(1, 60, clock=clock),),
    "two bulkheads that wait": lambda clock: (
        Bulkhead(1, 60, name="outer", clock=clock),
        Bulkhead(1, 60, name="inner", clock=clock),
    ),
}
RETRYING: dict[str, Make] = {
    "retry": lambda clock: (Retry(clock=clock),),
    "retry on a budget": lambda clock: (Retry(budget=RetryBudget(clock=clock), timeout=500, clock=clock),),
    "retry by an awaited predicate": lambda clock: (Retry(on=is_worth_it, clock=clock),),
    "retry of refusals": lambda clock: (Retry(on=Exception, clock=clock), Bulkhead(1, 0.05, clock=clock)),
}
OWNING: dict[str, Make] = {
    "timeout": lambda clock: (Timeout(60, clock=clock),),
    "nested timeouts": lambda clock: (
        Timeout(60, name="outer", clock=clock),
        Timeout(30, margin=1, name="inner", clock=clock),
    ),
    "fallback": lambda clock: (Fallback(function=stand_in),),
    "fallback inside": lambda clock: (Retry(clock=clock), half_open(clock), Fallback(function=stand_in)),
    "hedge": lambda clock: (Hedge(1, max_hedges=2, clock=clock),),
    "hedge on a budget": lambda clock: (Hedge(1, budget=RetryBudget(clock=clock), clock=clock),),
    "hedged trials": lambda clock: (Hedge(1, clock=clock), half_open(clock), Bulkhead(2, clock=clock)),
    "cache": lambda clock: (Cache(clock=clock),),
    "cache of what fails": lambda clock: (Cache(0.001, stale_on_error=60, clock=clock),),
    "single flight": lambda clock: (SingleFlight(),),
    "single flight of few": lambda clock: (SingleFlight(), Bulkhead(1, 60, clock=clock)),
    "keyed": lambda clock: (Keyed(lambda _key: Bulkhead(1, 60, clock=clock), key=lambda: "a", clock=clock),),
    "everything": lambda clock: (
        Fallback(function=stand_in),
        Cache(60, stale_on_error=60, clock=clock),
        SingleFlight(),
        Retry(budget=RetryBudget(clock=clock), clock=clock),
        Hedge(1, clock=clock),
        half_open(clock),
        RateLimit("1/second", 2, max_wait=60, clock=clock),
        Bulkhead(2, 60, clock=clock),
        Timeout(60, clock=clock),
    ),
}


# Ways to make a call


def as_function(pipeline: Pipeline, function: Function) -> Function:
    return pipeline(function)


def as_argument(pipeline: Pipeline, function: Function) -> Function:
    return lambda: pipeline.acall(function)


def as_block(pipeline: Pipeline, function: Function) -> Function:
    async def call() -> int:
        async with pipeline.guard():
            return await function()

    return call


def as_generator(pipeline: Pipeline, function: Function) -> Function:
    @pipeline
    async def items() -> AsyncGenerator[int, None]:
        yield 1
        yield await function()

    async def call() -> int:
        return [item async for item in items()][-1]

    return call


class Ended(NamedTuple):
    was_cancelled: bool
    """Whether it came to that: the call may have ended before."""


async def play(guarded: Guarded, call: Function, company: str, at: int, *, is_late: bool) -> Ended:
    """Make a call that is cancelled at its await number `at`, perhaps not alone; the others are not disturbed."""
    loop = asyncio.get_running_loop()
    others: list[asyncio.Task[int]] = []
    if company == "after another":
        others.append(loop.create_task(call()))
        for _ in range(3):
            await asyncio.sleep(0)
    stepped = Stepped(call(), at, is_late=is_late)
    victim = loop.create_task(run(stepped))
    if company == "before another":
        for _ in range(3):
            await asyncio.sleep(0)
        others.append(loop.create_task(call()))
    await asyncio.wait([victim])
    was_cancelled = stepped.awaits >= at
    assert victim.cancelled() == was_cancelled, victim
    if not was_cancelled:
        victim.exception()
    if others:
        await asyncio.wait(others)
        assert not any(other.cancelled() for other in others)
        for other in others:
            other.exception()
    return Ended(was_cancelled)


async def run(stepped: Stepped) -> Any:
    return await stepped


async def leaves_nothing(
    guarded: Guarded, call: Function, again: Function, company: str, at: int, *, late: bool
) -> bool:
    ended = await play(guarded, call, company, at, is_late=late)
    loop = asyncio.get_running_loop()
    assert asyncio.all_tasks() == {asyncio.current_task()}
    assert isinstance(loop, Loop)
    assert loop.timers == []
    guarded.assert_at_rest()
    assert await again() == 3
    guarded.assert_at_rest()
    return ended.was_cancelled


def check_every_await(make: Make, way: Callable[[Pipeline, Function], Function], behaviour: str, company: str) -> int:
    """Return at how many awaits a call was cancelled."""
    awaits, clock = 0, ManualClock()
    with asyncio.Runner(loop_factory=lambda: Loop(clock)) as runner:
        for is_late in (False, True):
            at, was_cancelled = 0, True
            while was_cancelled:
                at += 1
                known = functions()
                guarded = Guarded.by(clock, *make(clock))
                call, again = (way(guarded.pipeline, known[name]) for name in (behaviour, "returns"))
                was_cancelled = runner.run(leaves_nothing(guarded, call, again, company, at, late=is_late))
                awaits += was_cancelled
                assert at < 200
    return awaits


BEHAVIOURS = ["returns", "raises", "recovers", "is_slow", "is_too_slow", "tidies"]
COMPANY = ["alone", "after another", "before another"]


@pytest.mark.parametrize("company", COMPANY)
@pytest.mark.parametrize("behaviour", BEHAVIOURS)
@pytest.mark.parametrize("make", (SETTLING | RETRYING | OWNING).values(), ids=SETTLING | RETRYING | OWNING)
def test_cancelled_at_every_await(make: Make, behaviour: str, company: str) -> None:
    """Wherever a call is cancelled, it is cancelled; permits, places, tasks and timers are back, others go on (L2)."""
    assert check_every_await(make, as_function, behaviour, company)


@pytest.mark.parametrize("company", COMPANY)
@pytest.mark.parametrize("behaviour", ["returns", "raises", "tidies"])
@pytest.mark.parametrize("way", [as_argument, as_block, as_generator])
@pytest.mark.parametrize("make", SETTLING.values(), ids=SETTLING)
def test_cancelled_at_every_await_of_a_block_or_generator(
    make: Make, way: Callable[[Pipeline, Function], Function], behaviour: str, company: str
) -> None:
    """Blocks, generators and calls of a function that was given are like calls of a decorated function (L2)."""
    assert check_every_await(make, way, behaviour, company)


class Forgetful(Bulkhead):
    """Takes a place and then waits for something else, without giving the place back when that is cancelled."""

    def admit_awaiting(self) -> Awaitable[Any]:
        async def admit() -> Any:
            permit = await Bulkhead.admit_awaiting(self)
            await asyncio.sleep(0)
            return permit

        return admit()


class Stubborn(PolicyBase):
    """Answers a cancellation with an error."""

    def on_abandon(self, _permit: Any, /) -> None:
        raise OSError


@pytest.mark.parametrize("policy", [lambda clock: (Forgetful(2, 60, clock=clock),), lambda _clock: (Stubborn("p"),)])
def test_what_breaks_the_law_is_found_out(policy: Make) -> None:
    """The suite finds a policy that keeps what it took, and one that lets no cancellation leave the call."""
    with pytest.raises(AssertionError):
        check_every_await(policy, as_function, "returns", "alone")


# Interrupts, and generators that are left half-way


@pytest.mark.parametrize("make", (SETTLING | RETRYING | OWNING).values(), ids=SETTLING | RETRYING | OWNING)
def test_an_interrupt_inside_the_function_leaves_nothing_behind(make: Make) -> None:
    """KeyboardInterrupt and SystemExit end the loop, as they should, and give back all the same (L2)."""
    for interrupt in (KeyboardInterrupt, SystemExit):
        for awaits in (0, 1):
            clock = ManualClock()
            loop = Loop(clock)
            guarded = Guarded.by(clock, *make(clock))
            returns = functions()["returns"]

            @guarded.pipeline
            @idempotent
            async def interrupted(awaits: int = awaits, interrupt: type[BaseException] = interrupt) -> int:
                for _ in range(awaits):
                    await asyncio.sleep(0)
                raise interrupt

            task = loop.create_task(interrupted())
            with pytest.raises(interrupt):
                loop.run_until_complete(task)
            while not task.done():  # an attempt was interrupted in a task of its own, and now the caller is
                loop.call_soon(loop.stop)
                with contextlib.suppress(interrupt):
                    loop.run_forever()
            loop.call_soon(loop.stop)  # and where an interrupt came first, the stop before it is still to come
            loop.run_forever()
            assert isinstance(task.exception(), interrupt)
            assert asyncio.all_tasks(loop) == set()
            assert loop.timers == []
            guarded.assert_at_rest()
            assert loop.run_until_complete(guarded.pipeline(returns)()) == 3
            loop.close()


@pytest.mark.parametrize("make", (SETTLING | RETRYING).values(), ids=SETTLING | RETRYING)
def test_a_blocking_call_that_is_interrupted_leaves_nothing_behind(make: Make) -> None:
    """KeyboardInterrupt, SystemExit and GeneratorExit raised by a blocking function give back what it took (L2)."""
    for interrupt in (KeyboardInterrupt, SystemExit, GeneratorExit):
        clock = ManualClock()
        guarded = Guarded.by(clock, *make(clock))

        def interrupted(interrupt: type[BaseException] = interrupt) -> int:
            raise interrupt

        if any(getattr(counter, "awaits", False) for counter in guarded.counters):
            return
        with pytest.raises(interrupt):
            guarded.pipeline(interrupted)()
        guarded.assert_at_rest()


IN_THREADS: dict[str, Make] = {
    "timeout": lambda _clock: (Timeout(60),),
    "hedge": lambda _clock: (Hedge(60),),
    "thread pool": lambda _clock: (ThreadPoolBulkhead(1),),
    "single flight": lambda _clock: (SingleFlight(),),
    "cache": lambda _clock: (Cache(),),
    "fallback": lambda _clock: (Retry(), Fallback(3)),
    "bulkhead around a timeout": lambda _clock: (Bulkhead(1), Timeout(60)),
    "everything": lambda _clock: (
        Cache(),
        SingleFlight(),
        Retry(budget=RetryBudget()),
        Hedge(60),
        CircuitBreaker(),
        Bulkhead(1),
        Timeout(60),
    ),
}


@pytest.mark.parametrize("make", IN_THREADS.values(), ids=IN_THREADS)
def test_an_interrupt_out_of_a_thread_leaves_nothing_behind(make: Make) -> None:
    """What interrupts a function in a thread of ours interrupts its caller, and the next call finds everything free."""
    for interrupt in (KeyboardInterrupt, SystemExit, GeneratorExit):
        guarded = Guarded.by(ManualClock(), *make(ManualClock()))

        @guarded.pipeline
        @idempotent
        def interrupted(interrupt: type[BaseException] = interrupt) -> int:
            raise interrupt

        for _ in range(3):
            with pytest.raises(interrupt):
                interrupted()
        guarded.assert_at_rest()
        assert guarded.pipeline(idempotent(lambda: 3))() == 3
        guarded.assert_at_rest()


LEFT = [None, GeneratorExit(), KeyboardInterrupt(), OSError(), asyncio.CancelledError()]


@pytest.mark.parametrize("error", LEFT, ids=repr)
@pytest.mark.parametrize("make", SETTLING.values(), ids=SETTLING)
def test_a_generator_left_at_any_item_leaves_nothing_behind(make: Make, error: BaseException | None) -> None:
    """Closed, or thrown into, before its first item, at each one, or after its last: everything is given back (L2)."""
    for taken in range(4):
        clock = ManualClock()
        guarded = Guarded.by(clock, *make(clock))

        @guarded.pipeline
        def items() -> Generator[int, None, None]:
            yield from (1, 2, 3)

        generator = items()
        for number in range(taken):
            assert next(generator) == number + 1
            assert [counter.out for counter in guarded.counters] == [1] * len(guarded.counters)
        if error is None:
            generator.close()
        else:
            with pytest.raises(type(error)):
                generator.throw(error)
        guarded.assert_at_rest()
        assert list(items()) == [1, 2, 3]


@pytest.mark.parametrize("error", LEFT, ids=repr)
@pytest.mark.parametrize("make", SETTLING.values(), ids=SETTLING)
def test_an_async_generator_left_at_any_item_leaves_nothing_behind(make: Make, error: BaseException | None) -> None:
    """The same holds for async generators, closed or thrown into (L2)."""
    for taken in range(4):
        clock = ManualClock()
        guarded = Guarded.by(clock, *make(clock))

        async def play(guarded: Guarded = guarded, taken: int = taken) -> None:
            @guarded.pipeline
            async def items() -> AsyncGenerator[int, None]:
                for item in (1, 2, 3):
                    yield item

            generator = items()
            for number in range(taken):
                assert await anext(generator) == number + 1
                assert [counter.out for counter in guarded.counters] == [1] * len(guarded.counters)
            if error is None:
                await generator.aclose()
            else:
                with pytest.raises(type(error)):
                    await generator.athrow(error)
            guarded.assert_at_rest()
            assert [item async for item in items()] == [1, 2, 3]

        with asyncio.Runner(loop_factory=lambda clock=clock: Loop(clock)) as runner:  # type: ignore[misc]  # bound at once
            runner.run(play())
