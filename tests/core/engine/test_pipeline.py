import asyncio
import contextvars
import functools
import gc
import inspect
from collections.abc import AsyncGenerator, Callable, Generator
from typing import Any

import pytest

from resilience import (
    Bulkhead,
    BulkheadFullError,
    CircuitBreaker,
    ConfigurationError,
    Fallback,
    Pipeline,
    Replace,
    Retry,
    RetryAfter,
    SingleFlight,
    Timeout,
)
from resilience.policy import PolicyBase, Verdict, Wait
from resilience.testing import ManualClock, RecordingListener


class Spy(PolicyBase):
    """Writes down every step; answers what it is told to."""

    kind = "spy"
    retries = False

    def __init__(self, name: str, log: list[str], *, failure: Verdict = None, success: Verdict = None) -> None:
        super().__init__(name)
        self.log, self.failure, self.success = log, failure, success

    def admit(self) -> str:
        self.log.append(f"{self.name} admit")
        return self.name

    def on_success(self, permit: Any, result: Any, /) -> Verdict:
        self.log.append(f"{permit} success")
        verdict, self.success = self.success, None
        return verdict

    def on_failure(self, permit: Any, error: Exception, /) -> Verdict:
        self.log.append(f"{permit} failure")
        verdict, self.failure = self.failure, None
        return verdict

    def on_abandon(self, permit: Any, /) -> None:
        self.log.append(f"{permit} abandon")


def test_first_policy_is_outermost() -> None:
    """The first policy listed admits first and settles last."""
    log: list[str] = []
    assert Pipeline("p", Spy("a", log), Spy("b", log))(lambda: 3)() == 3
    assert log == ["a admit", "b admit", "b success", "a success"]


def test_empty_pipeline_passes_calls_through() -> None:
    """A pipeline without policies changes nothing."""
    pipeline = Pipeline("p")
    assert pipeline(lambda value: value)(3) == 3
    assert asyncio.run(pipeline.acall(asyncio.sleep, 0, 4)) == 4


def test_methods_keep_self_and_metadata() -> None:
    """A guarded method is bound as ever, in all its forms, and keeps its name and signature."""
    pipeline = Pipeline("p", CircuitBreaker())

    class Service:
        factor = 2

        @pipeline
        def double(self, value: int) -> int:
            """Twice."""
            return self.factor * value

        @pipeline
        @classmethod
        def made(cls) -> str:
            return cls.__name__

        @pipeline
        @staticmethod
        def three() -> int:
            return 3

        @pipeline
        async def later(self) -> int:
            return self.factor

    service = Service()
    assert (service.double(4), Service.made(), service.three()) == (8, "Service", 3)
    assert asyncio.run(service.later()) == 2
    assert (Service.double.__name__, Service.double.__doc__) == ("double", "Twice.")


async def test_colour_is_found_behind_partials_and_callable_objects() -> None:
    """Partials and objects with an async `__call__` are coroutine functions."""

    class Callable_:  # noqa: N801 - it stands for a user's class
        async def __call__(self, value: int) -> int:
            return value

    async def add(left: int, right: int) -> int:
        return left + right

    log: list[str] = []
    pipeline = Pipeline("p", Spy("a", log))
    assert await pipeline(functools.partial(add, 1))(2) == 3
    guarded: Any = pipeline(Callable_())
    coroutine = guarded(5)
    assert log == ["a admit", "a success"]
    assert await coroutine == 5


async def test_plain_function_returning_awaitable_is_guarded_where_it_happens() -> None:
    """What a plain function returns to be awaited is judged when awaited, from the first call on."""
    log: list[str] = []
    outcomes: list[Any] = [ValueError("down"), 2, 3]

    async def real() -> Any:
        outcome = outcomes.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    guarded: Callable[[], Any] = Pipeline("p", Spy("a", log))(lambda: real())  # noqa: PLW0108 - a plain function is the point
    first = guarded()
    assert log == ["a admit", "a abandon"]  # nothing has happened yet, so nothing is scored
    with pytest.raises(ValueError, match="down"):
        await first
    assert log[2:] == ["a admit", "a failure"]
    assert await guarded() == 2
    assert log[4:] == ["a admit", "a success"]


async def test_plain_function_returning_awaitable_is_retried() -> None:
    """A retry calls the function again for a new awaitable; the first one is the first attempt."""
    calls = 0

    async def flaky() -> int:
        nonlocal calls
        calls += 1
        if calls < 3:
            raise ConnectionError
        return calls

    guarded: Callable[[], Any] = Pipeline("p", Fallback(0, on=KeyError), Retry(wait_initial=0, wait_jitter=0))(
        lambda: flaky()  # noqa: PLW0108 - a plain function is the point
    )
    assert await guarded() == 3


async def test_concurrent_calls_of_a_plain_function_returning_awaitables_are_shared() -> None:
    """Calls are one call for those who share them, though each was made, and found to be awaited, on its own."""
    awaited = 0

    async def real(number: int) -> int:
        nonlocal awaited
        awaited += 1
        await asyncio.sleep(0)
        return number

    def plain(number: int) -> Any:
        return real(number)

    pipeline = Pipeline("p", SingleFlight())
    assert await asyncio.gather(*[pipeline.call(plain, 1) for _ in range(3)]) == [1, 1, 1]
    guarded = pipeline(plain)
    assert await asyncio.gather(*[guarded(1) for _ in range(3)]) == [1, 1, 1]
    assert awaited == 2


async def test_wrap_async_never_runs_the_blocking_chain() -> None:
    """`wrap_async` says from the start that a plain function returns an awaitable."""
    log: list[str] = []
    guarded = Pipeline("p", Spy("a", log)).wrap_async(lambda: asyncio.sleep(0, "done"))
    assert await guarded() == "done"
    assert log == ["a admit", "a success"]


async def test_call_and_acall() -> None:
    """`call` and `acall` guard one call of any function, with its arguments."""
    log: list[str] = []
    pipeline = Pipeline("p", Spy("a", log))
    assert pipeline.call(int, "11", base=2) == 3
    assert await pipeline.acall(asyncio.sleep, 0, result="late") == "late"
    assert await pipeline.acall(int, "7") == 7
    assert log == ["a admit", "a success"] * 3


async def test_each_call_is_guarded_as_what_it_calls() -> None:
    """`call` guards every kind of function it is given, and no call changes what the next one is."""
    log: list[str] = []
    pipeline = Pipeline("p", Spy("a", log))

    async def later() -> int:
        return 1

    async def stream() -> AsyncGenerator[int, None]:
        yield 2

    for _ in range(2):
        assert await pipeline.call(later) == 1
        assert await pipeline.call(functools.partial(later)) == 1
        assert pipeline.call(len, "abc") == 3
    log.clear()
    generator = pipeline.call(items, 1)
    assert not log
    assert next(generator) == 1
    generator.close()
    assert log == ["a admit", "a abandon"]
    assert [item async for item in pipeline.call(stream)] == [2]
    assert log[2:] == ["a admit", "a success"]


def test_call_takes_a_proxy_that_has_every_attribute() -> None:
    """A remote proxy (xmlrpc's, say) answers any attribute with another proxy; it is called like any function."""

    class Proxy:
        def __getattr__(self, name: str) -> "Proxy":
            return Proxy()

        def __call__(self) -> int:
            return 3

    assert Pipeline("p", CircuitBreaker()).call(Proxy()) == 3
    assert CircuitBreaker().call(Proxy()) == 3


@pytest.mark.parametrize("wrong", [None, 3, property(len)])
def test_only_callables_can_be_guarded(wrong: Any) -> None:
    """Decorating what cannot be called is refused at once, not scored as a failure at the first call."""
    with pytest.raises(ConfigurationError, match="expected a function, method or other callable"):
        Pipeline("p", CircuitBreaker())(wrong)


def test_acall_refuses_what_is_iterated() -> None:
    """`acall` of a generator function is refused: nothing would guard what it makes."""
    with pytest.raises(ConfigurationError, match=r"p\.acall=.*`call` guards generators"):
        _ = Pipeline("p").acall(items, 3)


def test_replace_stands_for_the_outcome() -> None:
    """A policy may replace an error or a result; outer policies see the replacement."""
    log: list[str] = []
    pipeline = Pipeline("p", Spy("a", log), Spy("b", log, failure=Replace(1), success=Replace(2)))

    def fail() -> int:
        raise ValueError

    assert pipeline(fail)() == 1
    assert pipeline.call(int) == 2
    assert log[:4] == ["a admit", "b admit", "b failure", "a success"]


async def test_replace_in_the_awaiting_driver() -> None:
    """The same when awaited."""
    log: list[str] = []
    pipeline = Pipeline("p", Spy("b", log, failure=Replace(1), success=Replace(2)))

    async def act(*, fails: bool) -> int:
        if fails:
            raise ValueError
        return 0

    assert (await pipeline(act)(fails=True), await pipeline(act)(fails=False)) == (1, 2)


def test_interrupted_sleep_abandons_the_next_attempt() -> None:
    """A sleep between attempts that is interrupted gives the permit back (L2)."""
    log: list[str] = []

    class Interrupting(ManualClock):
        def sleep(self, seconds: float, /) -> None:
            raise KeyboardInterrupt

    def fail() -> None:
        raise ValueError

    pipeline = Pipeline("p", Spy("a", log, failure=RetryAfter(1, "second")), sleeper=Interrupting())
    with pytest.raises(KeyboardInterrupt):
        pipeline(fail)()
    assert log == ["a admit", "a failure", "second abandon"]


async def test_cancelled_sleep_abandons_the_next_attempt() -> None:
    """The same for a task cancelled between attempts."""
    log: list[str] = []

    async def fail() -> None:
        raise ValueError

    task = asyncio.ensure_future(Pipeline("p", Spy("a", log, failure=RetryAfter(60, "second")))(fail)())
    await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert log == ["a admit", "a failure", "second abandon"]


class Waiting(Spy):
    may_wait = True

    def admit(self) -> Any:
        super().admit()
        return Wait(0.25, "held")


async def test_admission_may_ask_for_a_wait() -> None:
    """A policy may admit a call for later; the driver waits, holding the permit."""
    log: list[str] = []
    clock = ManualClock()
    pipeline = Pipeline("p", Waiting("a", log), sleeper=clock)
    assert pipeline(lambda: 3)() == 3
    assert await pipeline.acall(asyncio.sleep, 0, 4) == 4
    assert clock.slept == [0.25, 0.25]
    assert log == ["a admit", "held success"] * 2


def items(last: int) -> Generator[int, int, str]:
    received = yield 1
    yield received + last
    return "end"


def test_generator_protocol_is_kept() -> None:
    """send, throw, close and the return value work through a guarded generator function."""
    log: list[str] = []
    guarded = Pipeline("p", Spy("a", log))(items)
    generator = guarded(10)
    assert log == []
    assert (next(generator), generator.send(5)) == (1, 15)
    with pytest.raises(StopIteration) as stopped:
        next(generator)
    assert stopped.value.value == "end"
    assert log == ["a admit", "a success"]
    thrown = guarded(10)
    next(thrown)
    with pytest.raises(KeyError):
        thrown.throw(KeyError("mine"))
    assert log[2:] == ["a admit", "a failure"]


def test_generator_may_handle_what_is_thrown_into_it() -> None:
    """An error the generator handles is its own affair: it goes on, and ends well."""
    log: list[str] = []

    def patient() -> Generator[str, None, None]:
        try:
            yield "first"
        except KeyError:
            yield "second"

    generator = Pipeline("p", Spy("a", log))(patient)()
    assert [next(generator), generator.throw(KeyError())] == ["first", "second"]
    assert list(generator) == []
    assert log == ["a admit", "a success"]


def test_generator_dropped_half_way_abandons() -> None:
    """A generator nobody finishes gives its permit back when it is collected (L2)."""
    log: list[str] = []
    generator = Pipeline("p", Spy("a", log))(items)(1)
    next(generator)
    del generator
    gc.collect()
    assert log == ["a admit", "a abandon"]


@pytest.mark.parametrize("before_first", [True, False])
def test_generator_restarts_only_before_its_first_item(*, before_first: bool) -> None:
    """A generator that failed before its first item can be tried again; later the error stands."""
    log: list[str] = []
    starts = 0

    def flaky() -> Generator[int, None, None]:
        nonlocal starts
        starts += 1
        if starts == 1 and before_first:
            raise ValueError("early")
        yield starts
        if starts == 1:
            raise ValueError("late")

    generator = Pipeline("p", Spy("a", log, failure=RetryAfter(0, "second")))(flaky)()
    if before_first:
        assert list(generator) == [2]
        assert log == ["a admit", "a failure", "second success"]
    else:
        assert next(generator) == 1
        with pytest.raises(ValueError, match="late"):
            next(generator)
        assert log == ["a admit", "a failure", "second abandon"]


@pytest.mark.parametrize("before_first", [True, False])
async def test_async_generator_restarts_only_before_its_first_item(*, before_first: bool) -> None:
    """The same for async generators."""
    log: list[str] = []
    starts = 0

    async def flaky() -> AsyncGenerator[int, None]:
        nonlocal starts
        starts += 1
        if starts == 1 and before_first:
            raise ValueError("early")
        yield starts
        if starts == 1:
            raise ValueError("late")

    generator = Pipeline("p", Spy("a", log, failure=RetryAfter(0, "second")))(flaky)()
    if before_first:
        assert [item async for item in generator] == [2]
        assert log == ["a admit", "a failure", "second success"]
    else:
        assert await anext(generator) == 1
        with pytest.raises(ValueError, match="late"):
            await anext(generator)
        assert log == ["a admit", "a failure", "second abandon"]


def test_verdicts_on_a_finished_generator() -> None:
    """A result judged a failure after items went out stands; a replacement ends the stream with its value."""
    log: list[str] = []

    def one() -> Generator[int, None, str]:
        yield 1
        return "own"

    again = Pipeline("p", Spy("a", log, success=RetryAfter(0, "second")))(one)()
    assert list(again) == [1]
    assert log == ["a admit", "a success", "second abandon"]

    def ended() -> Generator[int, None, str]:
        return (yield from Pipeline("p", Spy("a", log, success=Replace("other")))(one)())

    generator = ended()
    next(generator)
    with pytest.raises(StopIteration) as stopped:
        next(generator)
    assert stopped.value.value == "other"


async def test_verdicts_on_a_finished_async_generator() -> None:
    """The same for async generators, which have no return value to replace."""
    log: list[str] = []

    async def one() -> AsyncGenerator[int, None]:
        yield 1

    for verdict in (RetryAfter(0, "second"), Replace("other")):
        guarded = Pipeline("p", Spy("a", log, success=verdict))(one)
        assert [item async for item in guarded()] == [1]
    assert log == ["a admit", "a success", "second abandon", "a admit", "a success"]


async def test_async_generator_protocol_is_kept() -> None:
    """asend, athrow and aclose work through a guarded async generator function."""
    log: list[str] = []

    async def echo() -> AsyncGenerator[int, int]:
        received = 0
        while True:
            try:
                received = yield received
            except KeyError:
                received = -1

    generator = Pipeline("p", Spy("a", log))(echo)()
    assert [await anext(generator), await generator.asend(7), await generator.athrow(KeyError())] == [0, 7, -1]
    await generator.aclose()
    assert log == ["a admit", "a abandon"]


async def test_generator_called_wrongly_settles_its_permit() -> None:
    """Arguments that do not fit a generator function are a failure of the call like any other (L2)."""
    log: list[str] = []
    wrong: Any = Pipeline("p", Spy("a", log))(items)
    with pytest.raises(TypeError):
        next(wrong())
    assert log == ["a admit", "a failure"]

    async def one(last: int) -> AsyncGenerator[int, None]:
        yield last

    wrong = Pipeline("p", Spy("a", log))(one)
    with pytest.raises(TypeError):
        await anext(wrong())
    assert log[2:] == ["a admit", "a failure"]


async def test_waiting_policies_guard_generators() -> None:
    """Admission that waits works for both kinds of generators."""
    log: list[str] = []
    clock = ManualClock()
    pipeline = Pipeline("p", Waiting("a", log), Bulkhead(1, max_wait=1), sleeper=clock)

    async def one() -> AsyncGenerator[int, None]:
        yield 1

    assert [item async for item in pipeline(one)()] == [1]
    generator = pipeline(items)(1)
    assert next(generator) == 1
    generator.close()
    assert clock.slept == [0.25, 0.25]


def test_guard_blocks() -> None:
    """`with pipeline.guard()` admits, settles by what happens in the block, and swallows nothing."""
    log: list[str] = []
    pipeline = Pipeline("p", Spy("a", log))
    with pipeline.guard():
        log.append("inside")
    with pytest.raises(ValueError, match="mine"), pipeline.guard():
        raise ValueError("mine")
    with pytest.raises(KeyboardInterrupt), pipeline.guard():
        raise KeyboardInterrupt
    assert log == ["a admit", "inside", "a success", "a admit", "a failure", "a admit", "a abandon"]


@pytest.mark.realtime
async def test_async_guard_blocks() -> None:
    """`async with pipeline.guard()` does the same, with a timeout too."""
    log: list[str] = []
    pipeline = Pipeline("p", Spy("a", log), Timeout(0.02))
    async with pipeline.guard():
        log.append("inside")
    with pytest.raises(Exception, match=r"took longer than 0\.02 s"):
        async with pipeline.guard():
            await asyncio.sleep(5)
    assert log == ["a admit", "inside", "a success", "a admit", "a failure"]


async def test_guard_refuses_what_needs_a_function() -> None:
    """Retry, fallback, and a timeout around a blocking block are refused, with the reason."""
    with pytest.raises(ConfigurationError, match="runs only once"):
        Pipeline("p", Retry()).guard()
    with pytest.raises(ConfigurationError, match="own the call"), Pipeline("p", Timeout(1)).guard():
        pass
    with pytest.raises(ConfigurationError, match="own the call"):
        async with Pipeline("p", Fallback(1)).guard():
            pass
    with pytest.raises(ConfigurationError, match="generator function"):
        Pipeline("p", Timeout(1))(items)


def test_guard_has_to_be_entered() -> None:
    """Leaving a guard that was never entered says so."""
    guard = Pipeline("p").guard()
    with pytest.raises(RuntimeError, match="without having been entered"):
        guard.__exit__(None, None, None)
    with pytest.raises(RuntimeError, match="without having been entered"):
        guard.__aexit__(None, None, None).close()


async def test_guard_is_used_again_but_not_twice_at_once() -> None:
    """A guard can be used block after block, also after a refusal; a second block inside the first is refused."""
    bulkhead = Bulkhead(1)
    guard = Pipeline("p", bulkhead).guard()
    with guard:
        with pytest.raises(RuntimeError, match="in use already"), guard:
            pass
        with pytest.raises(RuntimeError, match="in use already"):
            async with guard:
                pass
        assert bulkhead.concurrent_calls == 1
    with Pipeline("q", bulkhead).guard():
        with pytest.raises(BulkheadFullError), guard:
            pass
        with pytest.raises(BulkheadFullError):
            async with guard:
                pass
    async with guard:
        assert bulkhead.concurrent_calls == 1
    assert bulkhead.concurrent_calls == 0


async def test_around_policy_may_return_the_call_it_was_given() -> None:
    """A third party's policy that adds nothing leaves the function itself alone: no wrapper refers to itself."""

    class Idle:
        name = "idle"

        def around(self, call: Callable[..., Any], /) -> Callable[..., Any]:
            return call

        def around_async(self, call: Callable[..., Any], /) -> Callable[..., Any]:
            return call

    async def act(value: int) -> int:
        return value

    guarded = Pipeline("p", Idle())(act)
    assert guarded is not act
    assert list(inspect.signature(guarded).parameters) == ["value"]
    assert await guarded(3) == 3


def test_two_policies_of_one_name_are_refused() -> None:
    """Two policies that could not be told apart are refused, with the reason."""
    with pytest.raises(ConfigurationError, match=r"two policies named 'p\.bulkhead'.*could not tell them apart"):
        Pipeline("p", Bulkhead(1), Bulkhead(2))
    Pipeline("p", Bulkhead(1), Bulkhead(2, name="second"))


@pytest.mark.parametrize("wrong", [3, object(), "retry"])
def test_what_is_no_policy_is_refused(wrong: Any) -> None:
    """Something that is not a policy is named, with the shape expected."""
    with pytest.raises(ConfigurationError, match="expected a policy: name, admit"):
        Pipeline("p", wrong)


def test_class_in_place_of_a_policy_is_refused() -> None:
    """A class given instead of an instance is the usual slip, and the error says so."""
    with pytest.raises(ConfigurationError, match="Retry is a class; give it an instance"):
        Pipeline("p", Retry)  # type: ignore[arg-type]  # wrong on purpose


@pytest.mark.parametrize("name", ["", " ", "a b", "ä", "x" * 101, None, 3])
def test_bad_names_are_refused(name: Any) -> None:
    """A pipeline's name is a metric label: it has a grammar."""
    with pytest.raises(ConfigurationError, match=r"Pipeline\.name"):
        Pipeline(name)


def test_pipeline_listeners_hear_its_policies() -> None:
    """A listener of the pipeline hears every policy in it, until it unsubscribes."""
    listener = RecordingListener()
    pipeline = Pipeline("p", CircuitBreaker(1), listeners=[listener])
    unsubscribe = pipeline.subscribe(listener)
    with pytest.raises(ValueError, match="invalid literal"):
        pipeline.call(int, "x")
    assert listener.kinds == ["breaker.opened"] * 2
    unsubscribe()
    assert "p.breaker" in repr(pipeline)


def test_context_variables_reach_the_function() -> None:
    """The blocking and awaiting drivers run the function in the caller's context."""
    variable: contextvars.ContextVar[int] = contextvars.ContextVar("variable", default=0)
    pipeline = Pipeline("p", CircuitBreaker(), Timeout(5))
    variable.set(3)
    assert pipeline.call(variable.get) == 3
